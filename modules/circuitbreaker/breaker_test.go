package circuitbreaker

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	epoch    = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	standard = Rules{Ratio: 0.5, Min: 20, Window: 10 * time.Second, Open: 5 * time.Second, MaxOpen: time.Minute, Probes: 3, SlowStart: 10 * time.Second}
)

// walk is a circuit and its time.
type walk struct {
	t *testing.T
	*Breaker
	now time.Time
}

func begin(t *testing.T, rules Rules) *walk {
	return &walk{t, NewBreaker(rules, func() float64 { return 0 }), epoch}
}

func (w *walk) pass(d time.Duration) { w.now = w.now.Add(d) }

func (w *walk) want(s State) {
	w.t.Helper()
	if got := w.State(w.now); got != s {
		w.t.Fatalf("after %s: got %s, want %s", w.now.Sub(epoch), got, s)
	}
}

// send admits requests and reports the outcome of those that pass.
func (w *walk) send(n int, o Outcome) (passed int) {
	for range n {
		if ticket, _ := w.Admit(w.now); ticket.Allowed {
			passed++
			w.Report(w.now, ticket, o)
		}
	}
	return passed
}

func (w *walk) open() {
	w.t.Helper()
	w.send(w.rules.Min, Failure)
	w.want(Open)
}

// closed brings an open circuit back.
func (w *walk) closed() {
	w.t.Helper()
	w.now = w.until
	w.send(w.rules.Probes, Success)
	w.pass(w.rules.SlowStart)
	w.want(Closed)
}

func TestLifeOfACircuit(t *testing.T) {
	w := begin(t, standard)
	w.send(10, Success)
	w.send(9, Failure)
	w.want(Closed) // 19 requests
	w.send(1, Failure)
	w.want(Open)

	w.pass(4 * time.Second)
	ticket, _ := w.Admit(w.now)
	if ticket.Allowed || ticket.Wait != time.Second || ticket.State != Open {
		t.Errorf("open: got %+v, want a refusal until the probe in 1s", ticket)
	}
	w.pass(time.Second)
	first, change := w.Admit(w.now)
	if want := (Change{true, Open, HalfOpen, 5 * time.Second}); !first.Allowed || change != want {
		t.Errorf("got %+v %+v, want a probe and %+v", first, change, want)
	}
	if passed := w.send(2, Success); passed != 2 {
		t.Errorf("got %d probes beside the first, want 2", passed)
	}
	if ticket, _ = w.Admit(w.now); ticket.Allowed || ticket.Wait != 5*time.Second {
		t.Errorf("half open: got %+v, want no probe beyond the third", ticket)
	}
	w.want(HalfOpen)
	if change = w.Report(w.now, first, Success); change.To != SlowStart {
		t.Errorf("got %+v, want the slow start", change)
	}

	if passed := w.send(100, Success); passed < 8 || passed > 13 {
		t.Errorf("at the beginning of the slow start %d of 100 pass, want about 10", passed)
	}
	w.pass(5 * time.Second)
	if passed := w.send(100, Success); passed < 48 || passed > 52 {
		t.Errorf("in the middle of the slow start %d of 100 pass, want about 50", passed)
	}
	w.pass(5 * time.Second)
	w.want(Closed)
	if passed := w.send(100, Success); passed != 100 {
		t.Errorf("closed: %d of 100 pass", passed)
	}
}

func TestTheWindowSlides(t *testing.T) {
	w := begin(t, standard)
	for range 10 { // 19 failures in any 10 seconds but the last
		w.send(19, Failure)
		w.pass(11 * time.Second)
	}
	w.want(Closed)
	w.send(15, Failure)
	w.pass(9 * time.Second)
	w.send(4, Failure)
	w.want(Closed)
	w.pass(2 * time.Second) // the 15 are forgotten
	w.send(10, Failure)
	w.want(Closed)
	w.send(6, Failure)
	w.want(Open)
}

func TestTheRatioDecides(t *testing.T) {
	w := begin(t, standard)
	w.send(1000, Success)
	w.send(999, Failure)
	w.want(Closed)
	w.send(1, Failure)
	w.want(Open)
}

func TestWhatIsIgnoredNeverTrips(t *testing.T) {
	w := begin(t, standard)
	w.send(10_000, Ignored)
	w.send(19, Failure)
	w.want(Closed)
	w.open()
	w.pass(5 * time.Second)
	for range 10 { // a client that leaves gives its place back
		if passed := w.send(3, Ignored); passed != 3 {
			t.Fatalf("%d of 3 probes pass", passed)
		}
	}
	w.want(HalfOpen)
}

func TestTheOpenTimeDoubles(t *testing.T) {
	w := begin(t, standard)
	w.open()
	for _, seconds := range []int{10, 20, 40, 60, 60} {
		w.now = w.until
		w.send(1, Failure)
		w.want(Open)
		if got := w.until.Sub(w.now); got != time.Duration(seconds)*time.Second {
			t.Errorf("got %s, want %ds", got, seconds)
		}
	}
	w.closed()
	w.open() // soon after
	if got := w.until.Sub(w.now); got != time.Minute {
		t.Errorf("failing again soon: got %s, want 1m", got)
	}
	w.closed()
	w.pass(2 * time.Minute)
	w.open()
	if got := w.until.Sub(w.now); got != 5*time.Second {
		t.Errorf("failing after it has worked: got %s, want 5s", got)
	}
}

func TestTheOpenTimeIsJittered(t *testing.T) {
	b := NewBreaker(standard, func() float64 { return 0.999999 })
	w := &walk{t, b, epoch}
	w.open()
	if got := w.until.Sub(w.now).Round(time.Millisecond); got != 4500*time.Millisecond {
		t.Errorf("got %s, want a tenth less than 5s", got)
	}
}

func TestFailureInSlowStartOpensAgain(t *testing.T) {
	w := begin(t, standard)
	w.open()
	w.now = w.until
	w.send(3, Success)
	w.want(SlowStart)
	w.send(1000, Failure)
	w.want(Open)
	if got := w.until.Sub(w.now); got != 10*time.Second {
		t.Errorf("got %s, want 10s", got)
	}
}

func TestWithoutSlowStart(t *testing.T) {
	rules := standard
	rules.SlowStart = 0
	w := begin(t, rules)
	w.open()
	w.now = w.until
	w.send(3, Success)
	w.want(Closed)
	if passed := w.send(100, Success); passed != 100 {
		t.Errorf("%d of 100 pass", passed)
	}
}

func TestResultsFromBeforeDoNotCount(t *testing.T) {
	w := begin(t, standard)
	old, _ := w.Admit(w.now)
	w.open()
	w.now = w.until
	probe, _ := w.Admit(w.now)
	w.Report(w.now, old, Failure)
	w.Broken(w.now, old)
	w.want(HalfOpen)
	w.Report(w.now, probe, Success)
	w.send(2, Success)
	w.want(SlowStart)
}

func TestBrokenAnswersTrip(t *testing.T) {
	rules := standard
	rules.Ratio = 1
	w := begin(t, rules)
	for range 20 {
		ticket, _ := w.Admit(w.now)
		w.Report(w.now, ticket, Success)
		w.Broken(w.now, ticket)
	}
	w.want(Open)
	w.now = w.until
	probe, _ := w.Admit(w.now)
	w.Report(w.now, probe, Success)
	w.Broken(w.now, probe)
	w.want(Open)
}

func TestAHangingProbeDoesNotHoldItsPlaceForEver(t *testing.T) {
	w := begin(t, standard)
	w.open()
	w.now = w.until
	for range 3 {
		if ticket, _ := w.Admit(w.now); !ticket.Allowed {
			t.Fatal("no probe")
		}
	}
	w.pass(4 * time.Second)
	if ticket, _ := w.Admit(w.now); ticket.Allowed || ticket.Wait != time.Second {
		t.Errorf("got %+v, want a refusal for 1s", ticket)
	}
	w.pass(time.Second)
	if passed := w.send(10, Success); passed != 1 {
		t.Errorf("got %d probes, want 1", passed)
	}
}

func TestSetRulesKeepsTheState(t *testing.T) {
	w := begin(t, standard)
	w.open()
	rules := standard
	rules.Open, rules.MaxOpen, rules.Window = time.Second, 2*time.Second, time.Second
	w.SetRules(w.now, rules)
	w.want(Open)
	w.pass(2 * time.Second)
	if ticket, _ := w.Admit(w.now); !ticket.Allowed {
		t.Errorf("got %+v, want a probe at the new longest open time", ticket)
	}
}

func TestAllowedHoldsNoPlace(t *testing.T) {
	w := begin(t, standard)
	for range 20 {
		w.Observe(w.now, Failure)
	}
	w.want(Open)
	if ok, _ := w.Allowed(w.now); ok {
		t.Error("an open circuit allows requests")
	}
	w.now = w.until
	for range 3600 { // a health view, once a second for an hour
		if ok, _ := w.Allowed(w.now); !ok {
			t.Fatal("asking alone has used the probes up")
		}
		w.pass(time.Second)
	}
	yes := 0
	for range 10_000 {
		if ok, _ := w.Allowed(w.now); ok {
			yes++
		}
	}
	if yes > offersPerProbe*3 {
		t.Errorf("%d requests pass within a second, want at most %d", yes, offersPerProbe*3)
	}
	for range 3 {
		w.Observe(w.now, Success)
	}
	w.want(SlowStart)
	yes = 0
	for range 1000 {
		w.pass(time.Millisecond)
		if ok, _ := w.Allowed(w.now); ok {
			yes++
		}
	}
	if yes < 80 || yes > 150 {
		t.Errorf("%d of 1000 pass at the beginning of the slow start, want about 100", yes)
	}
	w.pass(10 * time.Second)
	w.want(Closed)
}

func TestOpeningAgainIsAChange(t *testing.T) {
	w := begin(t, standard)
	w.open()
	w.now = w.until
	if c := w.Observe(w.now, Failure); !c.Turned || c.To != Open {
		t.Errorf("got %+v, want another opening", c)
	}
}

func TestProbesAreFewUnderConcurrency(t *testing.T) {
	rules := standard
	rules.Open, rules.MaxOpen = time.Hour, time.Hour
	w := begin(t, rules)
	w.open()
	w.now = w.until
	var running, most, all atomic.Int64
	var wg sync.WaitGroup
	hold := make(chan struct{})
	for range 200 {
		wg.Go(func() {
			ticket, _ := w.Admit(w.now)
			if !ticket.Allowed {
				return
			}
			all.Add(1)
			n := running.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			<-hold
			running.Add(-1)
			w.Report(w.now, ticket, Ignored)
		})
	}
	for all.Load() < 3 {
		runtime.Gosched()
	}
	close(hold)
	wg.Wait()
	if most.Load() > 3 {
		t.Errorf("%d probes ran at once, want 3", most.Load())
	}
}

func TestBudget(t *testing.T) {
	b, now := NewBudget(0.2), epoch
	repeats := 0
	for range 1000 { // all fail, within a second
		b.Request(now)
		if b.Take(now) {
			repeats++
		}
		now = now.Add(time.Millisecond / 2)
	}
	if repeats != 200 {
		t.Errorf("got %d repeats of 1000 requests, want 200", repeats)
	}
	now = now.Add(time.Minute)
	repeats = 0
	for range 10 {
		b.Request(now)
		if b.Take(now) {
			repeats++
		}
		now = now.Add(time.Second)
	}
	if repeats != 10 {
		t.Errorf("got %d repeats at a request a second, want all 10", repeats)
	}
}
