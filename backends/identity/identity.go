// Package identity is the bundled identity backend: users with passwords, POST /login that answers
// with a signed token, and the public keys that verify it. Its routes and the commands `gatehouse
// users` and `gatehouse token` work on the same data directory.
package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
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
	// MaxTTL is the longest life of a token: it cannot be taken back before it ends.
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
	// TTL is how long a token is valid, 1s to 366d. A token cannot be taken back before it ends.
	// Default: 24h.
	TTL unit.Duration `json:"ttl,omitempty"`
	// Secret names the secret set that signs instead of the generated key: a PEM private key (RSA of
	// at least 2048 bits, EC P-256 or Ed25519), or at least 32 raw bytes for HS256. Every version of
	// the set verifies, the newest signs. Default: an Ed25519 key that is generated at the first
	// start and kept in the data directory.
	Secret string `json:"secret,omitempty"`
}

// Validate says what is wrong with the settings.
func (c Config) Validate() error {
	if c.TTL != 0 && (c.TTL.Std() < time.Second || c.TTL.Std() > MaxTTL) {
		return fmt.Errorf("identity: ttl must be from 1s to 366d, not %s", c.TTL)
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
	return c
}

// Open makes the service: it reads or generates the signing key and migrates the users' table.
func (c Config) Open(ctx context.Context, h *service.Host) (service.Service, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	keys, err := c.keys(h)
	if err != nil {
		return nil, err
	}
	users, err := OpenUsers(ctx, h.DB)
	if err != nil {
		return nil, err
	}
	return New(c, Deps{Users: users, Keys: keys, Log: h.Log.With("backend", "identity")})
}

func (c Config) keys(h *service.Host) (*secret.Set, error) {
	if c.Secret == "" {
		return h.GeneratedKey(KeyName, GenerateKey)
	}
	return h.Secret(c.Secret)
}

// Deps are what the service works with. All are required.
type Deps struct {
	Users *Users
	// Keys are the signing keys, newest first.
	Keys *secret.Set
	Log  *slog.Logger
}

// Service is the identity backend. It is safe for concurrent use.
type Service struct {
	cfg    Config
	users  *Users
	signer *Signer
	pool   *hashPool
	jwks   []byte
	router *httpapi.Router
	log    *slog.Logger
}

// New makes the service. It fails if a signing key cannot be used.
func New(c Config, d Deps) (*Service, error) {
	signer, err := NewSigner(d.Keys)
	if err != nil {
		return nil, err
	}
	jwks, err := signer.jwks()
	if err != nil {
		return nil, err
	}
	s := &Service{cfg: c.withDefaults(), users: d.Users, signer: signer, pool: newHashPool(), jwks: jwks, log: d.Log}
	s.router = httpapi.NewRouter(d.Log)
	s.router.Handle(http.MethodPost, "/login", s.login)
	s.router.Handle(http.MethodGet, "/.well-known/jwks.json", s.serveJWKS)
	return s, nil
}

// ServeHTTP is the HTTP API.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.router.ServeHTTP(w, r) }

// Run has nothing to do in the background.
func (s *Service) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Check says whether users can be read.
func (s *Service) Check(ctx context.Context) error {
	if _, err := s.users.find(ctx, ""); err != nil && !errors.Is(err, ErrNoUser) {
		return err
	}
	return nil
}

// TokenIssuer is the iss of the tokens given out.
func (s *Service) TokenIssuer() string { return s.cfg.Issuer }

// TokenAudience is the aud of the tokens given out.
func (s *Service) TokenAudience() string { return s.cfg.Audience }

// VerificationKeys yields every key that verifies tokens given out: its kid, its algorithm (HS256,
// RS256, ES256 or EdDSA) and the key itself ([]byte, *rsa.PublicKey, *ecdsa.PublicKey or
// ed25519.PublicKey). An HS256 key is secret and must stay in the process. The keys never change
// while the service lives.
func (s *Service) VerificationKeys(yield func(kid, alg string, key any)) {
	for _, k := range s.signer.keys {
		yield(k.kid, k.method.Alg(), k.verify)
	}
}

func (s *Service) serveJWKS(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Set("Content-Type", "application/jwk-set+json")
	h.Set("Cache-Control", "public, max-age=300")
	h.Set("Access-Control-Allow-Origin", "*")
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(s.jwks)
	}
	return nil
}

// Interface guard
var _ service.Service = (*Service)(nil)
