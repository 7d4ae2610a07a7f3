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
//	backend NAME [as service|operator]    # as: of everybody who reaches this route; default: the token decides
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	args := d.RemainingArgs()
	switch {
	case len(args) == 0:
		return d.Err("backend needs a name, such as: backend jobs")
	case len(args) == 3 && args[1] == "as":
		h.As = args[2]
	case len(args) != 1:
		return d.Errf("backend %s may only be followed by: as service, or: as operator", args[0])
	}
	h.Name = args[0]
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
