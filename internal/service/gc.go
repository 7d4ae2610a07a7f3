package service

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

const (
	// gcRoom is how much garbage may lie about before a collection, while what lives is small: a
	// server makes 20 KB for a request, so with Go's own percentage it would collect a hundred times a
	// second. It is what the gateway takes in memory for about 14 % less CPU per request.
	gcRoom = 48 << 20
	// Where more lives, the percentage falls, but not below serverGC.
	serverGC, mostGC = 200, 1000
	// tightMemory is the memory limit below which Go's own percentage stays.
	tightMemory = 512 << 20
)

// TuneGC sets the garbage collector for a server, once in the process. GOGC overrides it, and a
// memory limit (GOMEMLIMIT, or the container's as Caddy sets it) under 512 MiB leaves it alone.
var TuneGC = sync.OnceFunc(func() {
	if os.Getenv("GOGC") == "" && debug.SetMemoryLimit(-1) >= tightMemory {
		new(gcTuner).collected()
	}
})

// gcTuner follows the size of what lives: it looks at it after each collection.
type gcTuner struct {
	live    [1]metrics.Sample
	percent int
}

// collected sets the percentage for the next collection.
func (t *gcTuner) collected() {
	t.live[0].Name = "/gc/heap/live:bytes"
	metrics.Read(t.live[:])
	// Setting it stops the world for a moment, so small changes are left alone.
	if p := gcPercent(t.live[0].Value.Uint64()); p*10 < t.percent*9 || p*10 > t.percent*11 {
		t.percent = p
		debug.SetGCPercent(p)
	}
	runtime.AddCleanup(new(*gcTuner), (*gcTuner).collected, t) // of a value that the next collection finds dead
}

// gcPercent is the percentage for a heap of which so much lives.
func gcPercent(live uint64) int {
	return int(min(mostGC, max(serverGC, gcRoom*100/max(1, live))))
}
