// Package jwtauth is the directive `jwt_auth`: it lets requests pass that carry a valid JSON Web
// Token as Bearer token, and tells the handlers and the app behind whose they are. Only module.go
// and caddyfile.go know Caddy; what is decided about a token is in verify.go and claims.go.
package jwtauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap/exp/zapslog"

	"github.com/gatehouse-proxy/gatehouse/modules/gatehouse"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/refuse"
)

// Handler authenticates requests by the JSON Web Token in `Authorization: Bearer`.
//
// It answers 401 without a token or with one that is not valid, 403 where a rule of require is not
// met, 400 where Authorization is sent twice or is not one token, and 503 where the keys cannot be
// had; each with the challenge of RFC 6750 but the last. A CORS preflight passes without a token.
//
// The algorithm is the key's, never the token's choice: RS256 for an RSA key unless its JWK names
// another RS or PS, ES256, ES384 or ES512 by the curve of an EC key, EdDSA (also under its name
// Ed25519) for Ed25519, HS256 for a symmetric key unless its JWK says HS384 or HS512.
//
// Placeholders:
//
//   - {http.auth.user.id}: the claim sub
//   - {http.auth.user.CLAIM}: any other claim; arrays joined by commas, objects as JSON
//
// Both are empty where the token does not say, and in a request that passes without a token.
//
// The keys come from Secret, JWKS or JWKSFile, of which one at most is given. With none of them the
// keys, the issuer and the audience are those of the bundled identity backend.
type Handler struct {
	Policy

	// Secret names a secret set of the app gatehouse: raw bytes (at least 32) for HS256, or a PEM
	// PUBLIC KEY or PRIVATE KEY. Every version of the set verifies.
	Secret string `json:"secret,omitempty"`
	// JWKS is the URL of a JWK set: https, or http on this machine. It is fetched when a request first
	// needs it, and again every 10 min (Cache-Control: max-age of the answer, kept between 5 min and
	// 24 h) and for an unknown kid, at most every 30 s. While the server fails, the last good set
	// serves for 12 h.
	JWKS string `json:"jwks,omitempty"`
	// JWKSFile is the path of a file with a JWK set. It is read when the configuration is loaded.
	JWKSFile string `json:"jwks_file,omitempty"`

	verifier *verifier
	pooled   bool // this handler has a reference on remotes[JWKS]
	refuse   *refuse.Refuser
}

// remotes are the sources of keys by URL. A reload goes on with the keys that are there.
var remotes = caddy.NewUsagePool()

// Provision reads the keys that are at hand. It fetches nothing.
func (h *Handler) Provision(ctx caddy.Context) error {
	if err := h.checkKeys(); err != nil {
		return err
	}
	h.refuse = refuse.New(ctx.Logger())
	s, err := h.source(ctx)
	if err != nil {
		return err
	}
	h.verifier = newVerifier(h.Policy, s)
	return nil
}

// Validate checks the policy.
func (h *Handler) Validate() error { return h.Policy.Validate() }

// Cleanup gives the source of keys back.
func (h *Handler) Cleanup() error {
	if !h.pooled {
		return nil
	}
	h.pooled = false
	_, err := remotes.Delete(h.JWKS)
	return err
}

// checkKeys makes sure that there is one source of keys.
func (h *Handler) checkKeys() error {
	given := 0
	for _, s := range []string{h.Secret, h.JWKS, h.JWKSFile} {
		if s != "" {
			given++
		}
	}
	switch {
	case given > 1:
		return errors.New("jwt_auth takes its keys from one place: keep one of secret, jwks URL and jwks file")
	case given == 0 && h.Issuer != "":
		return fmt.Errorf("jwt_auth: issuer %s needs its keys: add jwks URL (they are not discovered from the issuer in this version), or leave issuer out to accept tokens of the identity backend", h.Issuer)
	case h.JWKS != "":
		return checkURL(h.JWKS)
	}
	return nil
}

func (h *Handler) source(ctx caddy.Context) (source, error) {
	switch {
	case h.Secret != "":
		return secretKeys(ctx, h.Secret)
	case h.JWKSFile != "":
		return fileKeys(h.JWKSFile)
	case h.JWKS != "":
		pooled, _, err := remotes.LoadOrNew(h.JWKS, func() (caddy.Destructor, error) { return newRemote(h.JWKS), nil })
		if err != nil {
			return nil, err
		}
		h.pooled = true
		r := pooled.(*remote)
		r.log.Store(slog.New(zapslog.NewHandler(ctx.Logger().Core(), zapslog.WithName("http.handlers.jwt_auth"))))
		return r, nil
	}
	ref, err := gatehouse.Need[tokenIssuer](ctx, "identity")
	if err != nil {
		return nil, err
	}
	return &bundled{ref: ref}, nil
}

func secretKeys(ctx caddy.Context, name string) (source, error) {
	app, err := gatehouse.Of(ctx)
	if err != nil {
		return nil, err
	}
	secrets, err := app.Secret(name)
	if err != nil {
		return nil, fmt.Errorf("jwt_auth: %w", err)
	}
	set := new(keySet)
	for _, v := range secrets.Versions() {
		k, err := parseSecret(v.Value.Reveal())
		if err != nil {
			return nil, fmt.Errorf("jwt_auth: the secret %s (%s) cannot be used: %w", name, v.Label, err)
		}
		set.keys = append(set.keys, k)
	}
	return fixed{set}, nil
}

func fileKeys(path string) (source, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("jwt_auth: the file of keys cannot be read, create it or correct the path: %w", err)
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxJWKS+1))
	if err != nil {
		return nil, fmt.Errorf("jwt_auth: reading %s: %w", path, err)
	}
	set, err := parseJWKS(raw, true)
	if err != nil {
		return nil, fmt.Errorf("jwt_auth: %s: %w", path, err)
	}
	return fixed{set}, nil
}

// bundled are the keys of the identity backend, which never change while it lives.
type bundled struct {
	ref *gatehouse.Ref[tokenIssuer]
	set atomic.Pointer[keySet]
}

func (b *bundled) current(time.Time) *keySet { return b.set.Load() }

func (b *bundled) load(ctx context.Context, _ time.Time) (*keySet, error) {
	if set := b.set.Load(); set != nil {
		return set, nil
	}
	i, err := b.ref.Get(ctx)
	if err != nil {
		return nil, unavailable(0, err)
	}
	set, err := keysOf(i)
	if err != nil {
		return nil, unavailable(0, err)
	}
	b.set.CompareAndSwap(nil, set)
	return b.set.Load(), nil
}

func (b *bundled) newer(_ context.Context, _ time.Time, old *keySet) *keySet { return old }

// ServeHTTP lets the request pass or refuses it.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	h.verifier.headers.clear(r.Header)
	h.verifier.headers.clearTrailer(r)
	if preflight(r) {
		annotate(r, nobody)
		return next.ServeHTTP(w, r)
	}
	token, err := bearer(r.Header)
	if err != nil {
		return h.refuse.Error(w, r, err)
	}
	if token == "" {
		if h.Optional {
			annotate(r, nobody)
			return next.ServeHTTP(w, r)
		}
		return h.refuse.Error(w, r, missing())
	}
	id, err := h.verifier.check(r.Context(), token, time.Now())
	if err != nil {
		return h.refuse.Error(w, r, err)
	}
	annotate(r, id)
	return next.ServeHTTP(w, r)
}

// annotate tells the handlers and the app behind who the request is from.
func annotate(r *http.Request, id *identity) {
	if len(id.fields) > 0 {
		values := make([]string, len(id.fields)) // a later handler may edit them in place, so they are the request's own
		for i, f := range id.fields {
			values[i] = f.value
			r.Header[f.name] = values[i : i+1 : i+1]
		}
	}
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return
	}
	repl.Map(id.placeholder)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
