// Package jwtauth is the directive `jwt_auth`: it lets requests pass that carry a valid JSON Web
// Token, and tells the handlers and the app behind whose they are. What is decided about a token is in
// verify.go and claims.go, where keys come from in source.go and remote.go.
package jwtauth

import (
	"fmt"
	"log/slog"
	"net/http"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"

	"github.com/gatehouse-proxy/gatehouse/modules/gatehouse"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/accesslog"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/frontdoor"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/meter"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/refuse"
)

// Handler authenticates requests by a JSON Web Token, by default in `Authorization: Bearer`.
//
// It answers 401 without a token or with one that is not valid or was revoked, 403 where a rule of
// require is not met, 400 where the token is sent twice or is not one token, and 503 where the keys or
// the list of revoked tokens cannot be had; each with the challenge of RFC 6750 but the last. A CORS
// preflight passes without a token.
//
// The algorithm is the key's, never the token's choice: RS256 for an RSA key unless its JWK names
// another RS or PS, ES256, ES384 or ES512 by the curve of an EC key, EdDSA (also under its name
// Ed25519) for Ed25519, HS256 for a symmetric key unless its JWK says HS384 or HS512.
//
// Placeholders:
//
//   - {http.auth.user.id}: the claim sub
//
//   - {http.auth.user.CLAIM}: any other claim; arrays joined by commas, objects as JSON. If there is no
//     claim of that name, dots lead into objects
//
//   - {http.jwt_auth.authenticated}: true in a request with a token, which need not have a sub, else false
//
//   - {http.jwt_auth.cookie}: true where the token came in a cookie, which browsers send along on their own
//
//   - {http.jwt_auth.header.CLAIM}: a claim that is a text, a number, true or false, as a header can carry
//     it: what is not printable ASCII is percent-encoded, and so are % and spaces at the ends. CLAIM id is sub
//
//   - {http.jwt_auth.roles}: the claims role and roles, separated by commas; within one they are encoded
//
//   - {http.jwt_auth.scopes}: the claims scope and scp, separated by spaces
//
// The others are empty where the token does not say, and in a request that passes without a token.
//
// Whether a token was revoked is asked of the identity backend for each request, whoever issued it.
type Handler struct {
	Accepted
	Policy

	verifier *verifier
	pooled   []place // this handler has a reference on each in remotes
	listedBy any     // the key of listings on which this handler has a reference
	listing  *listing
	refuse   *refuse.Refuser
	log      *zap.Logger
	logs     *accesslog.Logs
}

// remotes are the sources of keys by their place. A reload goes on with the keys that are there.
var remotes = caddy.NewUsagePool()

// remotesInUse are those that some configuration names.
func remotesInUse() (all []*remote) {
	remotes.Range(func(_, value any) bool {
		all = append(all, value.(*remote))
		return true
	})
	return all
}

// Destruct ends a fetch under way.
func (r *remote) Destruct() error {
	r.cancel()
	return nil
}

// Provision reads the keys that are at hand. It fetches nothing.
func (h *Handler) Provision(ctx caddy.Context) error {
	if err := frontdoor.Stand(ctx); err != nil {
		return err
	}
	h.log, h.logs = ctx.Logger(), accesslog.New(ctx)
	h.refuse = refuse.New(h.log)
	if err := h.Validate(); err != nil {
		return err
	}
	providers, err := h.providers(ctx)
	if err != nil {
		return fmt.Errorf("jwt_auth: %w", err)
	}
	ref, err := gatehouse.Need[revoker](ctx, "identity")
	if err != nil {
		return err
	}
	for _, p := range providers {
		if _, ours := p.source.(*bundled); !ours && len(p.audience) == 0 {
			h.log.Warn("jwt_auth has no audience: a token that the issuer made for another API passes too; name this one with audience", zap.String("keys", p.name), zap.String("issuer", p.issuer))
			break // of a template there may be many
		}
	}
	h.verifier = newVerifier(h.Policy, ref.Get, providers...)
	if err = meter.Register(ctx, requestsTotal, fetches, ageCollector{}); err != nil {
		return err
	}
	listed, _, err := listings.LoadOrNew(ctx.GetMetricsRegistry(), func() (caddy.Destructor, error) { return new(listing), nil })
	if err != nil {
		return err
	}
	h.listedBy, h.listing = ctx.GetMetricsRegistry(), listed.(*listing)
	h.listing.add(h.verifier)
	return nil
}

// Validate checks the settings.
func (h *Handler) Validate() error {
	if err := h.Accepted.Validate(); err != nil {
		return err
	}
	return h.Policy.Validate()
}

// Cleanup gives the sources of keys back. The handler stays usable for requests in flight.
func (h *Handler) Cleanup() error {
	var failed error
	for _, p := range h.pooled {
		if _, err := remotes.Delete(p); err != nil {
			failed = err
		}
	}
	h.pooled = nil
	if h.listing != nil {
		h.listing.remove(h.verifier)
		h.listing = nil
		if _, err := listings.Delete(h.listedBy); err != nil {
			failed = err
		}
	}
	return failed
}

// providers are the issuers with their keys.
func (h *Handler) providers(ctx caddy.Context) (all []*provider, err error) {
	app, err := gatehouse.Of(ctx)
	if err != nil {
		return nil, err
	}
	for _, t := range h.all() {
		s, name, err := h.source(ctx, app, t)
		if err != nil {
			return nil, err
		}
		if set := atHand(s); set != nil && len(t.Algorithms) > 0 && !set.any(newProvider(t, s, name).algs) {
			return nil, fmt.Errorf("no key of %s is for one of the algorithms %v: leave algorithms out, or name those of the keys", name, t.Algorithms)
		}
		all = append(all, newProvider(t, s, name))
	}
	if h.bundled() {
		ref, err := gatehouse.Need[tokenIssuer](ctx, "identity")
		if err != nil {
			return nil, err
		}
		t := Trusted{Audience: h.Audience, Algorithms: h.Algorithms}
		all = append(all, newProvider(t, &bundled{get: ref.Get}, "identity"))
	}
	return all, nil
}

func (h *Handler) source(ctx caddy.Context, app *gatehouse.App, t Trusted) (source, string, error) {
	switch {
	case t.Secret != "":
		set, err := app.Secret(t.Secret)
		if err != nil {
			return nil, "", err
		}
		s, err := newSecretKeys(set, func(err error) { h.log.Error("a secret was changed to what cannot be used", zap.Error(err)) })
		return s, "secret:" + t.Secret, err
	case t.JWKSFile != "":
		s, err := newFile(t.JWKSFile, h.slog(ctx), func(raw []byte) (*keySet, error) { return parseJWKS(raw, true) })
		return s, "file:" + t.JWKSFile, err
	case t.KeyFile != "":
		s, err := newFile(t.KeyFile, h.slog(ctx), publicKey)
		return s, "file:" + t.KeyFile, err
	case t.Key != "":
		set, err := inlineKey(t.Key)
		if err != nil {
			return nil, "", err
		}
		name := fingerprint(t.Key)
		return fixed{set.counted(name)}, name, nil
	}
	p := place{url: t.JWKS, insecure: t.Insecure}
	if t.JWKS == "" {
		p.url, p.discover = t.Issuer, true
	}
	pooled, _, err := remotes.LoadOrNew(p, func() (caddy.Destructor, error) { return newRemote(p), nil })
	if err != nil {
		return nil, "", err
	}
	h.pooled = append(h.pooled, p)
	r, dir := pooled.(*remote), app.Dir()
	r.dir.Store(&dir)
	r.log.Store(h.slog(ctx))
	return view{r, t.staleFor(), t.maxKeyAge()}, p.String(), nil
}

// slog is the handler's log for what outlives no Caddy type.
func (*Handler) slog(ctx caddy.Context) *slog.Logger {
	return slog.New(zapslog.NewHandler(ctx.Logger().Core(), zapslog.WithName("http.handlers.jwt_auth")))
}

// listings are the verifiers of each configuration that is in use, by its metrics registry.
var listings = caddy.NewUsagePool()

// listing are the verifiers of one configuration, in the order in which they were provisioned.
type listing struct {
	mu  sync.Mutex
	all []*verifier
}

// Destruct does nothing.
func (*listing) Destruct() error { return nil }

// Authenticator is jwt_auth as a provider of Caddy's own handler `authentication`, with the same
// settings and the same decisions. That handler knows one answer, 401: it is given also where jwt_auth
// answers 400, 403 or 503; WWW-Authenticate tells the first two apart. It cannot take a token from the
// query, which Caddy would have in its access log.
type Authenticator struct{ Handler }

// CaddyModule is the provider's registration.
func (*Authenticator) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.authentication.providers.jwt_auth", New: func() caddy.Module { return new(Authenticator) }}
}

// Validate checks the settings.
func (a *Authenticator) Validate() error {
	for _, f := range a.From {
		if f.In == inQuery || f.In == inProtocol || f.In == inHeader && f.Name != "" {
			return fmt.Errorf("from %s: use the directive jwt_auth, a provider of authentication cannot keep the token out of the access log", f.In)
		}
	}
	return a.Handler.Validate()
}

// Authenticate says who the request is from.
func (a *Authenticator) Authenticate(w http.ResponseWriter, r *http.Request) (caddyauth.User, bool, error) {
	f := a.verifier.policy.find(r)
	u, err := a.admit(r, &f)
	if err != nil {
		if d, ok := err.(denial); ok { //nolint:errorlint // what admit returns is never wrapped
			for name, values := range d.problem.Header {
				w.Header()[name] = values
			}
			if d.outcome != keysUnavailable {
				return caddyauth.User{}, false, nil
			}
		}
		return caddyauth.User{}, false, err
	}
	id, _ := u.subject.(string)
	user := caddyauth.User{ID: id}
	if u.token != "" {
		if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
			repl.Map(u.ownPlaceholder)
		}
		user.Metadata = map[string]string{}
		for _, m := range u.all().members {
			user.Metadata[string(m.name)] = shown(decode(m.raw))
		}
	}
	u.setHeaders(r)
	return user, true, nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ caddyauth.Authenticator     = (*Authenticator)(nil)
)
