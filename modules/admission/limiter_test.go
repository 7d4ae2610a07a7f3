package admission

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// app is a simulated app: so many workers, and an unbounded queue in order of arrival before them.
type app struct {
	service func() time.Duration // of one request
	free    moments              // when each worker is done
}

// moments is a heap.
type moments []time.Time

func (m moments) Len() int           { return len(m) }
func (m moments) Less(i, j int) bool { return m[i].Before(m[j]) }
func (m moments) Swap(i, j int)      { m[i], m[j] = m[j], m[i] }
func (m *moments) Push(x any)        { *m = append(*m, x.(time.Time)) }
func (m *moments) Pop() any {
	last := (*m)[len(*m)-1]
	*m = (*m)[:len(*m)-1]
	return last
}

func newApp(workers int, service func() time.Duration) *app {
	return &app{service: service, free: make(moments, workers)}
}

// resize is for an app that is idle but for what is in its queue.
func (a *app) resize(workers int) {
	for len(a.free) < workers {
		heap.Push(&a.free, time.Time{})
	}
	for len(a.free) > workers {
		heap.Pop(&a.free)
	}
}

// take is when a request that comes now is answered.
func (a *app) take(now time.Time) time.Time {
	begin := now
	if a.free[0].After(now) {
		begin = a.free[0]
	}
	a.free[0] = begin.Add(a.service())
	end := a.free[0]
	heap.Fix(&a.free, 0)
	return end
}

func constant(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

func exponential(r *rand.Rand, mean time.Duration) func() time.Duration {
	return func() time.Duration { return time.Duration(r.ExpFloat64() * float64(mean)) }
}

// flight is a request in flight.
type flight struct{ began, ends time.Time }

type flights []flight

func (f flights) Len() int           { return len(f) }
func (f flights) Less(i, j int) bool { return f[i].ends.Before(f[j].ends) }
func (f flights) Swap(i, j int)      { f[i], f[j] = f[j], f[i] }
func (f *flights) Push(x any)        { *f = append(*f, x.(flight)) }
func (f *flights) Pop() any {
	last := (*f)[len(*f)-1]
	*f = (*f)[:len(*f)-1]
	return last
}

// bench drives a limiter with more requests than any limit admits, or with a fixed number at once.
type bench struct {
	l   limiter
	app *app
	now time.Time
	f   flights
	// demand is how many requests there are at most at once; 0 is no end of them.
	demand int
	judge  func() outcome
}

func newBench(a *app, s Adaptive) *bench {
	now := time.Unix(0, 0)
	return &bench{l: newLimiter(s, now), app: a, now: now, judge: func() outcome { return fine }}
}

// run runs for d and returns the median of the limits over its second half.
func (b *bench) run(d time.Duration) float64 {
	end := b.now.Add(d)
	var limits []float64
	for b.now.Before(end) {
		for len(b.f) < int(b.l.limit) && (b.demand == 0 || len(b.f) < b.demand) {
			heap.Push(&b.f, flight{b.now, b.app.take(b.now)})
			b.l.entered(len(b.f))
		}
		if b.demand == 0 || b.demand > int(b.l.limit) {
			b.l.press()
		}
		next := heap.Pop(&b.f).(flight)
		b.now = next.ends
		b.l.finished(b.now, b.now.Sub(next.began), b.judge(), len(b.f))
		if b.now.After(end.Add(-d / 2)) {
			limits = append(limits, b.l.limit)
		}
	}
	return median(limits)
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// TestLimitConverges: the limit finds the app's workers, from below, from about there and from above.
func TestLimitConverges(t *testing.T) {
	for _, workers := range []int{4, 20, 100} {
		for _, start := range []int{4, 20, 300} {
			for name, service := range map[string]func() time.Duration{
				"constant":    constant(20 * time.Millisecond),
				"exponential": exponential(rand.New(rand.NewPCG(1, 2)), 20*time.Millisecond),
			} {
				t.Run(fmt.Sprintf("%d-workers-from-%d-%s", workers, start, name), func(t *testing.T) {
					if workers == 4 && start == 300 {
						t.Skip("75 times too much is not found out in half a minute")
					}
					b := newBench(newApp(workers, service), Adaptive{Min: 2, Max: 2000, Start: start})
					b.run(30 * time.Second)
					got, least, most := b.run(10*time.Second), float64(workers), 2*float64(workers)
					if got < least*0.9 || got > most {
						t.Errorf("got a limit of %.1f, want it between %.0f and %.0f", got, least, most)
					}
				})
			}
		}
	}
}

func TestLimitFollowsTheApp(t *testing.T) {
	service := 20 * time.Millisecond
	a := newApp(20, func() time.Duration { return service })
	b := newBench(a, Adaptive{Min: 2, Max: 2000, Start: 20})
	want := func(what string, least, most float64) {
		t.Helper()
		b.run(20 * time.Second)
		if got := b.run(10 * time.Second); got < least || got > most {
			t.Errorf("%s: got a limit of %.1f, want it between %v and %v", what, got, least, most)
		}
	}
	want("20 workers", 20, 40)
	service = 80 * time.Millisecond
	want("each request takes longer", 20, 40)
	service = 10 * time.Millisecond
	want("each request takes less", 20, 40)
	a.resize(60)
	want("three times the workers", 60, 120)
	a.resize(10)
	want("a sixth of the workers", 10, 20)
}

// TestFastAppIsLeftAlone: what is noise for a fast app is no reason to shed.
func TestFastAppIsLeftAlone(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	b := newBench(newApp(5000, func() time.Duration {
		d := 200*time.Microsecond + time.Duration(r.ExpFloat64()*float64(300*time.Microsecond))
		if r.IntN(100) == 0 {
			d += 40 * time.Millisecond // a pause of the garbage collector, say
		}
		return d
	}), Adaptive{Min: 10, Max: 100, Start: 20})
	b.run(time.Second)
	if got := b.run(time.Second); got < 80 {
		t.Errorf("got a limit of %.1f, want it near the greatest, 100", got)
	}
}

func TestLimitGrowsOnlyWhileUsed(t *testing.T) {
	b := newBench(newApp(1000, constant(200*time.Millisecond)), Adaptive{Min: 10, Max: 1000, Start: 20})
	b.demand = 5
	if got := b.run(20 * time.Second); got != 20 {
		t.Errorf("5 at once: got a limit of %.1f, want that of the start, 20", got)
	}
	b.demand = 300
	if got := b.run(20 * time.Second); got < 300 || got > 600 {
		t.Errorf("300 at once: got a limit of %.1f, want room for all and no more than it needs", got)
	}
	b.demand = 50
	b.run(4 * time.Minute)
	if got := b.run(20 * time.Second); got < 50 || got > 150 {
		t.Errorf("back to 50: got a limit of %.1f, want it back near twice of that", got)
	}
}

func TestOverloadAnswersShrinkTheLimit(t *testing.T) {
	b := newBench(newApp(1000, constant(100*time.Millisecond)), Adaptive{Min: 10, Max: 300, Start: 100})
	b.judge = func() outcome { return overloaded }
	b.run(5 * time.Second)
	if got := b.run(5 * time.Second); got != 10 {
		t.Errorf("all answers say overload: got a limit of %.1f, want the least, 10", got)
	}
	b.judge = func() outcome { return fine }
	if got := b.run(20 * time.Second); got < 250 {
		t.Errorf("the app recovered: got a limit of %.1f, want it back", got)
	}
	b.judge = func() outcome { return ignored }
	before := b.l.limit
	if got := b.run(5 * time.Second); got != before {
		t.Errorf("answers that say nothing: got a limit of %.1f, want it unchanged at %.1f", got, before)
	}
}

func TestConfigureKeepsWhatWasLearned(t *testing.T) {
	b := newBench(newApp(100, constant(20*time.Millisecond)), Adaptive{Min: 10, Max: 1000, Start: 20})
	b.run(10 * time.Second)
	before := b.l.limit
	if b.l.configure(Adaptive{Min: 5, Max: 900, Start: 50}); b.l.limit != before {
		t.Errorf("got %.1f, want %.1f", b.l.limit, before)
	}
	if b.l.configure(Adaptive{Min: 5, Max: 30, Start: 20}); b.l.limit != 30 {
		t.Errorf("got %.1f, want the new greatest, 30", b.l.limit)
	}
}
