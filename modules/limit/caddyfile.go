package limit

import (
	"fmt"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
	_ "github.com/gatehouse-proxy/gatehouse/modules/internal/journey" // the directives' places
)

func init() {
	caddy.RegisterModule(new(Limit))
	caddy.RegisterModule(new(Quota))
	httpcaddyfile.RegisterHandlerDirective("limit", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		m := &Limit{Engine{Zone: number(h, "limit")}}
		return m, m.UnmarshalCaddyfile(h.Dispenser)
	})
	httpcaddyfile.RegisterHandlerDirective("quota", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		m := &Quota{Engine{Zone: number(h, "quota")}}
		return m, m.UnmarshalCaddyfile(h.Dispenser)
	})
}

// CaddyModule is the handler's registration.
func (*Limit) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.limit", New: func() caddy.Module { return new(Limit) }}
}

// CaddyModule is the handler's registration.
func (*Quota) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.quota", New: func() caddy.Module { return new(Quota) }}
}

// number is the zone of a directive: which one of its kind it is in the whole Caddyfile.
func number(h httpcaddyfile.Helper, directive string) string {
	const key = "gatehouse.zones."
	n, _ := h.State[key+directive].(int)
	h.State[key+directive] = n + 1
	return directive + "#" + strconv.Itoa(n+1)
}

// UnmarshalCaddyfile reads the directive; limit and quota have one grammar. Syntax:
//
//	limit [<matcher>] [N/DURATION [burst B]] {
//		policy   NAME N/DURATION [burst B]   # may be repeated; a request must fit into all of them
//		by       TEMPLATE                    # default {client_ip}; quota: {http.auth.user.id}
//		max_keys N                           # default 1048576
//	}
//
// A rate is a number of requests per time span, such as 300/1m, 10/s or 50000/24h. Up to B requests
// may come at once; by default as many as N. At least one rate is required.
func (e *Engine) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	directive := d.Val()
	if args := d.RemainingArgs(); len(args) > 0 {
		if err := e.addPolicy(d, directive, args); err != nil {
			return err
		}
	}
	if err := dispense.Block(d, directive,
		dispense.Option{Name: "policy", Repeats: true, Parse: e.parsePolicy},
		dispense.Option{Name: "by", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &e.By) }},
		dispense.Option{Name: "max_keys", Parse: func(d *caddyfile.Dispenser) error { return dispense.Int(d, &e.MaxKeys, 1) }},
	); err != nil {
		return err
	}
	if err := checkAll(e.Policies); err != nil {
		return d.WrapErr(fmt.Errorf("%s: %w", directive, err))
	}
	if e.By == "" {
		return nil
	}
	if _, err := compile(e.By); err != nil {
		return d.WrapErr(fmt.Errorf("%s: %w", directive, err))
	}
	return nil
}

func (e *Engine) parsePolicy(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 2 {
		return d.Err("policy needs a name and a rate, such as: policy minute 100/1m burst 20")
	}
	return e.addPolicy(d, args[0], args[1:])
}

// addPolicy reads N/DURATION [burst B].
func (e *Engine) addPolicy(d *caddyfile.Dispenser, name string, args []string) error {
	p, err := ParseRate(args[0])
	if err != nil {
		return d.WrapErr(err)
	}
	p.Name = name
	switch {
	case len(args) == 1:
	case len(args) == 3 && args[1] == "burst":
		if p.Burst, err = strconv.Atoi(args[2]); err != nil || p.Burst < 1 {
			return d.Errf("the burst %q must be a whole number, at least 1", args[2])
		}
	default:
		return d.Errf("after the rate %s only burst and a number may stand, such as: %s burst 20", args[0], args[0])
	}
	if err = p.check(); err != nil {
		return d.WrapErr(err)
	}
	e.Policies = append(e.Policies, p)
	return nil
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*Limit)(nil)
	_ caddyfile.Unmarshaler = (*Quota)(nil)
)
