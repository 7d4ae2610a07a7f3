package jwtauth

import (
	"time"

	"github.com/maypok86/otter/v2"
)

const (
	// cacheBytes bounds the verified tokens of the process, cacheEntry is what an entry costs beside
	// its token. Together they allow at most 64 Ki entries.
	cacheBytes = 32 << 20
	cacheEntry = 512
)

// verified are tokens that verified not long ago. It belongs to the process: several directives and
// several configurations share its bound.
var verified = newTokenCache()

// tokenCache keeps identities by the whole token, which is hashed with a secret seed and then
// compared byte by byte.
type tokenCache struct {
	entries *otter.Cache[cacheKey, *identity]
}

type cacheKey struct {
	owner uint64
	token string
}

func newTokenCache() *tokenCache {
	return &tokenCache{otter.Must(&otter.Options[cacheKey, *identity]{
		MaximumWeight: cacheBytes,
		// The claims are about as large as the token, and again as Go values, if something asks for them.
		Weigher: func(k cacheKey, _ *identity) uint32 { return uint32(cacheEntry + 4*len(k.token)) },
	})}
}

// get is the identity of a token that set verified and that has not expired.
func (c *tokenCache) get(owner uint64, token string, set *keySet, now time.Time) (*identity, bool) {
	id, ok := c.entries.GetIfPresent(cacheKey{owner, token})
	if !ok {
		return nil, false
	}
	if id.set != set || now.UnixMilli() >= id.until {
		c.entries.Invalidate(cacheKey{owner, token})
		return nil, false
	}
	return id, true
}

func (c *tokenCache) put(owner uint64, id *identity) {
	c.entries.Set(cacheKey{owner, id.token}, id)
}
