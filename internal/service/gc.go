package service

import (
	"os"
	"runtime/debug"
	"sync"
)

const (
	// serverGC is the garbage collector's percentage for a server: about 12 % less CPU per request
	// than Go's 100, for some tens of MiB.
	serverGC = 400
	// tightMemory is the memory limit below which Go's own percentage stays.
	tightMemory = 512 << 20
)

// TuneGC sets the garbage collector for a server, once in the process. GOGC overrides it, and a
// memory limit (GOMEMLIMIT, or the container's as Caddy sets it) under 512 MiB leaves it alone.
var TuneGC = sync.OnceFunc(func() {
	if os.Getenv("GOGC") == "" && debug.SetMemoryLimit(-1) >= tightMemory {
		debug.SetGCPercent(serverGC)
	}
})
