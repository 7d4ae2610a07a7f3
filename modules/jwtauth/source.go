package jwtauth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

// source gives the keys in force. It is safe for concurrent use.
type source interface {
	// current is the set in force, or nil where there is none yet. It never waits.
	current(now time.Time) *keySet
	// load is current, and waits where there is none yet. Its error is a refusal.
	load(ctx context.Context, now time.Time) (*keySet, error)
	// newer looks for a set that is newer than old, for the sake of a token that old does not verify. It
	// returns old where there is none. Its error is a refusal: it could not look, so that the key may be
	// there by now.
	newer(ctx context.Context, now time.Time, old *keySet, why doubt) (*keySet, error)
	// fetched is when the set in force came from elsewhere; the zero time where it is always at hand.
	fetched() time.Time
}

// doubt is why a newer set is looked for.
type doubt int

const (
	unknownKid     doubt = iota // no key has the token's kid
	otherSignature              // a key has it, or the token has none, and the signature is another one's
)

// fixed is a source whose keys never change.
type fixed struct{ set *keySet }

func (f fixed) current(time.Time) *keySet                        { return f.set }
func (f fixed) load(context.Context, time.Time) (*keySet, error) { return f.set, nil }
func (f fixed) newer(_ context.Context, _ time.Time, old *keySet, _ doubt) (*keySet, error) {
	return old, nil
}
func (f fixed) fetched() time.Time { return time.Time{} }

// atHand are the keys of a source that the configuration itself has, a file or a secret; nil for other sources.
func atHand(s source) *keySet {
	switch s := s.(type) {
	case fixed:
		return s.set
	case *file:
		return s.set.Load()
	case *secretKeys:
		return s.current(time.Now())
	}
	return nil
}

var errNoVersion = errors.New("the secret has no version that is in force")

// secretKeys are the versions of a secret set, all of which verify. They are others as soon as the set is.
type secretKeys struct{ keys *secret.Derived[*keySet] }

// newSecretKeys refuses versions that cannot be used. A set that has not been read yet is empty;
// failed is told of versions that come later and cannot be used.
func newSecretKeys(set *secret.Set, failed func(error)) (*secretKeys, error) {
	if _, err := keysOfVersions(set.Name, set.Current()); err != nil {
		return nil, err
	}
	return &secretKeys{&secret.Derived[*keySet]{Set: set, Failed: failed, Make: func(s *secret.Snapshot) (*keySet, error) {
		return keysOfVersions(set.Name, s)
	}}}, nil
}

func keysOfVersions(name string, s *secret.Snapshot) (*keySet, error) {
	keys := new(keySet)
	for _, v := range s.Versions {
		k, err := parseSecret(v.Value.Reveal())
		if err != nil {
			return nil, fmt.Errorf("the secret %s (%s) cannot be used: %w", name, v.Label, err)
		}
		k.label, k.used = v.Label, v.Used
		keys.keys = append(keys.keys, k)
	}
	return keys.counted("secret:" + name), nil
}

func (s *secretKeys) current(time.Time) *keySet {
	set, err := s.keys.Get()
	if err != nil || len(set.keys) == 0 {
		return nil
	}
	return set
}

func (s *secretKeys) load(_ context.Context, now time.Time) (*keySet, error) {
	if set := s.current(now); set != nil {
		return set, nil
	}
	_, err := s.keys.Get()
	if err == nil {
		err = errNoVersion
	}
	return nil, unavailable(0, err)
}

func (s *secretKeys) newer(_ context.Context, now time.Time, old *keySet, _ doubt) (*keySet, error) {
	return cmp.Or(s.current(now), old), nil
}

func (s *secretKeys) fetched() time.Time { return time.Time{} }

// tokenIssuer is what jwt_auth needs of the identity backend for its keys.
type tokenIssuer interface {
	// TokenIssuer and TokenAudience are the iss and the aud of its tokens.
	TokenIssuer() string
	TokenAudience() string
	// VerificationKeys yields the kid, the alg and the key itself of each key in force.
	VerificationKeys(yield func(kid, alg string, key any))
	// KeysGeneration is another number whenever VerificationKeys would yield other keys.
	KeysGeneration() uint64
	// KeyUsed says that the key of this kid has verified a token.
	KeyUsed(kid string, now time.Time)
}

// bundled are the keys of the identity backend.
type bundled struct {
	get    func(context.Context) (tokenIssuer, error)
	issuer atomic.Pointer[tokenIssuer] // nil until get has given it
	state  atomic.Pointer[generation]
	mu     sync.Mutex
}

type generation struct {
	number uint64
	set    *keySet // nil if its keys cannot be used
	err    error
}

// keys are those of the generation in force.
func (b *bundled) keys(i tokenIssuer) *generation {
	number := i.KeysGeneration()
	if g := b.state.Load(); g != nil && g.number == number {
		return g
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if g := b.state.Load(); g != nil && g.number == number {
		return g
	}
	set, err := keysOf(i)
	if err == nil && len(set.keys) == 0 {
		set, err = nil, errors.New("the identity backend has no key yet")
	}
	g := &generation{number, set, err}
	b.state.Store(g)
	return g
}

func (b *bundled) current(time.Time) *keySet {
	i := b.issuer.Load()
	if i == nil {
		return nil
	}
	return b.keys(*i).set
}

func (b *bundled) load(ctx context.Context, _ time.Time) (*keySet, error) {
	i := b.issuer.Load()
	if i == nil {
		issuer, err := b.get(ctx)
		if err != nil {
			return nil, unavailable(0, err)
		}
		i = &issuer
		b.issuer.Store(i)
	}
	g := b.keys(*i)
	if g.set == nil {
		return nil, unavailable(0, g.err)
	}
	return g.set, nil
}

func (b *bundled) newer(_ context.Context, now time.Time, old *keySet, _ doubt) (*keySet, error) {
	return cmp.Or(b.current(now), old), nil
}

func (b *bundled) fetched() time.Time { return time.Time{} }

// keysOf are the keys of the identity backend.
func keysOf(i tokenIssuer) (*keySet, error) {
	set := &keySet{issuer: i.TokenIssuer(), audience: []string{i.TokenAudience()}}
	var failed error
	i.VerificationKeys(func(kid, alg string, raw any) {
		k, err := newKey(kid, alg, raw)
		if err != nil {
			failed = errors.Join(failed, err)
			return
		}
		k.used = func(now time.Time) { i.KeyUsed(kid, now) }
		set.keys = append(set.keys, k)
	})
	if failed != nil {
		return nil, fmt.Errorf("reading the keys of the identity backend: %w", failed)
	}
	return set.counted("identity"), nil
}
