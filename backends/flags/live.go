package flags

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// Live is the snapshot that evaluations read. Its zero value is empty and not yet loaded.
type Live struct {
	mu   sync.Mutex // held over a commit and the replacing of the snapshot, so that both have one order
	snap atomic.Pointer[snapshot]
	seen int64 // store.changes before the snapshot was read from the store
}

// snapshot is all flags at one moment. It is never changed, only replaced.
type snapshot struct {
	flags map[string]*Flag
	keys  []string // sorted
}

func newSnapshot(flags map[string]*Flag) *snapshot {
	return &snapshot{flags: flags, keys: slices.Sorted(maps.Keys(flags))}
}

// load reads all flags, once per process.
func (l *Live) load(ctx context.Context, s store) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.snap.Load() != nil {
		return nil
	}
	return l.follow(ctx, s)
}

// catchUp reads the flags again if another instance on the same database has changed one.
func (l *Live) catchUp(ctx context.Context, s store) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.follow(ctx, s)
}

// follow is catchUp; the caller holds l.mu.
func (l *Live) follow(ctx context.Context, s store) error {
	seen, err := s.changes(ctx) // before the flags: what changes in between is seen again, and never missed
	if err != nil || l.snap.Load() != nil && seen == l.seen {
		return err
	}
	flags, err := s.all(ctx)
	if err != nil {
		return err
	}
	l.snap.Store(newSnapshot(flags))
	l.seen = seen
	return nil
}

func (l *Live) flag(key string) *Flag { return l.snap.Load().flags[key] }

// put replaces one flag; the caller holds l.mu.
func (l *Live) put(f *Flag) {
	flags := maps.Clone(l.snap.Load().flags)
	flags[f.Key] = f
	l.snap.Store(newSnapshot(flags))
}

// drop removes one flag; the caller holds l.mu.
func (l *Live) drop(key string) {
	flags := maps.Clone(l.snap.Load().flags)
	delete(flags, key)
	l.snap.Store(newSnapshot(flags))
}
