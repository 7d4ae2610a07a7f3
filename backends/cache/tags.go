package cache

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// maxTags is how many invalidated tags are remembered one by one. Beyond it the oldest half is
// merged into the floor, which costs some valid entries and no correctness.
const maxTags = 100_000

// tagTable knows at which generation each tag was last invalidated. Generations count the
// invalidations; an entry remembers the generation at which the making of it began, and is valid
// while none of its tags was invalidated after that. So an invalidation costs the same however many
// entries it hits, and one that happens while an entry is being made wins.
type tagTable struct {
	generation atomic.Uint64 // of the newest invalidation that is in force
	version    atomic.Uint64 // grows with every change of what follows

	mu    sync.RWMutex
	last  map[string]uint64
	floor uint64 // tagged entries born before it are not valid
}

// Stamp is what an entry must keep to be invalidated by tag.
type Stamp struct {
	tags []string
	born uint64
	seen atomic.Uint64 // the version at which the entry was last found valid
}

// fresh says whether an entry with these tags, born at that generation, is valid.
func (t *tagTable) fresh(tags []string, born uint64) bool {
	if len(tags) == 0 {
		return true
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return born >= t.floor && !slices.ContainsFunc(tags, func(tag string) bool { return born < t.last[tag] })
}

// valid is fresh for a stamp; it looks tags up only if there was an invalidation since the last time.
func (t *tagTable) valid(s *Stamp) bool {
	if len(s.tags) == 0 {
		return true
	}
	now := t.version.Load()
	if s.seen.Load() == now && now > 0 {
		return true
	}
	if !t.fresh(s.tags, s.born) {
		return false
	}
	s.seen.Store(now)
	return true
}

// publish puts an invalidation in force. Generations come in ascending order, but for those of other
// instances, which may come late.
func (t *tagTable) publish(tags []string, generation uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, tag := range tags {
		t.last[tag] = max(t.last[tag], generation)
		if service.ScopeOf(tag) != "" && service.Unscoped(tag) == "" { // it stands for all of the owner's
			maps.DeleteFunc(t.last, func(other string, at uint64) bool {
				return at < generation && other != tag && strings.HasPrefix(other, tag)
			})
		}
	}
	t.generation.Store(max(t.generation.Load(), generation))
	t.version.Add(1)
}

// raise moves the floor to cutoff, an earlier generation, and forgets the tags that it covers.
func (t *tagTable) raise(cutoff uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if cutoff <= t.floor {
		return
	}
	t.floor = cutoff
	t.version.Add(1)
	for tag, generation := range t.last {
		if generation <= cutoff {
			delete(t.last, tag)
		}
	}
}

// excess is the generation up to which tags should be merged into the floor, 0 for none.
func (t *tagTable) excess(limit int) uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if len(t.last) <= limit {
		return 0
	}
	all := make([]uint64, 0, len(t.last))
	for _, generation := range t.last {
		all = append(all, generation)
	}
	slices.Sort(all)
	return all[len(all)/2]
}
