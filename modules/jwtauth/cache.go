package jwtauth

import (
	"crypto/sha256"
	"time"

	"github.com/maypok86/otter/v2"
)

const (
	// cacheBytes bounds the verified tokens of the process, and is room for 100,000 usual ones.
	cacheBytes = 39 << 20
	// cacheEntry is what an entry costs beside the strings in it: its key, the cache's own record of
	// it, and the identity.
	cacheEntry = 272
	fieldBytes = 32 // of a field without its value
)

// verified are tokens that verified not long ago. It belongs to the process: several directives and
// several configurations share its bound.
var verified = newTokenCache()

// tokenCache keeps identities by the hash of the whole token, signature included. No token is kept.
type tokenCache struct {
	entries *otter.Cache[cacheKey, *identity]
}

type cacheKey struct {
	owner uint64
	sum   [sha256.Size]byte
}

func keyOf(owner uint64, token string) cacheKey {
	var usual [1 << 10]byte // on the stack, where a conversion would take a copy on the heap
	return cacheKey{owner, sha256.Sum256(append(usual[:0], token...))}
}

func newTokenCache() *tokenCache {
	return &tokenCache{otter.Must(&otter.Options[cacheKey, *identity]{
		MaximumWeight: cacheBytes,
		Weigher:       func(_ cacheKey, id *identity) uint32 { return uint32(id.bytes()) },
	})}
}

// get is the identity of a token that was put there, that has not expired, and whose keys are in force.
func (c *tokenCache) get(k cacheKey, now time.Time) (*identity, bool) {
	id, ok := c.entries.GetIfPresent(k)
	if !ok {
		return nil, false
	}
	if now.UnixMilli() >= id.until || id.provider.source.current(now) != id.set {
		c.entries.Invalidate(k)
		return nil, false
	}
	return id, true
}

func (c *tokenCache) put(k cacheKey, id *identity) { c.entries.Set(k, id) }
