package body

import (
	"math"
	"runtime/debug"
	"sync/atomic"
)

const (
	// least is the smallest default budget, share the part of the memory limit that it has otherwise.
	least, share = 64 << 20, 8
)

// Budget bounds the bytes of all bodies that are held at once. The zero Budget has the default bound.
type Budget struct {
	max, used atomic.Int64
	// Rate is the pace of bodies. Default 0: MinRate, and HurriedRate while more than half of the budget
	// is used.
	Rate int
}

// shared is the budget of the process.
var shared = new(Budget)

// SetMax bounds the bytes of all bodies in the process. 0 is the default: an eighth of the memory limit
// (GOMEMLIMIT, or the container's), at least 64 MiB.
func SetMax(n int64) { shared.max.Store(n) }

// Used returns how many bytes are held now.
func Used() int64 { return shared.used.Load() }

func (b *Budget) limit() int64 {
	if n := b.max.Load(); n > 0 {
		return n
	}
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		limit = 0
	}
	b.max.CompareAndSwap(0, max(least, limit/share))
	return b.max.Load()
}

func (b *Budget) reserve(n int64) bool {
	if b.used.Add(n) <= b.limit() {
		return true
	}
	b.used.Add(-n)
	return false
}

func (b *Budget) release(n int64) { b.used.Add(-n) }

func (b *Budget) hurried() bool { return b.used.Load() > b.limit()/2 }
