package source

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	// settle is how long is waited after an event before the source is read: a change is several events.
	settle = 50 * time.Millisecond
	// firstRetry is when a failed read is tried again first; then twice as late each time, until it is
	// as late as a poll.
	firstRetry = time.Second
)

// watch keeps the set up to date until ctx ends.
func (k *keeper) watch(ctx context.Context) {
	w := &watcher{k: k, changed: make(chan struct{}, 1)}
	defer events.leave(w)
	failures := 0
	read := func() time.Duration {
		events.follow(w)
		if k.read(ctx) != nil {
			failures++
		} else {
			failures = 0
		}
		return k.wait(failures)
	}
	first := k.wait(0)
	if !k.remote { // which its start has just read
		first = read() // what changed before the watch began
	}
	next := time.NewTimer(first)
	defer next.Stop()
	var soon <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.changed:
			if soon == nil {
				soon = time.After(settle)
			}
		case <-soon:
			soon = nil
			next.Reset(read())
		case <-next.C:
			next.Reset(read())
		}
	}
}

// wait is when the source is read next: instances that started together do not ask together.
func (k *keeper) wait(failures int) time.Duration {
	d := k.poll
	if failures > 0 {
		d = min(d, firstRetry<<min(failures-1, 6))
	}
	return d - time.Duration(rand.Int64N(int64(d)/5+1))
}
