package limit

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http/httpguts"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
	_ "github.com/gatehouse-proxy/gatehouse/modules/internal/journey" // the directives' places
	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

func init() {
	caddy.RegisterModule(new(Limit))
	caddy.RegisterModule(new(Quota))
	httpcaddyfile.RegisterHandlerDirective("limit", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		m := &Limit{Engine{Zone: dispense.Zone(h, "limit")}}
		return m, m.UnmarshalCaddyfile(h.Dispenser)
	})
	httpcaddyfile.RegisterHandlerDirective("quota", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		m := &Quota{Engine{Zone: dispense.Zone(h, "quota")}}
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

// UnmarshalCaddyfile reads the directive; limit and quota have one grammar. Syntax:
//
//	limit [<matcher>] [N/DURATION [burst B] [sliding]] {
//		zone      NAME                          # counters shared by all of this name; default: numbered
//		policy    NAME N/DURATION [burst B] [sliding]   # may be repeated; a request must fit into all of them
//		by        TEMPLATE                      # default {client_ip}; quota: {http.auth.user.id}
//		ipv6      /64|/56|/48                   # how many bits of an IPv6 address are one client, default /64
//		plan_by   TEMPLATE                      # whose value names the plan of a request
//		plan      NAME POLICY N/DURATION [burst B] [sliding]   # may be repeated
//		cost      N|{PLACEHOLDER}               # default 1
//		cost_from response HEADER               # the cost that a request turned out to have
//		refund    5xx|STATUS|cache_hit|replay ...
//		in_flight N [per TEMPLATE] [queue N] [wait DURATION]
//		skip      MATCHER ARGUMENTS...          # may be repeated, such as: skip path /health*
//		shadow                                  # counts and refuses nobody
//		warn      80%                           # event limit_warning, once for each key and window
//		jitter    20%                           # of Retry-After
//		headers   [off] [legacy [unix|delta]] [mode]
//		memory    SIZE                          # cap on the table of keys, default 64MiB
//		count     local|exact|leased            # default local; quota: leased with a redis
//		on_store_error open|closed|local        # default local
//	}
//
// A rate is a number of requests per time span, such as 300/1m, 10/s or 50000/24h. Up to B requests
// may come at once; by default as many as N. With sliding, at most N requests fit into the time span
// that ends now. At least one rate or in_flight is required.
func (e *Engine) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	directive := d.Val()
	if args := d.RemainingArgs(); len(args) > 0 {
		p, err := parsePolicy(d, directive, args)
		if err != nil {
			return err
		}
		e.Policies = append(e.Policies, p)
	}
	if err := dispense.Block(d, directive,
		dispense.Option{Name: "zone", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &e.Zone) }},
		dispense.Option{Name: "policy", Repeats: true, Parse: e.parsePolicy},
		dispense.Option{Name: "by", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &e.By) }},
		dispense.Option{Name: "ipv6", Parse: e.parseIPv6},
		dispense.Option{Name: "plan_by", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &e.PlanBy) }},
		dispense.Option{Name: "plan", Repeats: true, Parse: e.parsePlan},
		dispense.Option{Name: "cost", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &e.Cost) }},
		dispense.Option{Name: "cost_from", Parse: e.parseCostFrom},
		dispense.Option{Name: "refund", Parse: func(d *caddyfile.Dispenser) error { return dispense.Strings(d, &e.Refund) }},
		dispense.Option{Name: "in_flight", Parse: e.parseInFlight},
		dispense.Option{Name: "skip", Repeats: true, Parse: e.parseSkip},
		dispense.Option{Name: "shadow", Parse: func(d *caddyfile.Dispenser) error { return dispense.Flag(d, &e.Shadow) }},
		dispense.Option{Name: "warn", Parse: func(d *caddyfile.Dispenser) error { return percent(d, &e.Warn) }},
		dispense.Option{Name: "jitter", Parse: func(d *caddyfile.Dispenser) error { return percent(d, &e.Jitter) }},
		dispense.Option{Name: "headers", Parse: e.parseHeaders},
		dispense.Option{Name: "memory", Parse: func(d *caddyfile.Dispenser) error { return dispense.Size(d, &e.Memory) }},
		dispense.Option{Name: "count", Parse: func(d *caddyfile.Dispenser) error {
			return oneOf(d, &e.Count, countLocal, countExact, countLeased)
		}},
		dispense.Option{Name: "on_store_error", Parse: func(d *caddyfile.Dispenser) error {
			return oneOf(d, &e.OnStoreError, onErrorOpen, onErrorClosed, onErrorLocal)
		}},
	); err != nil {
		return err
	}
	if len(e.Plans) > 0 && e.PlanBy == "" {
		return d.Errf("%s: plan_by is missing, it says which plan a request has, such as: plan_by {http.auth.user.plan}", directive)
	}
	if err := e.check(); err != nil {
		return d.WrapErr(fmt.Errorf("%s: %w", directive, err))
	}
	if err := e.compileGiven(); err != nil {
		return d.WrapErr(fmt.Errorf("%s: %w", directive, err))
	}
	return nil
}

// compileGiven finds the errors of templates while the line is known.
func (e *Engine) compileGiven() error {
	trial := &Engine{By: cmp.Or(e.By, "{client_ip}"), PlanBy: e.PlanBy, Cost: e.Cost, Refund: e.Refund, InFlight: e.InFlight}
	return trial.compile()
}

func (e *Engine) parseIPv6(d *caddyfile.Dispenser) (err error) {
	var s string
	if err = dispense.String(d, &s); err != nil {
		return err
	}
	bits, ok := strings.CutPrefix(s, "/")
	if e.IPv6Prefix, err = strconv.Atoi(bits); err != nil || !ok || !slices.Contains(prefixes, e.IPv6Prefix) {
		return d.Errf("ipv6: %q must be one of /48, /56 and /64", s)
	}
	return nil
}

func (e *Engine) parsePolicy(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 2 {
		return d.Err("policy needs a name and a rate, such as: policy minute 100/1m burst 20")
	}
	p, err := parsePolicy(d, args[0], args[1:])
	e.Policies = append(e.Policies, p)
	return err
}

func (e *Engine) parsePlan(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 3 {
		return d.Err("plan needs its name, a policy and a rate, such as: plan pro minute 1000/1m")
	}
	p, err := parsePolicy(d, args[1], args[2:])
	if err != nil {
		return err
	}
	if slices.ContainsFunc(e.Plans[args[0]], func(other policy.Policy) bool { return other.Name == p.Name }) {
		return d.Errf("plan %s has the policy %s twice, keep one of the lines", args[0], p.Name)
	}
	if e.Plans == nil {
		e.Plans = map[string][]policy.Policy{}
	}
	e.Plans[args[0]] = append(e.Plans[args[0]], p)
	return nil
}

// parsePolicy reads N/DURATION [burst B] [sliding].
func parsePolicy(d *caddyfile.Dispenser, name string, args []string) (policy.Policy, error) {
	p, err := policy.ParseWords(name, args)
	if err != nil {
		return p, d.WrapErr(err)
	}
	return p, nil
}

func (e *Engine) parseCostFrom(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 2 || args[0] != "response" {
		return d.Err("cost_from needs the word response and a header, such as: cost_from response X-Cost")
	}
	if !httpguts.ValidHeaderFieldName(args[1]) {
		return d.Errf("cost_from: %q is not the name of a header", args[1])
	}
	e.CostFrom = args[1]
	return nil
}

func (e *Engine) parseInFlight(d *caddyfile.Dispenser) (err error) {
	args := d.RemainingArgs()
	if len(args)%2 == 0 {
		return d.Err("in_flight needs a number, then pairs of words, such as: in_flight 20 per {client_ip} queue 10 wait 2s")
	}
	f := &InFlight{}
	if f.Most, err = strconv.Atoi(args[0]); err != nil || f.Most < 1 {
		return d.Errf("in_flight: %q must be a whole number, at least 1", args[0])
	}
	for i := 1; i < len(args); i += 2 {
		value := args[i+1]
		switch args[i] {
		case "per":
			f.By = value
		case "queue":
			if f.Queue, err = strconv.Atoi(value); err != nil || f.Queue < 1 {
				return d.Errf("in_flight: the queue %q must be a whole number, at least 1", value)
			}
		case "wait":
			if f.Wait, err = unit.ParseDuration(value); err != nil || f.Wait <= 0 {
				return d.Errf("in_flight: the wait %q must be a duration such as 2s", value)
			}
		default:
			return d.Errf("in_flight: %s", dispense.Unknown("word", args[i], []string{"per", "queue", "wait"}))
		}
	}
	if f.Wait > 0 && f.Queue == 0 {
		return d.Err("in_flight: a wait needs a queue, such as: queue 10")
	}
	e.InFlight = f
	return nil
}

func (e *Engine) parseSkip(d *caddyfile.Dispenser) error {
	line := d.NewFromNextSegment()
	line.Next() // the word skip
	set, err := caddyhttp.ParseCaddyfileNestedMatcherSet(line)
	if err != nil {
		return d.WrapErr(fmt.Errorf("skip: %w", err))
	}
	if len(set) == 0 {
		return d.Err("skip needs a matcher, such as: skip path /health*")
	}
	e.SkipRaw = append(e.SkipRaw, set)
	return nil
}

func (e *Engine) parseHeaders(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Err("headers needs off, legacy or mode")
	}
	for i := 0; i < len(args); i++ {
		switch args[i] {
		case "off":
			e.Headers.Off = true
		case "mode":
			e.Headers.Mode = true
		case "legacy":
			e.Headers.Legacy = "delta"
			if i+1 < len(args) && (args[i+1] == "unix" || args[i+1] == "delta") {
				i++
				e.Headers.Legacy = args[i]
			}
		default:
			return d.Errf("headers: %s", dispense.Unknown("word", args[i], []string{"off", "legacy", "mode", "unix", "delta"}))
		}
	}
	return nil
}

// percent reads a percentage as a number from 0 to 1.
func percent(d *caddyfile.Dispenser, v *float64) error {
	var s string
	name := d.Val()
	if err := dispense.String(d, &s); err != nil {
		return err
	}
	share, ok := unit.ParsePercent(s)
	if !ok || share == 0 {
		return d.Errf("%s: %q must be a percentage such as 80%%", name, s)
	}
	*v = share
	return nil
}

func oneOf(d *caddyfile.Dispenser, v *string, words ...string) error {
	name := d.Val()
	if err := dispense.String(d, v); err != nil {
		return err
	}
	if !slices.Contains(words, *v) {
		return d.Errf("%s: %s", name, dispense.Unknown("word", *v, words))
	}
	return nil
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*Limit)(nil)
	_ caddyfile.Unmarshaler = (*Quota)(nil)
)
