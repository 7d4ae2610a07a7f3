package limit

import (
	"math"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

const (
	maxShards = 256
	// ways is how many keys share a bucket of the table.
	ways = 8 // for one policy they fill two cache lines
	// settled is how much of a policy a key must have used so that it is not forgotten for another.
	settled = 0.5
)

// Table holds the state of every key in process, up to a hard cap in bytes. It is a hash table
// without pointers, of buckets with 8 places, and a key is in one of two: it takes 8 bytes and 8 more
// for each policy (16 for a sliding window), and with the places that are free 20 to 40 bytes for one
// policy. It runs no goroutine.
//
// A new key takes a free place, or that of a key with nothing to remember. Where its buckets have
// none the table grows; at the cap the key that has used least gives way, if it has used less than half
// of every policy. If not, the new key shares one state with others in that plight: a flood of
// made-up keys can neither grow the table, nor make it forget who has used up a limit.
//
// It is safe for concurrent use; a decision and its charge are one step.
type Table struct {
	words    int
	perShard int // the greatest number of buckets in a shard, a power of two
	shards   []shard
	// Evicted and Overflowed count the keys that gave way, and the requests that shared a state.
	Evicted, Overflowed atomic.Uint64
	before              atomic.Pointer[inheritance]
}

// inheritance is the table whose numbers this one goes on with, until they do not matter any more:
// the directive has been given more policies, or fewer, by a reload.
type inheritance struct {
	table *Table
	from  []int // for each word, which one of the other table it goes on with; -1 for none
	until int64
}

type shard struct {
	mu       sync.Mutex
	data     []int64 // buckets of 8 places: the key, 0 for none, and its state
	mask     uint64  // buckets - 1
	keys     int
	overflow []int64
	_        [64]byte // shards do not share cache lines
}

// NewTable is an empty table for states of so many words, which takes at most maxBytes.
func NewTable(words, maxBytes int) *Table {
	bucket := ways * (1 + words) * 8
	buckets := max(1, maxBytes/bucket)
	n := 1
	for n < maxShards && buckets/(n*2) >= 16 {
		n *= 2
	}
	perShard := 1 << (bits.Len(uint(buckets/n)) - 1)
	t := &Table{words: words, perShard: perShard, shards: make([]shard, n)}
	for i := range t.shards {
		t.shards[i].overflow = make([]int64, words)
	}
	return t
}

// Take decides about a request of the key's and charges it if it is allowed.
func (t *Table) Take(now int64, key uint64, rates []policy.Rate, cost int64) policy.Verdict {
	s := t.shard(key)
	s.mu.Lock()
	v := policy.Decide(now, rates, t.state(s, now, key, rates), cost)
	s.mu.Unlock()
	return v
}

// Show says where a key stands. It remembers no key.
func (t *Table) Show(now int64, key uint64, rates []policy.Rate) policy.Verdict {
	s := t.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	state := s.find(key, t.words)
	if state == nil {
		state = make([]int64, t.words)
		t.inherit(now, key, state)
	}
	return policy.Decide(now, rates, state, 0)
}

// Charge takes units after the fact, or gives them back if cost is negative.
func (t *Table) Charge(now int64, key uint64, rates []policy.Rate, cost int64) {
	s := t.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	policy.Charge(now, rates, t.state(s, now, key, rates), cost)
}

// Reset forgets what a key has used.
func (t *Table) Reset(key uint64) {
	s := t.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.find(key, t.words))
	if b := t.before.Load(); b != nil {
		b.table.Reset(key)
	}
}

// Len is the number of keys held.
func (t *Table) Len() int {
	n := 0
	for i := range t.shards {
		t.shards[i].mu.Lock()
		n += t.shards[i].keys
		t.shards[i].mu.Unlock()
	}
	return n
}

// Bytes is the memory that the table takes.
func (t *Table) Bytes() int {
	n := 0
	for i := range t.shards {
		t.shards[i].mu.Lock()
		n += 8 * len(t.shards[i].data)
		t.shards[i].mu.Unlock()
	}
	return n
}

func (t *Table) shard(key uint64) *shard {
	return &t.shards[key>>56&uint64(len(t.shards)-1)]
}

// state is that of the key, a new one if need be. The shard is locked.
func (t *Table) state(s *shard, now int64, key uint64, rates []policy.Rate) []int64 {
	if state := s.find(key, t.words); state != nil {
		return state
	}
	return t.add(s, now, key, rates)
}

// bucket is one of the two where the key may be.
func (s *shard) bucket(hash uint64, stride int) []int64 {
	at := int(hash&s.mask) * ways * stride
	return s.data[at : at+ways*stride : at+ways*stride]
}

// other is the hash by which a key finds its second bucket.
func other(key uint64) uint64 { return key >> 24 }

func (s *shard) find(key uint64, words int) []int64 {
	if s.data == nil {
		return nil
	}
	stride := 1 + words
	for _, hash := range [2]uint64{key, other(key)} {
		b := s.bucket(hash, stride)
		for at := 0; at < len(b); at += stride {
			if uint64(b[at]) == key {
				return b[at+1 : at+stride : at+stride]
			}
		}
	}
	return nil
}

// add makes room for a key that is not here.
func (t *Table) add(s *shard, now int64, key uint64, rates []policy.Rate) []int64 {
	stride := 1 + t.words
	if s.data == nil {
		s.data = make([]int64, ways*stride)
	}
	for {
		most := t.perShard * ways * stride
		full := len(s.data) >= most
		place, used := s.place(now, key, stride, rates)
		switch {
		case place != nil && (used == 0 || full && used < settled):
			if place[0] == 0 {
				s.keys++
			} else if used > 0 {
				t.Evicted.Add(1)
			}
			place[0] = int64(key)
			clear(place[1:])
			t.inherit(now, key, place[1:])
			return place[1:]
		case full:
			t.Overflowed.Add(1)
			return s.overflow
		}
		s.grow(now, rates, stride, most)
	}
}

// place is the best one for a new key: a free one in the emptier of its buckets, or else that of the
// key which has used least, and how much that is.
func (s *shard) place(now int64, key uint64, stride int, rates []policy.Rate) ([]int64, float64) {
	var free [2][]int64
	var keys [2]int
	var least []int64
	used := math.Inf(1)
	for i, hash := range [2]uint64{key, other(key)} {
		b := s.bucket(hash, stride)
		for at := 0; at < len(b); at += stride {
			e := b[at : at+stride : at+stride]
			if e[0] == 0 {
				free[i] = e
				continue
			}
			keys[i]++
			if used == 0 {
				continue
			}
			if u := policy.Used(now, rates, e[1:]); u < used {
				least, used = e, u
			}
		}
	}
	switch {
	case used == 0:
		return least, 0
	case free[0] != nil && (free[1] == nil || keys[0] <= keys[1]):
		return free[0], 0
	case free[1] != nil:
		return free[1], 0
	}
	return least, used
}

// grow doubles the buckets and leaves out what need not be remembered.
func (s *shard) grow(now int64, rates []policy.Rate, stride, most int) {
	old := s.data
	for size := 2 * len(old); ; size *= 2 {
		s.data = make([]int64, size)
		s.mask, s.keys = uint64(size/ways/stride-1), 0
		if s.fill(now, old, rates, stride) || size >= most {
			return
		}
	}
}

// fill takes entries over and says whether each has found a place; one that has not takes another's.
func (s *shard) fill(now int64, old []int64, rates []policy.Rate, stride int) bool {
	complete := true
	for at := 0; at < len(old); at += stride {
		e := old[at : at+stride]
		if e[0] == 0 || policy.Idle(now, rates, e[1:]) {
			continue
		}
		place, _ := s.place(now, uint64(e[0]), stride, rates)
		if place[0] == 0 {
			s.keys++
		} else {
			complete = false
		}
		copy(place, e)
	}
	return complete
}

// Inherit makes the table go on with the numbers of another one. from says for each word of a state
// which word of the other's it goes on with, -1 for none. After until they do not matter any more.
// What the other one has inherited goes on as well, but not what came before that.
func (t *Table) Inherit(other *Table, from []int, now, until int64) {
	if b := other.before.Load(); b != nil {
		if now > b.until {
			other.before.Store(nil)
		} else {
			b.table.before.Store(nil)
		}
	}
	t.before.Store(&inheritance{other, from, until})
}

// inherit fills in the state of a new key.
func (t *Table) inherit(now int64, key uint64, state []int64) {
	b := t.before.Load()
	if b == nil {
		return
	}
	if now > b.until {
		t.before.CompareAndSwap(b, nil)
		return
	}
	s := b.table.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.find(key, b.table.words)
	if old == nil {
		b.table.inherit(now, key, state)
		return
	}
	for i, from := range b.from {
		if from >= 0 {
			state[i] = old[from]
		}
	}
}
