package jobs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakeTicks keeps schedules in memory. What was fired stands in jobs as name, tick and time, in
// seconds since the start of the test.
type fakeTicks struct {
	mu    sync.Mutex
	start time.Time
	all   map[string]schedule
	jobs  []string
	fails int // how many calls fail from now on
	asked int
}

func newFakeTicks() *fakeTicks { return &fakeTicks{start: time.Now(), all: map[string]schedule{}} }

func (f *fakeTicks) put(name, expr, missed string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := parseCron(expr, "")
	if err != nil {
		panic(err)
	}
	f.all[name] = schedule{Schedule: Schedule{Cron: expr, Missed: missed}, name: name, next: c.next(time.Now())}
}

func (f *fakeTicks) failing() error {
	f.asked++
	if f.fails > 0 {
		f.fails--
		return errors.New("the database is away")
	}
	return nil
}

func (f *fakeTicks) dueSchedules(_ context.Context, now time.Time) (due []schedule, next time.Time, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, sc := range f.all {
		switch {
		case sc.next.IsZero():
		case !sc.next.After(now):
			due = append(due, sc)
		case next.IsZero() || sc.next.Before(next):
			next = sc.next
		}
	}
	return due, next, f.failing()
}

func (f *fakeTicks) fire(_ context.Context, sc *schedule, next time.Time, ticks []time.Time) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.failing(); err != nil {
		return false, err
	}
	stored := f.all[sc.name]
	if !stored.next.Equal(sc.next) || stored.Cron != sc.Cron {
		return false, nil
	}
	stored.next = next
	f.all[sc.name] = stored
	for _, t := range ticks {
		f.jobs = append(f.jobs, fmt.Sprintf("%s %g at %g", sc.name, t.Sub(f.start).Seconds(), time.Since(f.start).Seconds()))
	}
	return true, nil
}

func (f *fakeTicks) fired() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string{}, f.jobs...)
}

// running starts n schedulers on the store and returns one of them.
func (f *fakeTicks) running(t *testing.T, n int, log *bytes.Buffer) (one *scheduler) {
	to := slog.New(slog.NewTextHandler(log, nil))
	for range n {
		r := newScheduler(f, to)
		one = r
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			r.run(ctx)
			close(done)
		}()
		t.Cleanup(func() {
			cancel()
			<-done
		})
	}
	return one
}

func TestSchedulerFiresInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeTicks()
		f.put("a", "@every 2m", missedOnce)
		f.put("b", "*/3 * * * *", missedOnce)
		f.running(t, 2, new(bytes.Buffer))
		<-time.After(7 * time.Minute)
		synctest.Wait()
		want := []string{"a 120 at 120", "b 180 at 180", "a 240 at 240"}
		got := f.fired()
		if diff := cmp.Diff(want, got[:3]); diff != "" || len(got) != 5 {
			t.Errorf("fired %v (-want +got):\n%s", got, diff)
		}
	})
}

func TestSchedulerLearnsOfChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeTicks()
		r := f.running(t, 1, new(bytes.Buffer))
		<-time.After(11 * time.Second)
		f.put("woken", "@every 1s", missedOnce)
		r.wake()
		<-time.After(1500 * time.Millisecond)
		want := []string{"woken 12 at 12"}
		if diff := cmp.Diff(want, f.fired()); diff != "" {
			t.Errorf("fired (-want +got):\n%s", diff)
		}
		f.put("woken", "@every 1h", missedOnce)
		<-time.After(9 * time.Second) // 21.5; it looked at 18 and looks at 23
		f.put("unseen", "@every 10m", missedOnce)
		f.put("unseen-but-due", "@every 2s", missedAll)
		<-time.After(4 * time.Second) // 25.5
		want = append(want, "unseen-but-due 22 at 23", "unseen-but-due 24 at 24")
		if diff := cmp.Diff(want, f.fired()); diff != "" {
			t.Errorf("fired (-want +got):\n%s", diff)
		}
	})
}

func TestSchedulerOutlivesTheDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeTicks()
		var log bytes.Buffer
		f.put("a", "@every 4s", missedAll)
		f.fails = 12
		f.running(t, 1, &log)
		<-time.After(17 * time.Second)
		synctest.Wait()
		if want := []string{"a 4 at 12", "a 8 at 12", "a 12 at 12", "a 16 at 16"}; !cmp.Equal(want, f.fired()) {
			t.Errorf("fired (-want +got):\n%s", cmp.Diff(want, f.fired()))
		}
		if n := strings.Count(log.String(), "database is away"); n != 1 {
			t.Errorf("the failure was logged %d times, want once:\n%s", n, log.String())
		}
		if !strings.Contains(log.String(), "ticks of a schedule were missed") {
			t.Errorf("that ticks were missed is not logged:\n%s", log.String())
		}
	})
}

func TestSchedulerSkipsWhatItCannotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeTicks()
		f.put("strange", "@every 1s", missedOnce)
		sc := f.all["strange"]
		sc.Cron = "@eclipse"
		f.all["strange"] = sc
		f.put("a", "@every 30s", missedOnce)
		var log bytes.Buffer
		f.running(t, 1, &log)
		<-time.After(61 * time.Second)
		synctest.Wait()
		if want := []string{"a 30 at 30", "a 60 at 60"}; !cmp.Equal(want, f.fired()) {
			t.Errorf("fired (-want +got):\n%s", cmp.Diff(want, f.fired()))
		}
		if n := strings.Count(log.String(), "cannot be read"); n != 1 || f.asked > 40 {
			t.Errorf("logged %d times and asked %d times", n, f.asked)
		}
	})
}
