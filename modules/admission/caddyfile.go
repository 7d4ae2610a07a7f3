package admission

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
	_ "github.com/gatehouse-proxy/gatehouse/modules/internal/journey" // the directive's place
)

func init() {
	caddy.RegisterModule(new(Admission))
	httpcaddyfile.RegisterHandlerDirective("admission", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		m := &Admission{Config: Config{Zone: dispense.Zone(h, "admission")}}
		return m, m.UnmarshalCaddyfile(h.Dispenser)
	})
}

// CaddyModule is the handler's registration.
func (*Admission) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.admission", New: func() caddy.Module { return new(Admission) }}
}

// UnmarshalCaddyfile reads the directive. Syntax:
//
//	admission [<matcher>] {
//		zone          NAME                             # shares its state with others of that name; default: its own
//		max_in_flight N                                # default: no cap but the adaptive limits
//		adaptive      [min 10] [max 1000] [start 20]   # or: off
//		class         NAME CONDITION                   # has a limiter of its own; may be repeated, the first that fits
//		priority      high|normal|low CONDITION        # may be repeated, the first that fits; default normal
//		queue         100 [wait 500ms] [target 20ms]   # or: off
//		cpu           90%                              # sheds low priority; or: off
//		scheduler     50ms                             # sheds low, then normal priority; or: off
//		retry_after   1s..3s                           # or one time
//		exempt        /livez /readyz /startupz         # or: off
//	}
//
// A CONDITION is one of: path PATH… (a * at the end stands for any rest), header FIELD VALUE…,
// claim CLAIM VALUE… ({http.auth.user.CLAIM}), method METHOD…
func (h *Admission) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.Errf("admission: %q is one value too many: the options stand in a block", d.Val())
	}
	if err := dispense.Block(d, "admission",
		dispense.Option{Name: "zone", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &h.Zone) }},
		dispense.Option{Name: "max_in_flight", Parse: func(d *caddyfile.Dispenser) error { return dispense.Int(d, &h.MaxInFlight, 1) }},
		dispense.Option{Name: "adaptive", Parse: h.parseAdaptive},
		dispense.Option{Name: "class", Repeats: true, Parse: h.parseClass},
		dispense.Option{Name: "priority", Repeats: true, Parse: h.parsePriority},
		dispense.Option{Name: "queue", Parse: h.parseQueue},
		dispense.Option{Name: "cpu", Parse: h.parseCPU},
		dispense.Option{Name: "scheduler", Parse: h.parseScheduler},
		dispense.Option{Name: "retry_after", Parse: h.parseRetryAfter},
		dispense.Option{Name: "exempt", Parse: h.parseExempt},
	); err != nil {
		return err
	}
	set, err := h.settings()
	if err == nil {
		_, err = h.Config.rules(&set)
	}
	if err != nil {
		return d.WrapErr(fmt.Errorf("admission: %w", err))
	}
	return nil
}

func (h *Admission) parseAdaptive(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 1 && args[0] == "off" {
		h.Adaptive = new(Adaptive)
		return nil
	}
	a := Adaptive{Max: defaultAdaptive.Max}
	known := map[string]*int{"min": &a.Min, "max": &a.Max, "start": &a.Start}
	if len(args)%2 != 0 {
		return d.Err("adaptive is off, or words with their numbers: adaptive min 10 max 1000 start 20")
	}
	for i := 0; i < len(args); i += 2 {
		v := known[args[i]]
		if v == nil {
			return d.Errf("%s", dispense.Unknown("word of adaptive", args[i], []string{"min", "max", "start"}))
		}
		n, err := strconv.Atoi(args[i+1])
		if err != nil || n < 1 {
			return d.Errf("adaptive: %s must be a whole number, at least 1, not %q", args[i], args[i+1])
		}
		*v = n
	}
	h.Adaptive = &a
	if _, err := a.complete(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (h *Admission) parseClass(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 2 {
		return d.Err("class needs a name and a condition, such as: class reports path /reports/*")
	}
	c, err := condition(d, args[1:])
	h.Classes = append(h.Classes, ClassRule{args[0], c})
	return err
}

func (h *Admission) parsePriority(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 2 {
		return d.Err("priority needs high, normal or low and a condition, such as: priority high path /checkout/*")
	}
	if _, ok := priorityOf(args[0]); !ok {
		return d.Errf("%s", dispense.Unknown("priority", args[0], []string{"high", "normal", "low"}))
	}
	c, err := condition(d, args[1:])
	h.Priorities = append(h.Priorities, PriorityRule{args[0], c})
	return err
}

// condition reads path P… | header FIELD VALUE… | claim CLAIM VALUE… | method M….
func condition(d *caddyfile.Dispenser, args []string) (c Condition, err error) {
	kind, rest := args[0], args[1:]
	valued := kind == "header" || kind == "claim"
	switch kind {
	case "path":
		c.Path = rest
	case "method":
		c.Method = make([]string, len(rest))
		for i, m := range rest {
			c.Method[i] = strings.ToUpper(m)
		}
	case "header", "claim":
	default:
		return c, d.Errf("%s", dispense.Unknown("condition", kind, []string{"path", "header", "claim", "method"}))
	}
	switch {
	case len(rest) == 0 && !valued:
		return c, d.Errf("%s needs at least one value", kind)
	case len(rest) < 2 && valued:
		return c, d.Errf("%s needs a name and at least one value", kind)
	case kind == "header":
		c.Header, c.Values = rest[0], rest[1:]
	case kind == "claim":
		c.Claim, c.Values = rest[0], rest[1:]
	}
	if err = c.check(); err != nil {
		return c, d.WrapErr(err)
	}
	return c, nil
}

func (h *Admission) parseQueue(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 1 && args[0] == "off" {
		h.Queue = new(Queue)
		return nil
	}
	if len(args)%2 != 1 {
		return d.Err("queue is off, or a size and what bounds the wait: queue 100 wait 500ms target 20ms")
	}
	var q Queue
	var err error
	if q.Size, err = strconv.Atoi(args[0]); err != nil || q.Size < 1 {
		return d.Errf("queue: the size must be a whole number, at least 1, or off, not %q", args[0])
	}
	known := map[string]*unit.Duration{"wait": &q.Wait, "target": &q.Target}
	for i := 1; i < len(args); i += 2 {
		v := known[args[i]]
		if v == nil {
			return d.Errf("%s", dispense.Unknown("word of queue", args[i], []string{"wait", "target"}))
		}
		if *v, err = unit.ParseDuration(args[i+1]); err != nil {
			return d.WrapErr(fmt.Errorf("queue: %s: %w", args[i], err))
		}
	}
	h.Queue = &q
	if _, err = q.complete(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (h *Admission) parseCPU(d *caddyfile.Dispenser) error {
	var s string
	if err := dispense.String(d, &s); err != nil {
		return err
	}
	n, err := strconv.Atoi(strings.TrimSuffix(s, "%"))
	if s == "off" {
		n, err = 0, nil
	} else if err != nil || !strings.HasSuffix(s, "%") || n < 1 || n > 100 {
		return d.Errf("cpu is off or a percentage from 1%% to 100%%, such as 90%%, not %q", s)
	}
	h.CPU = &n
	return err
}

func (h *Admission) parseScheduler(d *caddyfile.Dispenser) error {
	var s string
	if err := dispense.String(d, &s); err != nil {
		return err
	}
	var v unit.Duration
	if s != "off" {
		var err error
		if v, err = unit.ParseDuration(s); err != nil {
			return d.WrapErr(fmt.Errorf("scheduler: %w", err))
		}
		if v == 0 {
			return d.Err("scheduler is off or a time, such as 50ms")
		}
	}
	h.Scheduler = &v
	return nil
}

func (h *Admission) parseRetryAfter(d *caddyfile.Dispenser) error {
	var s string
	if err := dispense.String(d, &s); err != nil {
		return err
	}
	from, to, ranged := strings.Cut(s, "..")
	if !ranged {
		to = from
	}
	var spread Spread
	var err error
	if spread.Min, err = unit.ParseDuration(from); err == nil {
		spread.Max, err = unit.ParseDuration(to)
	}
	if err != nil {
		return d.WrapErr(fmt.Errorf("retry_after: %w", err))
	}
	if _, err = spread.complete(); err != nil {
		return d.WrapErr(err)
	}
	h.RetryAfter = &spread
	return nil
}

func (h *Admission) parseExempt(d *caddyfile.Dispenser) error {
	h.Exempt = []string{}
	if err := dispense.Strings(d, &h.Exempt); err != nil {
		return err
	}
	if len(h.Exempt) == 1 && h.Exempt[0] == "off" {
		h.Exempt = []string{}
	} else if err := checkPaths(h.Exempt); err != nil {
		return d.WrapErr(fmt.Errorf("exempt: %w", err))
	}
	return nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Admission)(nil)
