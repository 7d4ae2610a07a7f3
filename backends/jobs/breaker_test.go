package jobs

import (
	"testing"
	"testing/synctest"
	"time"
)

const target = "http://app.example/tasks"

// pushes begins n pushes and ends them all with the outcome.
func pushes(t *testing.T, b *breakers, n int, o outcome) (tripped int) {
	t.Helper()
	for range n {
		if _, ok := b.begin(target); !ok {
			t.Fatal("a push was held back")
		}
		if _, trip := b.end(target, o); trip {
			tripped++
		}
	}
	return tripped
}

func TestBreakerPausesATargetThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreakers()
		pushes(t, b, tripAfter-1, targetDown)
		pushes(t, b, 1, targetWell) // in a row is what counts
		if n := pushes(t, b, tripAfter, targetDown); n != 1 {
			t.Fatalf("tripped %d times", n)
		}
		if n := b.room(target, 100); n != 0 {
			t.Errorf("%d pushes may go to a target that is down", n)
		}
		again, ok := b.begin(target)
		if ok || again < firstPause || again > 2*firstPause {
			t.Errorf("got %s, %v", again, ok)
		}
		if n := b.room("http://other.example/tasks", 3); n != 3 {
			t.Errorf("another target has room for %d", n)
		}
		if n := b.room("", 3); n != 3 {
			t.Errorf("a queue without a target has room for %d", n)
		}

		pause := firstPause
		for range 8 { // probes that fail, one at a time, ever later
			<-time.After(pause + pause/4)
			if n := b.room(target, 100); n != 1 {
				t.Fatalf("%d probes", n)
			}
			if _, ok = b.begin(target); !ok {
				t.Fatal("the probe was held back")
			}
			if n := b.room(target, 100); n != 0 {
				t.Errorf("%d more while one probes", n)
			}
			if _, ok = b.begin(target); ok {
				t.Error("a second probe went")
			}
			down, trip := b.end(target, targetDown)
			pause = min(2*pause, longestPause)
			if !trip || down < pause || down > pause+pause/4 {
				t.Errorf("down for %s, %v, want %s", down, trip, pause)
			}
		}
		<-time.After(2 * longestPause)
		pushes(t, b, 1, targetWell)
		if n := b.room(target, 100); n != 2 {
			t.Errorf("%d pushes may go at first", n)
		}
	})
}

func TestBreakerFailuresOfOthersUseNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreakers()
		pushes(t, b, fullSpeed, targetWell)
		for range 50 {
			if _, ok := b.begin(target); !ok {
				t.Fatal("held back")
			}
		}
		trips, free := 0, 0
		for range 50 {
			down, trip := b.end(target, targetDown)
			switch {
			case trip:
				trips++
			case down > 0:
				free++
			}
		}
		if trips != 1 || free != 50-tripAfter {
			t.Errorf("%d tripped it and %d of 50 cost no attempt", trips, free)
		}
	})
}

func TestBreakerStartsSlowlyAfterASilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreakers()
		if n := b.room(target, 500); n != idleStart {
			t.Errorf("%d pushes may go at first", n)
		}
		pushes(t, b, 100, targetWell)
		if n := b.room(target, 500); n != 100+idleStart {
			t.Errorf("%d pushes may go after 100", n)
		}
		pushes(t, b, fullSpeed, targetWell)
		if n := b.room(target, 50_000); n != 50_000 {
			t.Errorf("%d pushes may go at full speed", n)
		}
		<-time.After(idleAfter + time.Second)
		if n := b.room(target, 500); n != idleStart {
			t.Errorf("%d pushes may go after a silence", n)
		}
		if _, ok := b.begin(target); !ok {
			t.Fatal("held back")
		}
		b.end(target, targetMute) // says nothing
		if n := b.room(target, 500); n != idleStart {
			t.Errorf("%d pushes may go after one that was called off", n)
		}
	})
}

func TestBreakersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreakers()
		for i := range 3 * maxTargets {
			b.room("http://app.example:"+string(rune('1'+i%9))+"/"+target, 1)
			if _, ok := b.begin("http://h" + time.Duration(i).String() + ".example/"); !ok {
				t.Fatal("held back")
			}
			b.end("http://h"+time.Duration(i).String()+".example/", targetWell)
		}
		if n := len(b.all); n > maxTargets {
			t.Errorf("%d breakers", n)
		}
		<-time.After(2 * idleAfter)
		b.room("http://late.example/", 1)
		if _, ok := b.all["http://late.example:80"]; !ok {
			t.Error("a new target has no breaker although the others are idle")
		}
	})
}
