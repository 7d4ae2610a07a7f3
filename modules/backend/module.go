// Package backend is the directive `backend NAME`: it answers with a bundled backend that runs in
// this process. Its guests, one folder each, are the backends' Caddyfile settings.
package backend

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/modules/gatehouse"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/refuse"
)

// Handler answers every request with the named backend and calls no further handler. The backend
// learns the authenticated subject, {http.auth.user.id}, in the header Gatehouse-Subject, and the
// client's address, {client_ip}, in Gatehouse-Client-Ip; what the client sent under these names is deleted.
type Handler struct {
	// Name is the backend: cache, flags, identity, jobs, locks, uploads or webhooks. Required.
	Name string `json:"name"`

	ref    *gatehouse.Ref[service.Service]
	refuse *refuse.Refuser
}

// Provision takes hold of the backend.
func (h *Handler) Provision(ctx caddy.Context) (err error) {
	h.refuse = refuse.New(ctx.Logger())
	h.ref, err = gatehouse.Need[service.Service](ctx, h.Name)
	return err
}

// ServeHTTP hands the request to the backend.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	b, err := h.ref.Handler(r.Context())
	if err != nil {
		return h.refuse.Error(w, r, err)
	}
	r = refuse.Identified(r)
	r.Header.Del(service.SubjectHeader)
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		if sub, _ := repl.GetString("http.auth.user.id"); sub != "" {
			r.Header.Set(service.SubjectHeader, sub)
		}
	}
	r.Header.Del(service.ClientIPHeader)
	if ip, ok := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string); ok && ip != "" {
		r.Header.Set(service.ClientIPHeader, ip)
	}
	b.ServeHTTP(w, r)
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
