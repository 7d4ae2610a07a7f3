// Package identity is the bundled identity backend: users with passwords, sessions that begin with POST
// /login and go on with rotating refresh tokens, signed access tokens, the public keys that verify them,
// and revocation. Its routes and the commands `gatehouse users` and `gatehouse token` work on the same data
// directory.
package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alexedwards/argon2id"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/redisconn"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const (
	// DefaultIssuer is the iss of tokens where the configuration names none.
	DefaultIssuer = "gatehouse"
	// DefaultAudience is the aud of tokens where the configuration names none.
	DefaultAudience = "api"
	// DefaultTTL is how long a token is valid where the configuration does not say.
	DefaultTTL = 24 * time.Hour
	// DefaultRefreshTTL is how long a refresh token is valid where the configuration does not say.
	DefaultRefreshTTL = 30 * 24 * time.Hour
	// MaxTTL is the longest life of a token, and of what is revoked without a time.
	MaxTTL = 366 * 24 * time.Hour
	// KeyName is the name of the generated signing key in the data directory's keys/.
	KeyName = "identity-signing.pem"
)

// Config are the settings of the backend. The zero value is a working default.
type Config struct {
	// Issuer is the iss claim of the tokens. Default: "gatehouse".
	Issuer string `json:"issuer,omitempty"`
	// Audience is the aud claim of the tokens. Default: "api".
	Audience string `json:"audience,omitempty"`
	// TTL is how long an access token is valid, 1s to 366d. Default: 24h.
	TTL unit.Duration `json:"ttl,omitempty"`
	// Secret names the secret set that signs instead of the generated key: a PEM private key (RSA of
	// at least 2048 bits, EC P-256 or Ed25519), or at least 32 raw bytes for HS256. Every version of
	// the set verifies, the newest signs. Default: an Ed25519 key that is generated at the first
	// start and kept in the data directory.
	Secret string `json:"secret,omitempty"`
	// RefreshTTL is how long a refresh token is valid, 1s to 366d. Each refresh gives a new one, which
	// lives as long anew. Default: 30d.
	RefreshTTL unit.Duration `json:"refresh_ttl,omitempty"`
	// RefreshGrace is how long a refresh token may be used again after its first use, up to 5m, for clients
	// that lose the answer or refresh twice at once: it gives the same next one each time, until that is used.
	// Who uses one later ends its session. Default: 0s, at once.
	RefreshGrace unit.Duration `json:"refresh_grace,omitempty"`
	// Attempts is how many logins to one account may fail in a time, over all instances that share the
	// database and over their restarts. A login forgets the account's failures, as does a new password.
	// Default: 10/15m.
	Attempts Attempts `json:"attempts,omitzero"`
	// IPAttempts is how many logins from one client address may fail in a time, over all instances too; of
	// IPv6 a /64 counts as one. Default: 100/15m.
	IPAttempts Attempts `json:"ip_attempts,omitzero"`
	// AdminSecret names the secret set that lets into the admin API over HTTP, as Authorization: Bearer. It must
	// have at least 16 bytes; a shorter version opens nothing. Wrong ones from one client address are limited as in
	// IPAttempts, apart from the logins. Default: none does, only the gateway's admin endpoint.
	AdminSecret string `json:"admin_secret,omitempty"`
}

const maxGrace = 5 * time.Minute

// Validate says what is wrong with the settings.
func (c Config) Validate() error {
	if c.TTL != 0 && (c.TTL.Std() < time.Second || c.TTL.Std() > MaxTTL) {
		return fmt.Errorf("identity: ttl must be from 1s to 366d, not %s", c.TTL)
	}
	if c.RefreshTTL != 0 && (c.RefreshTTL.Std() < time.Second || c.RefreshTTL.Std() > MaxTTL) {
		return fmt.Errorf("identity: refresh_ttl must be from 1s to 366d, not %s", c.RefreshTTL)
	}
	if c.RefreshGrace < 0 || c.RefreshGrace.Std() > maxGrace {
		return fmt.Errorf("identity: refresh_grace must be from 0s to 5m, not %s", c.RefreshGrace)
	}
	if err := c.Attempts.validate(); err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	if err := c.IPAttempts.validate(); err != nil {
		return fmt.Errorf("identity: ip_%w", err)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Issuer == "" {
		c.Issuer = DefaultIssuer
	}
	if c.Audience == "" {
		c.Audience = DefaultAudience
	}
	c.TTL = unit.Duration(c.TTL.Or(DefaultTTL))
	c.RefreshTTL = unit.Duration(c.RefreshTTL.Or(DefaultRefreshTTL))
	c.Attempts = c.Attempts.or(Attempts{10, 15 * time.Minute})
	c.IPAttempts = c.IPAttempts.or(Attempts{100, 15 * time.Minute})
	return c
}

// Open makes the service: it reads or generates the signing key, migrates the tables and reads what is
// revoked.
func (c Config) Open(ctx context.Context, h *service.Host) (service.Service, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	d := Deps{Log: h.Log.With("backend", "identity")}
	var err error
	if d.Keys, err = c.keys(h); err != nil {
		return nil, err
	}
	if c.AdminSecret != "" {
		if d.Admin, err = h.Secret(c.AdminSecret); err != nil {
			return nil, fmt.Errorf("identity: admin_secret: %w", err)
		}
	}
	if h.HasRedis() {
		if d.Redis, err = h.Redis(); err != nil {
			return nil, err
		}
	}
	if d.Users, err = OpenUsers(ctx, h.DB); err != nil {
		return nil, err
	}
	s, err := New(c, d)
	if err != nil {
		return nil, err
	}
	s.attempts.mine = h.Memory("identity.attempts", func() any { return newUnderway() }).(*underway)
	if err = s.revoked.poll(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func (c Config) keys(h *service.Host) (*secret.Set, error) {
	if c.Secret == "" {
		return h.GeneratedKey(KeyName, GenerateKey)
	}
	return h.Secret(c.Secret)
}

// Deps are what the service works with.
type Deps struct {
	// Users is required.
	Users *Users
	// Keys are the signing keys. Required.
	Keys *secret.Set
	// Admin lets into the admin API over HTTP. Each version must have at least 16 bytes. Default: nothing does.
	Admin *secret.Set
	// Redis is where instances that share no database share what is revoked. Default: nowhere.
	Redis *redisconn.Conn
	// Log is required.
	Log *slog.Logger
	// HashCost is what the hash of a password costs; one of another cost is replaced at the next login.
	// Default: that of HashPassword, 19 MiB and two passes, below which nobody should go but tests.
	HashCost *argon2id.Params
	// Now is the clock. Default: time.Now.
	Now func() time.Time
}

// Service is the identity backend. It is safe for concurrent use.
type Service struct {
	cfg        Config
	lives      lives
	users      *Users
	keys       *secret.Derived[*Signer]
	generation atomic.Uint64
	admin      *secret.Set
	pool       *hashPool
	attempts   attempts
	revoked    *revocations
	public     *httpapi.Router
	all        *httpapi.Router // with the admin API
	log        *slog.Logger
	now        func() time.Time
}

// New makes the service. It fails if no signing key can be used, or if the admin secret is too short.
// Revocations are known once Run has begun.
func New(c Config, d Deps) (*Service, error) {
	c = c.withDefaults()
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Admin != nil {
		if err := checkAdmin(d.Admin); err != nil {
			return nil, err
		}
	}
	users := &Users{d.Users.db, d.Now}
	s := &Service{
		cfg: c, lives: lives{c.TTL.Std(), c.RefreshTTL.Std(), c.RefreshGrace.Std()},
		users: users, admin: d.Admin, pool: newHashPool(d.HashCost), log: d.Log, now: d.Now,
		attempts: attempts{users.db, [2]Attempts{byAccount: c.Attempts, byAddress: c.IPAttempts}, newUnderway()},
		revoked:  &revocations{db: users.db, index: newIndex(), log: d.Log, now: d.Now},
	}
	if d.Redis != nil {
		s.revoked.redis = newRedisList(d.Redis, s.revoked)
	}
	s.keys = &secret.Derived[*Signer]{Set: d.Keys, Make: func(of *secret.Snapshot) (*Signer, error) {
		signer, err := newSigner(d.Keys.Name, of)
		if err == nil {
			signer.generation = s.generation.Add(1)
		}
		return signer, err
	}, Failed: func(err error) {
		d.Log.Error("a version of the signing keys cannot be used and is left out", "error", err)
	}}
	if _, err := s.keys.Get(); err != nil {
		return nil, err
	}
	s.route()
	return s, nil
}

func (s *Service) route() {
	s.public, s.all = httpapi.NewRouter(s.log), httpapi.NewRouter(s.log)
	for _, router := range []*httpapi.Router{s.public, s.all} {
		router.Handle(http.MethodPost, "/login", s.login)
		router.Handle(http.MethodPost, "/refresh", s.refresh)
		router.Handle(http.MethodPost, "/logout", s.logout)
		router.Handle(http.MethodGet, jwksPath, s.serveJWKS)
		router.Handle(http.MethodGet, "/.well-known/openid-configuration", s.discovery)
		router.Handle(http.MethodGet, "/.well-known/oauth-authorization-server", s.discovery)
	}
	s.all.Handle(http.MethodGet, "/users", s.listUsers)
	s.all.Handle(http.MethodPost, "/users", s.addUser)
	s.all.Handle(http.MethodGet, "/users/{id}", s.getUser)
	s.all.Handle(http.MethodPatch, "/users/{id}", s.changeUser)
	s.all.Handle(http.MethodDelete, "/users/{id}", s.deleteUser)
	s.all.Handle(http.MethodGet, "/users/{id}/sessions", s.listSessions)
	s.all.Handle(http.MethodDelete, "/users/{id}/sessions", s.endSessions)
	s.all.Handle(http.MethodGet, "/revocations", s.listRevocations)
	s.all.Handle(http.MethodPost, "/revocations", s.addRevocation)
	s.all.Handle(http.MethodDelete, "/revocations/{id}", s.undoRevocation)
}

// ServeHTTP is the HTTP API. The admin API is there for those who may use it; to others it is nothing.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch may, err := s.mayManage(r); {
	case err != nil:
		s.public.Fail(w, r, err)
	case may:
		s.all.ServeHTTP(w, r)
	default:
		s.public.ServeHTTP(w, r)
	}
}

// Run takes in what others revoke and deletes what has expired, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	var loops sync.WaitGroup
	loops.Go(func() { s.revoked.run(ctx) })
	if s.revoked.redis != nil {
		loops.Go(func() { s.revoked.redis.run(ctx) })
	}
	loops.Go(func() { s.sweep(ctx) })
	loops.Wait()
	return nil
}

const sweepEvery = time.Minute

func (s *Service) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		now := s.now()
		err := errors.Join(
			s.users.db.DeleteExpired(ctx, "identity_refresh", "hash", now),
			s.users.db.DeleteExpired(ctx, "identity_sessions", "id", now),
			s.attempts.sweep(ctx, now, attemptsKept),
			s.revoked.sweep(ctx, now))
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "deleting what has expired failed", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Check says whether users can be read, and tokens signed.
func (s *Service) Check(ctx context.Context) error {
	if _, err := s.users.find(ctx, ""); err != nil && !errors.Is(err, ErrNoUser) {
		return err
	}
	_, err := s.signing()
	return err
}

// TokenIssuer is the iss of the tokens given out.
func (s *Service) TokenIssuer() string { return s.cfg.Issuer }

// TokenAudience is the aud of the tokens given out.
func (s *Service) TokenAudience() string { return s.cfg.Audience }

// signing is what signs now.
func (s *Service) signing() (*Signer, error) {
	signer, err := s.keys.Get()
	if err == nil && len(signer.keys) == 0 {
		err = errNoKey
	}
	if err != nil {
		return nil, keysUnavailable(err)
	}
	return signer, nil
}

func keysUnavailable(cause error) error {
	return (&problem.Error{Code: problem.KeysUnavailable, Detail: "No signing key is active right now.", RetryAfter: time.Second}).Because(cause)
}

// VerificationKeys yields every key that verifies tokens now: its kid, its algorithm (HS256, RS256,
// ES256 or EdDSA) and the key itself ([]byte, *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey). An
// HS256 key is secret and must stay in the process.
func (s *Service) VerificationKeys(yield func(kid, alg string, key any)) {
	signer, err := s.keys.Get()
	if err != nil {
		return
	}
	for _, k := range signer.keys {
		yield(k.kid, k.method.Alg(), k.verify)
	}
}

// KeysGeneration is another number whenever VerificationKeys yields other keys.
func (s *Service) KeysGeneration() uint64 {
	signer, err := s.keys.Get()
	if err != nil {
		return 0
	}
	return signer.generation
}

// KeyUsed says that a key has verified a token.
func (s *Service) KeyUsed(kid string, now time.Time) {
	signer, err := s.keys.Get()
	if err != nil {
		return
	}
	for _, k := range signer.keys {
		if k.kid == kid {
			k.version.Used(now)
		}
	}
}

// Interface guard
var _ service.Service = (*Service)(nil)
