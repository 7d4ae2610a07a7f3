package problem

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
	_ "github.com/gatehouse-proxy/gatehouse/modules/internal/journey" // the directive's place
)

func init() {
	caddy.RegisterModule(Handler{})
	httpcaddyfile.RegisterHandlerDirective("problem", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		m := new(Handler)
		return m, m.UnmarshalCaddyfile(h.Dispenser)
	})
}

// CaddyModule is the handler's registration.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.problem", New: func() caddy.Module { return new(Handler) }}
}

// UnmarshalCaddyfile reads the directive, which has no settings. Syntax:
//
//	handle_errors {
//		problem
//	}
func (*Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if err := dispense.End(d, "problem"); err != nil {
		return err
	}
	return dispense.Block(d, "problem")
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Handler)(nil)
