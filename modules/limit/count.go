package limit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
	"github.com/gatehouse-proxy/gatehouse/modules/limit/shared"
)

// Where requests are counted.
const (
	countLocal  = "local"
	countExact  = "exact"
	countLeased = "leased"
)

// What happens to requests while the store does not answer.
const (
	onErrorOpen   = "open"
	onErrorClosed = "closed"
	onErrorLocal  = "local"
)

// defaultWait is how long a request waits for a place in flight.
const defaultWait = time.Second

// mode says how a request was counted.
type mode string

const (
	modeLocal  mode = "local"
	modeExact  mode = "exact"
	modeLeased mode = "leased"
	modeOpen   mode = "open"
	modeClosed mode = "closed"
	modeShare  mode = "local-share"
)

// store is how an engine counts together with other instances.
type store struct {
	link   *shared.Link
	leases *shared.Leases // nil for exact
	zone   string         // in Redis: the name, and what its states consist of
}

// storeZone is the zone's name in Redis. Zones whose states differ in their words are kept apart, so
// that instances of two configurations can run beside each other.
func (z zoneID) storeZone() string {
	sum := sha256.Sum256([]byte(z.layout))
	return z.name + "/" + hex.EncodeToString(sum[:4])
}

// counts is where the engine counts while all is well.
func (e *Engine) counts() string {
	switch {
	case e.store == nil:
		return countLocal
	case e.store.leases != nil:
		return countLeased
	}
	return countExact
}

// mode is how the engine counts now.
func (e *Engine) mode() mode {
	if e.store == nil {
		return modeLocal
	}
	if up, _ := e.store.link.Up(); up {
		return mode(e.counts())
	}
	switch e.OnStoreError {
	case onErrorOpen:
		return modeOpen
	case onErrorClosed:
		return modeClosed
	}
	return modeShare
}

// take decides about the request and charges it if it is allowed.
func (e *Engine) take(ctx context.Context, a *ask) error {
	if e.store == nil {
		a.mode = modeLocal
		a.verdict = e.zone.table.Take(a.now, a.key, a.plan.rates, a.cost)
		return nil
	}
	s := e.store
	if a.cost > a.plan.size { // it never fits, so nothing need be asked
		a.mode = e.mode()
		a.verdict = policy.Decide(a.now, a.plan.rates, make([]int64, policy.Words(a.plan.rates)), a.cost)
		return nil
	}
	var err error
	if s.leases == nil {
		a.mode = modeExact
		a.verdict, err = s.link.Take(ctx, s.zone, a.subject.id(e.Zone), a.plan.rates, a.cost) // remote: 20ms, then on_store_error
	} else {
		a.mode = modeLeased
		var ok bool
		if a.verdict, ok = s.leases.Take(a.now, a.key, a.plan.rates, a.cost); !ok {
			a.verdict, err = s.leases.Acquire(ctx, a.now, a.key, a.subject.id(e.Zone), a.plan.rates, a.cost) // remote: as above, for one of many
		}
	}
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, shared.ErrDown) && ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return e.without(a, err)
}

// without decides about the request while the store does not answer.
func (e *Engine) without(a *ask, cause error) error {
	e.meters.degraded.Inc()
	switch e.OnStoreError {
	case onErrorOpen:
		a.mode = modeOpen
		a.verdict = policy.Verdict{Allowed: true}
		return nil
	case onErrorClosed:
		a.mode = modeClosed
		err := problem.New(problem.Unavailable, "Requests cannot be counted right now, try again soon.").Because(cause)
		err.RetryAfter = time.Duration(1+rand.IntN(3)) * time.Second
		return err
	}
	a.mode = modeShare
	a.verdict = e.zone.table.Take(a.now, a.key, a.plan.share(e.store.link.Instances()), a.cost)
	return nil
}

// show finds where the key stands.
func (e *Engine) show(ctx context.Context, a *ask) {
	if e.store != nil {
		v, err := e.store.link.Show(ctx, e.store.zone, a.subject.id(e.Zone), a.plan.rates) // remote: 20ms, then what is known here
		if err == nil {
			a.mode, a.verdict = mode(e.counts()), v
			return
		}
	}
	a.mode = e.mode()
	a.verdict = e.zone.table.Show(a.now, a.key, a.plan.rates)
}

// charge takes units after the fact, or gives them back, where the request was counted. What cannot
// be told to the store within its deadline is lost.
func (e *Engine) charge(ctx context.Context, a *ask, cost int64) {
	switch a.mode {
	case modeLeased:
		e.store.leases.Charge(e.now(), a.key, a.subject.id(e.Zone), a.plan.rates, cost)
	case modeExact:
		if err := e.store.link.Charge(context.WithoutCancel(ctx), e.store.zone, a.subject.id(e.Zone), a.plan.rates, cost); err != nil { // remote: 20ms, then forgotten
			e.meters.degraded.Inc()
		}
	case modeShare:
		e.zone.table.Charge(e.now(), a.key, a.plan.share(e.store.link.Instances()), cost)
	case modeLocal:
		e.zone.table.Charge(e.now(), a.key, a.plan.rates, cost)
	case modeOpen, modeClosed:
	}
}

// reset forgets what a key has used.
func (e *Engine) reset(ctx context.Context, s *subject) error {
	e.zone.table.Reset(s.local())
	if e.store == nil {
		return nil
	}
	if err := e.store.link.Reset(ctx, e.store.zone, s.id(e.Zone)); err != nil {
		return problem.New(problem.Unavailable, "The key could not be reset, as Redis does not answer.").Because(err)
	}
	return nil
}

// note keeps the figures of a request.
func (e *Engine) note(a *ask) {
	e.meters.requests.Inc()
	if !a.verdict.Allowed {
		for i := range a.plan.policies {
			if a.verdict.Answers[i].Violated {
				e.meters.refused[i].Inc()
			}
		}
	}
	e.zone.top.note(a.now, a.key, !a.verdict.Allowed, func() string { return a.subject.text(e.parts) })
	if e.Warn > 0 && a.mode != modeOpen {
		if i := e.zone.warner.near(a.now, a.key, a.plan.policies, &a.verdict, e.Warn); i >= 0 {
			e.warn(a, i)
		}
	}
}

// warnings bounds the events that are being handled at once; more than these are not emitted.
var warnings = make(chan struct{}, 16)

func (e *Engine) warn(a *ask, i int) {
	select {
	case warnings <- struct{}{}:
	default:
		return
	}
	p := a.plan.policies[i]
	data := map[string]any{
		"zone": e.Zone, "policy": p.Name, "plan": a.plan.name, "key": a.subject.text(e.parts),
		"quota": p.Quota, "window": policy.Short(p.Window.Std()), "remaining": a.verdict.Answers[i].Remaining,
	}
	go func() {
		defer func() { <-warnings }()
		e.emit("limit_warning", data)
	}()
}

// subjectOf is the key that an operator names by the values of its placeholders, in their order.
func (e *Engine) subjectOf(values []string) (subject, bool) {
	var s subject
	if len(values) != len(e.parts) || slices.Contains(values, "") {
		return s, false
	}
	for i, v := range values {
		s.add(v, e.parts[i].address, e.groups)
	}
	return s, true
}
