package limit

import (
	"context"
	"slices"
	"time"

	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
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

// take decides about the request and charges it if it is allowed.
func (e *Engine) take(_ context.Context, a *ask) error {
	a.mode = modeLocal
	a.verdict = e.zone.table.Take(a.now, a.key, a.plan.rates, a.cost)
	return nil
}

// show finds where the key stands.
func (e *Engine) show(_ context.Context, a *ask) {
	a.mode = modeLocal
	a.verdict = e.zone.table.Show(a.now, a.key, a.plan.rates)
}

// charge takes units after the fact, or gives them back.
func (e *Engine) charge(_ context.Context, a *ask, cost int64) {
	e.zone.table.Charge(e.now(), a.key, a.plan.rates, cost)
}

// reset forgets what a key has used.
func (e *Engine) reset(_ context.Context, s *subject) error {
	e.zone.table.Reset(s.local())
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
	if e.Warn > 0 {
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

// compiled are plans with what they were compiled from.
type compiled struct {
	from  *settings
	plans *plans
}

// currentPlans are the plans in force.
func (e *Engine) currentPlans() (*plans, error) {
	from := e.zone.settings.Load()
	if c := e.plans.Load(); c != nil && c.from == from {
		return c.plans, nil
	}
	p, err := e.compilePlans(*from)
	if err != nil { // set at run time for policies that this configuration does not have
		if p, err = e.compilePlans(settings{}); err != nil {
			return nil, err
		}
	}
	e.plans.Store(&compiled{from, p})
	return p, nil
}

// settings are what is set at run time.
type settings struct {
	// Plans are rates for policies, by the plan's name. They go before those of the configuration.
	Plans map[string][]policy.Policy `json:"plans,omitempty"`
	// Keys are the keys that have a plan whatever plan_by says.
	Keys []keyPlan `json:"keys,omitempty"`
}

// keyPlan says that a key has a plan.
type keyPlan struct {
	Key  []string `json:"key"`
	Plan string   `json:"plan"`
}

// subjectOf is the key that an operator names by the values of its placeholders, in their order.
func (e *Engine) subjectOf(values []string) (subject, bool) {
	var s subject
	if len(values) != len(e.parts) || slices.Contains(values, "") {
		return s, false
	}
	for i, v := range values {
		s.add(v, e.parts[i].address)
	}
	return s, true
}
