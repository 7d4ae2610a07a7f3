// Package flags is the matcher `flag` and the directive `split`: the first matches requests of users
// for whom a feature flag is on, the second sends each request to one of two apps by it. Flags are
// kept by the backend flags in this process; a change of one counts from the next request on.
package flags

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/gatehouse-proxy/gatehouse/backends/flags"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/modules/gatehouse"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/frontdoor"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/once"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/refuse"
)

// switches is what the backend is needed for.
type switches interface {
	// On says whether the flag is on for the user; one that is not there is off.
	On(flag, user string) bool
}

// MatchFlag matches requests of users for whom a flag is on. A flag that does not exist is off. While
// the flags cannot be read, which is only so while a configuration starts, matching is an error
// with status 503.
type MatchFlag struct {
	// Name is the flag's key. Required.
	Name string `json:"name"`
	// By is the user; placeholders are expanded per request, those without a value to nothing. A request
	// with a header field, query parameter or cookie of it more than once is answered 400. The
	// empty user gets a flag only at 100 percent. Default: `{http.auth.user.id}`.
	By string `json:"by,omitempty"`

	ref  *gatehouse.Ref[switches]
	user subject
}

// Provision takes hold of the backend.
func (m *MatchFlag) Provision(ctx caddy.Context) (err error) {
	m.user = compileSubject(m.By)
	m.ref, err = gatehouse.Need[switches](ctx, "flags")
	return err
}

// Validate checks the flag's key.
func (m *MatchFlag) Validate() error { return checkName("flag", m.Name) }

// MatchWithError says whether the flag is on for the request's user.
func (m *MatchFlag) MatchWithError(r *http.Request) (bool, error) {
	f, err := m.ref.Get(r.Context())
	if err != nil {
		return false, caddyhttp.HandlerError{StatusCode: problem.From(err).Code.Status(), Err: err}
	}
	if err = once.Check(r, m.user.onces); err != nil {
		return false, caddyhttp.HandlerError{StatusCode: problem.From(err).Code.Status(), Err: err}
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	return f.On(m.Name, m.user.of(repl)), nil
}

// Split answers each request from one of two apps: a flag decides which, so users stick to theirs.
// It calls no further handler.
//
// The app gets the variant in the header X-Feature-<flag>, with hyphens for dots and underscores in
// the flag's key; what the client sent under that name is deleted.
//
// Placeholder | Description
// ------------|-------------
// `{http.split.variant}` | The variant: `on` or `off`
//
// A response depends on the user. http_cache keeps none that Split has chosen; for caches further
// out, let the app mark them private or vary them by what identifies the user.
type Split struct {
	// Name is the flag's key. Required.
	Name string `json:"name"`
	// By is the user; placeholders are expanded per request, those without a value to nothing. A request
	// with a header field, query parameter or cookie of it more than once is answered 400. The
	// empty user gets the variant `on` only at 100 percent. Default: `{http.auth.user.id}`.
	By string `json:"by,omitempty"`
	// OnRaw answers users for whom the flag is on, OffRaw all others. A Caddyfile makes a
	// reverse_proxy of each. Required.
	OnRaw  json.RawMessage `json:"on,omitempty" caddy:"namespace=http.handlers inline_key=handler"`
	OffRaw json.RawMessage `json:"off,omitempty" caddy:"namespace=http.handlers inline_key=handler"`

	ref     *gatehouse.Ref[switches]
	refuse  *refuse.Refuser
	user    subject
	header  string
	on, off caddyhttp.MiddlewareHandler
}

// Provision takes hold of the backend and loads the variants. Caddy cleans the variants up.
func (s *Split) Provision(ctx caddy.Context) (err error) {
	if err = frontdoor.Stand(ctx); err != nil {
		return err
	}
	s.refuse, s.user, s.header = refuse.New(ctx.Logger()), compileSubject(s.By), featureHeader(s.Name)
	if s.on, err = variant(ctx, s, "on", "OnRaw", s.OnRaw); err != nil {
		return err
	}
	if s.off, err = variant(ctx, s, "off", "OffRaw", s.OffRaw); err != nil {
		return err
	}
	s.ref, err = gatehouse.Need[switches](ctx, "flags")
	return err
}

func variant(ctx caddy.Context, s *Split, name, field string, raw json.RawMessage) (caddyhttp.MiddlewareHandler, error) {
	if len(raw) == 0 {
		return nil, fmt.Errorf("split %s: the variant %s is missing, both are required", s.Name, name)
	}
	m, err := ctx.LoadModule(s, field)
	if err != nil {
		return nil, fmt.Errorf("split %s: loading the variant %s: %w", s.Name, name, err)
	}
	return m.(caddyhttp.MiddlewareHandler), nil
}

// Validate checks the flag's key.
func (s *Split) Validate() error { return checkName("split", s.Name) }

// ServeHTTP decides the variant and lets it answer.
func (s *Split) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	f, err := s.ref.Get(r.Context())
	if err != nil {
		return s.refuse.Error(w, r, err)
	}
	if err = once.Check(r, s.user.onces); err != nil {
		return s.refuse.Error(w, r, err)
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	name, app := "off", s.off
	if f.On(s.Name, s.user.of(repl)) {
		name, app = "on", s.on
	}
	strip(r.Header, s.header)
	r.Header[s.header] = []string{name}
	repl.Set("http.split.variant", name)
	if err = app.ServeHTTP(w, r, next); err != nil {
		return s.fail(w, r, err)
	}
	return nil
}

// fail answers for a variant that did not: a bare status becomes its problem. An error that is a
// problem already, or has a status that no problem stands for, goes on as it is.
func (s *Split) fail(w http.ResponseWriter, r *http.Request, err error) error {
	h, ok := errors.AsType[caddyhttp.HandlerError](err)
	if _, ours := errors.AsType[*problem.Error](err); !ok || ours {
		return err
	}
	e := problem.FromStatus(h.StatusCode).Because(err)
	if e.Code.Status() != h.StatusCode {
		return err
	}
	return s.refuse.Error(w, r, e)
}

func checkName(owner, name string) error {
	if !flags.ValidKey(name) {
		return fmt.Errorf("%s: %q cannot be a flag, write 1 to 128 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit", owner, name)
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner                 = (*MatchFlag)(nil)
	_ caddy.Validator                   = (*MatchFlag)(nil)
	_ caddyhttp.RequestMatcherWithError = (*MatchFlag)(nil)
	_ caddy.Provisioner                 = (*Split)(nil)
	_ caddy.Validator                   = (*Split)(nil)
	_ caddyhttp.MiddlewareHandler       = (*Split)(nil)
)
