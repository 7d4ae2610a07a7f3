package admission

import (
	"fmt"
	"reflect"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

// Adaptive bounds the limits that are found by latency.
type Adaptive struct {
	// Min is the least limit, at least 1. Default 10.
	Min int `json:"min,omitempty"`
	// Max is the greatest limit, at most 1,000,000. 0: no limits are found by latency, max_in_flight
	// must be set.
	Max int `json:"max"`
	// Start is the limit before anything is known, between min and max. Default 20, or the bound nearest to it.
	Start int `json:"start,omitempty"`
}

// Queue holds the requests that find no place.
type Queue struct {
	// Size is how many requests may wait in each class, at most 1,000,000. 0: none waits.
	Size int `json:"size"`
	// Wait is the longest wait. Default "500ms".
	Wait unit.Duration `json:"wait,omitempty"`
	// Target is the wait that is good enough. Where requests have been waiting for longer than 100 ms
	// without a break, the newest is served first and those that have waited longer than this are
	// shed; high priority is served in order and waits for up to wait. Default "20ms", or wait if that is less.
	Target unit.Duration `json:"target,omitempty"`
}

// Spread is a range of whole seconds.
type Spread struct {
	// Min is at least 1s.
	Min unit.Duration `json:"min"`
	// Max is at least min, at most an hour.
	Max unit.Duration `json:"max"`
}

const (
	defaultCPU       = 90
	defaultScheduler = 50 * time.Millisecond
	most             = 1_000_000
	mostClasses      = 64
	defaultClass     = "default"
)

var (
	defaultAdaptive = Adaptive{Min: 10, Max: 1000, Start: 20}
	defaultQueue    = Queue{Size: 100, Wait: unit.Duration(500 * time.Millisecond), Target: unit.Duration(20 * time.Millisecond)}
	defaultSpread   = Spread{Min: unit.Duration(time.Second), Max: unit.Duration(3 * time.Second)}
	defaultExempt   = []string{"/livez", "/readyz", "/startupz"}
)

// settings are the numbers of a zone, complete.
type settings struct {
	maxInFlight int
	adaptive    Adaptive
	queue       Queue
	cpu         float64 // 0..1
	scheduler   time.Duration
	classes     []string
	known       [priorities]bool // the priorities that some rule gives, and normal; those of all handlers count
}

func (s settings) equal(o settings) bool {
	s.known = o.known
	return reflect.DeepEqual(s, o)
}

// part is how much of a limit requests of priority p may use, at least 1.
func (s *settings) part(limit int, p priority) int {
	above := 0
	for higher := p + 1; higher <= high; higher++ {
		if s.known[higher] {
			above++
		}
	}
	return max(1, limit-(limit*above+9)/10) // one in ten for each
}

func (a *Adaptive) complete() (Adaptive, error) {
	if a == nil {
		return defaultAdaptive, nil
	}
	s := *a
	if s.Max == 0 {
		return Adaptive{}, nil
	}
	if s.Min == 0 {
		s.Min = min(defaultAdaptive.Min, max(1, s.Max))
	}
	if s.Start == 0 {
		s.Start = max(s.Min, min(s.Max, defaultAdaptive.Start))
	}
	switch {
	case s.Min < 1 || s.Max > most:
		return s, fmt.Errorf("adaptive: the limits must be between 1 and %d, not %d and %d", most, s.Min, s.Max)
	case s.Min > s.Max:
		return s, fmt.Errorf("adaptive: min %d must not be greater than max %d", s.Min, s.Max)
	case s.Start < s.Min || s.Start > s.Max:
		return s, fmt.Errorf("adaptive: min %d, start %d and max %d must be in this order", s.Min, s.Start, s.Max)
	}
	return s, nil
}

func (q *Queue) complete() (Queue, error) {
	if q == nil {
		return defaultQueue, nil
	}
	s := *q
	if s.Size == 0 {
		return Queue{}, nil
	}
	s.Wait = unit.Duration(s.Wait.Or(defaultQueue.Wait.Std()))
	s.Target = unit.Duration(s.Target.Or(min(s.Wait, defaultQueue.Target).Std()))
	switch {
	case s.Size < 0 || s.Size > most:
		return s, fmt.Errorf("queue: the size must be between 0 and %d, not %d", most, s.Size)
	case s.Target > s.Wait:
		return s, fmt.Errorf("queue: the target %s must not be longer than the wait %s", s.Target, s.Wait)
	}
	return s, nil
}

func (s *Spread) complete() (Spread, error) {
	if s == nil {
		return defaultSpread, nil
	}
	second := unit.Duration(time.Second)
	if s.Min < second || s.Max < s.Min || s.Max > 3600*second || s.Min%second != 0 || s.Max%second != 0 {
		return *s, fmt.Errorf("retry_after: %s..%s must be whole seconds, from 1s to 1h, such as 1s..3s", s.Min, s.Max)
	}
	return *s, nil
}

// settings completes the handler's configuration.
func (c *Config) settings() (settings, error) {
	s := settings{maxInFlight: c.MaxInFlight, cpu: defaultCPU / 100.0, scheduler: defaultScheduler, classes: []string{defaultClass}}
	var err error
	if s.adaptive, err = c.Adaptive.complete(); err != nil {
		return s, err
	}
	if s.queue, err = c.Queue.complete(); err != nil {
		return s, err
	}
	switch {
	case s.maxInFlight < 0 || s.maxInFlight > most:
		return s, fmt.Errorf("max_in_flight must be between 1 and %d, not %d", most, s.maxInFlight)
	case s.maxInFlight == 0 && s.adaptive.Max == 0:
		return s, fmt.Errorf("with adaptive off nothing limits the requests: set max_in_flight")
	}
	if c.CPU != nil {
		if *c.CPU < 0 || *c.CPU > 100 {
			return s, fmt.Errorf("cpu must be a percentage from 1%% to 100%%, not %d%%", *c.CPU)
		}
		s.cpu = float64(*c.CPU) / 100
	}
	if c.Scheduler != nil {
		s.scheduler = c.Scheduler.Std()
	}
	s.known[normal] = true
	for _, r := range c.Priorities {
		p, ok := priorityOf(r.Priority)
		if !ok {
			return s, fmt.Errorf("the priority %q is none of high, normal and low", r.Priority)
		}
		s.known[p] = true
	}
	for _, r := range c.Classes {
		if err = s.addClass(r.Name); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (s *settings) addClass(name string) error {
	for _, known := range s.classes[1:] {
		if known == name {
			return nil // another condition for it
		}
	}
	switch {
	case name == "" || name == defaultClass:
		return fmt.Errorf("the class %q cannot be given: it is the one for all that fits no other", name)
	case len(s.classes) == mostClasses:
		return fmt.Errorf("there may be %d classes at most", mostClasses-1)
	}
	s.classes = append(s.classes, name)
	return nil
}

func (s *settings) classIndex(name string) int {
	for i, known := range s.classes {
		if known == name {
			return i
		}
	}
	return 0
}

func priorityOf(name string) (priority, bool) {
	for p, known := range priorityNames {
		if known == name {
			return priority(p), true
		}
	}
	return normal, false
}
