package limit

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestFlightsNeverExceedTheirCapAndLeaveNothingBehind(t *testing.T) {
	const most = 3
	var f flights
	f.most.Store(most)
	var under, peak atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 300 {
				_, ok, wait := f.enter(7, most, 4)
				if wait != nil {
					ok = f.await(t.Context(), 7, wait, time.Duration(rand.IntN(300))*time.Microsecond)
				}
				if !ok {
					continue
				}
				n := under.Add(1)
				for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
				}
				if n%2 == 0 {
					<-time.After(10 * time.Microsecond)
				}
				under.Add(-1)
				f.leave(7)
			}
		})
	}
	wg.Wait()
	if peak.Load() > most {
		t.Errorf("%d were under way at once, want at most %d", peak.Load(), most)
	}
	if n := f.count(7); n != 0 || len(f.shards[0].keys) != 0 {
		t.Errorf("%d places are still taken, %d keys are held", n, len(f.shards[0].keys))
	}
}

func TestForcedPlacesAreGivenBack(t *testing.T) {
	var f flights
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				if _, ok, _ := f.enter(7, 1, 0); !ok {
					f.force(7)
				}
				f.leave(7)
			}
		})
	}
	wg.Wait()
	if n := f.count(7); n != 0 || len(f.shards[0].keys) != 0 {
		t.Errorf("%d places are still taken, %d keys are held", n, len(f.shards[0].keys))
	}
}

func TestALoweredCapIsKept(t *testing.T) {
	var f flights
	for range 4 {
		f.enter(7, 4, 0)
	}
	f.most.Store(2)
	_, _, wait := f.enter(7, 2, 1)
	for _, want := range []bool{false, false, true} {
		f.leave(7)
		select {
		case <-wait:
			if !want {
				t.Fatal("a place above the lowered cap was handed over")
			}
		default:
			if want {
				t.Fatal("no place was handed over")
			}
		}
	}
}

func TestARaisedCapWakesThoseWhoWait(t *testing.T) {
	var f flights
	var waits []chan struct{}
	for range 3 {
		f.enter(7, 3, 0)
	}
	for range 4 {
		_, _, wait := f.enter(7, 3, 9)
		waits = append(waits, wait)
	}
	f.most.Store(10)
	f.leave(7)
	for i, wait := range waits {
		select {
		case <-wait:
		default:
			t.Errorf("waiter %d still waits", i)
		}
	}
	if n := f.count(7); n != 6 {
		t.Errorf("%d are under way, want 6", n)
	}
}
