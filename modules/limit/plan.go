package limit

import (
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

// maxPlans bounds the plans of one directive.
const maxPlans = 64

// plan is a set of rates, ready to be counted by and to be told to clients.
type plan struct {
	name     string
	policies []policy.Policy
	rates    []policy.Rate
	fields   fields
	size     int64 // the greatest cost that can fit
	shared   atomic.Pointer[share]
}

// share is the part of the rates that one of so many instances may use on its own.
type share struct {
	instances int
	rates     []policy.Rate
}

// share is the rates divided by the number of instances.
func (p *plan) share(instances int) []policy.Rate {
	if s := p.shared.Load(); s != nil && s.instances == instances {
		return s.rates
	}
	s := &share{instances: instances}
	for _, whole := range p.policies {
		s.rates = append(s.rates, whole.Share(instances).Compile())
	}
	p.shared.Store(s)
	return s.rates
}

func newPlan(name string, policies []policy.Policy, own *policy.Policy) *plan {
	p := &plan{name: name, policies: policies, rates: policy.Compile(policies)}
	p.fields.init(policies, own)
	p.size = policy.MaxQuota
	for _, q := range policies {
		p.size = min(p.size, int64(q.Size()))
	}
	return p
}

// withPlan is the policies as a plan has them: those that it names have its rates.
func withPlan(base, changed []policy.Policy) ([]policy.Policy, error) {
	all := slices.Clone(base)
	for _, c := range changed {
		i := slices.IndexFunc(all, func(p policy.Policy) bool { return p.Name == c.Name })
		if i < 0 {
			return nil, fmt.Errorf("there is no policy %s: a plan changes the rates of policies that are there (%s)", c.Name, names(base))
		}
		c.Sliding = c.Sliding || all[i].Sliding && c.Burst == 0
		if c.Sliding != all[i].Sliding {
			return nil, fmt.Errorf("policy %s counts in a sliding window, and so must all its plans", c.Name)
		}
		if c.Sliding && c.Window != all[i].Window {
			return nil, fmt.Errorf("policy %s counts in a sliding window of %s, and so must all its plans", c.Name, policy.Short(all[i].Window.Std()))
		}
		if err := c.Check(); err != nil {
			return nil, err
		}
		all[i] = c
	}
	return all, nil
}

func names(policies []policy.Policy) string {
	s := ""
	for i, p := range policies {
		if i > 0 {
			s += ", "
		}
		s += p.Name
	}
	return s
}

// plans are the plans of a directive: what its requests are counted by. It is never changed; another
// one takes its place.
type plans struct {
	base   *plan
	byName map[string]*plan
	// ofKey are the plans of single keys, by their local hash. They go before what plan_by says.
	ofKey map[uint64]*plan
}

func (p *plans) find(name string) *plan {
	if found := p.byName[name]; found != nil {
		return found
	}
	return p.base
}

// compilePlans is the plans of the configuration, changed by what was set at run time.
func (e *Engine) compilePlans(set settings) (*plans, error) {
	all := maps.Clone(e.Plans)
	if all == nil {
		all = map[string][]policy.Policy{}
	}
	maps.Copy(all, set.Plans)
	if len(all) > maxPlans {
		return nil, fmt.Errorf("%d plans are too many, at most %d", len(all), maxPlans)
	}
	p := &plans{base: newPlan("", e.Policies, e.own), byName: map[string]*plan{}, ofKey: map[uint64]*plan{}}
	for name, changed := range all {
		policies, err := withPlan(e.Policies, changed)
		if err != nil {
			return nil, fmt.Errorf("plan %s: %w", name, err)
		}
		p.byName[name] = newPlan(name, policies, e.own)
	}
	for _, k := range set.Keys {
		s, ok := e.subjectOf(k.Key)
		if found := p.byName[k.Plan]; ok && found != nil {
			p.ofKey[s.local()] = found
		}
	}
	return p, nil
}
