// Package admission is the directive `admission`: it protects the gateway and the app behind it from
// more requests than they can do. It finds out by latency how many the app can work on at once, lets
// a few more wait for a moment, and sends the rest away at once, the least important first.
package admission

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/frontdoor"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/meter"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/pressure"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/refuse"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/traffic"
)

// Config is the directive's configuration.
type Config struct {
	// Zone names the state: handlers with the same zone share limits, places and queues, and a reload
	// goes on with them. Those of one configuration must give it the same numbers. The Caddyfile numbers its
	// directives: "admission#1". Default "".
	Zone string `json:"zone,omitempty"`
	// MaxInFlight is how many requests of the zone may have a place at once, over all classes.
	// Default 0: no such limit.
	MaxInFlight int `json:"max_in_flight,omitempty"`
	// Adaptive bounds the limit that each class finds by the app's latency. Default: 10, 1000, 20.
	Adaptive *Adaptive `json:"adaptive,omitempty"`
	// Classes are requests with a limiter and a queue of their own: those that take much longer than the
	// others, such as reports, and long polls above all, which would hold the others' places while they
	// wait. The first that fits counts; all others are in the class "default".
	Classes []ClassRule `json:"classes,omitempty"`
	// Priorities say what is shed last and first; the first that fits counts, all others are normal.
	// Of each limit one place in ten is kept free for each higher priority that is used here.
	Priorities []PriorityRule `json:"priorities,omitempty"`
	// Queue is where requests wait for a place. Default: 100, wait 500ms, target 20ms.
	Queue *Queue `json:"queue,omitempty"`
	// CPU is the percentage of the processors that this process may use at which it sheds low priority,
	// step by step, until it is 10 points below. Busy processors are no reason to shed more. Default 90; 0 is off.
	CPU *int `json:"cpu,omitempty"`
	// Scheduler is the time that goroutines of this process wait for their turn (99th percentile) at
	// which it sheds low, then normal priority, step by step, until it is half of that. High priority is never
	// shed for the pressure on this process. Default "50ms"; "0s" is off.
	Scheduler *unit.Duration `json:"scheduler,omitempty"`
	// RetryAfter is what a shed client is told to wait; each is told another time, so that they do not
	// come back together. Default "1s" to "3s".
	RetryAfter *Spread `json:"retry_after,omitempty"`
	// Exempt are paths that pass uncounted. Default /livez, /readyz and /startupz; [] is none.
	Exempt []string `json:"exempt"`
}

// Admission lets requests in or sends them away, with 503 and Retry-After, before their body is read.
// A request has its place from its admission until it is answered. Upgraded connections (WebSocket) and event
// streams give it back when the response begins; others that wait for a slow client, to send its
// body or to take the answer, give it back after two seconds if it is needed. The app's latency is the time to the
// first header byte of the response, without what it waited for the client's body. 503, 504 and
// timeouts count as overload; other server errors, clients that leave and hits in our cache count as
// nothing.
type Admission struct {
	Config

	set     settings
	rules   *rules
	spread  Spread
	zone    *zone
	config  any // the identity of the configuration that this handler belongs to
	held    bool
	claimed bool
	begin   sync.Once
	classes []*class
	refuse  *refuse.Refuser
}

// zones are the zones in use. A configuration that keeps a zone goes on with it.
var zones = caddy.NewUsagePool()

// Destruct ends the zone. Requests in flight may still use it.
func (z *zone) Destruct() error {
	z.end()
	return nil
}

var metrics = collector{each: func(visit func(*zone)) {
	zones.Range(func(_, z any) bool {
		visit(z.(*zone))
		return true
	})
}}

// Provision compiles the rules and takes hold of the zone, whose numbers it leaves alone.
func (h *Admission) Provision(ctx caddy.Context) error {
	if err := frontdoor.Stand(ctx); err != nil {
		return err
	}
	h.refuse = refuse.New(ctx.Logger())
	var err error
	if h.set, err = h.settings(); err != nil {
		return err
	}
	if h.rules, err = h.Config.rules(&h.set); err != nil {
		return err
	}
	if h.spread, err = h.RetryAfter.complete(); err != nil {
		return err
	}
	if err = meter.Register(ctx, metrics); err != nil {
		return err
	}
	z, _, err := zones.LoadOrNew(h.Zone, func() (caddy.Destructor, error) { return newZone(h.Zone, pressure.Watch), nil })
	if err != nil {
		return err
	}
	h.zone, h.held = z.(*zone), true
	h.config = ctx.GetMetricsRegistry() // each configuration has its own
	if err = h.zone.claim(h.config, h.set); err != nil {
		return err
	}
	h.claimed = true
	return nil
}

// Cleanup gives back what Provision took hold of. The handler stays usable for requests in flight.
func (h *Admission) Cleanup() error {
	if h.claimed {
		h.zone.unclaim(h.config)
		h.claimed = false
	}
	if !h.held {
		return nil
	}
	h.held = false
	_, err := zones.Delete(h.Zone)
	return err
}

// ServeHTTP finds the request a place, or sends it away.
func (h *Admission) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if done := traffic.Track(r); done != nil {
		defer done()
	}
	h.begin.Do(h.start)
	q := request{Request: r, claims: (*token)(r)}
	q.path, q.odd = resolve(r.URL.Path)
	if h.rules.exempts(&q) {
		return next.ServeHTTP(w, r)
	}
	class, priority := h.rules.sort(&q)
	t := &ticket{ResponseWriter: w, zone: h.zone, class: h.classes[class], priority: priority}
	v := h.zone.enter(time.Now(), t)
	if v == waits {
		v = h.wait(r.Context(), t)
	}
	if v != admitted {
		return h.refuse.Error(w, r, h.shed(v))
	}
	return h.serve(t, r, next)
}

// start puts the configuration's numbers into force, with its first request: by then it serves.
func (h *Admission) start() { h.classes = h.zone.start(time.Now(), h.config, h.set) }

// wait is the verdict on a ticket in the queue. The wait ends when the client goes away.
func (h *Admission) wait(ctx context.Context, t *ticket) verdict {
	timer := time.NewTimer(h.set.queue.Wait.Std())
	defer timer.Stop()
	select {
	case v := <-t.verdict:
		return v
	case <-timer.C:
		return h.zone.withdraw(t, waited)
	case <-ctx.Done():
		if v := h.zone.withdraw(t, left); v != admitted {
			return left
		}
		return admitted // it is noticed further on
	}
}

// serve is the stay of an admitted request.
func (h *Admission) serve(t *ticket, r *http.Request, next caddyhttp.Handler) (err error) {
	if r.Body != nil && r.Body != http.NoBody {
		t.body = r.Body
		r.Body = body{t}
	}
	judged := ignored // as a panic leaves it
	defer func() { h.zone.leave(time.Now(), t, judged) }()
	err = next.ServeHTTP(t, r)
	judged = t.judge(err, r.Context().Err() != nil, statusOf)
	return err
}

func statusOf(err error) (int, bool) {
	e, ok := errors.AsType[caddyhttp.HandlerError](err)
	return e.StatusCode, ok
}

// shed is the answer to a request that is not admitted.
func (h *Admission) shed(v verdict) error {
	if v == left {
		return problem.New(problem.ClientClosedRequest, "")
	}
	after := h.spread.Min.Std()
	after += time.Duration(rand.Int64N(int64((h.spread.Max.Std()-after)/time.Second)+1)) * time.Second
	e := problem.New(problem.ReducedCapacity, "There is more to do than can be done right now, try again in %s.", after)
	e.RetryAfter = after
	return e
}

// token is the verified token of a request.
type token http.Request

func (t *token) claim(name string) string {
	repl, ok := (*http.Request)(t).Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	value, _ := repl.GetString("http.auth.user." + name)
	return value
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Admission)(nil)
	_ caddy.CleanerUpper          = (*Admission)(nil)
	_ caddyhttp.MiddlewareHandler = (*Admission)(nil)
)
