package httpcache

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend/cache" // what it stores in
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
	_ "github.com/gatehouse-proxy/gatehouse/modules/internal/journey" // the directive's place
)

func init() {
	caddy.RegisterModule(new(Handler))
	httpcaddyfile.RegisterHandlerDirective("http_cache", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		m := new(Handler)
		return m, m.UnmarshalCaddyfile(h.Dispenser)
	})
}

// CaddyModule is the handler's registration.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.http_cache", New: func() caddy.Module { return new(Handler) }}
}

// UnmarshalCaddyfile reads the directive. Syntax:
//
//	http_cache {
//		tags       FIELD...   # response fields that list tags, not passed to the client; default none
//		max_object SIZE       # default 1MiB
//		stale      DURATION   # how long stale responses answer for an app that fails; default: as they say
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if err := dispense.End(d, "http_cache"); err != nil {
		return err
	}
	err := dispense.Block(d, "http_cache",
		dispense.Option{Name: "tags", Parse: func(d *caddyfile.Dispenser) error { return dispense.Strings(d, &h.Tags) }},
		dispense.Option{Name: "max_object", Parse: func(d *caddyfile.Dispenser) error { return dispense.Size(d, &h.MaxObject) }},
		dispense.Option{Name: "stale", Parse: func(d *caddyfile.Dispenser) error {
			h.Stale = new(unit.Duration)
			return dispense.Duration(d, h.Stale)
		}},
	)
	if err != nil {
		return err
	}
	if err = h.Validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Handler)(nil)
