package secret

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Version is one value of a set. Label says where it comes from; it is not secret.
type Version struct {
	Label string
	Value Value
	// ActiveFrom is when the version begins to sign and to verify; the zero time is always.
	ActiveFrom time.Time
	// RetireAt is when it ends to do either; the zero time is never.
	RetireAt time.Time

	use *use
}

// use is what is remembered of a version's value, across the reads of its source.
type use struct{ last atomic.Int64 } // unix milliseconds, 0 for never

// Used says that the version has just verified or signed something.
func (v Version) Used(now time.Time) {
	if v.use == nil {
		return
	}
	// A write for each request would make all processors fetch the same line of memory.
	if ms := now.UnixMilli(); ms-v.use.last.Load() >= 1000 {
		v.use.last.Store(ms)
	}
}

// LastUsed is when the version was last used in this process, to the second; the zero time is never.
func (v Version) LastUsed() time.Time {
	if v.use == nil || v.use.last.Load() == 0 {
		return time.Time{}
	}
	return time.UnixMilli(v.use.last.Load()).UTC()
}

func (v Version) active(now time.Time) bool {
	return !now.Before(v.ActiveFrom) && (v.RetireAt.IsZero() || now.Before(v.RetireAt))
}

// Snapshot is what a set holds at one time. It never changes; a set that has not changed gives the
// same pointer again.
type Snapshot struct {
	// Versions are the active ones, newest first: any of them verifies, the first signs. Empty for a
	// set that has not been read yet, or whose versions are all retired or yet to come.
	Versions []Version
	// Coming are those whose time is yet to come, soonest first. A set of public keys shows them
	// beforehand.
	Coming []Version

	until int64 // unix nanoseconds: the versions are others from then on; 0 for never
}

// Newest is the version that signs; ok is false if there is none.
func (s *Snapshot) Newest() (v Version, ok bool) {
	if len(s.Versions) == 0 {
		return Version{}, false
	}
	return s.Versions[0], true
}

// Set is a named secret with its versions. It changes while it lives, when its source does and when
// the time of a version comes or ends. It is safe for concurrent use.
type Set struct {
	Name string
	// Reread reads the source of the set again, and returns when that is done or ctx ends. It is set
	// before the set is shared, and nil for a set that is what it is.
	Reread func(ctx context.Context) error `json:"-"`

	now      func() time.Time
	snapshot atomic.Pointer[Snapshot]

	mu  sync.Mutex // guards all, and the making of snapshots
	all []Version
}

// NewSet is a set of the given versions, newest first.
func NewSet(name string, versions ...Version) *Set {
	s := &Set{Name: name, now: time.Now}
	s.Replace(versions)
	return s
}

// Current is what the set holds now.
func (s *Set) Current() *Snapshot {
	snap := s.snapshot.Load()
	if snap.until == 0 || s.now().UnixNano() < snap.until {
		return snap
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if snap = s.snapshot.Load(); snap.until != 0 && s.now().UnixNano() >= snap.until {
		snap = snapshotOf(s.all, s.now())
		s.snapshot.Store(snap)
	}
	return snap
}

// Versions are the active versions, newest first. Callers must not change the slice.
func (s *Set) Versions() []Version { return s.Current().Versions }

// Newest is the version that signs, the zero Version if none is active.
func (s *Set) Newest() Version {
	v, _ := s.Current().Newest()
	return v
}

// Refresh has the source read again, for a user of the set whose value was refused: it may have been
// replaced a moment ago. It returns when that is done, or ctx ends; what the set holds then is in
// Current. Sources are asked once a second at most.
func (s *Set) Refresh(ctx context.Context) error {
	if s.Reread == nil {
		return nil
	}
	return s.Reread(ctx)
}

// Replace gives the set other versions, newest first. A value that was there before keeps its use.
// The same versions again change nothing.
func (s *Set) Replace(versions []Version) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.snapshot.Load() != nil && slices.EqualFunc(s.all, versions, same) {
		return
	}
	versions = slices.Clone(versions)
	for i := range versions {
		v := &versions[i]
		if old := slices.IndexFunc(s.all, func(o Version) bool { return o.Value.Equal(v.Value) }); old >= 0 {
			v.use = s.all[old].use
		}
		if v.use == nil {
			v.use = new(use)
		}
	}
	s.all = versions
	s.snapshot.Store(snapshotOf(versions, s.now()))
}

func same(a, b Version) bool {
	return a.Label == b.Label && a.ActiveFrom.Equal(b.ActiveFrom) && a.RetireAt.Equal(b.RetireAt) && a.Value.Equal(b.Value)
}

// snapshotOf sorts out what is active. The order of the list stays.
func snapshotOf(all []Version, now time.Time) *Snapshot {
	snap := new(Snapshot)
	change := func(t time.Time) {
		if n := t.UnixNano(); !t.IsZero() && now.Before(t) && (snap.until == 0 || n < snap.until) {
			snap.until = n
		}
	}
	for _, v := range all {
		change(v.ActiveFrom)
		change(v.RetireAt)
		switch {
		case v.active(now):
			snap.Versions = append(snap.Versions, v)
		case now.Before(v.ActiveFrom):
			snap.Coming = append(snap.Coming, v)
		}
	}
	slices.SortStableFunc(snap.Coming, func(a, b Version) int { return a.ActiveFrom.Compare(b.ActiveFrom) })
	return snap
}

// Derived keeps what is made of a set's versions, such as parsed keys, and makes it anew when they
// change. If that fails, what was made last stays in force. The zero value is not ready: set Make.
type Derived[T any] struct {
	Set *Set
	// Make must not call the Derived's own methods.
	Make func(*Snapshot) (T, error)
	// Failed, if it is set, is told once of each snapshot that cannot be used.
	Failed func(error)

	state atomic.Pointer[derived[T]]
	mu    sync.Mutex
}

type derived[T any] struct {
	of    *Snapshot
	value T
	err   error // there has never been a value
}

// Get is what is made of the versions in force. The error is Make's, if it has never succeeded.
func (d *Derived[T]) Get() (T, error) {
	snap := d.Set.Current()
	if s := d.state.Load(); s != nil && s.of == snap {
		return s.value, s.err
	}
	return d.renew(snap)
}

func (d *Derived[T]) renew(snap *Snapshot) (T, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	last := d.state.Load()
	if last != nil && last.of == snap {
		return last.value, last.err
	}
	value, err := d.Make(snap)
	next := &derived[T]{snap, value, err}
	if err != nil {
		if d.Failed != nil {
			d.Failed(err)
		}
		if last != nil && last.err == nil {
			next.value, next.err = last.value, nil
		}
	}
	d.state.Store(next)
	return next.value, next.err
}
