package circuitbreaker

import (
	"sync"
	"time"
)

// State is what a circuit does with requests.
type State int

// The states, in the order of a circuit's life.
const (
	Closed    State = iota // all pass
	Open                   // none pass
	HalfOpen               // a few pass as probes
	SlowStart              // a growing share passes
)

func (s State) String() string {
	return [...]string{"closed", "open", "half_open", "slow_start"}[s]
}

const (
	// leastShare is the share of requests with which a slow start begins.
	leastShare = 0.1
	// offersPerProbe bounds how often Allowed says yes within a second of a half-open circuit: it is
	// asked several times for each request, and also where no request follows.
	offersPerProbe = 8
	// dutyCycle is the time in which Allowed says yes for the share of a slow start.
	dutyCycle = 100 * time.Millisecond
	// jitter is the share of the open time that is left out at random, so that several gateways do not
	// probe at once.
	jitter = 0.1
)

// Rules are the numbers of a circuit.
type Rules struct {
	Ratio     float64       // of failures, from which on the circuit opens; 0..1
	Min       int           // requests in the window below which it does not
	Window    time.Duration // the time over which both are counted
	Open      time.Duration // the first open time
	MaxOpen   time.Duration // the longest
	Probes    int           // that run at once, and must succeed to end an open circuit
	SlowStart time.Duration // until all requests pass again; 0 for at once
}

// Outcome is what a request says about the app behind the circuit.
type Outcome int

// Ignored says nothing: the client has left, or the gateway itself has refused.
const (
	Ignored Outcome = iota
	Success
	Failure
)

// Ticket is the answer to Admit. One that is Allowed must be given back to Report, once.
type Ticket struct {
	Allowed bool
	// State is that in which the request passes or does not.
	State State
	// Wait is how long a refused request should wait.
	Wait  time.Duration
	turns uint64
}

// Change is what a call did to the state.
type Change struct {
	Turned   bool // false for nothing
	From, To State
	// Lasts is how long the circuit stays open, if that is To.
	Lasts time.Duration
}

// seen is the state at the beginning of a call.
type seen struct {
	state State
	turns uint64
}

func (b *Breaker) seen() seen { return seen{b.state, b.turns} }

func (b *Breaker) changed(s seen) Change {
	return Change{s.state != b.state || s.turns != b.turns, s.state, b.state, b.lasts}
}

// Breaker is one circuit. It opens when too many of the requests in a sliding window fail, lets a few
// probes through when its open time is over, and after their success a growing share of requests.
// Each time it opens again without having worked for long in between, it stays open twice as long.
// All methods take the current time, which does not go back, and are safe for concurrent use.
type Breaker struct {
	random func() float64

	mu     sync.Mutex
	rules  Rules
	state  State
	turns  uint64    // counts the changes that make results of requests from before meaningless
	since  time.Time // of the state
	recent window    // Closed and SlowStart: failures and all

	level     int // how often the open time is doubled
	lasts     time.Duration
	until     time.Time // Open
	recovered time.Time // when probes succeeded last

	probing, passed int       // HalfOpen
	probed          time.Time // when the last probe began
	offers          int
	offered         time.Time // the beginning of the second that offers counts
	credit          float64   // SlowStart: requests that may pass
}

// NewBreaker is a closed circuit. random yields numbers in [0,1).
func NewBreaker(rules Rules, random func() float64) *Breaker {
	return &Breaker{rules: rules, random: random, recent: newWindow(rules.Window)}
}

// SetRules changes the numbers and keeps the state. A new window begins without requests.
func (b *Breaker) SetRules(now time.Time, rules Rules) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if rules.Window != b.rules.Window {
		b.recent = newWindow(rules.Window)
	}
	b.rules = rules
	if latest := now.Add(rules.MaxOpen); b.until.After(latest) {
		b.until = latest
	}
}

// State is the state at now.
func (b *Breaker) State(now time.Time) State {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == SlowStart && now.Sub(b.since) >= b.rules.SlowStart {
		return Closed
	}
	return b.state
}

// Admit decides about a request.
func (b *Breaker) Admit(now time.Time) (Ticket, Change) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == Closed {
		return Ticket{Allowed: true, turns: b.turns}, Change{}
	}
	before := b.seen()
	b.advance(now)
	wait, refused := time.Duration(0), false
	switch b.state {
	case Closed:
	case Open:
		wait, refused = b.until.Sub(now), true
	case HalfOpen:
		// A probe that hangs holds its place for as long as the circuit was open.
		lease := b.lasts - now.Sub(b.probed)
		if refused = b.probing+b.passed >= b.rules.Probes && lease > 0; refused {
			wait = min(lease, b.rules.Open)
			break
		}
		b.probing++
		b.probed = now
	case SlowStart:
		b.credit += b.share(now)
		if refused = b.credit < 1; refused {
			wait = b.rules.SlowStart - now.Sub(b.since)
		} else {
			b.credit--
		}
	}
	return Ticket{Allowed: !refused, State: b.state, Wait: wait, turns: b.turns}, b.changed(before)
}

// Report says how an admitted request has ended, or that its answer has begun.
func (b *Breaker) Report(now time.Time, t Ticket, o Outcome) Change {
	b.mu.Lock()
	defer b.mu.Unlock()
	if o == Success && b.state == Closed && t.turns == b.turns {
		b.recent.add(now, false)
		return Change{}
	}
	before := b.seen()
	b.advance(now)
	if t.turns == b.turns && t.Allowed {
		if b.state == HalfOpen {
			b.probing--
		}
		b.count(now, o)
	}
	return b.changed(before)
}

// Broken takes back the success of a request whose answer has begun but did not arrive whole.
func (b *Breaker) Broken(now time.Time, t Ticket) Change {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.seen()
	b.advance(now)
	if b.state != HalfOpen {
		b.recent.takeBack(now)
	}
	if b.state != HalfOpen || t.turns == b.turns {
		b.count(now, Failure)
	}
	return b.changed(before)
}

// Allowed says whether a request may be sent, for callers that ask also where they send none. So it
// holds no place of a probe.
func (b *Breaker) Allowed(now time.Time) (bool, Change) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.seen()
	b.advance(now)
	yes := true
	switch b.state {
	case Closed:
	case Open:
		yes = false
	case HalfOpen:
		if now.Sub(b.offered) >= time.Second {
			b.offers, b.offered = 0, now
		}
		b.offers++
		yes = b.offers <= offersPerProbe*b.rules.Probes
	case SlowStart: // by time, so that all upstreams have the same answer for one request
		yes = float64(now.Sub(b.since)%dutyCycle) < b.share(now)*float64(dutyCycle)
	}
	return yes, b.changed(before)
}

// Observe says how a request has ended that Allowed let pass.
func (b *Breaker) Observe(now time.Time, o Outcome) Change {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.seen()
	b.advance(now)
	b.count(now, o)
	return b.changed(before)
}

// advance does what time alone does.
func (b *Breaker) advance(now time.Time) {
	switch {
	case b.state == Open && !now.Before(b.until):
		b.turn(HalfOpen, now)
		b.probing, b.passed, b.offers = 0, 0, 0
	case b.state == SlowStart && now.Sub(b.since) >= b.rules.SlowStart:
		b.state, b.since = Closed, now // the requests under way still count
	}
}

func (b *Breaker) turn(to State, now time.Time) {
	b.state, b.since = to, now
	b.turns++
}

// count adds an outcome and draws the conclusions.
func (b *Breaker) count(now time.Time, o Outcome) {
	switch {
	case o == Ignored || b.state == Open:
	case b.state == HalfOpen && o == Failure:
		b.level++
		b.open(now)
	case b.state == HalfOpen:
		if b.passed++; b.passed >= b.rules.Probes {
			b.recover(now)
		}
	default:
		b.recent.add(now, o == Failure)
		if o != Failure {
			return
		}
		all, failed := b.recent.totals(now)
		if all < b.rules.Min || float64(failed) < b.rules.Ratio*float64(all) {
			return
		}
		b.level++
		if b.recovered.IsZero() || now.Sub(b.recovered) > max(b.rules.Window, b.lasts)+b.rules.SlowStart {
			b.level = 0
		}
		b.open(now)
	}
}

func (b *Breaker) open(now time.Time) {
	b.turn(Open, now)
	b.recent.clear()
	lasts := b.rules.Open
	for i := 0; i < b.level && lasts < b.rules.MaxOpen; i++ {
		lasts *= 2
	}
	lasts = min(lasts, b.rules.MaxOpen)
	b.lasts = lasts - time.Duration(b.random()*jitter*float64(lasts))
	b.until = now.Add(b.lasts)
}

func (b *Breaker) recover(now time.Time) {
	b.turn(SlowStart, now)
	if b.rules.SlowStart <= 0 {
		b.state = Closed
	}
	b.recovered, b.credit = now, 1
}

// share is the part of requests that passes in a slow start.
func (b *Breaker) share(now time.Time) float64 {
	return max(leastShare, float64(now.Sub(b.since))/float64(b.rules.SlowStart))
}
