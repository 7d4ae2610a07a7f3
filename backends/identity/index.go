package identity

import (
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"
)

const indexShards = 64

// index is what is revoked, in memory. What is put in may come in any order and more than once: it
// ends up the same. It is safe for concurrent use.
type index struct {
	live    atomic.Int64 // entries that revoke something
	issuers atomic.Int64 // entries of one issuer
	// The first seed finds an entry, the second makes sure that it is the one. So an entry takes the same
	// few bytes whatever stands in the tokens; that two of a million hash to one place is as likely as 1 to
	// 36 million, and cannot be brought about, as the seeds are secret.
	seeds  [2]maphash.Seed
	shards [indexShards]struct {
		mu      sync.RWMutex
		entries map[uint64]indexEntry
	}
}

type indexEntry struct {
	check               uint64
	at, before, expires int64
	undone, issuer      bool
}

func newIndex() *index {
	x := &index{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}}
	for i := range x.shards {
		x.shards[i].entries = map[uint64]indexEntry{}
	}
	return x
}

// hash is what stands for a kind, an issuer and a value.
func (x *index) hash(seed int, kind Kind, issuer, value string) uint64 {
	var h maphash.Hash
	h.SetSeed(x.seeds[seed])
	_, _ = h.WriteString(string(kind))
	_ = h.WriteByte(0)
	_, _ = h.WriteString(issuer)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(value)
	return h.Sum64()
}

// put takes in a revocation, or its end.
func (x *index) put(r Revocation) {
	e := indexEntry{at: r.at, before: r.before, expires: r.expires, undone: r.undone, issuer: r.Issuer != ""}
	if r.kind != KindSubject {
		e.before = math.MaxInt64
	}
	k := x.hash(0, r.kind, r.Issuer, r.value)
	e.check = x.hash(1, r.kind, r.Issuer, r.value)
	s := &x.shards[k%indexShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	old, there := s.entries[k]
	switch {
	case there && old.undone == e.undone:
		e.at, e.before, e.expires = max(old.at, e.at), max(old.before, e.before), max(old.expires, e.expires)
	case there && old.at > e.at:
		return
	}
	if there {
		x.count(old, -1)
	}
	x.count(e, 1)
	s.entries[k] = e
}

func (x *index) count(e indexEntry, n int64) {
	if e.undone {
		return
	}
	x.live.Add(n)
	if e.issuer {
		x.issuers.Add(n)
	}
}

// has says whether a token that says so of itself is revoked.
func (x *index) has(kind Kind, issuer, value string, issuedMS int64) bool {
	if value == "" {
		return false
	}
	if x.holds(kind, "", value, issuedMS) {
		return true
	}
	return issuer != "" && x.issuers.Load() > 0 && x.holds(kind, issuer, value, issuedMS)
}

func (x *index) holds(kind Kind, issuer, value string, issuedMS int64) bool {
	k := x.hash(0, kind, issuer, value)
	s := &x.shards[k%indexShards]
	s.mu.RLock()
	e, there := s.entries[k]
	s.mu.RUnlock()
	return there && !e.undone && issuedMS <= e.before && e.check == x.hash(1, kind, issuer, value)
}

// expire drops what no token that is valid at now can be revoked by.
func (x *index) expire(now int64) {
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.Lock()
		for k, e := range s.entries {
			if e.expires <= now {
				x.count(e, -1)
				delete(s.entries, k)
			}
		}
		s.mu.Unlock()
	}
}
