package limit

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

// zoneID is a zone's name with all that says what the words of its states mean.
type zoneID struct {
	name, layout string
	memory       unit.Size
}

// zone is what handlers of one name share, and what a reload goes on with. Its rates are the
// handlers' own: they count from the moment a configuration serves.
type zone struct {
	id      zoneID
	columns []column
	table   *Table
	flights flights
	top     top
	warner  warner
	// settings are the plans that were set at run time.
	settings  atomic.Pointer[settings]
	keeper    atomic.Pointer[keeper]
	refreshed atomic.Int64 // when the keeper is to be asked again
	keptBy    atomic.Int64 // the sequence of the engine whose keeper it is
	changing  sync.Mutex
}

// column is one policy of a state.
type column struct {
	policy string
	words  int
	window int64 // of a sliding policy, whose words mean nothing for another window
}

func newZone(id zoneID, policies []policy.Policy) *zone {
	rates := policy.Compile(policies)
	z := &zone{id: id, table: NewTable(policy.Words(rates), int(id.memory))}
	for i, p := range policies {
		z.columns = append(z.columns, column{p.Name, policy.Words(rates[i : i+1]), rates[i].Window})
	}
	z.settings.Store(new(settings))
	return z
}

// inherit goes on with the numbers of a zone of the same name: those of policies that both have.
func (z *zone) inherit(other *zone, now, memory int64) {
	from, any := []int(nil), false
	for _, c := range z.columns {
		at, found := 0, -1
		for _, o := range other.columns {
			if o == c {
				found = at
			}
			at += o.words
		}
		for i := range c.words {
			if found < 0 {
				from = append(from, -1)
				continue
			}
			from, any = append(from, found+i), true
		}
	}
	z.settings.Store(other.settings.Load())
	if any {
		z.table.Inherit(other.table, from, now, now+memory)
	}
}

// memory is after what time, in nanoseconds, no number means anything any more.
func (e *Engine) memory() int64 {
	longest := int64(0)
	look := func(policies []policy.Policy) {
		for _, p := range policies {
			longest = max(longest, int64(p.Window), p.Compile().Room)
		}
	}
	look(e.Policies)
	for _, changed := range e.Plans {
		look(changed)
	}
	return 2 * longest
}

// zoneID is that of the engine's zone.
func (e *Engine) zoneID() zoneID {
	var layout strings.Builder
	for _, p := range e.Policies {
		fmt.Fprintf(&layout, "%s %v %d\n", p.Name, p.Sliding, p.Compile().Window)
	}
	return zoneID{name: e.Zone, layout: layout.String(), memory: cmp.Or(e.Memory, defaultMemory)}
}

// registry is the list of the zones of one configuration.
type registry struct {
	mu      sync.Mutex
	engines []*Engine
}

// add lists an engine. Two of one zone must be defined alike.
func (g *registry) add(e *Engine) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, other := range g.engines {
		if other.Zone != e.Zone {
			continue
		}
		if diff := other.differs(e); diff != "" {
			return fmt.Errorf("the zone %s is defined twice, with another %s each time: give one of them another name, or define them alike", e.Zone, diff)
		}
	}
	g.engines = append(g.engines, e)
	return nil
}

func (g *registry) remove(e *Engine) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.engines = slices.DeleteFunc(g.engines, func(other *Engine) bool { return other == e })
}

// zones is one engine for each zone, in the order of the configuration.
func (g *registry) zones() []*Engine {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []*Engine
	for _, e := range g.engines {
		if !slices.ContainsFunc(all, func(other *Engine) bool { return other.zone == e.zone }) {
			all = append(all, e)
		}
	}
	return all
}

// differs names the option in which two engines of one zone differ, "" if they do not.
func (e *Engine) differs(other *Engine) string {
	for _, option := range []struct {
		name string
		a, b any
	}{
		{"rate", e.Policies, other.Policies}, {"by", e.By, other.By}, {"ipv6", e.IPv6Prefix, other.IPv6Prefix}, {"plan", e.Plans, other.Plans}, {"in_flight", e.InFlight, other.InFlight},
		{"memory", e.Memory, other.Memory}, {"count", e.Count, other.Count},
	} {
		a, errA := json.Marshal(option.a)
		b, errB := json.Marshal(option.b)
		if errA != nil || errB != nil || string(a) != string(b) {
			return option.name
		}
	}
	return ""
}

var zoneName = regexp.MustCompile(`^[A-Za-z0-9._#-]{0,64}$`)

// check says what is wrong with the settings.
func (e *Engine) check() error {
	if !zoneName.MatchString(e.Zone) {
		return fmt.Errorf("zone: %.80q is no name, use at most 64 letters, digits, dots, - and _", e.Zone)
	}
	if len(e.Policies) > 0 || e.InFlight == nil {
		if err := policy.CheckAll(e.Policies); err != nil {
			return err
		}
	}
	if e.InFlight != nil && (e.InFlight.Most < 1 || e.InFlight.Most > policy.MaxQuota || e.InFlight.Queue < 0 || e.InFlight.Wait < 0) {
		return errors.New("in_flight: the number must be at least 1, and its queue and wait not negative")
	}
	for name, changed := range e.Plans {
		if !policy.ValidName(name) {
			return fmt.Errorf("plan: %.80q is no name, use 1 to 64 letters, digits, - and _", name)
		}
		if _, err := withPlan(e.Policies, changed); err != nil {
			return fmt.Errorf("plan %s: %w", name, err)
		}
	}
	if !strings.Contains(e.Cost, "{") && e.Cost != "" && parseCost(e.Cost, 0) < 1 {
		return fmt.Errorf("cost: %.40q must be a whole number, at least 1, or a placeholder such as {header.X-Cost}", e.Cost)
	}
	for _, p := range e.Policies {
		if c := parseCost(e.Cost, 1); c > int64(p.Size()) {
			return fmt.Errorf("cost: no request would ever pass, as it costs %d and the policy %s allows %d at once", c, p.Name, p.Size())
		}
	}
	switch {
	case e.IPv6Prefix != 0 && !slices.Contains(prefixes, e.IPv6Prefix):
		return fmt.Errorf("ipv6: /%d must be one of /48, /56 and /64", e.IPv6Prefix)
	case e.Warn < 0 || e.Warn > 1:
		return errors.New("warn: the share must be from 0% to 100%")
	case e.Jitter < 0 || e.Jitter > 1:
		return errors.New("jitter: the share must be from 0% to 100%")
	case e.Memory < 0:
		return errors.New("memory: the size must not be negative")
	case !slices.Contains([]string{"", "delta", "unix"}, e.Headers.Legacy):
		return fmt.Errorf("headers: legacy %.40q must be delta or unix", e.Headers.Legacy)
	case !slices.Contains([]string{"", countLocal, countExact, countLeased}, e.Count):
		return fmt.Errorf("count: %.40q must be local, exact or leased", e.Count)
	case !slices.Contains([]string{"", onErrorOpen, onErrorClosed, onErrorLocal}, e.OnStoreError):
		return fmt.Errorf("on_store_error: %.40q must be open, closed or local", e.OnStoreError)
	}
	return nil
}
