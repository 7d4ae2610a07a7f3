package shared

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

// memory is a Redis in fake time: it answers as take.lua does, after a round trip.
type memory struct {
	fake
	mu    sync.Mutex
	rates []policy.Rate
	keys  map[string][]int64
	trips int
}

const roundTrip = 200 * time.Microsecond

func (m *memory) run(ctx context.Context, calls []*call) {
	if err := m.act(ctx); err != nil {
		for _, c := range calls {
			c.err = err
		}
		return
	}
	pass(roundTrip)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trips++
	now := time.Now().UnixMicro() * 1000
	for _, c := range calls {
		key := c.args[argKey].(string)
		if m.keys[key] == nil {
			m.keys[key] = make([]int64, 2*policy.Max)
		}
		state := m.keys[key]
		before := append([]int64(nil), state...)
		cost, most := c.args[argCost].(int64), c.args[argMost].(int64)
		granted := most
		if c.args[argVerb] == "charge" {
			granted = cost
		} else {
			var v policy.Verdict
			v.Describe(now, m.rates, state)
			for i := range m.rates {
				granted = min(granted, v.Answers[i].Remaining)
			}
			if granted < cost {
				granted = 0
			}
		}
		if granted != 0 {
			policy.Charge(now, m.rates, state, granted)
		}
		c.text = fmt.Sprint(granted, now/1000)
		w := 0
		for i := range m.rates {
			switch r := m.rates[i]; {
			case r.Sliding:
				c.text += fmt.Sprintf(" %d:%d:%d", before[w], before[w+1]>>32, before[w+1]&(1<<32-1))
				w += 2
			case r.Interval%1000 == 0:
				c.text += fmt.Sprintf(" %d", max(0, before[w]-now)/1000)
				w++
			default:
				c.text += fmt.Sprintf(" %d", max(0, before[w]-now))
				w++
			}
		}
	}
}

// left is what Redis knows to be left of the nearest policy.
func (m *memory) left(id ID) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	state := m.keys[Key("z", id)]
	if state == nil {
		state = make([]int64, 2*policy.Max)
	}
	v := policy.Decide(time.Now().UnixNano(), m.rates, append([]int64(nil), state...), 0)
	n := v.Answers[0].Remaining
	for i := 1; i < len(m.rates); i++ {
		n = min(n, v.Answers[i].Remaining)
	}
	return n
}

// leased runs a test with instances over one memory in fake time.
func leased(t *testing.T, specs []string, instances int, test func(t *testing.T, m *memory, all []*Leases)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{rates: compile(t, specs...), keys: map[string][]int64{}}
		m.live.Store(int64(instances))
		var all []*Leases
		for range instances {
			link := newLink(m)
			link.live.Store(int64(instances))
			leases := NewLeases(link, "z")
			all = append(all, leases)
			defer link.close()
			defer leases.Close()
		}
		test(t, m, all)
	})
}
