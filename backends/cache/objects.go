package cache

import (
	"slices"

	"github.com/maypok86/otter/v2"
)

// This file is what the directive http_cache uses: the memory level as a store of immutable
// objects by URL. They share the budget of Config.Memory with the values of the API, are invalidated
// by the same tags, and end with the process.

// Mark is the moment at which the making of an object began. What is invalidated after it, by URL
// or by tag, is not stored or not found.
type Mark struct{ fence, born uint64 }

// Mark is to be taken before the origin is asked.
func (s *Service) Mark(u URL) Mark { return s.state.mark(u) }

// NewStamp is what an object with these tags must keep, to be asked about with Valid.
func (s *Service) NewStamp(m Mark, tags []string) *Stamp {
	return &Stamp{tags: slices.Clone(tags), born: m.born}
}

// Valid says whether none of the stamp's tags was invalidated since its mark.
func (s *Service) Valid(stamp *Stamp) bool { return s.state.tags.valid(stamp) }

// Load is the object at u. It does not know how long the object is good for.
func (s *Service) Load(u URL) (Object, bool) { return s.state.mem.GetIfPresent(u) }

// Store replaces the object at u by what merge makes of it; old is nil where there is none, and nil
// leaves things as they are. merge must not call the cache. It returns false, without calling merge,
// if u was forgotten after the mark.
func (s *Service) Store(u URL, m Mark, merge func(old Object) Object) bool {
	stripe := s.state.fences.stripe(u)
	stripe.Lock()
	defer stripe.Unlock()
	if stripe.count != m.fence {
		return false
	}
	_, stored := s.state.mem.Compute(u, func(old Object, _ bool) (Object, otter.ComputeOp) {
		if o := merge(old); o != nil {
			return o, otter.WriteOp
		}
		return nil, otter.CancelOp
	})
	return stored
}

// Forget drops the object at u, and what is being made for it will not be stored.
func (s *Service) Forget(u URL) {
	stripe := s.state.fences.stripe(u)
	stripe.Lock()
	defer stripe.Unlock()
	stripe.count++
	s.state.mem.Invalidate(u)
}

// MaxObject is the size above which an object should not be stored: 1/64 of the memory.
func (s *Service) MaxObject() int { return int(s.state.mem.GetMaximum() / objectShare) }

// Reserve takes n bytes for an object in the making, out of a quarter of the memory; false says that
// so many are being made that this one should not be.
func (s *Service) Reserve(n int) bool {
	if s.state.making.Add(int64(n)) <= int64(s.state.mem.GetMaximum()/4) {
		return true
	}
	s.Release(n)
	return false
}

// Release gives reserved bytes back.
func (s *Service) Release(n int) { s.state.making.Add(-int64(n)) }
