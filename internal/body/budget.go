package body

import (
	"math"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/gatehouse-proxy/gatehouse/internal/network"
)

const (
	// least is the smallest default budget, share the part of the memory limit that it has otherwise.
	least, share = 64 << 20, 8
)

// clientShare is the part of the budget that the bodies of one client may have, smallShare the part that is
// kept for small bodies, which are of up to smallBody bytes.
const clientShare, smallShare, smallBody = 4, 8, 16 << 10

// Budget bounds the bytes of all bodies that are held at once. The zero Budget has the default bound.
type Budget struct {
	max, used atomic.Int64

	mu      sync.Mutex
	clients map[string]int64 // what each has; none that has nothing

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

// reserve takes n bytes more for a body of the client that has had bytes so far. Its errors are unavailable,
// and quota-exceeded where the client alone has too many.
func (b *Budget) reserve(client string, had, n int64) error {
	most := b.limit()
	if had+n > smallBody {
		most -= most / smallShare
	}
	if b.used.Add(n) > most {
		b.used.Add(-n)
		return exhausted()
	}
	if client == "" {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.clients[client]+n > b.limit()/clientShare {
		b.used.Add(-n)
		return greedy()
	}
	if b.clients == nil {
		b.clients = map[string]int64{}
	}
	b.clients[client] += n
	return nil
}

func (b *Budget) release(client string, n int64) {
	b.used.Add(-n)
	if client == "" || n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.clients[client] -= n; b.clients[client] <= 0 {
		delete(b.clients, client)
	}
}

// group is what counts as one client.
func group(client string) string {
	if addr, err := netip.ParseAddr(client); err == nil {
		return network.Of(addr)
	}
	return client
}

func (b *Budget) hurried() bool { return b.used.Load() > b.limit()/2 }
