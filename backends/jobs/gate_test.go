package jobs

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/riverqueue/river"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivertype"
)

// fill puts n jobs of a key into the queue q.
func fill(t *testing.T, s *Service, key string, n int, more ...string) {
	t.Helper()
	var b strings.Builder
	for range n {
		_, _ = fmt.Fprintf(&b, `,{"queue":"q","key":%q,"payload":1%s}`, key, strings.Join(more, ""))
	}
	orders := make([]order, n)
	for i := range orders {
		orders[i] = order{queue: "q", args: pushArgs{Body: []byte("1"), Key: key}}
		orders[i].opts.Queue, orders[i].opts.MaxAttempts, orders[i].opts.Priority = "q", 3, 1
		if len(more) > 0 {
			orders[i].opts.Priority = 4
		}
	}
	if _, err := s.insertAll(t.Context(), orders); err != nil {
		t.Fatal(err)
	}
}

// started takes up to n jobs and counts them by key.
func started(t *testing.T, s *Service, n int) map[string]int {
	t.Helper()
	rows, err := s.take(t.Context(), "q", n, s.id)
	if err != nil {
		t.Fatal(err)
	}
	return byKey(t, rows)
}

func byKey(t *testing.T, rows []*rivertype.JobRow) map[string]int {
	t.Helper()
	got := map[string]int{}
	for _, row := range rows {
		if row.State != rivertype.JobStateRunning || row.Attempt != 1 || len(row.AttemptedBy) == 0 {
			t.Errorf("got %s, attempt %d, by %v", row.State, row.Attempt, row.AttemptedBy)
		}
		key := ""
		if _, after, ok := strings.Cut(string(row.EncodedArgs), `"key"`); ok {
			_, after, _ = strings.Cut(after, `"`)
			key, _, _ = strings.Cut(after, `"`)
		}
		got[key]++
	}
	return got
}

func TestKeysTakeTurns(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Target: "http://127.0.0.1:1", Concurrency: 1000}}})
	s.breakers = fast()
	fill(t, s, "big", 500)
	fill(t, s, "small", 1)
	fill(t, s, "", 100)
	got := started(t, s, 9)
	if got["small"] != 1 || got["big"] < 3 || got[""] < 3 || got["big"]+got[""] != 8 {
		t.Errorf("got %v, want the keys in turn", got)
	}
	// More keys than slots: none waits for a second turn of another.
	for i := range 30 {
		fill(t, s, fmt.Sprintf("k%02d", i), 3)
	}
	all := map[string]int{}
	for range 4 {
		for key, n := range started(t, s, 8) {
			all[key] += n
		}
	}
	for key, n := range all {
		if n != 1 {
			t.Errorf("the key %q had %d turns in %v", key, n, all)
		}
	}
	if len(all) != 32 {
		t.Errorf("got %d keys in 32 slots", len(all))
	}
	// One key alone gets all slots.
	for n := 1; n > 0; {
		n = 0
		for _, c := range started(t, s, 200) {
			n += c
		}
	}
	fill(t, s, "alone", 50)
	if got := started(t, s, 40); got["alone"] != 40 {
		t.Errorf("got %v, want 40", got)
	}
}

func TestThousandsOfKeysTakeTurns(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true}}})
	var orders []order
	const keys = maxLanes + 200
	for i := range 2 * keys {
		o := order{queue: "q", args: pushArgs{Body: []byte("1"), Key: fmt.Sprint("key", i%keys)}}
		o.opts.Queue, o.opts.MaxAttempts, o.opts.Priority = "q", 3, 2
		orders = append(orders, o)
	}
	if _, err := s.insertAll(t.Context(), orders); err != nil {
		t.Fatal(err)
	}
	all := map[string]int{}
	rounds := 8
	if os.Getenv("GATEHOUSE_LONG") != "" {
		rounds = keys / 89
	}
	for range rounds {
		for key, n := range started(t, s, 89) {
			if all[key] += n; all[key] > 1 {
				t.Fatalf("%s has a second turn after %d keys", key, len(all))
			}
		}
	}
	if len(all) < (rounds-1)*89 {
		t.Errorf("%d keys had a turn", len(all))
	}
}

// fast is breakers that let everything pass.
func fast() *breakers {
	b := newBreakers()
	q := Queue{}.withDefaults()
	r := b.of("q", "http://127.0.0.1:1", q.Breaker, time.Now())
	r.limit, r.last = fullSpeed, time.Now().Add(time.Hour)
	return b
}

func TestPriorityBeforeTurns(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true}}})
	fill(t, s, "a", 5, "later")
	fill(t, s, "b", 5)
	if got := started(t, s, 6); got["b"] != 5 || got["a"] != 1 {
		t.Errorf("got %v, want the first priority first", got)
	}
}

func TestConcurrencyOfAKey(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true, KeyConcurrency: 2}}})
	fill(t, s, "a", 10)
	fill(t, s, "b", 1)
	fill(t, s, "", 5)
	if got := started(t, s, 100); got["a"] != 2 || got["b"] != 1 || got[""] != 5 {
		t.Errorf("got %v, want two of a", got)
	}
	if got := started(t, s, 100); len(got) != 0 {
		t.Errorf("got %v while two of a run", got)
	}
}

// TestBoundsHoldOverInstances has several services fetch from one database at once.
func TestBoundsHoldOverInstances(t *testing.T) {
	c := Config{Queues: map[string]Queue{"q": {Pull: true, Concurrency: 40, KeyConcurrency: 7}}}
	dir := t.TempDir()
	var services []*Service
	for range 3 {
		services = append(services, stillOn(t, dir, c))
	}
	for i := range 10 {
		fill(t, services[0], fmt.Sprint("k", i), 30)
	}
	var mu sync.Mutex
	got := map[string]int{}
	ids := map[int64]bool{}
	var wg sync.WaitGroup
	for _, s := range services {
		for range 3 {
			wg.Go(func() {
				for range 10 {
					rows, err := s.take(t.Context(), "q", 5, s.id)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					for key, n := range byKey(t, rows) {
						got[key] += n
					}
					for _, row := range rows {
						if ids[row.ID] {
							t.Errorf("the job %d was started twice", row.ID)
						}
						ids[row.ID] = true
					}
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	all := 0
	for key, n := range got {
		if all += n; n > 7 {
			t.Errorf("%d of %s run", n, key)
		}
	}
	if all != 40 {
		t.Errorf("%d run, want 40", all)
	}
}

func TestRateOfAQueueAndOfAKey(t *testing.T) {
	c := Config{Queues: map[string]Queue{"q": {Pull: true, Rate: Rate{N: 40, Per: time.Second}, KeyRate: Rate{N: 10, Per: time.Second, Burst: 3}}}}
	dir := t.TempDir()
	services := []*Service{stillOn(t, dir, c), stillOn(t, dir, c)}
	fill(t, services[0], "a", 200)
	fill(t, services[0], "", 200)
	began := time.Now()
	var mu sync.Mutex
	got := map[string]int{}
	var wg sync.WaitGroup
	for _, s := range services {
		wg.Go(func() {
			for time.Since(began) < 2*time.Second {
				n := started(t, s, 5)
				mu.Lock()
				for key, c := range n {
					got[key] += c
				}
				mu.Unlock()
				<-time.After(5 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	took := time.Since(began).Seconds()
	if all := float64(got["a"] + got[""]); all > 40*took+2 || all < 40*took*0.3 {
		t.Errorf("%v jobs started in %v s, want 40 a second", got, took)
	}
	if a := float64(got["a"]); a > 10*took+4 {
		t.Errorf("%v jobs of a started in %v s, want 10 a second", a, took)
	}
}

// TestRateIsKeptInEveryWindow asks at random times; no window of the rate's length may see more than
// its number and what may start together.
func TestRateIsKeptInEveryWindow(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		r := Rate{N: 1 + random.IntN(200), Per: time.Duration(1+random.IntN(100)) * time.Second}
		r.Burst = 1 + random.IntN(r.N)
		now := time.Unix(1_800_000_000, 0)
		began := now
		due := time.UnixMicro(0)
		var starts []time.Time
		asked := r.gap() / 10
		for range 3000 {
			now = now.Add(rand.N(2*asked + 1))
			if n := r.allowed(due, now); n > 0 {
				n = 1 + random.IntN(n)
				due = r.after(due, now, n)
				for range n {
					starts = append(starts, now)
				}
			} else if next := r.next(due); !next.After(now) && r.allowed(due, now) == 0 {
				t.Fatalf("%s: nothing may start at %s although %s has come", r, now, next)
			}
		}
		for i, at := range starts {
			n := slices.IndexFunc(starts[i:], func(s time.Time) bool { return s.Sub(at) >= r.Per })
			if n > r.N+r.Burst {
				t.Fatalf("%s: %d starts within %s", r, n, r.Per)
			}
		}
		// Whoever always asks gets the whole rate, and no more than it.
		if want := now.Sub(began).Seconds() / r.gap().Seconds(); r.Burst == r.N && float64(len(starts)) < want*0.9-2 {
			t.Errorf("%s: %d starts, want about %.0f", r, len(starts), want)
		}
	}
}

func TestRatesAreRead(t *testing.T) {
	for text, want := range map[string]Rate{
		"100/1m": {N: 100, Per: time.Minute}, "5/s": {N: 5, Per: time.Second}, "100/1m burst 20": {N: 100, Per: time.Minute, Burst: 20},
		"": {}, "100": {}, "0/1s": {}, "-1/1s": {}, "5/": {}, "5/0s": {}, "5/1s burst 0": {}, "5/1s burst 6": {}, "5/1s burst": {},
		"5/48h": {}, "9000000/1s": {}, "x/1s": {}, "5/1s extra": {},
	} {
		got, err := ParseRate(text)
		if (err == nil) != (want != Rate{}) || err == nil && got != want {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
}

// TestWhoSleptEndsNothing lets one instance be taken for dead while its job runs.
func TestWhoSleptEndsNothing(t *testing.T) {
	c := Config{Queues: map[string]Queue{"q": {Pull: true}}}
	dir := t.TempDir()
	slept, other := stillOn(t, dir, c), stillOn(t, dir, c)
	for _, s := range []*Service{slept, other} {
		if err := s.beat(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	fill(t, slept, "", 1)
	rows, err := slept.take(t.Context(), "q", 1, slept.id)
	if err != nil || len(rows) != 1 {
		t.Fatalf("got %v, %v", rows, err)
	}
	if err = other.rescue(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again, _ := other.take(t.Context(), "q", 1, other.id); len(again) != 0 {
		t.Fatal("the job of a living instance was taken from it")
	}
	slept.exec(t, "UPDATE jobs_instances SET seen_at = seen_at - 20000 WHERE id = $1", slept.id)
	if err = other.rescue(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, err := other.take(t.Context(), "q", 1, other.id)
	if err != nil || len(again) != 1 || again[0].ID != rows[0].ID || again[0].Attempt != 1 {
		t.Fatalf("got %v, %v, want the job again, with its attempt given back", again, err)
	}
	if !slept.q.pg {
		return // one process has the directory, so nobody else can have taken the job
	}
	now := time.Now()
	x := executor{slept.river.Driver().GetExecutor(), slept}
	if e, ok := x.Executor.(executor); ok {
		x = e
	}
	ended := riverdriver.JobSetStateCompleted(rows[0].ID, now, nil)
	_, err = x.JobSetStateIfRunningMany(t.Context(), &riverdriver.JobSetStateIfRunningManyParams{
		ID: []int64{ended.ID}, Attempt: []*int{nil}, ErrData: [][]byte{nil}, FinalizedAt: []*time.Time{&now},
		MetadataDoMerge: []bool{false}, MetadataUpdates: [][]byte{nil}, ScheduledAt: []*time.Time{nil}, State: []rivertype.JobState{rivertype.JobStateCompleted},
	})
	if err != nil {
		t.Fatal(err)
	}
	var state, owner string
	err = other.db.InTx(t.Context(), func(tx *sql.Tx) error {
		return tx.QueryRowContext(t.Context(), "SELECT "+other.q.state()+", "+other.q.owner+" FROM river_job j WHERE j.id = $1", ended.ID).Scan(&state, &owner)
	})
	if err != nil || state != "running" || owner != other.id {
		t.Errorf("the job is %s by %s, %v, want it to run on", state, owner, err)
	}
}

// TestAFreedSlotIsFilledAtOnce has one key that may run one job at a time: each end must start the next,
// not the poll of twice a second.
func TestAFreedSlotIsFilledAtOnce(t *testing.T) {
	const n = 40
	done := make(chan struct{}, n)
	sink := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { done <- struct{}{} }))
	defer sink.Close()
	c := Config{Queues: map[string]Queue{"q": {Target: sink.URL, KeyConcurrency: 1}}}
	h := open(t, t.TempDir())
	opened, err := c.Open(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	s := opened.(*Service)
	fill(t, s, "one", n)
	ctx, stop := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { _ = s.Run(ctx) })
	defer run.Wait()
	defer stop()
	for i := range n {
		select {
		case <-done:
		case <-time.After(n * fetchPoll / 2):
			t.Fatalf("%d of %d jobs ran", i, n)
		}
	}
}

// TestALeaseIsNotTakenForStuck asks as the engine does when it looks for jobs that run too long.
func TestALeaseIsNotTakenForStuck(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true, Timeout: 1000}}})
	row := &rivertype.JobRow{Queue: "q", AttemptedBy: []string{"earlier", pullOwner + "worker"}}
	if d := (&pushWorker{s: s}).Timeout(&river.Job[pushArgs]{JobRow: row}); d != -1 {
		t.Errorf("got %s, want none", d)
	}
}
