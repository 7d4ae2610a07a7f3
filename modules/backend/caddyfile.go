package backend

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	_ "github.com/gatehouse-proxy/gatehouse/modules/internal/journey" // the directive's place
)

func init() {
	caddy.RegisterModule(new(Handler))
	httpcaddyfile.RegisterHandlerDirective("backend", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		m := new(Handler)
		return m, m.UnmarshalCaddyfile(h.Dispenser)
	})
}

// CaddyModule is the handler's registration.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.backend", New: func() caddy.Module { return new(Handler) }}
}

// UnmarshalCaddyfile reads the directive. Its settings stand in the global options. Syntax:
//
//	backend NAME [as service|operator] [origin ORIGIN...]
//
// as is of everybody who reaches this route; by default the token decides. origin are the origins of other
// sites whose pages may write with a token in a cookie, such as https://app.example.com.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if !d.NextArg() {
		return d.Err("backend needs a name, such as: backend jobs")
	}
	h.Name = d.Val()
	args := d.RemainingArgs()
	if len(args) > 0 && args[0] == "as" {
		if len(args) == 1 {
			return d.Errf("backend %s: as needs a rank, as service or as operator", h.Name)
		}
		h.As, args = args[1], args[2:]
	}
	if len(args) > 1 && args[0] == "origin" {
		h.TrustedOrigins, args = args[1:], nil
	}
	if len(args) > 0 {
		return d.Errf("backend %s may only be followed by as service, as operator, and origin with one or more, such as: origin https://app.example.com", h.Name)
	}
	if err := h.Validate(); err != nil {
		return d.WrapErr(err)
	}
	for d.NextBlock(0) {
		return d.Errf("backend %s takes no block here: its settings stand in the global options, as { gatehouse { backend %s { … } } }", h.Name, h.Name)
	}
	return nil
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Handler)(nil)
