package cache

import (
	"hash/maphash"
	"math"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"
)

// overhead is what an object costs in memory beyond its own bytes.
const overhead = 300

// URL names an object in memory: the parts of a response's URL, or the key of a value as Path with
// everything else empty. Scope keeps what different sites and routes have at the same URL apart.
type URL struct{ Scope, Scheme, Host, Path, Query string }

// Object is what memory holds. It must not change once it is stored.
type Object interface {
	// Weight is the number of bytes that the object occupies.
	Weight() int
}

type memory = otter.Cache[URL, Object]

func newMemory(size uint64) *memory {
	return otter.Must(&otter.Options[URL, Object]{
		MaximumWeight: size,
		Weigher: func(u URL, o Object) uint32 {
			return uint32(min(math.MaxUint32, overhead+len(u.Scheme)+len(u.Host)+len(u.Path)+len(u.Query)+o.Weight()))
		},
	})
}

// item is a value of the API, as it stands in memory and in a row.
type item struct {
	Stamp
	value       []byte
	contentType string
	created     time.Time
	expires     time.Time
}

// Weight is the item's size in memory.
func (it *item) Weight() int { return len(it.value) + len(it.contentType) + it.tagBytes() }

func (it *item) tagBytes() int {
	n := 0
	for _, tag := range it.tags {
		n += len(tag) + 16
	}
	return n
}

// fences order the makers of objects against invalidations. Each URL has a counter, shared with
// those of the same hash; an invalidation increments it, and what was begun at a lower count is not
// stored. A collision costs one store.
type fences struct {
	seed    maphash.Seed
	stripes [4096]struct {
		sync.Mutex
		count uint64
	}
}

func (f *fences) stripe(u URL) *struct {
	sync.Mutex
	count uint64
} {
	return &f.stripes[maphash.Comparable(f.seed, u)%uint64(len(f.stripes))]
}

// at is the URL's count now.
func (f *fences) at(u URL) uint64 {
	s := f.stripe(u)
	s.Lock()
	defer s.Unlock()
	return s.count
}

// bump makes everything that was begun for the URL too old to be stored.
func (f *fences) bump(u URL) {
	s := f.stripe(u)
	s.Lock()
	defer s.Unlock()
	s.count++
}
