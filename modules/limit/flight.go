package limit

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// flights counts the requests that are under way, by key. Only keys with such requests are held, so
// its size is that of the work at hand. It counts those of this instance.
type flights struct {
	most   atomic.Int64 // the cap of the newest configuration that serves
	shards [64]flightShard
}

type flightShard struct {
	mu   sync.Mutex
	keys map[uint64]*flight
}

type flight struct {
	n       int
	waiting []chan struct{} // first come, first served; closed when a place is handed over
}

// enter takes a place for the key if one is free, and says how many are left. If none is, wait is
// what await takes; it is nil where the queue is full as well.
func (f *flights) enter(key uint64, most, queue int) (left int, ok bool, wait chan struct{}) {
	s := &f.shards[key>>58]
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.of(key)
	switch {
	case k.n < most && len(k.waiting) == 0:
		k.n++
		return most - k.n, true, nil
	case len(k.waiting) < queue:
		wait = make(chan struct{})
		k.waiting = append(k.waiting, wait)
	}
	if k.n == 0 && wait == nil {
		delete(s.keys, key)
	}
	return 0, false, wait
}

// force takes a place although none is free: for a cap that only watches.
func (f *flights) force(key uint64) {
	s := &f.shards[key>>58]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of(key).n++
}

// of is the flight of the key. The shard is locked.
func (s *flightShard) of(key uint64) *flight {
	k := s.keys[key]
	if k == nil {
		if s.keys == nil {
			s.keys = map[uint64]*flight{}
		}
		k = &flight{}
		s.keys[key] = k
	}
	return k
}

// await waits for the place that enter has promised, at most so long, and says whether it came.
func (f *flights) await(ctx context.Context, key uint64, wait chan struct{}, most time.Duration) bool {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-wait:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	s := &f.shards[key>>58]
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keys[key]
	for i, other := range k.waiting {
		if other == wait {
			k.waiting = append(k.waiting[:i], k.waiting[i+1:]...)
			return false
		}
	}
	return true // handed over at this very moment
}

// leave gives a place back. Those who wait longest get the places that are free then: none where the
// cap was lowered by a reload, more than one where it was raised.
func (f *flights) leave(key uint64) {
	s := &f.shards[key>>58]
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keys[key]
	k.n--
	for len(k.waiting) > 0 && k.n < int(f.most.Load()) {
		close(k.waiting[0])
		k.waiting = k.waiting[1:]
		k.n++
	}
	if k.n == 0 && len(k.waiting) == 0 {
		delete(s.keys, key)
	}
}

// count is how many requests of the key are under way.
func (f *flights) count(key uint64) int {
	s := &f.shards[key>>58]
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.keys[key]; k != nil {
		return k.n
	}
	return 0
}
