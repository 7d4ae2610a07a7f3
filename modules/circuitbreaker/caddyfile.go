package circuitbreaker

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
	_ "github.com/gatehouse-proxy/gatehouse/modules/internal/journey" // the directive's place
)

func init() {
	caddy.RegisterModule(new(Handler))
	caddy.RegisterModule(new(Proxy))
	httpcaddyfile.RegisterHandlerDirective("circuit_breaker", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		m := new(Handler)
		m.Zone = dispense.Zone(h, "circuit_breaker")
		return m, m.UnmarshalCaddyfile(h.Dispenser)
	})
}

// CaddyModule is the handler's registration.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.circuit_breaker", New: func() caddy.Module { return new(Handler) }}
}

// CaddyModule is the circuit breaker's registration.
func (*Proxy) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.reverse_proxy.circuit_breakers.gatehouse", New: func() caddy.Module { return new(Proxy) }}
}

// UnmarshalCaddyfile reads the directive. UPSTREAM and the options in its block are those of
// reverse_proxy, without handle_response. Syntax:
//
//	circuit_breaker [<matcher>] {
//		zone       NAME                              # directives of the same name share their circuit; default: a number
//		trip       [RATIO%] [min N] [window DURATION]  # default 50% min 20 window 10s
//		open       DURATION [max DURATION]           # default 5s max 1m: doubled each time, up to max
//		probes     N                                 # default 3
//		slow_start DURATION|off                      # default 10s
//		failures   5xx|STATUS...                     # default 500 502 503 504
//		slow       DURATION                          # an answer that takes longer is a failure; default: none is
//		fallback   UPSTREAM... {                     # answers while the circuit is open
//			...
//		}
//		retry      N [budget PERCENT%]               # default: none; budget 20%
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if err := dispense.End(d, "circuit_breaker"); err != nil {
		return err
	}
	err := dispense.Block(d, "circuit_breaker",
		dispense.Option{Name: "zone", Parse: h.parseZone},
		dispense.Option{Name: "trip", Parse: h.parseTrip},
		dispense.Option{Name: "open", Parse: h.parseOpen},
		dispense.Option{Name: "probes", Parse: func(d *caddyfile.Dispenser) error { return dispense.Int(d, &h.Probes, 1) }},
		dispense.Option{Name: "slow_start", Parse: h.parseSlowStart},
		dispense.Option{Name: "failures", Parse: h.parseFailures},
		dispense.Option{Name: "slow", Parse: func(d *caddyfile.Dispenser) error { return dispense.Duration(d, &h.Slow) }},
		dispense.Option{Name: "fallback", Parse: h.parseFallback},
		dispense.Option{Name: "retry", Parse: h.parseRetry},
	)
	if err != nil {
		return err
	}
	if _, err = h.rules(); err != nil {
		return d.WrapErr(fmt.Errorf("circuit_breaker: %w", err))
	}
	return nil
}

func (h *Handler) parseZone(d *caddyfile.Dispenser) error {
	if err := dispense.String(d, &h.Zone); err != nil {
		return err
	}
	if !validZone(h.Zone) {
		return d.Errf("zone: %.80q cannot be a zone, write at most 64 letters, digits and -_.#", h.Zone)
	}
	return nil
}

func (h *Handler) parseTrip(d *caddyfile.Dispenser) (err error) {
	args := d.RemainingArgs()
	if len(args)%2 == 1 {
		if h.Ratio, err = parseRatio(args[0]); err != nil {
			return d.Errf("trip: %v", err)
		}
		args = args[1:]
	} else if len(args) == 0 {
		return d.Err("trip needs a share of failures, such as: trip 50% min 20 window 10s")
	}
	for ; len(args) > 0; args = args[2:] {
		switch word, value := args[0], args[1]; word {
		case "min":
			if h.MinRequests, err = strconv.Atoi(value); err != nil || h.MinRequests < 1 {
				return d.Errf("trip: min must be a whole number of requests, at least 1, not %.40q", value)
			}
		case "window":
			if h.Window, err = unit.ParseDuration(value); err != nil {
				return d.Errf("trip: window: %v", err)
			}
		default:
			return d.Errf("%s", dispense.Unknown("word of trip", word, []string{"min", "window"}))
		}
	}
	return nil
}

func (h *Handler) parseOpen(d *caddyfile.Dispenser) (err error) {
	args := d.RemainingArgs()
	if len(args) != 1 && (len(args) != 3 || args[1] != "max") {
		return d.Err("open needs the first open time and may name the longest, such as: open 5s max 1m")
	}
	if h.Open, err = unit.ParseDuration(args[0]); err != nil {
		return d.Errf("open: %v", err)
	}
	if len(args) == 3 {
		if h.MaxOpen, err = unit.ParseDuration(args[2]); err != nil {
			return d.Errf("open: max: %v", err)
		}
	}
	return nil
}

func (h *Handler) parseSlowStart(d *caddyfile.Dispenser) (err error) {
	var value string
	if err = dispense.String(d, &value); err != nil {
		return err
	}
	if h.NoSlowStart = value == "off"; h.NoSlowStart {
		return nil
	}
	if h.SlowStart, err = unit.ParseDuration(value); err != nil || h.SlowStart == 0 {
		return d.Errf("slow_start: %.40q is not a time, write one such as 10s, or off", value)
	}
	return nil
}

func (h *Handler) parseFailures(d *caddyfile.Dispenser) error {
	if err := dispense.Strings(d, &h.Failures); err != nil {
		return err
	}
	if _, err := parseFailures(h.Failures); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (h *Handler) parseFallback(d *caddyfile.Dispenser) error {
	raw, err := dispense.ReverseProxy(d)
	switch {
	case errors.Is(err, dispense.ErrHandleResponse):
		return d.Errf("fallback: handle_response is not possible here, remove it")
	case errors.Is(err, dispense.ErrNoUpstream):
		return d.Errf("fallback needs an upstream, such as: fallback app-b:8080")
	}
	h.FallbackRaw = raw
	return err
}

func (h *Handler) parseRetry(d *caddyfile.Dispenser) (err error) {
	args := d.RemainingArgs()
	if len(args) != 1 && (len(args) != 3 || args[1] != "budget") {
		return d.Err("retry needs a number and may name a budget, such as: retry 2 budget 20%")
	}
	if h.Retry, err = strconv.Atoi(args[0]); err != nil || h.Retry < 1 || h.Retry > maxRetry {
		return d.Errf("retry: %.40q must be a whole number from 1 to %d", args[0], maxRetry)
	}
	if len(args) == 3 {
		if h.RetryBudget, err = parseRatio(args[2]); err != nil {
			return d.Errf("retry: budget: %v", err)
		}
		if h.RetryBudget > maxBudget {
			return d.Errf("retry: budget: %s is too much, an app in trouble must not get more than 20%% on top", args[2])
		}
	}
	return nil
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Handler)(nil)
