package cache

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/maypok86/otter/v2"
)

// readTime bounds one read of the disk level, which several callers may wait for.
const readTime = 5 * time.Second

// tooLarge carries an item past the memory level, which has no room for it.
type tooLarge struct{ it *item }

func (*tooLarge) Error() string { return "the value is too large for the memory level" }

// good says whether the item may be used at now.
func (st *State) good(it *item, now time.Time) bool {
	return now.Before(it.expires) && st.tags.valid(&it.Stamp)
}

// lookup is the valid value of key and the level that had it, or nil. One that only the disk level
// had is brought into memory, unless the key is written meanwhile.
func (st *State) lookup(ctx context.Context, key string) (it *item, level string, err error) {
	if st.shared() {
		it, err = st.read(ctx, st.db.Read, key, time.Now())
		return it, "disk", err
	}
	u := URL{Path: key}
	now := time.Now()
	if o, ok := st.mem.GetIfPresent(u); ok {
		if it = o.(*item); st.good(it, now) {
			return it, "memory", nil
		}
		st.mem.ComputeIfPresent(u, func(old Object) (Object, otter.ComputeOp) {
			if old == o {
				return nil, otter.InvalidateOp
			}
			return nil, otter.CancelOp
		})
	}
	o, err := st.mem.Get(ctx, u, otter.LoaderFunc[URL, Object](st.loadItem))
	large, isLarge := errors.AsType[*tooLarge](err)
	switch {
	case isLarge:
		it = large.it
	case errors.Is(err, otter.ErrNotFound):
		return nil, "", nil
	case err != nil:
		return nil, "", err
	default:
		it = o.(*item)
	}
	if !st.good(it, now) {
		return nil, "", nil
	}
	return it, "disk", nil
}

func (st *State) loadItem(ctx context.Context, u URL) (Object, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTime)
	defer cancel()
	it, err := st.read(ctx, st.db.Read, u.Path, time.Now())
	switch {
	case err != nil:
		return nil, err
	case it == nil:
		return nil, otter.ErrNotFound
	case !st.fits(it):
		return nil, &tooLarge{it}
	}
	return it, nil
}

// fits says whether the memory level has room for the item.
func (st *State) fits(it *item) bool {
	return uint64(it.Weight()) <= st.mem.GetMaximum()/objectShare
}

// save writes the item durably, then to memory, and says whether the key had no valid value before.
// A fill gives allowed, which is asked last of all; if it says no, nothing is written. A client's own
// value has none, and what is being fetched for the key meanwhile will not replace it. With create nothing
// is written where the key has a valid value.
func (st *State) save(key string, it *item, create bool, allowed func() bool) (saved, isNew bool, err error) {
	stored, err := st.db.Reserve(1, len(it.value))
	if err != nil {
		return false, false, err
	}
	defer stored()
	u := URL{Path: key}
	err = st.write(func(ctx context.Context, tx *sql.Tx) (err error) {
		if saved = allowed == nil || allowed(); !saved {
			return nil
		}
		if create {
			old, err := st.read(ctx, tx, key, time.Now())
			if err != nil || old != nil {
				saved = false
				return err
			}
		}
		if allowed == nil {
			st.fences.bump(u)
		} else if saved, err = st.unbeaten(ctx, tx, key, it, time.Now()); err != nil || !saved {
			return err
		}
		isNew, err = st.put(ctx, tx, key, it, time.Now())
		return err
	}, func() {
		switch {
		case !saved || st.shared():
		case st.fits(it):
			st.mem.Set(u, it)
		default:
			st.mem.Invalidate(u)
		}
	})
	return saved, isNew, err
}

// drop deletes the values of the keys and invalidates the tags, durably and at once.
func (st *State) drop(keys, tags []string) error {
	var generation uint64
	merged := tags
	return st.write(func(ctx context.Context, tx *sql.Tx) (err error) {
		for _, key := range keys {
			st.fences.bump(URL{Path: key})
			if err = st.remove(ctx, tx, key); err != nil {
				return err
			}
		}
		if len(tags) > 0 || st.shared() {
			if merged, err = st.merge(ctx, tx, tags); err != nil {
				return err
			}
			generation, err = st.invalidate(ctx, tx, keys, merged)
		}
		return err
	}, func() {
		for _, key := range keys {
			st.mem.Invalidate(URL{Path: key})
		}
		if len(tags) > 0 {
			st.tags.publish(merged, generation)
		}
	})
}
