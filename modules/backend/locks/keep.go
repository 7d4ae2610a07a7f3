package locks

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// errLost says that a lock is not its owner's any more.
var errLost = errors.New("the lock is lost")

// keeper keeps a lock for its owner.
type keeper struct {
	ttl time.Duration
	// renew makes the lock last for ttl from now. Its error is errLost if the lock is not the owner's any
	// more; all others count as ones that may pass.
	renew func(context.Context) error
}

// margin is how long before its end a lock that cannot be renewed is given up.
func (k keeper) margin() time.Duration { return k.ttl / 6 }

// keep renews the lock after each third of ttl until ctx ends, and returns nil then. It returns errLost as
// soon as the lock has another owner, or none, and when it could not be renewed until the margin. since is
// a moment before the lock's time began.
func (k keeper) keep(ctx context.Context, since time.Time) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	next := since.Add(k.ttl / 3)
	var last error
	for {
		end := since.Add(k.ttl - k.margin())
		timer.Reset(time.Until(earlier(next, end)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
		// After a time in which this process did not run, it is not asked whether the lock is there still.
		asked := time.Now()
		if !asked.Before(end) {
			if last == nil {
				return fmt.Errorf("%w: it was not renewed in time, as if this process had been stopped", errLost)
			}
			return fmt.Errorf("%w: it could not be renewed in time: %w", errLost, last)
		}
		once, cancel := context.WithDeadline(ctx, earlier(end, asked.Add(k.ttl/3)))
		err := k.renew(once)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errLost):
			return err
		case err != nil:
			last, next = err, time.Now().Add(k.ttl/15)
		default:
			last, since, next = nil, asked, asked.Add(k.ttl/3)
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
