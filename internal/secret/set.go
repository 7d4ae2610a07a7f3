package secret

import (
	"context"
	"errors"
	"slices"
	"strings"
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
type use struct {
	last atomic.Int64 // unix milliseconds, 0 for never
	end  atomic.Int64 // RetireAt as it was set last, in unix nanoseconds, 0 for never
}

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

	faultMu sync.Mutex // guards what follows
	faultOf *Snapshot
	faults  []string
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
		v.use.end.Store(0)
		if !v.RetireAt.IsZero() {
			v.use.end.Store(v.RetireAt.UnixNano())
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

// Fault is why versions that are in force cannot be used, as those who use the set have found; nil if
// they have found nothing.
func (s *Set) Fault() error {
	now := s.Current()
	s.faultMu.Lock()
	defer s.faultMu.Unlock()
	if s.faultOf != now || len(s.faults) == 0 {
		return nil
	}
	return errors.New(strings.Join(s.faults, "; "))
}

// fault notes why versions of a snapshot cannot be used.
func (s *Set) fault(of *Snapshot, err error) {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	s.faultMu.Lock()
	defer s.faultMu.Unlock()
	if s.faultOf != of {
		s.faultOf, s.faults = of, nil
	}
	if !slices.Contains(s.faults, text) {
		s.faults = append(s.faults, text)
	}
}

// Derived keeps what is made of a set's versions, such as parsed keys, and makes it anew when they
// change. A version of which nothing can be made is left out. If nothing can be made of any, what was
// made last stays in force, without the versions whose end has come since. The zero value is not
// ready: set Make.
type Derived[T any] struct {
	Set *Set
	// Make must not call the Derived's own methods. It is called again with fewer versions if it fails.
	Make func(*Snapshot) (T, error)
	// Failed, if it is set, is told once of each snapshot of which a version cannot be used. The set's
	// Fault says the same.
	Failed func(error)

	state atomic.Pointer[derived[T]]
	mu    sync.Mutex
}

type derived[T any] struct {
	of    *Snapshot
	from  []Version // what value is made of
	until int64     // unix nanoseconds: one of from, which is not in the set any more, ends then; 0 for never
	value T
	err   error // there is no value
}

func (s *derived[T]) serves(snap *Snapshot, now func() time.Time) bool {
	return s != nil && s.of == snap && (s.until == 0 || now().UnixNano() < s.until)
}

// Get is what is made of the versions in force. The error is Make's, if nothing could be made of any
// version that is in force.
func (d *Derived[T]) Get() (T, error) {
	snap := d.Set.Current()
	if s := d.state.Load(); s.serves(snap, d.Set.now) {
		return s.value, s.err
	}
	return d.renew(snap)
}

func (d *Derived[T]) renew(snap *Snapshot) (T, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.state.Load()
	if !s.serves(snap, d.Set.now) {
		s = d.next(snap, s)
		d.state.Store(s)
	}
	return s.value, s.err
}

func (d *Derived[T]) next(snap *Snapshot, last *derived[T]) *derived[T] {
	value, err := d.Make(snap)
	if err == nil {
		return &derived[T]{of: snap, from: snap.Versions, value: value}
	}
	good := new(Snapshot)
	if len(snap.Versions)+len(snap.Coming) > 1 {
		var bad []error
		good.Versions, bad = d.sift(snap.Versions, nil)
		good.Coming, bad = d.sift(snap.Coming, bad)
		if len(bad) > 0 {
			err = errors.Join(bad...)
		}
	}
	d.Set.fault(snap, err)
	if d.Failed != nil && (last == nil || last.of != snap) {
		d.Failed(err)
	}
	if len(good.Versions) > 0 {
		if value, e := d.Make(good); e == nil {
			return &derived[T]{of: snap, from: good.Versions, value: value}
		}
	}
	return d.keep(snap, last, err)
}

// sift gives the versions of which something can be made, and adds why it cannot of the others.
func (d *Derived[T]) sift(versions []Version, errs []error) (good []Version, bad []error) {
	for _, v := range versions {
		if _, err := d.Make(&Snapshot{Versions: []Version{v}}); err != nil {
			errs = append(errs, err)
			continue
		}
		good = append(good, v)
	}
	return good, errs
}

// keep is what was made last, of those versions whose end has not come.
func (d *Derived[T]) keep(snap *Snapshot, last *derived[T], err error) *derived[T] {
	next := &derived[T]{of: snap, err: err}
	if last == nil {
		return next
	}
	now := d.Set.now().UnixNano()
	for _, v := range last.from {
		end := v.use.end.Load()
		if end != 0 && now >= end || slices.ContainsFunc(snap.Coming, func(c Version) bool { return c.Value.Equal(v.Value) }) {
			continue
		}
		next.from = append(next.from, v)
		if end != 0 && (next.until == 0 || end < next.until) {
			next.until = end
		}
	}
	switch len(next.from) {
	case 0:
	case len(last.from):
		next.value, next.err = last.value, nil
	default:
		if value, e := d.Make(&Snapshot{Versions: next.from}); e == nil {
			next.value, next.err = value, nil
		}
	}
	return next
}
