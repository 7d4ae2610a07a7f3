package shared

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

// fake is a Redis that can be made to do what a real one may.
type fake struct {
	mode  atomic.Int32
	delay atomic.Int64  // before an answer
	stuck chan struct{} // ends what blocks
	runs  atomic.Int64
	now   atomic.Int64 // under way
	most  atomic.Int64 // of now
	beats atomic.Int64
	live  atomic.Int64
}

const (
	answers int32 = iota
	refuses
	freezes // until the context ends
	blocks  // longer than that
	slowly  // answers after delay
)

var errRefused = errors.New("connection refused")

func (f *fake) act(ctx context.Context) error {
	n := f.now.Add(1)
	defer f.now.Add(-1)
	for m := f.most.Load(); n > m && !f.most.CompareAndSwap(m, n); m = f.most.Load() {
	}
	f.runs.Add(1)
	switch f.mode.Load() {
	case refuses:
		return errRefused
	case freezes:
		<-ctx.Done()
		return ctx.Err()
	case blocks:
		<-f.stuck
		return errRefused
	case slowly:
		select {
		case <-time.After(time.Duration(f.delay.Load())):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (f *fake) run(ctx context.Context, calls []*call) {
	err := f.act(ctx)
	for _, c := range calls {
		c.text, c.err = "1 1767225600000000 0", err
	}
}

func (f *fake) warm(ctx context.Context) error { return f.act(ctx) }

func (f *fake) beat(context.Context) (int, error) {
	f.beats.Add(1)
	if f.mode.Load() == answers {
		return int(f.live.Load()), nil
	}
	return 0, errRefused
}

func (f *fake) leave(context.Context) { f.live.Add(-1) }

var oneSecond = []policy.Rate{policy.Policy{Quota: 1, Window: 1_000_000_000}.Compile()}

// in runs a test with a link over a fake in fake time.
func in(t *testing.T, test func(t *testing.T, l *Link, f *fake)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &fake{stuck: make(chan struct{})}
		f.live.Store(1)
		l := newLink(f)
		defer l.close()
		defer close(f.stuck)
		test(t, l, f)
	})
}

func take(ctx context.Context, l *Link) (time.Duration, error) {
	began := time.Now()
	_, err := l.Take(ctx, "z", ID{}, oneSecond, 1)
	return time.Since(began), err
}

func pass(d time.Duration) { <-time.After(d) }

func TestNobodyWaitsWhileRedisIsAway(t *testing.T) {
	for name, mode := range map[string]int32{"frozen": freezes, "refused": refuses, "blocked": blocks} {
		t.Run(name, func(t *testing.T) {
			in(t, func(t *testing.T, l *Link, f *fake) {
				if _, err := take(t.Context(), l); err != nil {
					t.Fatal(err)
				}
				f.mode.Store(mode)
				var wg sync.WaitGroup
				for range 500 {
					wg.Go(func() {
						took, err := take(t.Context(), l)
						if took > Deadline || !errors.Is(err, ErrDown) {
							t.Errorf("a call took %s: %v", took, err)
						}
					})
				}
				wg.Wait()
				if up, since := l.Up(); up || time.Since(since) > Deadline {
					t.Errorf("up is %v since %s", up, since)
				}
				synctest.Wait() // A batch that was already on its way is no new question.
				runs := f.runs.Load()
				for range 1000 {
					if took, err := take(t.Context(), l); took != 0 || !errors.Is(err, ErrDown) {
						t.Fatalf("a call took %s: %v", took, err)
					}
				}
				if f.runs.Load() != runs {
					t.Error("redis was asked although it is away")
				}
			})
		})
	}
}

func TestOneProberLooksForItsReturn(t *testing.T) {
	in(t, func(t *testing.T, l *Link, f *fake) {
		f.mode.Store(freezes)
		_, _ = take(t.Context(), l)
		pass(time.Second)
		runs, began := f.runs.Load(), time.Now()
		f.most.Store(0)
		for time.Since(began) < 30*time.Second {
			if took, err := take(t.Context(), l); took != 0 || !errors.Is(err, ErrDown) {
				t.Fatalf("a call took %s: %v", took, err)
			}
			pass(time.Millisecond)
		}
		if got := f.runs.Load() - runs; got < 50 || got > 300 {
			t.Errorf("%d probes in 30 s", got)
		}
		if f.most.Load() != 1 {
			t.Errorf("%d probes at once", f.most.Load())
		}
	})
}

func TestBlockedBatchesAreBounded(t *testing.T) {
	in(t, func(t *testing.T, l *Link, f *fake) {
		f.mode.Store(blocks)
		var wg sync.WaitGroup
		for range 10_000 {
			wg.Go(func() { _, _ = take(t.Context(), l) })
			if len(l.queue) == 0 {
				pass(time.Microsecond)
			}
		}
		wg.Wait()
		pass(time.Minute)
		if got := f.most.Load(); got > int64(batches)+1 {
			t.Errorf("%d calls of the driver block, want %d at most and a probe", got, batches)
		}
	})
}

func TestRecovery(t *testing.T) {
	in(t, func(t *testing.T, l *Link, f *fake) {
		f.mode.Store(freezes)
		_, _ = take(t.Context(), l)
		pass(5 * time.Second)
		f.mode.Store(answers)
		began := time.Now()
		var back, full time.Duration
		share := map[int]int{} // allowed of 100 in each tenth of a second
		for time.Since(began) < 3*time.Second {
			ok := 0
			for range 100 {
				if _, err := take(t.Context(), l); err == nil {
					ok++
				}
			}
			if ok > 0 && back == 0 {
				back = time.Since(began)
			}
			if ok < 100 {
				full = time.Since(began)
			}
			if back > 0 {
				share[int((time.Since(began)-back)/(100*time.Millisecond))] += ok
			}
			pass(10 * time.Millisecond)
		}
		if back == 0 || back > time.Second || full > 2*time.Second {
			t.Errorf("redis decides again after %s, and everything after %s", back, full)
		}
		if share[0] > 250 || share[5] < 400 || share[5] > 900 || share[12] != 1000 {
			t.Errorf("the shares of 1000 calls are %v, want about 150, 650 and all", share)
		}
	})
}

func TestOneLateAnswerIsNoOutage(t *testing.T) {
	in(t, func(t *testing.T, l *Link, f *fake) {
		_, _ = take(t.Context(), l)
		pass(2 * time.Second)
		f.mode.Store(freezes)
		go func() {
			pass(Deadline - time.Millisecond)
			f.mode.Store(answers)
		}()
		if took, err := take(t.Context(), l); took != Deadline || !errors.Is(err, ErrDown) {
			t.Errorf("the late call took %s: %v", took, err)
		}
		synctest.Wait()
		if up, _ := l.Up(); !up {
			t.Fatal("redis is said to be away")
		}
		if _, err := take(t.Context(), l); err != nil {
			t.Error(err)
		}
		if s := l.Stats(); s.Hiccups != 1 || s.Opened != 1 {
			t.Errorf("got %+v", s)
		}
		// So soon after that another one is an outage.
		f.mode.Store(freezes)
		_, _ = take(t.Context(), l)
		f.mode.Store(answers)
		synctest.Wait()
		if up, _ := l.Up(); up {
			t.Error("redis is trusted at once")
		}
	})
}

func TestASlowLinkCarriesOverlappingBatches(t *testing.T) {
	in(t, func(t *testing.T, l *Link, f *fake) {
		_, _ = take(t.Context(), l)
		f.mode.Store(slowly)
		f.delay.Store(int64(15 * time.Millisecond))
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				if took, err := take(t.Context(), l); err != nil {
					t.Errorf("after %s: %v", took, err)
				}
			})
			pass(500 * time.Microsecond)
		}
		wg.Wait()
	})
}

func TestACallersEndIsNoFailure(t *testing.T) {
	in(t, func(t *testing.T, l *Link, f *fake) {
		_, _ = take(t.Context(), l)
		f.mode.Store(slowly)
		f.delay.Store(int64(15 * time.Millisecond))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		if took, err := take(ctx, l); took != 5*time.Millisecond || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrDown) {
			t.Errorf("after %s: %v", took, err)
		}
		if took, err := take(ctx, l); took != 0 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %s: %v", took, err)
		}
		pass(time.Second)
		if up, _ := l.Up(); !up {
			t.Error("redis is said to be away")
		}
	})
}

func TestInstancesAreTheLastKnown(t *testing.T) {
	in(t, func(t *testing.T, l *Link, f *fake) {
		if f.live.Store(3); l.Instances() != 1 {
			t.Errorf("%d instances before the first call", l.Instances())
		}
		pass(time.Minute)
		if f.beats.Load() != 0 {
			t.Error("redis was asked before the first call")
		}
		_, _ = take(t.Context(), l)
		synctest.Wait()
		if l.Instances() != 3 {
			t.Errorf("%d instances", l.Instances())
		}
		f.mode.Store(refuses)
		pass(10 * time.Second)
		if l.Instances() != 3 {
			t.Errorf("%d instances while redis is away", l.Instances())
		}
		if got := f.beats.Load(); got < 8 || got > 14 {
			t.Errorf("%d beats in 10 s", got)
		}
	})
}

func TestClosedLinksAnswer(t *testing.T) {
	in(t, func(t *testing.T, l *Link, f *fake) {
		_, _ = take(t.Context(), l)
		synctest.Wait() // the first beat
		f.mode.Store(freezes)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if _, err := take(t.Context(), l); !errors.Is(err, ErrDown) {
					t.Errorf("got %v", err)
				}
			})
		}
		pass(time.Millisecond)
		l.close()
		wg.Wait()
		if took, err := take(t.Context(), l); took != 0 || !errors.Is(err, ErrDown) {
			t.Errorf("after %s: %v", took, err)
		}
		if f.live.Load() != 0 {
			t.Error("the instance is still counted")
		}
	})
}
