package circuitbreaker

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// numbers are all that the users of a zone must agree on. A budget of 0 agrees with any.
type numbers struct {
	rules  Rules
	budget float64
}

// zone is one circuit and all who use it, over all configurations.
type zone struct {
	name    string
	breaker *Breaker
	budget  *Budget
	meters  meters

	mu      sync.Mutex
	claims  map[any]*claim // by configuration
	applied uint64
}

// claim is what one configuration says about a zone, and how many of its handlers use it.
type claim struct {
	numbers
	users int
}

// provisions numbers the handlers in the order in which they are provisioned.
var provisions atomic.Uint64

func newZone(name string, n numbers) *zone {
	return &zone{
		name: name, breaker: NewBreaker(n.rules, rand.Float64), budget: NewBudget(n.budget),
		meters: newMeters(name), claims: map[any]*claim{},
	}
}

// Destruct does nothing: requests in flight may still report, and then the zone is garbage.
func (z *zone) Destruct() error { return nil }

// claim notes that a handler of a configuration uses the zone with these numbers.
func (z *zone) claim(configuration any, n numbers) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	c := z.claims[configuration]
	if c == nil {
		c = &claim{numbers: n}
		z.claims[configuration] = c
	}
	if c.budget == 0 {
		c.budget = n.budget
	}
	if c.rules != n.rules || n.budget != 0 && c.budget != n.budget {
		return fmt.Errorf("the circuit breakers of the zone %s must have the same trip, open, probes, slow_start and retry budget: write them alike or give the zones different names", z.name)
	}
	c.users++
	return nil
}

// release takes a claim back.
func (z *zone) release(configuration any) {
	z.mu.Lock()
	defer z.mu.Unlock()
	c := z.claims[configuration]
	if c == nil {
		return
	}
	if c.users--; c.users <= 0 {
		delete(z.claims, configuration)
	}
}

// apply makes the numbers count, unless those of a later configuration do already.
func (z *zone) apply(provision uint64, n numbers) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if provision < z.applied {
		return
	}
	z.applied = provision
	z.breaker.SetRules(time.Now(), n.rules)
	if n.budget != 0 {
		z.budget.SetShare(n.budget)
	}
}
