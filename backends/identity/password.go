package identity

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/alexedwards/argon2id"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

const (
	// MinPassword is the least number of characters of a new password.
	MinPassword = 8
	// MaxPassword is the greatest number of bytes of a password.
	MaxPassword = 1024

	hashesAtOnce = 2
	hashQueue    = 32
	hashWait     = 2 * time.Second
)

// hashParams cost about 20 ms and 19 MiB a hash. They do not depend on the machine, so that a
// database can move.
var hashParams = &argon2id.Params{Memory: 19 << 10, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}

// HashPassword is the argon2id hash of a password as it is stored.
func HashPassword(password string) (string, error) { return hashPassword(password, hashParams) }

func hashPassword(password string, cost *argon2id.Params) (string, error) {
	hash, err := argon2id.CreateHash(password, cost)
	if err != nil {
		return "", fmt.Errorf("hashing the password: %w", err)
	}
	return hash, nil
}

// hashPool bounds the work and the memory that logins cost: two hashes at once, and at most 32
// logins that wait for their turn, at most 2 s each.
type hashPool struct {
	slots   chan struct{}
	waiting atomic.Int32
	cost    *argon2id.Params
	// dummy is compared with where there is no user, so that the answer takes as long.
	dummy string
}

// newHashPool makes a pool whose new hashes cost what is given, or as hashParams for nil.
func newHashPool(cost *argon2id.Params) *hashPool {
	if cost == nil {
		cost = hashParams
	}
	return &hashPool{
		slots: make(chan struct{}, hashesAtOnce),
		cost:  cost,
		dummy: fmt.Sprintf("$argon2id$v=19$m=%d,t=%d,p=%d$Z2F0ZWhvdXNlIGR1bW15IQ$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY",
			cost.Memory, cost.Iterations, cost.Parallelism),
	}
}

// check says whether the password has the hash, and whether the hash has other parameters than
// new ones. Where the pool is full it fails with unavailable.
func (p *hashPool) check(ctx context.Context, password, hash string) (match, outdated bool, err error) {
	if err = p.enter(ctx); err != nil {
		return false, false, err
	}
	defer func() { <-p.slots }()
	match, params, err := argon2id.CheckHash(password, hash)
	if err != nil {
		return false, false, fmt.Errorf("reading a password hash: %w", err)
	}
	return match, *params != *p.cost, nil
}

// hash is the hash of a new password, in its turn.
func (p *hashPool) hash(ctx context.Context, password string) (string, error) {
	if err := p.enter(ctx); err != nil {
		return "", err
	}
	defer func() { <-p.slots }()
	return hashPassword(password, p.cost)
}

// enter waits for a slot. The caller gives it back.
func (p *hashPool) enter(ctx context.Context) error {
	select {
	case p.slots <- struct{}{}:
		return nil
	default:
	}
	if p.waiting.Add(1) > hashQueue {
		p.waiting.Add(-1)
		return busy()
	}
	defer p.waiting.Add(-1)
	late := time.NewTimer(hashWait)
	defer late.Stop()
	select {
	case p.slots <- struct{}{}:
		return nil
	case <-late.C:
		return busy()
	case <-ctx.Done():
		return ctx.Err()
	}
}

func busy() error {
	return &problem.Error{Code: problem.Unavailable, Detail: "Too many logins are under way, try again in a second.", RetryAfter: time.Second}
}
