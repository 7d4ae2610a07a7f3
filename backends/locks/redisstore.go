package locks

import (
	"cmp"
	"context"
	_ "embed" // for the script
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/redisconn"
)

//go:embed lock.lua
var lockScript string

var lockRun = redis.NewScript(lockScript)

const (
	// redisDeadline bounds each step, and redisAttempt each of its attempts. A step that is done twice does
	// the same as once.
	redisDeadline, redisAttempt = time.Second, 250 * time.Millisecond
	// shards is over how many slots of a Cluster the locks are spread. All that is kept of one lock is in one
	// slot. The number is part of what stands in Redis: instances that differ in it do not share their locks.
	shards = 16
	// chunk is how many locks one step of a list or of pruning looks at.
	chunk = 1000
)

// RedisStore keeps locks in Redis, for all instances that use it. It goes by Redis's clock, so those of
// the instances do not matter. Every step is one script on one server.
//
// It is as durable as Redis is: after a crash without appendfsync always, or a failover, locks of the
// last moments may be gone, and then two may hold one. Their fences tell them apart: a fence is never less
// than Redis's clock in microseconds, so it does not go back either, unless that clock does as well.
type RedisStore struct{ conn *redisconn.Conn }

// NewRedisStore is the store over conn, which the caller keeps open.
func NewRedisStore(conn *redisconn.Conn) *RedisStore { return &RedisStore{conn} }

// Acquire implements Store. It does not use now.
func (s *RedisStore) Acquire(ctx context.Context, name, owner string, _ time.Time, ttl time.Duration) (Lock, error) {
	return s.step(ctx, name, "acquire", name, owner, ttl.Milliseconds())
}

// Renew implements Store. It does not use now.
func (s *RedisStore) Renew(ctx context.Context, name, owner string, _ time.Time, ttl time.Duration) (Lock, error) {
	return s.step(ctx, name, "renew", name, owner, ttl.Milliseconds())
}

// Release implements Store. It does not use now.
func (s *RedisStore) Release(ctx context.Context, name, owner string, _ time.Time) (Lock, error) {
	return s.step(ctx, name, "release", name, owner)
}

// Get implements Store. It does not use now.
func (s *RedisStore) Get(ctx context.Context, name string, _ time.Time) (Lock, error) {
	return s.step(ctx, name, "get", name)
}

// List implements Store. It does not use now. Two locks of different slots may have one fence; a page
// that ends between them leaves the second out.
func (s *RedisStore) List(ctx context.Context, after int64, limit int, _ time.Time) ([]Lock, error) {
	var all []Lock
	for shard := range shards {
		found := 0
		err := s.walk(ctx, shard, "list", after, limit, func(l Lock) bool {
			all = append(all, l)
			found++
			return found < limit
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(all, func(a, b Lock) int { return cmp.Compare(a.Fence, b.Fence) })
	return all[:min(limit, len(all))], nil
}

// Prune implements Store. It does not use now.
func (s *RedisStore) Prune(ctx context.Context, _ time.Time) error {
	for shard := range shards {
		if err := s.walk(ctx, shard, "prune", 0, chunk, nil); err != nil {
			return err
		}
	}
	return nil
}

// walk goes through a shard by fence, in chunks of at most n, and hands each lock to yield until that is false.
func (s *RedisStore) walk(ctx context.Context, shard int, verb string, after int64, n int, yield func(Lock) bool) error {
	for {
		words, err := s.run(ctx, shard, verb, after, min(n, chunk))
		if err != nil {
			return err
		}
		if len(words)%3 != 1 {
			return s.failed(fmt.Errorf("the reply is not understood: %.200q", words))
		}
		for rest := words[1:]; len(rest) > 0; rest = rest[3:] {
			l, err := parseLock(rest[0], rest[1], rest[2])
			if err != nil {
				return s.failed(err)
			}
			if !yield(l) {
				return nil
			}
		}
		if words[0] == "" {
			return nil
		}
		if after, err = strconv.ParseInt(words[0], 10, 64); err != nil {
			return s.failed(err)
		}
	}
}

// step is one of the steps on a lock.
func (s *RedisStore) step(ctx context.Context, name string, args ...any) (Lock, error) {
	words, err := s.run(ctx, shardOf(name), args...)
	if err != nil {
		return Lock{}, err
	}
	if len(words) != 3 {
		return Lock{}, s.failed(fmt.Errorf("the reply is not understood: %.200q", words))
	}
	if words[0] == "free" {
		return Lock{}, ErrNotHeld
	}
	l, err := parseLock(name, words[1], words[2])
	switch {
	case err != nil:
		return Lock{}, s.failed(err)
	case words[0] == "held":
		return l, ErrHeld
	}
	return l, nil
}

func (s *RedisStore) run(ctx context.Context, shard int, args ...any) ([]string, error) {
	end := time.Now().Add(redisDeadline)
	for attempt := 0; ; attempt++ {
		if attempt == 1 {
			args = append(args, "again")
		}
		step, cancel := context.WithTimeout(ctx, redisAttempt)
		words, err := lockRun.Run(step, s.conn.Client(), keysOf(shard), args...).StringSlice()
		cancel()
		if err == nil {
			return words, nil
		}
		s.conn.ReloadState(ctx)
		pause := 20*time.Millisecond + rand.N(30*time.Millisecond)
		if time.Until(end) < pause {
			return nil, s.failed(err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, fmt.Errorf("asking redis: %w", ctx.Err())
		}
	}
}

// failed is the error for a Redis that cannot answer now.
func (*RedisStore) failed(cause error) error {
	return (&problem.Error{
		Code: problem.Unavailable, Detail: "Redis, which keeps the locks, does not answer right now.", RetryAfter: time.Second,
	}).Because(fmt.Errorf("asking redis: %w", cause))
}

func shardOf(name string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return int(h.Sum32() % shards)
}

// keysOf are the keys of a shard, which what stands in braces puts into one slot.
func keysOf(shard int) []string {
	tag := fmt.Sprintf("gatehouse:locks:{%02d}", shard)
	return []string{tag, tag + ":order", tag + ":fence"}
}

func parseLock(name, fence, ends string) (Lock, error) {
	f, err1 := strconv.ParseInt(fence, 10, 64)
	ms, err2 := strconv.ParseInt(ends, 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return Lock{}, fmt.Errorf("the reply is not understood: %w", err)
	}
	return Lock{Name: name, Fence: f, ExpiresAt: fromMilli(ms)}, nil
}

// Interface guards
var _ Store = (*RedisStore)(nil)
