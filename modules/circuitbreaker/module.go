// Package circuitbreaker is the directive `circuit_breaker`: it stops sending requests to an app that
// fails, asks with a few of them whether it has recovered, and then lets a growing share through. The
// same circuit can stand in a reverse_proxy, as its circuit breaker `gatehouse`.
package circuitbreaker

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/clientbody"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/frontdoor"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/meter"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/refuse"
)

// Circuit is what the directive and the circuit breaker of reverse_proxy have in common.
//
// When it opens and when it is closed again it emits an event, circuit_opened or circuit_closed, with
// the data zone, from (the state before) and, for the first, seconds (how long it stays open). The
// request that has brought the change about waits for what is subscribed to the event.
type Circuit struct {
	// Zone names the circuit: all with the same name share it, and it goes on over reloads. At most 64
	// letters, digits and -_.#; the Caddyfile numbers its directives: "circuit_breaker#1". Default:
	// "circuit_breaker".
	Zone string `json:"zone,omitempty"`
	Settings

	zone          *zone
	numbers       numbers
	configuration any // which this belongs to; nil after Cleanup
	provision     uint64
	once          sync.Once
	ctx           caddy.Context
	events        *caddyevents.App
	log           *zap.Logger
}

// zones are the circuits in use, by name. A circuit outlives the configurations that share it.
var zones = caddy.NewUsagePool()

func (c *Circuit) hold(ctx caddy.Context, budget float64) error {
	rules, err := c.rules()
	if err != nil {
		return err
	}
	if c.Zone == "" {
		c.Zone = "circuit_breaker"
	}
	if !validZone(c.Zone) {
		return fmt.Errorf("%.80q cannot be a zone, write at most 64 letters, digits and -_.#", c.Zone)
	}
	c.ctx, c.log, c.numbers, c.provision = ctx, ctx.Logger(), numbers{rules, budget}, provisions.Add(1)
	app, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("getting the events app: %w", err)
	}
	c.events = app.(*caddyevents.App)
	if err = meter.Register(ctx, transitionsTotal, requestsTotal, retriesTotal, retriesRefusedTotal, stateCollector{}); err != nil {
		return fmt.Errorf("registering the metrics: %w", err)
	}
	z, _, err := zones.LoadOrNew(c.Zone, func() (caddy.Destructor, error) { return newZone(c.Zone, c.numbers), nil })
	if err != nil {
		return err
	}
	c.zone = z.(*zone)
	// All modules of one configuration, and no others, see its end on the same channel.
	configuration := any(ctx.Done())
	if err = c.zone.claim(configuration, c.numbers); err != nil {
		_, _ = zones.Delete(c.Zone)
		return err
	}
	c.configuration = configuration
	return nil
}

// Cleanup gives back what Provision took hold of. The handler stays usable for requests in flight.
func (c *Circuit) Cleanup() error {
	if c.configuration == nil {
		return nil
	}
	c.zone.release(c.configuration)
	c.configuration = nil
	_, err := zones.Delete(c.Zone)
	return err
}

// begin makes this configuration's numbers count: it serves, so it has started.
func (c *Circuit) begin() {
	c.once.Do(func() { c.zone.apply(c.provision, c.numbers) })
}

// changed tells of a change of the state.
func (c *Circuit) changed(change Change) {
	if !change.Turned {
		return
	}
	transitionsTotal.WithLabelValues(c.Zone, change.To.String()).Inc()
	data := map[string]any{"zone": c.Zone, "from": change.From.String()}
	switch change.To {
	case Open:
		c.log.Warn("circuit opened", zap.String("zone", c.Zone), zap.Stringer("from", change.From), zap.Duration("for", change.Lasts))
		data["seconds"] = change.Lasts.Seconds()
		c.events.Emit(c.ctx, "circuit_opened", data)
	case Closed:
		c.log.Info("circuit closed", zap.String("zone", c.Zone), zap.Stringer("from", change.From))
		c.events.Emit(c.ctx, "circuit_closed", data)
	default:
		c.log.Info("circuit recovering", zap.String("zone", c.Zone), zap.Stringer("from", change.From), zap.Stringer("to", change.To))
	}
}

// Handler passes requests to the next handlers, and stops doing so when too many of them fail.
//
// Failures are answers with the statuses of Failures, those of gRPC with the status UNKNOWN, DEADLINE_EXCEEDED,
// INTERNAL or UNAVAILABLE in their header or trailers, errors and timeouts of the way to the app, answers
// that break off, and with Slow those that take too long. No failures are other statuses, requests whose
// client has left or has not sent its body, and what a directive of the gateway has refused. An answer
// counts when its header arrives.
//
// While the circuit is open a stale response of http_cache answers, if that directive has one; else the
// fallback, if there is one; else the answer is 503 with Retry-After at the time of the next probe.
//
// Placeholder | Description
// ------------|-------------
// `{http.circuit_breaker.state}` | Why a request did not pass: `open`, `half_open` or `slow_start`
type Handler struct {
	Circuit
	// Failures are the statuses that count as failures: 5xx for all, or statuses from 500 on. Errors of
	// the way to the app count in any case. Default: 500, 502, 503, 504.
	Failures []string `json:"failures,omitempty"`
	// Slow is the time after which an answer whose header arrives counts as a failure, whatever its
	// status. It begins when the client has sent the body of its request. Default 0: no answer is too slow.
	Slow unit.Duration `json:"slow,omitempty"`
	// FallbackRaw answers while the circuit is open; a Caddyfile makes a reverse_proxy of it. http_cache
	// does not keep its answers. Default: none.
	FallbackRaw json.RawMessage `json:"fallback,omitempty" caddy:"namespace=http.handlers inline_key=handler"`
	// Retry is how often a request may be sent again, at most 5: a GET, HEAD, OPTIONS, PUT or DELETE
	// without a body, after an error of the way to the app or a 502, 503 or 504 without Retry-After, with
	// nothing yet sent to the client, while the circuit is closed. Repeats carry Gatehouse-Attempt with
	// the number of the attempt, from 2; what clients send under that name is deleted. Default 0: never.
	Retry int `json:"retry,omitempty"`
	// RetryBudget bounds the repeats of the zone to a share of its requests in 10s, at most 0.2. One a
	// second is always allowed. Default: 0.2.
	RetryBudget float64 `json:"retry_budget,omitempty"`

	failures failures
	fallback caddyhttp.MiddlewareHandler
	refuse   *refuse.Refuser
}

const (
	maxRetry  = 5
	maxBudget = 0.2
)

// Provision loads the fallback and takes hold of the circuit.
func (h *Handler) Provision(ctx caddy.Context) (err error) {
	if err = frontdoor.Stand(ctx); err != nil {
		return err
	}
	h.refuse = refuse.New(ctx.Logger())
	if h.failures, err = parseFailures(h.Failures); err != nil {
		return err
	}
	budget := 0.0
	switch {
	case h.Retry < 0 || h.Retry > maxRetry:
		return fmt.Errorf("retry must be 1 to %d, not %d", maxRetry, h.Retry)
	case h.Retry > 0 && h.RetryBudget == 0:
		budget = maxBudget
	case h.Retry > 0:
		budget = h.RetryBudget
	}
	if !(h.RetryBudget >= 0 && h.RetryBudget <= maxBudget) {
		return fmt.Errorf("the retry budget must be above 0%% and at most 20%%, not %v%%", h.RetryBudget*100)
	}
	if h.FallbackRaw != nil {
		m, err := ctx.LoadModule(h, "FallbackRaw")
		if err != nil {
			return fmt.Errorf("loading the fallback: %w", err)
		}
		h.fallback = m.(caddyhttp.MiddlewareHandler)
	}
	return h.hold(ctx, budget)
}

// ServeHTTP passes the request on if the circuit lets it.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	h.begin()
	delete(r.Header, attemptField)
	if h.Retry == 0 || !repeatable(r) {
		_, err := h.attempt(w, r, next, false)
		return err
	}
	groups, _ := r.Context().Value(caddy.CtxKey("route_group")).(map[string]struct{})
	before := remember(r, w.Header(), groups)
	h.zone.budget.Request(time.Now())
	for n := 1; ; n++ {
		again, err := h.attempt(w, r, next, n <= h.Retry)
		if !again {
			return err
		}
		before.restore(r, w.Header(), groups)
		if !wait(r.Context(), pause(n, rand.Float64())) {
			return caddyhttp.Error(statusClientClosed, r.Context().Err())
		}
		h.zone.meters.retries.Inc()
		r.Header[attemptField] = []string{strconv.Itoa(n + 1)}
	}
}

// attempt passes the request on once. again says that it has failed, that the client has got nothing,
// and that it is to be sent again; that is only so if there is an attempt to spare.
func (h *Handler) attempt(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, spare bool) (again bool, err error) {
	now := time.Now()
	ticket, change := h.zone.breaker.Admit(now)
	h.changed(change)
	if !ticket.Allowed {
		return false, h.open(w, r, next, ticket)
	}
	x := &exchange{ResponseWriter: w, h: h, r: r, ticket: ticket, start: now, spare: spare, body: clientbody.Watch(r)}
	err = h.pass(x, next)
	if x.dropping {
		return true, nil
	}
	return x.spare && x.outcome == Failure && unreachable(x.err) && h.again(x), err
}

// pass calls the next handler, and reports also if it panics. That of an answer that has broken off
// goes no further where the client does not get the answer.
func (h *Handler) pass(x *exchange, next caddyhttp.Handler) (err error) {
	returned := false
	defer func() {
		if returned {
			return
		}
		x.abort()
		if !x.dropping {
			return
		}
		if v := recover(); v != http.ErrAbortHandler { //nolint:errorlint // a panic's value, as net/http compares it
			panic(v)
		}
	}()
	err = next.ServeHTTP(x, x.r)
	returned = true
	x.finish(err)
	return err
}

// again says whether a request that has failed may be sent again, and takes that from the budget.
func (h *Handler) again(x *exchange) bool {
	now := time.Now()
	if len(x.Header()["Retry-After"]) > 0 || x.ticket.State != Closed || h.zone.breaker.State(now) != Closed {
		return false
	}
	if !h.zone.budget.Take(now) {
		h.zone.meters.retriesRefused.Inc()
		return false
	}
	return true
}

// open answers a request that the circuit does not let pass.
func (h *Handler) open(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, ticket Ticket) error {
	stale := false
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.circuit_breaker.state", ticket.State.String())
		_, stale = repl.Get("http.http_cache.stale")
	}
	var cause error
	switch {
	case stale:
		h.zone.meters.stale.Inc()
		e := unavailable(ticket.Wait)
		e.SetHeader(w.Header())
		return caddyhttp.HandlerError{StatusCode: e.Code.Status(), Err: e}
	case h.fallback != nil:
		h.zone.meters.fallback.Inc()
		err := h.fallback.ServeHTTP(w, r, next)
		if err == nil || r.Context().Err() != nil {
			return err
		}
		cause = fmt.Errorf("asking the fallback: %w", err)
	default:
		h.zone.meters.refused.Inc()
	}
	return h.refuse.Error(w, r, unavailable(ticket.Wait).Because(cause))
}

// judgeError is the outcome of a request whose handler has returned an error instead of an answer, and
// the error's status. A problem says something about the app only if it passes on such an error.
func (h *Handler) judgeError(x *exchange, err error) (Outcome, int) {
	ours, refused := errors.AsType[*problem.Error](err)
	if refused {
		err = ours.Cause
	}
	status := http.StatusInternalServerError
	e, ok := errors.AsType[caddyhttp.HandlerError](err)
	switch {
	case ok:
		status = e.StatusCode
	case refused:
		return Ignored, status
	}
	switch {
	case status < 500, clientLeft(x.r), x.body.Broken():
		return Ignored, status
	case unreachable(status), h.failures.include(status):
		return Failure, status
	}
	return Success, status
}

// Proxy is the circuit breaker of a reverse_proxy, one for all of its upstreams:
// `"circuit_breaker": {"type": "gatehouse"}`. Caddy tells it of answers only: upstreams that cannot be
// reached are for the passive health checks, or for the directive circuit_breaker.
type Proxy struct {
	Circuit
	// Failures are the statuses that count as failures: 5xx for all, or statuses from 500 on. Default:
	// 500, 502, 503, 504.
	Failures []string `json:"failures,omitempty"`
	// Slow is the time after which an answer whose header arrives counts as a failure. Default 0: none is.
	Slow unit.Duration `json:"slow,omitempty"`

	failures failures
}

// Provision takes hold of the circuit.
func (p *Proxy) Provision(ctx caddy.Context) (err error) {
	if err = frontdoor.Stand(ctx); err != nil {
		return err
	}
	if p.failures, err = parseFailures(p.Failures); err != nil {
		return err
	}
	return p.hold(ctx, 0)
}

// OK says whether the upstreams may be sent requests.
func (p *Proxy) OK() bool {
	p.begin()
	ok, change := p.zone.breaker.Allowed(time.Now())
	p.changed(change)
	return ok
}

// RecordMetric notes an answer.
func (p *Proxy) RecordMetric(status int, latency time.Duration) {
	o := Success
	if p.failures.include(status) || p.Slow > 0 && latency > p.Slow.Std() {
		o = Failure
	}
	p.zone.meters.outcomes[o].Inc()
	p.changed(p.zone.breaker.Observe(time.Now(), o))
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ caddy.Provisioner           = (*Proxy)(nil)
	_ caddy.CleanerUpper          = (*Proxy)(nil)
	_ reverseproxy.CircuitBreaker = (*Proxy)(nil)
)
