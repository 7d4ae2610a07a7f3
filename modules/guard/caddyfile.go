package guard

import (
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
	_ "github.com/gatehouse-proxy/gatehouse/modules/internal/journey" // the directive's place
)

func init() {
	caddy.RegisterModule(new(Handler))
	httpcaddyfile.RegisterHandlerDirective("guard", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		m := new(Handler)
		return m, m.UnmarshalCaddyfile(h.Dispenser)
	})
}

// CaddyModule is the handler's registration.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.guard", New: func() caddy.Module { return new(Handler) }}
}

// UnmarshalCaddyfile reads the directive. Syntax:
//
//	guard [<matcher>] {
//		upgrade PROTOCOL...   # all that a client may switch to; off: none; default: websocket
//		paths   refuse|pass   # paths that two parsers could take for different ones; default: refuse
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.Errf("guard: %q is one value too many: the options stand in a block", d.Val())
	}
	checked := func(name string, parse func(d *caddyfile.Dispenser) error) dispense.Option {
		return dispense.Option{Name: name, Parse: func(d *caddyfile.Dispenser) error {
			if err := parse(d); err != nil {
				return err
			}
			if err := h.Validate(); err != nil { // while the dispenser is on its line
				return d.WrapErr(err)
			}
			return nil
		}}
	}
	return dispense.Block(d, "guard",
		checked("upgrade", func(d *caddyfile.Dispenser) error {
			if err := dispense.Strings(d, &h.Upgrade); err != nil {
				return err
			}
			for i, p := range h.Upgrade {
				h.Upgrade[i] = strings.ToLower(p)
			}
			return nil
		}),
		checked("paths", func(d *caddyfile.Dispenser) error {
			if err := dispense.String(d, &h.Paths); err != nil {
				return err
			}
			if h.Paths != "refuse" && h.Paths != "pass" {
				return d.Errf("%s", dispense.Unknown("value of paths", h.Paths, []string{"refuse", "pass"}))
			}
			return nil
		}),
	)
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Handler)(nil)
