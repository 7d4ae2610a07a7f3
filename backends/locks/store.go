package locks

import (
	"context"
	"errors"
	"time"
)

// Lock is a lock that is held.
type Lock struct {
	Name      string
	Fence     int64
	ExpiresAt time.Time
}

var (
	// ErrHeld says that another owner holds the lock. It comes with that lock.
	ErrHeld = errors.New("the lock is held by another owner")
	// ErrNotHeld says that nobody holds the lock: never acquired, released or expired.
	ErrNotHeld = errors.New("the lock is not held")
)

// Store keeps locks. Every method is one atomic step, and what it did is on disk when it returns, as
// far as the store can have it there. A lock is held while now is before its ExpiresAt; now is the
// caller's clock, and all callers must share one, unless the store goes by a clock of its own. owner
// is the caller's proof of ownership, compared as it is.
type Store interface {
	// Acquire makes owner hold the lock until now+ttl, with a fence greater than every fence that
	// the store has given out. It returns ErrHeld and the other lock while one is held, by the same
	// owner too.
	Acquire(ctx context.Context, name, owner string, now time.Time, ttl time.Duration) (Lock, error)
	// Renew moves the end of owner's lock to now+ttl. It returns ErrHeld and the other lock, or ErrNotHeld.
	Renew(ctx context.Context, name, owner string, now time.Time, ttl time.Duration) (Lock, error)
	// Release ends owner's lock. It returns ErrHeld and the other lock, or ErrNotHeld.
	Release(ctx context.Context, name, owner string, now time.Time) (Lock, error)
	// Get is the lock of that name, or ErrNotHeld.
	Get(ctx context.Context, name string, now time.Time) (Lock, error)
	// List is at most limit held locks with a fence greater than after, by fence.
	List(ctx context.Context, after int64, limit int, now time.Time) ([]Lock, error)
	// Prune forgets locks that have expired, but never the last fence.
	Prune(ctx context.Context, now time.Time) error
}
