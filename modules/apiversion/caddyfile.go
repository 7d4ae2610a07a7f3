package apiversion

import (
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
	_ "github.com/gatehouse-proxy/gatehouse/modules/internal/journey" // the directive's place
)

func init() {
	caddy.RegisterModule(new(Handler))
	httpcaddyfile.RegisterHandlerDirective("api_version", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		m := new(Handler)
		return m, m.UnmarshalCaddyfile(h.Dispenser)
	})
}

// CaddyModule is the handler's registration.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.api_version", New: func() caddy.Module { return new(Handler) }}
}

// UnmarshalCaddyfile reads the directive. Syntax:
//
//	api_version [<matcher>] {
//		from    path PREFIX          # such as /api, or / if the version stands first
//		version NAME {               # at least one; the block may be left out
//			deprecated DATE
//			sunset     DATE          # not before deprecated
//			successor  NAME
//			link       REL URL [TYPE]  # may be repeated, such as: link deprecation https://docs.example.com/v1
//		}
//		latest  NAME                 # for requests that name no version
//	}
//
// A DATE is 2027-06-01, which is midnight UTC, or a time of RFC 3339.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if err := dispense.End(d, "api_version"); err != nil {
		return err
	}
	if err := dispense.Block(d, "api_version",
		dispense.Option{Name: "from", Parse: h.parseFrom},
		dispense.Option{Name: "version", Repeats: true, Parse: h.parseVersion},
		dispense.Option{Name: "latest", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &h.Latest) }},
	); err != nil {
		return err
	}
	if _, err := compile(h.From.Path, h.Versions, h.Latest); err != nil {
		return d.WrapErr(fmt.Errorf("api_version: %w", err))
	}
	return nil
}

func (h *Handler) parseFrom(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.Err("from needs a place, such as: from path /api")
	}
	switch d.Val() {
	case "path":
		return dispense.String(d, &h.From.Path)
	case "header", "media_type", "query":
		return d.Errf("from %s is not supported by this version, use from path and a prefix such as /api", d.Val())
	}
	return d.Errf("from: %s", dispense.Unknown("place", d.Val(), []string{"path"}))
}

func (h *Handler) parseVersion(d *caddyfile.Dispenser) error {
	var v Version
	if err := dispense.String(d, &v.Name); err != nil {
		return err
	}
	if err := dispense.Block(d, "version "+v.Name,
		dispense.Option{Name: "deprecated", Parse: func(d *caddyfile.Dispenser) error { return parseDate(d, &v.Deprecated) }},
		dispense.Option{Name: "sunset", Parse: func(d *caddyfile.Dispenser) error { return parseDate(d, &v.Sunset) }},
		dispense.Option{Name: "successor", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &v.Successor) }},
		dispense.Option{Name: "link", Repeats: true, Parse: func(d *caddyfile.Dispenser) error { return parseLink(d, &v.Links) }},
	); err != nil {
		return err
	}
	if err := v.check(); err != nil {
		return d.WrapErr(err)
	}
	h.Versions = append(h.Versions, v)
	return nil
}

func parseDate(d *caddyfile.Dispenser, date *Date) error {
	name, s := d.Val(), ""
	if err := dispense.String(d, &s); err != nil {
		return err
	}
	v, err := ParseDate(s)
	if err != nil {
		return d.Errf("%s: %v", name, err)
	}
	*date = v
	return nil
}

func parseLink(d *caddyfile.Dispenser, links *[]Link) error {
	args := d.RemainingArgs()
	if len(args) < 2 || len(args) > 3 {
		return d.Err("link needs a relation and a URL, such as: link deprecation https://docs.example.com/v1")
	}
	l := Link{Rel: args[0], URL: args[1]}
	if len(args) == 3 {
		l.Type = args[2]
	}
	*links = append(*links, l)
	return nil
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Handler)(nil)
