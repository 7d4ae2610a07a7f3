package cache

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/gatehouse-proxy/gatehouse/modules/gatehouse"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/authority"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
)

func init() { caddy.RegisterModule(new(Backend)) }

// CaddyModule is the backend's registration.
func (*Backend) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: gatehouse.Namespace + ".cache", New: func() caddy.Module { return new(Backend) }}
}

// UnmarshalCaddyfile reads the settings. Syntax:
//
//	backend cache {
//		memory      SIZE      # values and the responses of http_cache; default 64MiB
//		disk        SIZE      # values in SQLite; default 256MiB
//		owner_bytes SIZE      # of it, for one owner; default a tenth
//		default_ttl DURATION  # default 5m
//		max_value   SIZE      # default 1MiB
//		fill_allow  HOST[:PORT][/PREFIX]...   # where fills may fetch from; default none
//		inline                # browsers may show values as pages; default: they are downloads in a sandbox
//		owner         TEMPLATE  # whose values a caller's are, such as {http.auth.user.tenant}; default {http.auth.user.id}
//		admin_role    ROLE      # whose holders are operators; default admin
//		service_scope SCOPE     # whose holders are services, the app itself; default cache:write
//	}
func (b *Backend) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the backend's name
	if err := dispense.End(d, "backend cache"); err != nil {
		return err
	}
	err := dispense.Block(d, "backend cache", append(authority.Options(&b.Authority),
		dispense.Option{Name: "memory", Parse: func(d *caddyfile.Dispenser) error { return dispense.Size(d, &b.Memory) }},
		dispense.Option{Name: "disk", Parse: func(d *caddyfile.Dispenser) error { return dispense.Size(d, &b.Disk) }},
		dispense.Option{Name: "owner_bytes", Parse: func(d *caddyfile.Dispenser) error { return dispense.Size(d, &b.OwnerBytes) }},
		dispense.Option{Name: "default_ttl", Parse: func(d *caddyfile.Dispenser) error { return dispense.Duration(d, &b.DefaultTTL) }},
		dispense.Option{Name: "max_value", Parse: func(d *caddyfile.Dispenser) error { return dispense.Size(d, &b.MaxValue) }},
		dispense.Option{Name: "inline", Parse: func(d *caddyfile.Dispenser) error {
			b.Inline = true
			return dispense.End(d, "inline")
		}},
		dispense.Option{Name: "fill_allow", Repeats: true, Parse: func(d *caddyfile.Dispenser) error { return dispense.Strings(d, &b.FillAllow) }},
	)...)
	if err != nil {
		return err
	}
	if err = b.Validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Backend)(nil)
