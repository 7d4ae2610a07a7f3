package admission

import (
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/pressure"
)

// priority orders requests; the lowest is shed first.
type priority int

const (
	low priority = iota
	normal
	high
	priorities = 3
)

var priorityNames = [priorities]string{"low", "normal", "high"}

// verdict is what becomes of a request.
type verdict int

const (
	admitted verdict = iota
	waits            // in the queue; the ticket's channel brings the verdict
	full             // no place under the class's limit, and none in the queue
	waited           // waited in the queue for as long as it may
	codel            // waited for longer than the target in a standing queue
	busy             // this process is under pressure
	capped           // no place under max_in_flight, and none in the queue
	left             // the client went away while it waited
	verdicts = 8
)

// reasons are the verdicts as metric labels.
var reasons = [verdicts]string{full: "full", waited: "wait", codel: "codel", busy: "cpu", capped: "cap", left: "left"}

const (
	reserve    = 0.1                    // of a limit is kept free for each higher priority that the configuration knows
	streamAge  = 2 * time.Second        // a request this old that waits for its client gives its place back
	sweepPause = 100 * time.Millisecond // between two looks for those
)

// zone is the state that the handlers of one zone share and that outlives a configuration. One lock
// guards all of it and is held for well under a microsecond.
type zone struct {
	name  string
	watch func() *pressure.Watcher

	mu      sync.Mutex
	set     settings
	classes map[string]*class
	held    int // places of all classes
	load    load
	watcher *pressure.Watcher
	ended   bool
	claims  map[any]claim
	order   int // of the last claim
	inForce int // the order of the one whose numbers are in force
}

// claim is what one configuration says of the zone.
type claim struct {
	set      settings
	handlers int
	order    int
}

// class is a limiter with its queue.
type class struct {
	name    string
	limiter limiter
	may     [priorities]int // may be in flight when a request of this priority enters
	places  list            // the requests in flight
	streams int             // requests that gave their place back and go on
	queue   queue
	swept   time.Time
	counts  [priorities][verdicts]uint64
}

func newZone(name string, watch func() *pressure.Watcher) *zone {
	return &zone{name: name, watch: watch, classes: map[string]*class{}, claims: map[any]claim{}}
}

// claim enters what a configuration wants of the zone, without effect on its numbers. All handlers
// of one configuration must want the same.
func (z *zone) claim(config any, set settings) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	c, again := z.claims[config]
	if again && !c.set.equal(set) {
		return fmt.Errorf("the zone %s has other numbers in another admission directive: give both the same max_in_flight, adaptive, class, queue, cpu and scheduler lines, or each its own zone", z.name)
	}
	if !again {
		z.order++
		c = claim{set: set, order: z.order}
	}
	for p, known := range set.known {
		c.set.known[p] = c.set.known[p] || known
	}
	c.handlers++
	z.claims[config] = c
	return nil
}

func (z *zone) unclaim(config any) {
	z.mu.Lock()
	defer z.mu.Unlock()
	c := z.claims[config]
	if c.handlers--; c.handlers > 0 {
		z.claims[config] = c
	} else {
		delete(z.claims, config)
	}
}

// start puts a configuration's numbers into force when it serves for the first time, unless a newer
// one already does, and returns its classes in order. Classes that the newest does not know are forgotten
// once their requests are done.
func (z *zone) start(now time.Time, config any, set settings) []*class {
	z.mu.Lock()
	defer z.mu.Unlock()
	c, claimed := z.claims[config]
	newest := claimed && c.order > z.inForce || z.inForce == 0
	if newest {
		z.inForce = c.order
		if claimed {
			set = c.set
		}
		z.set = set
		z.load.cpu, z.load.scheduler = set.cpu, set.scheduler
		if z.watcher == nil && !z.ended && (set.cpu > 0 || set.scheduler > 0) {
			z.watcher = z.watch()
		}
	}
	known := map[string]*class{}
	all := make([]*class, len(set.classes))
	for i, name := range set.classes {
		c := z.classes[name]
		if c == nil {
			c = &class{name: name, limiter: newLimiter(z.set.adaptive, now)}
		}
		c.limiter.configure(z.set.adaptive)
		z.share(c)
		all[i], known[name] = c, c
	}
	if newest {
		z.classes = known
	}
	z.grantAll(now)
	return all
}

// end stops the watch. The zone stays usable for requests in flight.
func (z *zone) end() {
	z.mu.Lock()
	w := z.watcher
	z.watcher, z.ended = nil, true
	z.mu.Unlock()
	if w != nil {
		w.Close()
	}
}

// share recomputes what each priority may use of the class's limit.
func (z *zone) share(c *class) {
	for p := range c.may {
		c.may[p] = math.MaxInt
		if z.set.adaptive.Max > 0 {
			c.may[p] = z.set.part(int(c.limiter.limit), priority(p))
		}
	}
}

// enter admits the ticket, sheds it or lets it wait.
func (z *zone) enter(now time.Time, t *ticket) verdict {
	z.mu.Lock()
	defer z.mu.Unlock()
	c, p := t.class, t.priority
	if z.watcher != nil {
		z.load.update(z.watcher.Last())
	}
	if z.load.sheds(p) {
		return z.count(t, busy)
	}
	why := z.room(c, p)
	ahead := c.queue.ahead(p)
	if ahead && why == admitted || why != admitted && z.sweep(now, c) {
		z.grant(now, c)
		why, ahead = z.room(c, p), c.queue.ahead(p)
	}
	if why == admitted && !ahead {
		z.take(now, t)
		return admitted
	}
	switch why {
	case full:
		c.limiter.press()
	case admitted: // there is room, but not for it
		why = full
	}
	if c.queue.n >= z.set.queue.Size {
		if z.set.queue.Size == 0 {
			return z.count(t, why)
		}
		victim := c.queue.victim(now, p)
		if victim == nil {
			return z.count(t, why)
		}
		c.queue.remove(victim)
		z.tell(victim, full)
	}
	t.verdict = make(chan verdict, 1)
	c.queue.push(now, t)
	return waits
}

// room says whether a request of p could have a place, or why not.
func (z *zone) room(c *class, p priority) verdict {
	switch {
	case c.places.n >= c.may[p]:
		return full
	case z.set.maxInFlight > 0 && z.held >= z.set.part(z.set.maxInFlight, p):
		return capped
	}
	return admitted
}

func (z *zone) take(now time.Time, t *ticket) {
	t.began, t.since = now, now
	z.count(t, admitted)
	z.hold(t)
}

// hold gives the ticket a place.
func (z *zone) hold(t *ticket) {
	c := t.class
	t.held = true
	c.places.push(t)
	z.held++
	c.limiter.entered(c.places.n)
}

// free takes the ticket's place.
func (z *zone) free(t *ticket) {
	t.held = false
	t.class.places.remove(t)
	z.held--
}

func (z *zone) count(t *ticket, v verdict) verdict {
	t.class.counts[t.priority][v]++
	return v
}

// tell ends a ticket's wait.
func (z *zone) tell(t *ticket, v verdict) {
	if v != admitted {
		z.count(t, v)
	}
	t.verdict <- v
}

// grant lets in as many of those that wait as there are places, highest priority first.
func (z *zone) grant(now time.Time, c *class) {
	for p := high; p >= low; p-- {
		for c.queue.lines[p].n > 0 && z.room(c, p) == admitted {
			t := c.queue.pop(now, p, z.set.queue.Target.Std(), func(late *ticket) { z.tell(late, codel) })
			z.take(now, t)
			z.tell(t, admitted)
		}
	}
}

// grantAll is grant where a place under the cap, or any, has become free.
func (z *zone) grantAll(now time.Time) {
	for _, c := range z.classes {
		z.grant(now, c)
	}
}

// freed hands on a place that became free in c.
func (z *zone) freed(now time.Time, c *class) {
	if c.queue.n > 0 {
		z.grant(now, c)
	}
	if z.set.maxInFlight > 0 && len(z.classes) > 1 {
		z.grantAll(now)
	}
}

// withdraw ends a ticket's wait from its own side, for the reason given, unless it has just been
// ended from the other: then that is the verdict.
func (z *zone) withdraw(t *ticket, v verdict) verdict {
	z.mu.Lock()
	defer z.mu.Unlock()
	if !t.queued {
		return <-t.verdict
	}
	t.class.queue.remove(t)
	return z.count(t, v)
}

// leave ends the stay of an admitted ticket.
func (z *zone) leave(now time.Time, t *ticket, o outcome) {
	z.mu.Lock()
	defer z.mu.Unlock()
	c := t.class
	t.done = true
	if t.held {
		z.free(t)
	} else {
		c.streams--
	}
	took := t.took
	if t.status == 0 { // no byte of an answer was written
		took = t.latency(now)
	}
	if c.limiter.finished(now, took, o, c.places.n) {
		z.share(c)
	}
	z.freed(now, c)
}

// setAside takes the place of a ticket that goes on without one.
func (z *zone) setAside(now time.Time, t *ticket) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if t.held {
		z.aside(t)
		z.freed(now, t.class)
	}
}

func (z *zone) aside(t *ticket) {
	z.free(t)
	t.class.streams++
	t.aside.Store(true)
}

// rejoin gives a ticket its place back.
func (z *zone) rejoin(now time.Time, t *ticket) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if !t.done && t.aside.CompareAndSwap(true, false) {
		t.class.streams--
		t.since = now
		z.hold(t)
	}
}

// sweep sets aside the old ones that wait for their client: for its body, or for it to take the
// answer. Slow clients would hold all places otherwise.
func (z *zone) sweep(now time.Time, c *class) bool {
	if now.Sub(c.swept) < sweepPause {
		return false
	}
	c.swept = now
	found := false
	for t := c.places.first; t != nil && now.Sub(t.since) >= streamAge; {
		next := t.next
		if t.streams.Load() || t.reading.Load() {
			z.aside(t)
			found = true
		}
		t = next
	}
	return found
}
