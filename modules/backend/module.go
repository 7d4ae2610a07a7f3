// Package backend is the directive `backend NAME`: it answers with a bundled backend that runs in
// this process. Its guests, one folder each, are the backends' Caddyfile settings.
package backend

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/modules/gatehouse"
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
type Handler struct {
	// Name is the backend: cache, flags, identity, jobs, locks, uploads or webhooks. Required.
	Name string `json:"name"`
	// As is the rank of everybody who reaches this route, token or not: service, the app itself, which acts
	// for all of its users, or operator. For listeners that only the app or its operators can reach, such
	// as a unix socket. Default: none, so the token decides.
	As string `json:"as,omitempty"`

	ref    *gatehouse.Ref[service.Service]
	refuse *refuse.Refuser
	owner  string // the template of Gatehouse-Owner
}

// Provision takes hold of the backend.
func (h *Handler) Provision(ctx caddy.Context) (err error) {
	h.refuse = refuse.New(ctx.Logger())
	h.ref, err = gatehouse.Need[service.Service](ctx, h.Name)
	return err
}

// Validate checks the rank.
func (h *Handler) Validate() error {
	switch h.As {
	case "", service.RankService, service.RankOperator:
		return nil
	}
	return fmt.Errorf("backend %s: as must be service or operator, not %q", h.Name, h.As)
}

// ServeHTTP hands the request to the backend.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	b, err := h.ref.Handler(r.Context())
	if err != nil {
		return h.refuse.Error(w, r, err)
	}
	r = refuse.Identified(r)
	h.introduce(r)
	b.ServeHTTP(w, r)
	return nil
}

// introduce tells the backend who calls.
func (h *Handler) introduce(r *http.Request) {
	for _, name := range service.CallerHeaders {
		r.Header.Del(name)
	}
	set := func(name, value string) {
		if value != "" {
			r.Header.Set(name, value)
		}
	}
	set(service.RankHeader, h.As)
	if ip, ok := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string); ok {
		set(service.ClientIPHeader, ip)
	}
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return
	}
	claim := func(name string) string {
		value, _ := repl.GetString("http.auth.user." + name)
		return value
	}
	set(service.SubjectHeader, claim("id"))
	set(service.RoleHeader, strings.Trim(claim("role")+","+claim("roles"), ","))
	set(service.ScopeHeader, strings.TrimSpace(claim("scope")+" "+claim("scp")))
	if h.owner != "" {
		set(service.OwnerHeader, repl.ReplaceAll(h.owner, ""))
	}
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
