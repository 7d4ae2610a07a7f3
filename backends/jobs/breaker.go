package jobs

import (
	"maps"
	"math/rand/v2"
	"net/url"
	"sync"
	"time"
)

// A target that is down must not use up the attempts of a thousand jobs, and a job that the app cannot
// take must not hold up what it can. So two things are judged apart. Whether an origin can be reached is
// learnt from all pushes to it. What the app answers is learnt for each route, which is a queue and a
// path of the origin (Breaker.Scope).
//
// A route that is held back lets one push after another find out how things are. When the origin is down,
// each route that has not seen so itself may look once, at once; whichever gets an answer frees those that
// wait for the origin. Jobs that the app has answered with a failure go on by their own attempts and backoff
// while their route is held back, and end in their time; those behind them wait. What was begun before a
// route or an origin was held back is no longer evidence of a failure.

const (
	// longestAnswered bounds the pause of a route whose app answers with failures.
	longestAnswered = 10 * time.Second
	// idleAfter is the silence after which a route is started slowly, as what slept may be cold.
	idleAfter = time.Minute
	// idleStart is how many pushes a route gets at first after a silence.
	idleStart = 4
	// growEvery is how often the number of pushes at once doubles while all of them are under way.
	growEvery = time.Second
	// fullSpeed is the number of pushes at once from which on the start is over.
	fullSpeed = 1024
	// maxRoutes bounds the memory; routes beyond it have no breaker, until a sweep finds some idle.
	maxRoutes = 4096
	// roomEvery is the time between two such sweeps.
	roomEvery = time.Second
)

// breakers are the origins that pushes go to.
type breakers struct {
	mu      sync.Mutex
	origins map[string]*origin
	routes  int
	swept   time.Time // when those idle were last looked for, to make room
}

// origin is a scheme, host and port.
type origin struct {
	name     string
	failures int // to reach it, in a row
	down     bool
	trips    int
	routes   map[routeKey]*route
}

type routeKey struct{ queue, path string }

// route is what is judged together of the answers of an origin. While pause is above 0 it is held back:
// until is when the next probe may go.
type route struct {
	origin   *origin
	key      routeKey
	failures int     // in a row
	cause    outcome // of the last failure that counted
	pause    time.Duration
	until    time.Time
	since    time.Time // begin of the pauses
	trips    int
	probing  bool
	inFlight int
	limit    int // of inFlight
	grown    time.Time
	last     time.Time
}

func newBreakers() *breakers { return &breakers{origins: map[string]*origin{}} }

// originOf is the origin of a target, empty for what is no URL.
func originOf(u *url.URL) string {
	if u.Host == "" {
		return ""
	}
	if path, ok := socketOf(u); ok {
		return unixPrefix + path
	}
	return u.Scheme + "://" + u.Hostname() + ":" + portOf(u)
}

// of is the route of a push, nil if it has no breaker. The caller holds b.mu.
func (b *breakers) of(queue, target string, opt Breaker, now time.Time) *route {
	u, err := parseQueueTarget(target)
	if err != nil || opt.Scope == perNone {
		return nil
	}
	name := originOf(u)
	if name == "" {
		return nil
	}
	key := routeKey{queue, u.EscapedPath()}
	switch opt.Scope {
	case perQueue:
		key.path = ""
	case perOrigin:
		key = routeKey{}
	}
	o := b.origins[name]
	if o == nil {
		o = &origin{name: name, routes: map[routeKey]*route{}}
	}
	r := o.routes[key]
	if r == nil {
		if b.routes >= maxRoutes && now.Sub(b.swept) >= roomEvery {
			b.sweep(now)
		}
		if b.routes >= maxRoutes {
			return nil
		}
		r = &route{origin: o, key: key, limit: idleStart, grown: now, last: now}
		o.routes[key], b.origins[name] = r, o
		b.routes++
	}
	if r.inFlight == 0 && r.pause == 0 && now.Sub(r.last) > idleAfter {
		r.limit, r.grown = idleStart, now
	}
	// Long jobs say late that all is well: while nothing fails, time says it too.
	if r.pause == 0 && r.failures == 0 && r.inFlight >= r.limit && now.Sub(r.grown) >= growEvery {
		r.limit, r.grown = min(2*r.limit, fullSpeed), now
	}
	return r
}

// sweep forgets idle routes.
func (b *breakers) sweep(now time.Time) {
	b.swept = now
	for name, o := range b.origins {
		maps.DeleteFunc(o.routes, func(_ routeKey, r *route) bool {
			idle := r.inFlight == 0 && r.pause == 0 && now.Sub(r.last) > idleAfter
			if idle {
				b.routes--
			}
			return idle
		})
		if len(o.routes) == 0 {
			delete(b.origins, name)
		}
	}
}

// due reports whether the next probe of a route that is held back may go.
func (r *route) due(now time.Time) bool { return !now.Before(r.until) && !r.probing }

// room is how many of want pushes of the queue to the target may start now, and whether only those whose
// jobs have been tried before.
func (b *breakers) room(queue, target string, q *Queue, want int) (n int, triedOnly bool) {
	if target == "" {
		return want, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	r := b.of(queue, target, q.Breaker, now)
	switch {
	case r == nil:
		return want, false
	case r.pause > 0 && r.due(now), r.pause == 0 && r.origin.down && !r.probing:
		return min(want, 1), false
	case r.pause > 0 && r.cause == targetFailing:
		return max(0, min(want, r.share(q)-r.inFlight)), true
	case r.pause > 0 || r.origin.down:
		return 0, false
	case r.limit >= fullSpeed:
		return want, false
	}
	return max(0, min(want, r.limit-r.inFlight)), false
}

// share is how many jobs that were tried before may run at once on a route that is held back: the other
// half of the queue is for its other targets.
func (r *route) share(q *Queue) int { return max(1, q.Concurrency/2) }

// trial is a push under way. The nil trial is one without a breaker.
type trial struct {
	route *route
	opt   Breaker
	// probe says that the route's other pushes wait for this one, look that it is the first since the
	// origin is down.
	probe, look bool
	// trips and originTrips are how often both had been held back when it began.
	trips, originTrips int
}

// begin says whether a push may go now; if not, when to ask again. tried says that the job has been tried
// before. Each begun push must end.
func (b *breakers) begin(queue, target string, q *Queue, tried bool) (t *trial, again time.Duration, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	r := b.of(queue, target, q.Breaker, now)
	if r == nil {
		return nil, 0, true
	}
	t = &trial{route: r, opt: q.Breaker, trips: r.trips, originTrips: r.origin.trips}
	switch wait := r.until.Sub(now); {
	case r.pause == 0 && !r.origin.down:
	case r.pause == 0 && !r.probing:
		t.look = true
	case r.pause > 0 && r.cause == targetFailing && tried && r.inFlight < r.share(q):
	case r.pause > 0 && r.due(now):
		t.probe = true
	case r.pause > 0 && wait > 0 && !(r.cause == targetFailing && tried):
		return nil, wait + rand.N(r.pause/4+1), false
	default:
		return nil, time.Second + rand.N(time.Second), false
	}
	r.probing = r.probing || t.probe || t.look
	r.inFlight++
	r.last = now
	return t, 0, true
}

// outcome is what a push says about its target.
type outcome int

const (
	targetMute    outcome = iota // the push was called off by us
	targetWell                   // it answered, also if it refused the job
	targetFailing                // it was reached, and failed: 5xx, or no answer that could be read in time
	targetDown                   // it could not be reached, or a proxy could not
)

// judged is what the end of a push comes to.
type judged struct {
	// again is when the route's next probe may go, zero if it is not held back.
	again time.Time
	// tripped says that this push has the route held back from now on.
	tripped bool
	// free says that the failure is the target's, and known: it costs the job no attempt.
	free bool
	// freed are the queues whose routes are no longer held back.
	freed []string
}

// end is called once for each begun push.
func (b *breakers) end(t *trial, o outcome) (j judged) {
	if t == nil {
		return judged{}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	r := t.route
	r.inFlight = max(0, r.inFlight-1)
	r.last = now
	if t.probe || t.look {
		r.probing = false
	}
	switch o {
	case targetWell:
		r.limit = min(r.limit+1, fullSpeed)
		if r.release() {
			j.freed = append(j.freed, r.key.queue)
		}
		j.freed = append(j.freed, r.origin.reached()...)
	case targetFailing:
		j.freed = r.origin.reached()
		j.tripped = r.fail(t, o, now)
	case targetDown:
		if t.originTrips == r.origin.trips {
			r.origin.missed(t.opt.Trip)
			j.tripped = r.fail(t, o, now)
		} else if t.probe {
			r.fail(t, o, now)
		}
		j.free = r.origin.down && !j.tripped && !t.probe || r.pause > 0 && t.trips != r.trips && !j.tripped
	case targetMute:
	}
	if r.pause > 0 {
		j.again = r.until
	}
	return j
}

// release ends a pause, and reports whether there was one. The start is slow.
func (r *route) release() bool {
	r.failures = 0
	if r.pause == 0 {
		return false
	}
	r.pause, r.until, r.limit = 0, time.Time{}, 2
	return true
}

// reached notes that the origin answers: what waited for it goes on.
func (o *origin) reached() (freed []string) {
	o.failures = 0
	if !o.down {
		return nil
	}
	o.down = false
	for key, r := range o.routes {
		if r.pause == 0 || r.cause == targetDown {
			r.release()
			freed = append(freed, key.queue)
		}
	}
	return freed
}

// missed notes that the origin could not be reached.
func (o *origin) missed(trip int) {
	if o.failures++; !o.down && o.failures >= trip {
		o.down = true
		o.trips++
	}
}

// fail notes a failure of a push, and reports whether it has the route held back from now on.
func (r *route) fail(t *trial, o outcome, now time.Time) (tripped bool) {
	switch {
	case t.trips != r.trips: // it began before the route was held back
		return false
	case t.probe:
		r.cause = o
		r.hold(2*r.pause, t.opt, now)
		return false
	case r.pause > 0: // a job that goes on by its own attempts
		return false
	case o == targetDown && t.look:
	default:
		r.failures++
		if r.failures < t.opt.Trip && !(o == targetDown && r.origin.down) {
			return false
		}
	}
	r.cause, r.since = o, now
	r.trips++
	r.hold(t.opt.Pause.Std(), t.opt, now)
	return !t.look
}

// hold begins a pause.
func (r *route) hold(pause time.Duration, opt Breaker, now time.Time) {
	longest := opt.MaxPause.Std()
	if r.cause == targetFailing {
		longest = min(longest, max(longestAnswered, opt.Pause.Std()))
	}
	r.pause = min(max(pause, opt.Pause.Std()), longest)
	r.until = now.Add(r.pause + rand.N(r.pause/4+1))
	r.limit = 1
}
