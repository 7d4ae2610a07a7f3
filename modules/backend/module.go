// Package backend is the directive `backend NAME`: it answers with a bundled backend that runs in
// this process. Its guests, one folder each, are the backends' Caddyfile settings.
package backend

import (
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/modules/gatehouse"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/accesslog"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/frontdoor"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/refuse"
)

// Handler answers every request with the named backend and calls no further handler. The backend
// learns who calls from headers, after what the client sent under these names is deleted:
//
// Header | Value
// -------|------
// `Gatehouse-Subject` | the verified subject, {http.auth.user.id}
// `Gatehouse-Owner` | whose resources the caller's are, the option `owner` of the backend
// `Gatehouse-Role` | the claims role and roles, separated by commas
// `Gatehouse-Scope` | the claims scope and scp
// `Gatehouse-Rank` | what this route makes of everybody who reaches it
// `Gatehouse-Client-Ip` | the client's address, {client_ip}
//
// Writes that a page of another site makes with what the browser sends along on its own are 403: with a
// token in a cookie, with Basic credentials, and on a route with As.
type Handler struct {
	// Name is the backend: cache, flags, identity, jobs, locks, uploads or webhooks. Required.
	Name string `json:"name"`
	// As is the rank of everybody who reaches this route, token or not: service, the app itself, which acts
	// for all of its users, or operator. For listeners that only the app or its operators can reach, such
	// as a unix socket. Default: none, so the token decides.
	As string `json:"as,omitempty"`
	// TrustedOrigins are origins whose pages may write with what the browser sends along on its own, a
	// cookie or Basic credentials, such as https://app.example.com. Default: the site's own alone.
	TrustedOrigins []string `json:"trusted_origins,omitempty"`

	ref    *gatehouse.Ref[service.Service]
	refuse *refuse.Refuser
	logs   *accesslog.Logs
	owner  *service.Owner // nil for the subject
	cross  *http.CrossOriginProtection
}

// Provision takes hold of the backend and compiles whose its resources are.
func (h *Handler) Provision(ctx caddy.Context) (err error) {
	if err = frontdoor.Stand(ctx); err != nil {
		return err
	}
	h.refuse, h.logs = refuse.New(ctx.Logger()), accesslog.New(ctx)
	if h.cross, err = h.crossOrigin(); err != nil {
		return err
	}
	if h.ref, err = gatehouse.Need[service.Service](ctx, h.Name); err != nil {
		return err
	}
	settings, err := h.ref.Settings()
	if err != nil {
		return err
	}
	if owned, ok := settings.(interface{ OwnerTemplate() string }); ok && owned.OwnerTemplate() != "" {
		if h.owner, err = service.ParseOwner(owned.OwnerTemplate()); err != nil {
			return fmt.Errorf("backend %s: %w", h.Name, err)
		}
	}
	return nil
}

// Validate checks the rank and the origins.
func (h *Handler) Validate() error {
	switch h.As {
	case "", service.RankService, service.RankOperator:
	default:
		return fmt.Errorf("backend %s: as must be service or operator, not %q", h.Name, h.As)
	}
	_, err := h.crossOrigin()
	return err
}

func (h *Handler) crossOrigin() (*http.CrossOriginProtection, error) {
	cross := http.NewCrossOriginProtection()
	for _, origin := range h.TrustedOrigins {
		if err := cross.AddTrustedOrigin(origin); err != nil {
			return nil, fmt.Errorf("backend %s: origin %q is not one, it has a scheme and a host alone, such as https://app.example.com", h.Name, origin)
		}
	}
	return cross, nil
}

// ServeHTTP hands the request to the backend.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	b, err := h.ref.Handler(r.Context())
	if err != nil {
		return h.refuse.Error(w, r, err)
	}
	r = refuse.Identified(r)
	if ambient := h.introduce(r); ambient && h.cross.Check(r) != nil {
		return h.refuse.Error(w, r, problem.New(problem.Forbidden,
			"A page of another site may not write here with what the browser sends along on its own, such as a cookie: send the token in Authorization, or name the site's origin, as in: backend %s origin https://app.example.com", h.Name))
	}
	if h.Name == "uploads" && r.Method == http.MethodGet { // whose redirects are signed URLs
		return h.logs.Serve(w, r, r.RequestURI, nil, nil, func(w http.ResponseWriter, r *http.Request) error {
			b.ServeHTTP(w, r)
			return nil
		})
	}
	b.ServeHTTP(w, r)
	return nil
}

// introduce tells the backend who calls. It reports whether the browser may have sent along what says so
// without its user's knowledge: all but a token outside of cookies.
func (h *Handler) introduce(r *http.Request) (ambient bool) {
	service.DeleteCallerHeaders(r.Header)
	set := func(name, value string) {
		if value != "" {
			r.Header[name] = []string{value}
		}
	}
	set(service.RankHeader, h.As)
	if ip, ok := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string); ok {
		set(service.ClientIPHeader, ip)
	}
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return h.As != ""
	}
	w := who{func(name string) (string, bool) {
		value, known := repl.Get(name)
		return caddy.ToString(value), known && value != nil
	}}
	set(service.SubjectHeader, w.claim("id", true))
	set(service.RoleHeader, w.roles())
	set(service.ScopeHeader, w.scopes())
	if h.owner != nil {
		set(service.OwnerHeader, service.EncodeHeader(h.owner.Expand(w.placeholder), ""))
	}
	return h.As != "" || w.ambient()
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
