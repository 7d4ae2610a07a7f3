package service

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestTheRoomForGarbageDependsOnWhatLives(t *testing.T) {
	for live, want := range map[uint64]int{0: 1000, 4 << 20: 1000, 6 << 20: 800, 12 << 20: 400, 24 << 20: 200, 1 << 30: 200} {
		if got := gcPercent(live); got != want {
			t.Errorf("with %d MiB alive: %d %%, want %d %%", live>>20, got, want)
		}
	}
}

func TestTheTunerFollowsTheHeap(t *testing.T) {
	before := debug.SetGCPercent(100)
	t.Cleanup(func() { debug.SetGCPercent(before) })
	new(gcTuner).collected()
	set := func() int {
		p := debug.SetGCPercent(100)
		debug.SetGCPercent(p)
		return p
	}
	if got := set(); got <= serverGC || got > mostGC {
		t.Fatalf("with little alive: %d %%", got)
	}
	ballast := make([]byte, 64<<20)
	for range 1000 {
		if set() == serverGC {
			break
		}
		runtime.GC()
	}
	if got := set(); got != serverGC {
		t.Errorf("with much alive: %d %%, want %d %%", got, serverGC)
	}
	runtime.KeepAlive(ballast)
}
