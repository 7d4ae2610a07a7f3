package admission

import (
	"math"
	"time"
)

// The limiter's constants. They are not options: what an app can do is measured, not configured.
const (
	windowTime    = 100 * time.Millisecond // a decision is made of at least so long
	windowSamples = 25                     // and of so many answers;
	probeSamples  = 50                     // more for a probe;
	windowOld     = 2 * time.Second        // of a window so old
	windowFew     = 10                     // fewer will do.
	windowStale   = 30 * time.Second       // A window that has not got those by now says nothing.
	settleMost    = 5 * time.Second        // The longest pause after a decision.

	tolerance = 1.5                  // latency may rise to so many times the baseline
	slack     = 5 * time.Millisecond // and always by so much: less is the noise of a fast app, and hurts nobody
	near      = 1.2                  // a latency within this of the baseline confirms it
	used      = 0.75                 // a limit is used when so much of it is in flight, or a request found no place

	follow    = 10 * time.Second // the baseline follows the latency of an app that is not pressed within this time
	forget    = time.Minute      // a limit that is not used shrinks towards twice its use within this time
	probeSoon = time.Second      // a pressed app's baseline is measured anew after this time,
	probeLate = 16 * time.Second // and ever later up to this
)

// outcome is what an answer says about the app's load.
type outcome int

const (
	fine       outcome = iota // answered: the latency counts
	ignored                   // says nothing: the client left, the app is down, the answer is an error or comes from the cache
	overloaded                // the app itself says that it is too much, or answered too late
)

// limiter finds how many requests the app can work on at once, by its latency. It compares the
// latency of a window, a geometric mean, in which outliers weigh little, with a baseline: the latency
// without queueing in the app. It grows only while the limit is used, and shrinks in proportion as
// the latency exceeds what is tolerated or as the app says that it is overloaded. After each decision
// it lets the latency of one answer pass before it looks again, so that it sees what the decision did.
//
// The baseline is learned while the app is not pressed. Under lasting pressure the limiter halves the
// limit for one window from time to time and looks: where latency falls with it, queueing was the
// cause, and it halves again; where it does not, the app has become slower, and that is its new baseline. At the least
// limit there is nothing to halve, and what is seen there is taken for the baseline.
//
// It has no lock and no clock: the zone has both.
type limiter struct {
	min, max, start float64

	limit  float64
	base   float64 // seconds; 0 before the first window
	recent float64 // seconds; the latency of the last window
	quick  bool    // nothing has been too much yet: grow fast

	probing, draining bool
	back              float64       // the limit after the probe
	confirmed         time.Time     // when the baseline was last seen to hold
	patience          time.Duration // how long after that it is measured anew

	from    time.Time // the window's begin; may lie ahead
	n       int       // answers in it
	logs    float64   // the sum of the logarithms of their latencies
	bad     int       // overloaded ones
	peak    int       // the most in flight
	pressed bool      // a request found no place
}

func newLimiter(s Adaptive, now time.Time) limiter {
	l := limiter{limit: float64(s.Start), quick: true, patience: probeSoon, confirmed: now, from: now}
	l.configure(s)
	return l
}

// configure sets other bounds. What was learned stays.
func (l *limiter) configure(s Adaptive) {
	l.min, l.max, l.start = float64(s.Min), float64(s.Max), float64(s.Start)
	l.set(l.limit)
}

func (l *limiter) set(limit float64) { l.limit = min(l.max, max(l.min, limit)) }

// entered notes that so many are in flight now.
func (l *limiter) entered(inFlight int) { l.peak = max(l.peak, inFlight) }

// press notes that a request found no place.
func (l *limiter) press() { l.pressed = true }

// finished notes an answer and says whether the limit may have changed. inFlight is what remains.
func (l *limiter) finished(now time.Time, latency time.Duration, o outcome, inFlight int) bool {
	if l.draining && float64(inFlight) <= l.limit {
		l.draining = false
		l.open(now, inFlight)
	}
	if l.draining || now.Before(l.from) {
		return false
	}
	switch o {
	case overloaded:
		l.bad++
	case fine:
		l.n++
		l.logs += math.Log(max(latency, time.Microsecond).Seconds())
	}
	age, enough := now.Sub(l.from), windowSamples
	if l.probing {
		enough = probeSamples
	}
	switch got := l.n + l.bad; {
	case age < windowTime:
		return false
	case got < windowFew && age >= windowStale:
		l.open(now, inFlight)
		return false
	case got < windowFew || got < enough && age < windowOld:
		return false
	}
	first := l.recent == 0 && l.n > 0 // the quickest of the first requests: not typical
	if l.n > 0 {
		l.recent = math.Exp(l.logs / float64(l.n))
	}
	if first {
		l.open(now, inFlight)
		return false
	}
	l.decide(now, age)
	l.draining = l.probing && float64(inFlight) > l.limit
	l.open(now, inFlight)
	return true
}

// open begins a window, as soon as the consequences of the last decision can be seen.
func (l *limiter) open(now time.Time, inFlight int) {
	settle := min(settleMost, time.Duration(l.recent*float64(time.Second)))
	l.from, l.n, l.logs, l.bad, l.peak, l.pressed = now.Add(settle), 0, 0, 0, inFlight, false
}

func (l *limiter) decide(now time.Time, age time.Duration) {
	if l.probing {
		l.probed(now)
		return
	}
	if l.bad > 0 {
		l.quick = false
		l.set(l.limit * (1 - 0.5*float64(l.bad)/float64(l.n+l.bad)))
	}
	if l.n == 0 || l.bad*10 > l.n { // the few that were answered in time are not typical
		return
	}
	recent, pressed := l.recent, l.pressed || float64(l.peak) >= used*l.limit
	if l.base == 0 {
		if l.base = recent; pressed && l.limit > l.min { // it may have queueing in it
			l.halve()
			return
		}
	}
	tolerated := max(l.base*tolerance, l.base+slack.Seconds())
	switch {
	case !pressed: // latency is not of our making
		l.base += (recent - l.base) * min(0.5, age.Seconds()/follow.Seconds())
		l.confirmed, l.patience = now, probeSoon
		if rest := max(l.start, 2*float64(l.peak)); l.limit > rest {
			l.set(l.limit - (l.limit-rest)*min(0.5, age.Seconds()/forget.Seconds()))
		}
		return
	case recent > tolerated:
		l.quick = false
		l.set(l.limit * max(0.5, tolerated/recent))
	case l.bad > 0:
	case l.quick:
		l.set(l.limit * 1.5)
	default:
		l.set(l.limit + math.Sqrt(l.limit))
	}
	switch {
	case recent < l.base/near:
		l.base += (recent - l.base) * 0.3
		l.confirmed = now
	case recent <= l.base*near:
		l.base += (recent - l.base) * 0.1
		l.confirmed = now
	case l.limit == l.min:
		l.base += (recent - l.base) * 0.2
	}
	if now.Sub(l.confirmed) >= l.patience && l.limit > l.min {
		l.halve()
	}
}

// probed judges a probe: its latency is what the app takes under half the load.
func (l *limiter) probed(now time.Time) {
	before := l.base
	if l.n >= windowFew/2 {
		weight := 0.6
		if l.recent < l.base {
			weight = 0.9
		}
		l.base *= math.Pow(l.recent/l.base, weight)
	}
	if l.base*near < before && l.limit > l.min { // it had queueing in it: so may this one
		l.quick, l.patience = false, probeSoon
		l.halve()
		return
	}
	l.probing, l.confirmed, l.patience = false, now, min(probeLate, 2*l.patience)
	if l.base > before*near {
		l.patience = probeSoon
	}
	l.set(l.back)
}

// halve begins a probe.
func (l *limiter) halve() {
	l.probing, l.back = true, l.limit
	l.set(l.limit / 2)
}
