package jwtauth

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// ServeHTTP lets the request pass or refuses it.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	f := h.verifier.policy.find(r)
	if f.redacted != "" || len(f.hidden) > 0 {
		logged := f // kept by the log, so that others need not be
		return h.serveRedacted(w, r, &logged, next)
	}
	return h.serve(w, r, &f, next)
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, f *found, next caddyhttp.Handler) error {
	u, err := h.admit(r, f)
	if err != nil {
		return h.refuse.Error(w, r, h.pointing(err))
	}
	u.annotate(r)
	if h.EndWebSockets && u.token != "" && handshake(r) {
		w = ending(w, r, time.UnixMilli(u.until))
	}
	return next.ServeHTTP(w, r)
}

// admit deletes what the client must not send, and says who the request is from.
func (h *Handler) admit(r *http.Request, f *found) (*user, error) {
	h.verifier.headers.clear(r.Header)
	h.verifier.headers.clearTrailer(r)
	id, o, err := nobody, anonymous, error(nil)
	switch {
	case preflight(r):
	case f.err != nil:
		o, err = invalidRequest, f.err
	case f.token == "" && h.Optional:
	case f.token == "":
		o, err = missingToken, missing(h.where())
	default:
		id, o, err = h.verifier.check(r.Context(), f.token, time.Now())
	}
	f.outcome = o
	counted[o].Inc()
	note(r, o, id)
	if err != nil {
		return nil, err
	}
	u := &user{identity: id}
	if id != nobody {
		u.token, u.cookie = f.token, f.cookie
	}
	return u, nil
}

// The fields of the access log and the attributes of the trace that say what was decided. Their values
// come from the configuration and from the list of outcomes.
const (
	outcomeField = "jwt_auth"
	keysField    = "jwt_auth_keys"
)

// note says what was decided to the access log and to the trace, where there are such.
func note(r *http.Request, o outcome, id *identity) {
	ctx := r.Context()
	if srv, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok && srv != nil && srv.Logs != nil {
		if extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
			extra.Set(zap.Stringer(outcomeField, o))
			if keys := id.verifiedBy(); keys != "" {
				extra.Set(zap.String(keysField, keys))
			}
		}
	}
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetAttributes(attribute.String(outcomeField, o.String()), attribute.String(keysField, id.verifiedBy()))
	}
}

// annotate tells the handlers and the app behind who the request is from.
func (u *user) annotate(r *http.Request) {
	u.setHeaders(r)
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Map(u.placeholder)
	}
}

func (u *user) setHeaders(r *http.Request) {
	if len(u.fields) == 0 {
		return
	}
	values := make([]string, len(u.fields)) // a later handler may edit them in place, so they are the request's own
	for i, f := range u.fields {
		values[i] = f.value
		r.Header[f.name] = values[i : i+1 : i+1]
	}
}

// serveRedacted serves a request whose token was in its URL or in a header that is usually logged, with logs
// that do not have it.
func (h *Handler) serveRedacted(w http.ResponseWriter, r *http.Request, f *found, next caddyhttp.Handler) error {
	outcome := func() zap.Field { return zap.Stringer(outcomeField, f.outcome) }
	serve := func(w http.ResponseWriter, r *http.Request) error { return h.serve(w, r, f, next) }
	if f.redacted == "" {
		return h.logs.Serve(w, r, r.RequestURI, f.hidden, outcome, serve)
	}
	if orig, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		orig.URL.RawQuery, _ = h.verifier.policy.splitQuery(orig.URL.RawQuery) // which all copies of the request share
		orig.RequestURI = orig.URL.RequestURI()
		*r = *r.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, orig))
		if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
			repl.Set("http.request.orig_uri", orig.RequestURI) // it reads the first of the copies
		}
	}
	uri := r.RequestURI
	if strings.Contains(uri, "?") {
		uri += f.redacted
	} else {
		uri += "?" + f.redacted[1:]
	}
	w.Header().Set("Referrer-Policy", "no-referrer") // or the next request has the URL in Referer
	return h.logs.Serve(w, r, uri, f.hidden, outcome, serve)
}
