package limit

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	maxShards = 256
	// minPerShard keeps small tables in few shards: a shard is full on its own.
	minPerShard = 64
	// sweepPerInsert is how many keys each new key looks at in order to forget the idle ones. With
	// two, the keys at hand are all looked at before the table has doubled.
	sweepPerInsert = 2
	// evictionSample is among how many keys the least recently used one is found.
	evictionSample = 16
)

// Table holds the state of every key, up to a hard cap on their number. A key takes about 200
// bytes, and 80 more for each policy where there are several. It runs no goroutine: new keys sweep idle ones out, and where
// the table is full they take the place of an idle key or else of one that was not used for long.
// It is safe for concurrent use; a decision and its charge are one step.
type Table struct {
	policies []Policy
	start    time.Time
	perShard int
	shards   []shard
}

type shard struct {
	mu    sync.Mutex
	index map[Key]*entry
	ring  []*entry // every entry of index, in no order
	hand  int      // where the next sweep goes on
	_     [64]byte // shards do not share cache lines
}

type entry struct {
	key   Key
	used  time.Duration // the last decision, since the start of the table
	pos   int           // in the ring
	state State
	first [1]rate.Limiter // the state, if there is one policy: one allocation, and one cache miss less
}

// NewTable is an empty table for at most maxKeys keys.
func NewTable(policies []Policy, maxKeys int) *Table {
	n := 1
	for n < maxShards && maxKeys/(n*2) >= minPerShard {
		n *= 2
	}
	return &Table{policies: policies, start: time.Now(), perShard: maxKeys / n, shards: make([]shard, n)}
}

// Take decides about a request of the key's and charges it if it is allowed.
func (t *Table) Take(now time.Time, k Key, cost int) Verdict {
	s := &t.shards[k.a&uint64(len(t.shards)-1)]
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.index[k]
	if e == nil {
		e = s.add(k, now, t)
	}
	// Goroutines come here in another order than they looked at the clock. Time must not go back
	// for a bucket, or the span between would fill it twice.
	e.used = max(e.used, now.Sub(t.start))
	now = t.start.Add(e.used)
	v := Decide(now, e.state, cost)
	if v.Allowed {
		e.state.charge(now, cost)
	}
	return v
}

// Len is the number of keys held.
func (t *Table) Len() int {
	n := 0
	for i := range t.shards {
		t.shards[i].mu.Lock()
		n += len(t.shards[i].ring)
		t.shards[i].mu.Unlock()
	}
	return n
}

func (s *shard) add(k Key, now time.Time, t *Table) *entry {
	for range min(sweepPerInsert, len(s.ring)) {
		if e := s.next(); e.state.idle(now) {
			s.forget(e)
		}
	}
	if len(s.ring) >= t.perShard {
		s.evict(now)
	}
	e := &entry{key: k, used: now.Sub(t.start), pos: len(s.ring)}
	e.state = newState(t.policies, e.first[:])
	if s.index == nil {
		s.index = map[Key]*entry{}
	}
	s.index[k] = e
	s.ring = append(s.ring, e)
	return e
}

// evict forgets an idle key or, if it meets none, the one used longest ago of those it meets.
func (s *shard) evict(now time.Time) {
	oldest := s.next()
	for range min(evictionSample, len(s.ring)) {
		e := s.next()
		if e.state.idle(now) {
			oldest = e
			break
		}
		if e.used < oldest.used {
			oldest = e
		}
	}
	s.forget(oldest)
}

func (s *shard) next() *entry {
	if s.hand >= len(s.ring) {
		s.hand = 0
	}
	e := s.ring[s.hand]
	s.hand++
	return e
}

func (s *shard) forget(e *entry) {
	last := len(s.ring) - 1
	s.ring[e.pos] = s.ring[last]
	s.ring[e.pos].pos = e.pos
	s.ring[last] = nil
	s.ring = s.ring[:last]
	delete(s.index, e.key)
}
