package jobs

import (
	"net/textproto"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/gatehouse-proxy/gatehouse/backends/jobs"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
)

// parseHeader reads a header of the pushes.
func parseHeader(d *caddyfile.Dispenser, headers *map[string]string) error {
	args := d.RemainingArgs()
	if len(args) != 2 {
		return d.Err("header needs a name and a value, such as: header X-App-Token {$APP_TOKEN}")
	}
	name := textproto.CanonicalMIMEHeaderKey(args[0])
	if _, ok := (*headers)[name]; ok {
		return d.Errf("header %s is given twice, keep one of the lines", name)
	}
	if *headers == nil {
		*headers = map[string]string{}
	}
	(*headers)[name] = args[1]
	return nil
}

// parseCA reads the name of a file, which must be there.
func parseCA(d *caddyfile.Dispenser, path *string) error {
	if err := dispense.String(d, path); err != nil {
		return err
	}
	if err := jobs.CheckCA(*path); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// parseClientCert reads the names of two files, which must be there.
func parseClientCert(d *caddyfile.Dispenser, cert **jobs.ClientCert) error {
	args := d.RemainingArgs()
	if len(args) != 2 {
		return d.Err("client_cert needs two files, such as: client_cert /etc/gatehouse/client.pem /etc/gatehouse/client.key")
	}
	*cert = &jobs.ClientCert{Cert: args[0], Key: args[1]}
	if err := jobs.CheckClientCert(**cert); err != nil {
		return d.WrapErr(err)
	}
	return nil
}
