package flags

import (
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	_ "github.com/gatehouse-proxy/gatehouse/modules/backend/flags" // keeps the flags
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
	_ "github.com/gatehouse-proxy/gatehouse/modules/internal/journey" // the directive's place
)

func init() {
	caddy.RegisterModule(new(MatchFlag))
	caddy.RegisterModule(new(Split))
	httpcaddyfile.RegisterHandlerDirective("split", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		s := new(Split)
		return s, s.UnmarshalCaddyfile(h.Dispenser)
	})
}

// CaddyModule is the matcher's registration.
func (*MatchFlag) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.matchers.flag", New: func() caddy.Module { return new(MatchFlag) }}
}

// CaddyModule is the handler's registration.
func (*Split) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.split", New: func() caddy.Module { return new(Split) }}
}

// UnmarshalCaddyfile reads the matcher. Syntax:
//
//	@name flag NAME [by TEMPLATE]   # by: default {http.auth.user.id}
func (m *MatchFlag) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		if m.Name != "" {
			return d.Err("flag is given twice in one matcher, keep one: a second flag needs a matcher of its own")
		}
		switch args := d.RemainingArgs(); {
		case len(args) == 1:
			m.Name = args[0]
		case len(args) == 3 && args[1] == "by":
			m.Name, m.By = args[0], args[2]
		default:
			return d.Err("flag needs the name of a flag and may say for whom, such as: flag new-feed by {http.auth.user.id}")
		}
		if err := checkName("flag", m.Name); err != nil {
			return d.WrapErr(err)
		}
		if err := dispense.Block(d, "flag"); err != nil {
			return err
		}
	}
	return nil
}

// UnmarshalCaddyfile reads the directive. UPSTREAM and the options in a variant's block are those of
// reverse_proxy, without handle_response. Syntax:
//
//	split [MATCHER] NAME {
//		by      TEMPLATE          # default {http.auth.user.id}
//		variant on  UPSTREAM... {
//			...
//		}
//		variant off UPSTREAM... {
//			...
//		}
//	}
func (s *Split) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if err := dispense.String(d, &s.Name); err != nil {
		return err
	}
	if err := checkName("split", s.Name); err != nil {
		return d.WrapErr(err)
	}
	err := dispense.Block(d, "split",
		dispense.Option{Name: "by", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &s.By) }},
		dispense.Option{Name: "variant", Repeats: true, Parse: s.parseVariant},
	)
	switch {
	case err != nil:
		return err
	case s.OnRaw == nil:
		return d.Errf("split %s: the variant on is missing, add a line such as: variant on app-v2:8080", s.Name)
	case s.OffRaw == nil:
		return d.Errf("split %s: the variant off is missing, add a line such as: variant off app-v1:8080", s.Name)
	}
	return nil
}

func (s *Split) parseVariant(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.Err("variant needs a name and an upstream, such as: variant on app-v2:8080")
	}
	name, raw := d.Val(), &s.OnRaw
	switch name {
	case "on":
	case "off":
		raw = &s.OffRaw
	default:
		return d.Errf("split: %s", dispense.Unknown("variant", name, []string{"on", "off"}))
	}
	if *raw != nil {
		return d.Errf("split: variant %s is given twice, put all of its upstreams on one line", name)
	}
	proxy, err := dispense.ReverseProxy(d)
	switch {
	case errors.Is(err, dispense.ErrHandleResponse):
		return d.Errf("split: handle_response is not possible in a variant, remove it")
	case errors.Is(err, dispense.ErrNoUpstream):
		return d.Errf("split: variant %s needs at least one upstream, such as: variant %s app:8080", name, name)
	}
	*raw = proxy
	return err
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*MatchFlag)(nil)
	_ caddyfile.Unmarshaler = (*Split)(nil)
)
