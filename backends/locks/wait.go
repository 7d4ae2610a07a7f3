package locks

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

const (
	// maxWait is the longest that a request may wait for a lock.
	maxWait = 30 * time.Second
	// pollFirst and pollMost are how long the first of a line lets pass until it asks the store again, as
	// another instance may have released the lock: the time doubles, and up to half of it is left out at random.
	pollFirst, pollMost = 50 * time.Millisecond, 500 * time.Millisecond
	// abandonTime bounds the release of a lock that nobody is left to be given to.
	abandonTime = time.Second
)

// take acquires the lock, and waits for it if it is held, at most that long.
func (s *Service) take(ctx context.Context, name, owner string, ttl, wait time.Duration) (Lock, error) {
	if wait == 0 {
		return s.try(ctx, name, owner, ttl)
	}
	me := s.waiters.join(name)
	if me == nil { // too many wait
		return s.try(ctx, name, owner, ttl)
	}
	defer s.waiters.leave(name, me)
	end, poll := time.NewTimer(wait), time.NewTimer(wait)
	defer end.Stop()
	defer poll.Stop()
	for delay := pollFirst; ; {
		var again <-chan time.Time
		if s.waiters.first(name, me) {
			l, err := s.try(ctx, name, owner, ttl)
			if !errors.Is(err, ErrHeld) {
				return l, err
			}
			poll.Reset(s.until(l, delay))
			again, delay = poll.C, min(2*delay, pollMost)
		}
		select {
		case <-me.wake:
		case <-again:
		case <-end.C:
			return s.try(ctx, name, owner, ttl) // which says who has it
		case <-s.stopping:
			return Lock{}, &problem.Error{Code: problem.Unavailable, Detail: "The server is stopping: ask again.", RetryAfter: time.Second}
		case <-ctx.Done():
			return Lock{}, ctx.Err()
		}
	}
}

// until is when the store is asked again: when the lock of another ends, or after a part of delay.
func (s *Service) until(l Lock, delay time.Duration) time.Duration {
	delay -= rand.N(delay / 2)
	if left := l.ExpiresAt.Sub(s.now()); left > 0 && left < delay {
		return left + time.Millisecond
	}
	return delay
}

// try asks the store once. Where the answer did not come, or nobody is left who could release the lock,
// it is released.
func (s *Service) try(ctx context.Context, name, owner string, ttl time.Duration) (Lock, error) {
	l, err := s.store.Acquire(ctx, name, owner, s.now(), ttl)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil || errors.Is(err, ErrHeld) {
		return l, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonTime)
	defer cancel()
	if _, err := s.store.Release(ctx, name, owner, s.now()); err == nil {
		s.waiters.freed(name)
	}
	return Lock{}, err
}
