package admission

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/pressure"
)

// desk is a zone in a test, at a time that the test sets.
type desk struct {
	*zone
	t       testing.TB
	now     time.Time
	classes []*class
	give    func(pressure.Sample)
}

func fixed(n, queue int) settings {
	return settings{
		maxInFlight: n,
		queue:       Queue{Size: queue, Wait: unit.Duration(500 * time.Millisecond), Target: unit.Duration(20 * time.Millisecond)},
		classes:     []string{defaultClass},
		known:       [priorities]bool{normal: true},
	}
}

func newDesk(t testing.TB, s settings) *desk {
	w, give := pressure.Given(pressure.Sample{})
	d := &desk{zone: newZone("test", func() *pressure.Watcher { return w }), t: t, now: time.Unix(1000, 0), give: give}
	if err := d.claim(d, s); err != nil {
		t.Fatal(err)
	}
	d.classes = d.start(d.now, d, s)
	return d
}

func (d *desk) pass(by time.Duration) { d.now = d.now.Add(by) }

// come is a request that comes now.
func (d *desk) come(p priority) (*ticket, verdict) {
	t := &ticket{ResponseWriter: httptest.NewRecorder(), zone: d.zone, class: d.classes[0], priority: p}
	return t, d.enter(d.now, t)
}

// in is come for one that must be admitted.
func (d *desk) in(p priority) *ticket {
	d.t.Helper()
	t, v := d.come(p)
	if v != admitted {
		d.t.Fatalf("got %s, want it admitted", name(v))
	}
	return t
}

// queued is come for one that must wait.
func (d *desk) queue(p priority) *ticket {
	d.t.Helper()
	t, v := d.come(p)
	if v != waits {
		d.t.Fatalf("got %s, want it to wait", name(v))
	}
	return t
}

// done ends a stay.
func (d *desk) done(t *ticket) { d.leave(d.now, t, fine) }

func name(v verdict) string {
	switch v {
	case admitted:
		return "admitted"
	case waits:
		return "waits"
	}
	return reasons[v]
}

// verdictOf is what became of a ticket that waits.
func verdictOf(t *ticket) string {
	select {
	case v := <-t.verdict:
		return name(v)
	default:
		return "waits"
	}
}

func wantVerdicts(t *testing.T, want string, tickets ...*ticket) {
	t.Helper()
	var got []string
	for _, k := range tickets {
		got = append(got, verdictOf(k))
	}
	if diff := cmp.Diff(strings.Fields(want), got); diff != "" {
		t.Error(diff)
	}
}

func TestBurstIsServedInOrder(t *testing.T) {
	d := newDesk(t, fixed(1, 3))
	first := d.in(normal)
	a, b := d.queue(normal), d.queue(normal)
	d.pass(10 * time.Millisecond)
	d.done(first)
	wantVerdicts(t, "admitted waits", a, b)
	d.done(a)
	wantVerdicts(t, "admitted", b)
	d.done(b)
	d.in(normal)
}

func TestHigherPriorityGoesFirst(t *testing.T) {
	d := newDesk(t, fixed(1, 9))
	now := d.in(high)
	l, n, h := d.queue(low), d.queue(normal), d.queue(high)
	for _, next := range []*ticket{h, n, l} {
		d.done(now)
		wantVerdicts(t, "admitted", next)
		now = next
	}
}

func TestNewcomerDoesNotOvertake(t *testing.T) {
	s := fixed(10, 9)
	s.known = [priorities]bool{true, true, true}
	d := newDesk(t, s)
	var all []*ticket
	for range 8 {
		all = append(all, d.in(low))
	}
	l := d.queue(low) // a reserve is left
	d.in(normal)
	n := d.queue(normal)
	d.in(high)
	h := d.queue(high)
	d.done(all[0])
	wantVerdicts(t, "admitted waits waits", h, n, l)
	for _, k := range all[1:3] {
		d.done(k)
	}
	wantVerdicts(t, "admitted waits", n, l)
}

func TestStandingQueueServesTheNewest(t *testing.T) {
	d := newDesk(t, fixed(1, 9))
	now := d.in(normal)
	var all []*ticket
	for range 5 {
		all = append(all, d.queue(normal))
		d.pass(30 * time.Millisecond)
	}
	d.done(now) // 150 ms after the queue began
	wantVerdicts(t, "codel codel codel codel admitted", all...)
	h1, h2 := d.queue(high), d.queue(high)
	d.pass(200 * time.Millisecond)
	d.done(all[4])
	wantVerdicts(t, "admitted waits", h1, h2)
}

func TestLastOneWaitingIsServedHoweverLate(t *testing.T) {
	d := newDesk(t, fixed(1, 9))
	now := d.in(low)
	late := d.queue(low)
	d.pass(400 * time.Millisecond)
	d.done(now)
	wantVerdicts(t, "admitted", late)
}

func TestFullQueue(t *testing.T) {
	d := newDesk(t, fixed(1, 2))
	d.in(normal)
	l, n := d.queue(low), d.queue(normal)
	if _, v := d.come(low); v != capped {
		t.Errorf("a newcomer of the lowest priority: got %s, want cap", name(v))
	}
	h := d.queue(high)
	wantVerdicts(t, "full waits waits", l, n, h)
	h2 := d.queue(high)
	wantVerdicts(t, "full waits waits", n, h, h2)
	if _, v := d.come(high); v != capped {
		t.Errorf("full of high priority: got %s, want cap", name(v))
	}
	d.pass(time.Second)
	if _, v := d.come(high); v != capped {
		t.Errorf("high priority is never displaced: got %s, want cap", name(v))
	}
}

func TestStandingFullQueueTakesTheNewcomer(t *testing.T) {
	d := newDesk(t, fixed(1, 2))
	d.in(normal)
	oldest, older := d.queue(normal), d.queue(normal)
	if _, v := d.come(normal); v != capped {
		t.Errorf("a burst: got %s, want cap", name(v))
	}
	d.pass(150 * time.Millisecond)
	newest := d.queue(normal)
	wantVerdicts(t, "full waits waits", oldest, older, newest)
}

func TestNoQueue(t *testing.T) {
	d := newDesk(t, fixed(1, 0))
	first := d.in(normal)
	if _, v := d.come(high); v != capped {
		t.Errorf("got %s, want cap", name(v))
	}
	d.done(first)
	d.in(high)
}

func TestWithdraw(t *testing.T) {
	d := newDesk(t, fixed(1, 9))
	first := d.in(normal)
	a, b := d.queue(normal), d.queue(normal)
	if got := d.withdraw(a, left); got != left {
		t.Errorf("got %s, want left", name(got))
	}
	d.done(first)
	if got := d.withdraw(b, waited); got != admitted {
		t.Errorf("it was let in meanwhile: got %s, want admitted", name(got))
	}
	d.done(b)
	if d.held != 0 || d.classes[0].queue.n != 0 {
		t.Errorf("got %d held and %d queued, want none", d.held, d.classes[0].queue.n)
	}
}

func TestClassesShareTheCapOnly(t *testing.T) {
	s := fixed(3, 9)
	s.adaptive = Adaptive{Min: 1, Max: 2, Start: 2}
	s.classes = []string{defaultClass, "reports"}
	d := newDesk(t, s)
	enter := func(class int) (*ticket, verdict) {
		k := &ticket{zone: d.zone, class: d.classes[class], priority: normal}
		return k, d.enter(d.now, k)
	}
	d.in(normal)
	last := d.in(normal)
	if _, v := enter(1); v != admitted {
		t.Errorf("another class: got %s, want admitted", name(v))
	}
	waiting, v := enter(1)
	if v != waits {
		t.Errorf("the cap of all: got %s, want it to wait", name(v))
	}
	d.done(last)
	wantVerdicts(t, "admitted", waiting)
}

func TestReload(t *testing.T) {
	d := newDesk(t, fixed(1, 9))
	first := d.in(normal)
	a, b := d.queue(normal), d.queue(normal)
	next, wider := new(int), fixed(2, 9)
	if err := d.claim(next, wider); err != nil {
		t.Fatal(err)
	}
	wantVerdicts(t, "waits waits", a, b) // provisioned is not in force
	if err := d.claim(next, fixed(3, 9)); err == nil || !strings.Contains(err.Error(), "the zone test has other numbers") {
		t.Errorf("other numbers in one configuration: got %v", err)
	}
	d.start(d.now, next, wider)
	wantVerdicts(t, "admitted waits", a, b)
	if got := d.start(d.now, d, fixed(1, 9)); got[0] != d.classes[0] || d.set.maxInFlight != 2 {
		t.Errorf("the old configuration's other site: got a cap of %d, want the new one's, 2", d.set.maxInFlight)
	}
	d.done(first)
	wantVerdicts(t, "admitted", b)
	d.unclaim(d)
	d.unclaim(next)
	if len(d.claims) != 0 {
		t.Errorf("got %d claims left, want none", len(d.claims))
	}
}

func TestPressure(t *testing.T) {
	s := fixed(1000, 0)
	s.cpu, s.scheduler = 0.9, 50*time.Millisecond
	d := newDesk(t, s)
	sample := pressure.Sample{At: d.now}
	// shed is how many of 100 of each priority are shed after so many samples.
	shed := func(samples int, cpu float64, scheduling time.Duration) (n [priorities]int) {
		for range samples {
			sample = pressure.Sample{CPU: cpu, Scheduling: scheduling, At: sample.At.Add(pressure.Interval)}
			d.load.update(sample)
		}
		d.give(sample)
		for p := range priorities {
			for range 100 {
				k, v := d.come(priority(p))
				if v == busy {
					n[p]++
					continue
				}
				d.done(k)
			}
		}
		return n
	}
	for _, step := range []struct {
		name       string
		samples    int
		cpu        float64
		scheduling time.Duration
		want       [priorities]int
	}{
		{"calm", 4, 0.5, time.Millisecond, [priorities]int{}},
		{"busy", 1, 0.95, time.Millisecond, [priorities]int{low: 25}},
		{"busier", 1, 0.95, time.Millisecond, [priorities]int{low: 50}},
		{"between", 4, 0.85, time.Millisecond, [priorities]int{low: 50}},
		{"busy-for-long", 100, 1, 10 * time.Millisecond, [priorities]int{low: 100}},
		{"late", 2, 1, 60 * time.Millisecond, [priorities]int{low: 100, normal: 50}},
		{"late-for-long", 100, 1, 10 * time.Second, [priorities]int{low: 100, normal: 90}},
		{"in-time-and-busy", 100, 1, time.Millisecond, [priorities]int{low: 100}},
		{"calmer", 5, 0.5, time.Millisecond, [priorities]int{low: 50}},
		{"calm-again", 5, 0.5, time.Millisecond, [priorities]int{}},
	} {
		got := shed(step.samples, step.cpu, step.scheduling)
		for p := range got {
			if got[p] < step.want[p]-1 || got[p] > step.want[p]+1 {
				t.Errorf("%s: %s: got %d of 100 shed, want %d", step.name, priorityNames[p], got[p], step.want[p])
			}
		}
	}
}

func BenchmarkServeHTTP(b *testing.B) {
	c := Config{Priorities: []PriorityRule{{"high", Condition{Path: []string{"/checkout/*"}}}}}
	set, err := c.settings()
	if err != nil {
		b.Fatal(err)
	}
	w, _ := pressure.Given(pressure.Sample{})
	h := &Admission{Config: c, set: set, zone: newZone("bench", func() *pressure.Watcher { return w })}
	if h.rules, err = c.rules(&set); err != nil {
		b.Fatal(err)
	}
	body := []byte("ok")
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		_, err := w.Write(body)
		return err
	})
	r := httptest.NewRequest(http.MethodGet, "/orders/1", nil)
	to := discard{http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		_ = h.ServeHTTP(to, r, next)
	}
}

type discard struct{ h http.Header }

func (d discard) Header() http.Header       { return d.h }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}
