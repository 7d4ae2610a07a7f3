package jwtauth

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// usesHours is how far back uses are shown.
	usesHours = 24
	// maxUses bounds the keys whose uses are remembered. Keys come from the configured sources alone.
	maxUses = 4096
)

// hourly counts what happened in each of the last 24 hours. A word holds the hour in its upper and
// the count in its lower half.
type hourly [usesHours]atomic.Uint64

func (h *hourly) add(hour int64) {
	word := &h[hour%usesHours]
	for {
		old := word.Load()
		next := old + 1
		if old>>32 != uint64(hour) {
			next = uint64(hour)<<32 | 1
		}
		if word.CompareAndSwap(old, next) {
			return
		}
	}
}

func (h *hourly) sum(hour int64) (n uint64) {
	for i := range h {
		if word := h[i].Load(); hour-int64(word>>32) < usesHours {
			n += word & (1<<32 - 1)
		}
	}
	return n
}

// uses are what one key of one source has verified in this process.
type uses struct {
	source, key, alg string

	last     atomic.Int64 // unix seconds of the last request
	tokens   hourly       // that were verified, and not found in the cache
	requests hourly
}

// mark counts a request. A key's owner is told once a second.
func (k *key) mark(now time.Time, cached bool) {
	u := k.uses
	if u == nil {
		return
	}
	seconds := now.Unix()
	u.requests.add(seconds / 3600)
	if !cached {
		u.tokens.add(seconds / 3600)
	}
	if u.last.Load() == seconds {
		return
	}
	u.last.Store(seconds)
	if k.used != nil {
		k.used(now)
	}
}

// usesTable are the uses of all keys of the process, so that a reload or a fetch forgets none.
type usesTable struct {
	mu  sync.Mutex
	all map[[2]string]*uses
}

var allUses = usesTable{all: map[[2]string]*uses{}}

// of is the place of a key. Where there are too many, that of the key which was used longest ago is
// forgotten; who still has it counts on unseen.
func (t *usesTable) of(source, key, alg string) *uses {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := [2]string{source, key}
	if u, ok := t.all[id]; ok && u.alg == alg {
		return u
	}
	if len(t.all) >= maxUses {
		var oldest *uses
		for _, u := range t.all {
			if oldest == nil || u.last.Load() < oldest.last.Load() {
				oldest = u
			}
		}
		delete(t.all, [2]string{oldest.source, oldest.key})
	}
	u := &uses{source: source, key: key, alg: alg}
	t.all[id] = u
	return u
}

// used are the keys of a source that were used in the last 24 hours.
func (t *usesTable) used(source string, now time.Time) []*uses {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []*uses
	for _, u := range t.all {
		if u.source == source && now.Unix()-u.last.Load() < usesHours*3600 {
			list = append(list, u)
		}
	}
	slices.SortFunc(list, func(a, b *uses) int { return cmp.Compare(a.key, b.key) })
	return list
}
