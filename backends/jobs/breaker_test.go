package jobs

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

const (
	target     = "http://app.example/tasks"
	firstPause = 2 * time.Second
)

// plain is a queue with the default breaker.
var plain = Queue{}.withDefaults()

// roomOf is how many pushes of the queue q may go, tried before or not.
func roomOf(b *breakers, target string, want int) int {
	n, tried := b.room("q", target, &plain, want)
	if tried {
		return 0
	}
	return n
}

// pushes begins n pushes of jobs that were not tried before and ends them all with the outcome.
func pushes(t *testing.T, b *breakers, target string, n int, o outcome) (tripped int) {
	t.Helper()
	for range n {
		trial, _, ok := b.begin("q", target, &plain, false)
		if !ok {
			t.Fatal("a push was held back")
		}
		if b.end(trial, o).tripped {
			tripped++
		}
	}
	return tripped
}

// goes begins a push and reports whether it may go.
func goes(b *breakers, queue, target string, tried bool) (*trial, bool) {
	trial, _, ok := b.begin(queue, target, &plain, tried)
	return trial, ok
}

func TestBreakerPausesATargetThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreakers()
		pushes(t, b, target, plain.Breaker.Trip-1, targetDown)
		pushes(t, b, target, 1, targetWell) // in a row is what counts
		if n := pushes(t, b, target, plain.Breaker.Trip, targetDown); n != 1 {
			t.Fatalf("tripped %d times", n)
		}
		if n := roomOf(b, target, 100); n != 0 {
			t.Errorf("%d pushes may go to a target that is down", n)
		}
		for _, tried := range []bool{false, true} {
			_, again, ok := b.begin("q", target, &plain, tried)
			if ok || again < firstPause || again > 2*firstPause {
				t.Errorf("got %s, %v", again, ok)
			}
		}
		if n := roomOf(b, "http://other.example/tasks", 3); n != 3 {
			t.Errorf("another target has room for %d", n)
		}
		if n := roomOf(b, "", 3); n != 3 {
			t.Errorf("a queue without a target has room for %d", n)
		}
		pause, longest := firstPause, plain.Breaker.MaxPause.Std()
		for range 8 { // probes that fail, one at a time, ever later
			<-time.After(pause + pause/4)
			if n := roomOf(b, target, 100); n != 1 {
				t.Fatalf("%d probes", n)
			}
			probe, ok := goes(b, "q", target, false)
			if !ok {
				t.Fatal("the probe was held back")
			}
			if n := roomOf(b, target, 100); n != 0 {
				t.Errorf("%d more while one probes", n)
			}
			if _, ok = goes(b, "q", target, false); ok {
				t.Error("a second probe went")
			}
			j := b.end(probe, targetDown)
			pause = min(2*pause, longest)
			if down := time.Until(j.again); j.free || down < pause || down > pause+pause/4 {
				t.Errorf("down for %s, %+v, want %s", down, j, pause)
			}
		}
		<-time.After(2 * longest)
		pushes(t, b, target, 1, targetWell)
		if n := roomOf(b, target, 100); n != 2 {
			t.Errorf("%d pushes may go at first", n)
		}
	})
}

func TestBreakerFailuresOfOthersUseNothingUp(t *testing.T) {
	for name, c := range map[string]struct {
		outcome outcome
		free    int
	}{
		"unreachable":        {targetDown, 50 - plain.Breaker.Trip},
		"answered-is-an-end": {targetFailing, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBreakers()
				pushes(t, b, target, fullSpeed, targetWell)
				var all []*trial
				for range 50 {
					trial, ok := goes(b, "q", target, false)
					if !ok {
						t.Fatal("held back")
					}
					all = append(all, trial)
				}
				trips, free := 0, 0
				for _, trial := range all {
					j := b.end(trial, c.outcome)
					if j.tripped {
						trips++
					}
					if j.free {
						free++
					}
				}
				if trips != 1 || free != c.free {
					t.Errorf("%d tripped it and %d of 50 cost no attempt, want 1 and %d", trips, free, c.free)
				}
			})
		})
	}
}

// What the app answers to one route says nothing about another, in whatever way it fails.
func TestBreakerPoisonBesideHealth(t *testing.T) {
	const bad, good = "http://app.example/bad", "http://app.example/good"
	for name, o := range map[string]outcome{"answers-500": targetFailing, "answers-502": targetDown} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBreakers()
				long, ok := goes(b, "long", "http://app.example/long", false) // under way all the time
				if !ok {
					t.Fatal("held back")
				}
				pushes(t, b, bad, plain.Breaker.Trip, o)
				for i := range 100 {
					if n, _ := b.room("b", good, &plain, 1); n != 1 {
						t.Fatalf("push %d: the healthy route has room for %d", i, n)
					}
					push, ok := goes(b, "b", good, false)
					if !ok {
						t.Fatalf("push %d of the healthy route was held back", i)
					}
					b.end(push, targetWell)
					<-time.After(100 * time.Millisecond)
					if push, ok = goes(b, "q", bad, true); ok {
						b.end(push, o)
					}
				}
				if j := b.end(long, targetFailing); j.tripped || !j.again.IsZero() {
					t.Errorf("got %+v for a push that began before all that", j)
				}
			})
		})
	}
}

// Jobs that were tried go on by their own backoff, those behind them wait.
func TestBreakerLetsTriedJobsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreakers()
		pushes(t, b, target, plain.Breaker.Trip, targetFailing)
		if n, tried := b.room("q", target, &plain, 100); n != plain.Concurrency/2 || !tried {
			t.Errorf("got room for %d, only tried ones %v", n, tried)
		}
		for range 20 {
			push, ok := goes(b, "q", target, true)
			if !ok {
				t.Fatal("a job that was tried is held back")
			}
			if j := b.end(push, targetFailing); j.free || j.tripped {
				t.Errorf("got %+v, want an attempt used", j)
			}
			if _, ok = goes(b, "q", target, false); ok {
				t.Fatal("a new job goes")
			}
		}
		begun := time.Now()
		for range 10 { // new ones, one after another
			n := 0
			for ; roomOf(b, target, 100) == 0; n++ {
				<-time.After(100 * time.Millisecond)
			}
			push, ok := goes(b, "q", target, false)
			if !ok {
				t.Fatal("the probe is held back")
			}
			b.end(push, targetFailing)
		}
		if took := time.Since(begun); took > 100*time.Second {
			t.Errorf("10 new jobs had their first attempt after %s", took)
		}
		// An attempt that succeeds, of whichever job, ends it.
		push, ok := goes(b, "q", target, true)
		if !ok {
			t.Fatal("held back")
		}
		b.end(push, targetWell)
		if n := roomOf(b, target, 100); n != 2 {
			t.Errorf("%d pushes may go at first", n)
		}
	})
}

// When an origin is down each route finds out once; an answer to any of them frees all.
func TestBreakerOriginIsSharedByRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreakers()
		early, _ := goes(b, "c", "http://app.example/c", false)
		pushes(t, b, target, plain.Breaker.Trip, targetDown)
		if j := b.end(early, targetDown); !j.free || !j.again.IsZero() {
			t.Errorf("got %+v for a push that began before the origin was down", j)
		}
		look, ok := goes(b, "b", "http://app.example/b", false)
		if !ok {
			t.Fatal("a route that has seen nothing is held back")
		}
		if _, ok = goes(b, "b", "http://app.example/b", false); ok {
			t.Error("a second one looks")
		}
		if j := b.end(look, targetDown); !j.free || j.again.IsZero() {
			t.Errorf("got %+v, want no attempt used and the route held back", j)
		}
		if _, ok = goes(b, "b", "http://app.example/b", true); ok {
			t.Error("a job goes to a target that is down")
		}
		push, ok := goes(b, "c", "http://app.example/c", false)
		if !ok {
			t.Fatal("held back")
		}
		if j := b.end(push, targetFailing); len(j.freed) != 3 {
			t.Errorf("got %+v, want the three routes to be free", j)
		}
		for queue, target := range map[string]string{"q": target, "b": "http://app.example/b"} {
			if _, ok := goes(b, queue, target, false); !ok {
				t.Errorf("the queue %s is held back although the origin answers", queue)
			}
		}
	})
}

func TestBreakerScopes(t *testing.T) {
	for scope, want := range map[string][3]bool{ // goes: another path, another queue, the same
		perPath:   {true, true, false},
		perQueue:  {false, true, false},
		perOrigin: {false, false, false},
		perNone:   {true, true, true},
	} {
		t.Run(scope, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := Queue{Breaker: Breaker{Scope: scope, Trip: 2}}.withDefaults()
				b := newBreakers()
				for range 2 {
					trial, _, _ := b.begin("q", target, &q, false)
					b.end(trial, targetFailing)
				}
				_, _, path := b.begin("q", target+"/other?x", &q, false)
				_, _, queue := b.begin("p", target, &q, false)
				_, _, same := b.begin("q", target+"?y", &q, false)
				if got := [3]bool{path, queue, same}; got != want {
					t.Errorf("got %v, want %v", got, want)
				}
			})
		})
	}
}

func TestBreakerResetAndView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreakers()
		pushes(t, b, target, plain.Breaker.Trip, targetFailing)
		held := b.held("q")
		if len(held) != 1 || held[0].Target != "http://app.example:80/tasks" || held[0].Cause != "failing" || !held[0].NextProbe.After(time.Now()) {
			t.Errorf("got %+v", held)
		}
		if held = b.held("p"); held != nil {
			t.Errorf("got %+v for another queue", held)
		}
		if n := b.reset("p", "") + b.reset("q", "http://app.example:80/other"); n != 0 {
			t.Errorf("%d were reset", n)
		}
		if n := b.reset("q", ""); n != 1 || b.held("q") != nil || roomOf(b, target, 5) == 0 {
			t.Errorf("%d were reset, and there is room for %d", n, roomOf(b, target, 5))
		}
	})
}

func TestBreakerStartsSlowlyAfterASilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreakers()
		if n := roomOf(b, target, 500); n != idleStart {
			t.Errorf("%d pushes may go at first", n)
		}
		pushes(t, b, target, 100, targetWell)
		if n := roomOf(b, target, 500); n != 100+idleStart {
			t.Errorf("%d pushes may go after 100", n)
		}
		pushes(t, b, target, fullSpeed, targetWell)
		if n := roomOf(b, target, 50_000); n != 50_000 {
			t.Errorf("%d pushes may go at full speed", n)
		}
		<-time.After(idleAfter + time.Second)
		if n := roomOf(b, target, 500); n != idleStart {
			t.Errorf("%d pushes may go after a silence", n)
		}
		pushes(t, b, target, 1, targetMute) // says nothing
		if n := roomOf(b, target, 500); n != idleStart {
			t.Errorf("%d pushes may go after one that was called off", n)
		}
	})
}

func TestBreakersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreakers()
		for i := range 3 * maxRoutes {
			pushes(t, b, fmt.Sprintf("http://h%d.example/", i), 1, targetWell)
			pushes(t, b, fmt.Sprintf("http://app.example/%d", i), 1, targetWell)
		}
		n := 0
		for _, o := range b.origins {
			n += len(o.routes)
		}
		if n > maxRoutes || n != b.routes {
			t.Errorf("%d routes, counted as %d", n, b.routes)
		}
		<-time.After(2 * idleAfter)
		roomOf(b, "http://late.example/", 1)
		if _, ok := b.origins["http://late.example:80"]; !ok {
			t.Error("a new target has no breaker although the others are idle")
		}
	})
}
