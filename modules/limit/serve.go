package limit

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/gatehouse-proxy/gatehouse/internal/drain"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/clientbody"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/once"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/refuse"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/traffic"
	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

// ServeHTTP counts the request and refuses it if it is one too many.
func (e *Engine) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if done := traffic.Track(r); done != nil {
		defer done()
	}
	e.begin.Do(e.start)
	if len(e.Skip) > 0 {
		if skip, err := e.Skip.AnyMatchWithError(r); err != nil {
			return err
		} else if skip {
			return next.ServeHTTP(w, r)
		}
	}
	if err := once.Check(r, e.onces); err != nil {
		return e.refuse.Error(w, r, err)
	}
	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	a := ask{now: e.now(), cost: e.costOf(r, repl)}
	identify(&a.subject, e.parts, e.groups, r, repl)
	a.key = a.subject.local()
	plans, err := e.currentPlans(a.now)
	if err != nil {
		return e.refuse.Error(w, r, err)
	}
	a.plan = e.planOf(plans, &a, r, repl)
	if e.InFlight != nil {
		refused, err := e.enter(w, r, repl, &a)
		if refused || err != nil {
			return err
		}
		defer e.zone.flights.leave(a.flight)
	}
	if err := e.take(r.Context(), &a); err != nil {
		return e.refuse.Error(w, r, err)
	}
	e.note(&a)
	if e.Shadow {
		if repl != nil {
			repl.Set(wouldRefuse, a.plan.fields.violated(&a.verdict))
		}
		return e.next(w, r, next, &a)
	}
	e.annotate(w.Header(), r, &a)
	if !a.verdict.Allowed {
		refused := a.plan.fields.exceeded(&a.verdict, a.cost, e.Jitter)
		return e.reject(w, r, &refused)
	}
	return e.next(w, r, next, &a)
}

// ask is one request as the engine sees it.
type ask struct {
	subject subject
	key     uint64 // of the rates
	flight  uint64 // of in_flight
	plan    *plan
	cost    int64
	now     int64
	places  int64 // that in_flight has left
	verdict policy.Verdict
	mode    mode
}

// enter takes a place among those in flight. It says whether it has refused the request.
func (e *Engine) enter(w http.ResponseWriter, r *http.Request, repl *caddy.Replacer, a *ask) (bool, error) {
	a.flight = a.key
	if e.flightBy != nil {
		var s subject
		identify(&s, e.flightBy, e.groups, r, repl)
		a.flight = s.local()
	}
	most := e.InFlight.Most
	queue := e.InFlight.Queue
	if e.Shadow {
		queue = 0
	}
	left, ok, wait := e.zone.flights.enter(a.flight, most, queue)
	if wait != nil {
		ok = e.zone.flights.await(r.Context(), a.flight, wait, e.InFlight.Wait.Or(defaultWait))
		a.now = e.now()
	}
	a.places = int64(left)
	switch {
	case ok:
		return false, nil
	case e.Shadow:
		e.zone.flights.force(a.flight)
		e.meters.refused[len(e.meters.refused)-1].Inc()
		return false, nil
	case r.Context().Err() != nil:
		return true, e.refuse.Error(w, r, context.Cause(r.Context()))
	}
	a.verdict.Allowed = true
	e.show(r.Context(), a)
	e.annotate(w.Header(), r, a)
	e.meters.requests.Inc()
	e.meters.refused[len(e.meters.refused)-1].Inc()
	refused := tooMany(e.own.Name, most, e.Jitter)
	return true, e.reject(w, r, &refused)
}

// next serves the request.
func (e *Engine) next(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, a *ask) error {
	if !e.settles || !a.verdict.Allowed {
		return next.ServeHTTP(w, r)
	}
	return e.settling(w, r, next, *a)
}

// settling serves the request, and settles its cost when its outcome is known.
func (e *Engine) settling(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, a ask) error {
	body := clientbody.Watch(r)
	seen := &response{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}}
	seen.settle = func(status int, h http.Header) {
		// A client that breaks off what it sends has the app at work for an error of its own making.
		e.settle(r.Context(), &a, status, h, body.Broken() || r.Context().Err() != nil)
	}
	err := next.ServeHTTP(seen, r)
	switch failed, ok := errors.AsType[caddyhttp.HandlerError](err); {
	case ok:
		seen.done(failed.StatusCode)
	case err != nil:
		seen.done(http.StatusInternalServerError)
	default:
		seen.done(http.StatusOK)
	}
	return err
}

// response sees the outcome of a request before the client does.
type response struct {
	*caddyhttp.ResponseWriterWrapper
	settle  func(status int, h http.Header)
	settled bool
}

// WriteHeader settles the cost by the final header.
func (s *response) WriteHeader(status int) {
	if status >= http.StatusOK || status == http.StatusSwitchingProtocols {
		s.done(status)
	}
	s.ResponseWriterWrapper.WriteHeader(status)
}

// Write begins the response.
func (s *response) Write(b []byte) (int, error) {
	s.done(http.StatusOK)
	return s.ResponseWriterWrapper.Write(b)
}

func (s *response) done(status int) {
	if !s.settled {
		s.settled = true
		s.settle(status, s.Header())
	}
}

// settle gives back or charges what the outcome asks for. One that the client has broken off gets
// nothing back.
func (e *Engine) settle(ctx context.Context, a *ask, status int, h http.Header, broken bool) {
	more := int64(0)
	if e.CostFrom != "" {
		more = parseCost(h.Get(e.CostFrom), a.cost) - a.cost
	}
	if e.refund.include(status, h) {
		more = -a.cost
	}
	if more > 0 || more < 0 && !broken {
		e.charge(ctx, a, more)
	}
}

// annotate sets the fields that tell a client where it stands.
func (e *Engine) annotate(h http.Header, r *http.Request, a *ask) {
	if !e.Headers.Off && a.mode != modeOpen {
		a.plan.fields.annotate(h, &a.verdict, a.places)
	}
	if e.Headers.Legacy != "" && a.mode != modeOpen {
		a.plan.fields.legacy(h, &a.verdict, a.now, e.Headers.Legacy == "unix")
	}
	if e.Headers.Mode {
		h[modeField] = append(h[modeField], e.Zone+"="+string(a.mode))
	}
	if len(r.Header["Origin"]) > 0 && len(h[exposeField]) == 0 {
		h[exposeField] = []string{exposed}
	}
}

// reject answers 429, in place and without a detour where the site has no error route and the client has
// nothing more to send.
func (e *Engine) reject(w http.ResponseWriter, r *http.Request, refused *refusal) error {
	if !e.refuse.InPlace(r) || drain.Needed(r) || problem.IsGRPC(r.Header.Get("Content-Type")) {
		return e.refuse.Error(w, r, refused.problem())
	}
	refused.write(w, r.Method == http.MethodHead, refuse.Instance(r))
	return nil
}

// identify finds whom the request is counted for.
func identify(s *subject, parts []part, g grouping, r *http.Request, repl *caddy.Replacer) {
	for i := range parts {
		p := &parts[i]
		value := p.value(r, repl)
		if value == "" {
			*s = subject{anonymous: true}
			ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
			s.add(ip, true, g)
			return
		}
		s.add(value, p.address, g)
	}
}

// value is what the placeholder stands for, taken as it is: placeholders in it are not expanded.
func (p *part) value(r *http.Request, repl *caddy.Replacer) string {
	switch {
	case p.name == clientIP:
		ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
		return ip
	case p.header != "":
		return r.Header.Get(p.header) // the only one: several are refused
	case repl == nil:
		return ""
	}
	value, _ := repl.GetString(p.name)
	return value
}

func (e *Engine) costOf(r *http.Request, repl *caddy.Replacer) int64 {
	if e.costBy == nil {
		return e.cost
	}
	return max(1, parseCost(e.costBy.value(r, repl), 1))
}

func (e *Engine) planOf(p *plans, a *ask, r *http.Request, repl *caddy.Replacer) *plan {
	if len(p.ofKey) > 0 {
		if own := p.ofKey[a.key]; own != nil {
			return own
		}
	}
	if e.planBy == nil {
		return p.base
	}
	return p.find(e.planBy[0].value(r, repl))
}

// started makes a clock that no adjustment of the machine's can set back.
var started = time.Now()

// clock is nanoseconds since the Unix epoch.
func clock() int64 { return started.UnixNano() + int64(time.Since(started)) }

// Interface guards
var _ http.ResponseWriter = (*response)(nil)
