package jwtauth

import (
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// ServeHTTP lets the request pass or refuses it.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	f := h.verifier.policy.find(r)
	if f.redacted != "" {
		return h.serveRedacted(w, r, &f, next)
	}
	return h.serve(w, r, &f, next)
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, f *found, next caddyhttp.Handler) error {
	u, err := h.admit(r, f)
	if err != nil {
		return h.refuse.Error(w, r, err)
	}
	u.annotate(r)
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

// serveRedacted serves a request whose token was in its URL. Caddy has taken the URL down for its logs
// before any handler has its say, so the request is left out of the access log and gets a line here;
// and as the log of errors has the URL too, an error goes to the site's error routes from here.
func (h *Handler) serveRedacted(w http.ResponseWriter, r *http.Request, f *found, next caddyhttp.Handler) error {
	if orig, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		orig.URL.RawQuery, _ = h.verifier.policy.splitQuery(orig.URL.RawQuery) // which all copies of the request share
		orig.RequestURI = orig.URL.RequestURI()
		*r = *r.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, orig))
		if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
			repl.Set("http.request.orig_uri", orig.RequestURI) // it reads the first of the copies
		}
	}
	logged := r.Clone(r.Context())
	if separator := "?"; strings.Contains(logged.RequestURI, "?") {
		logged.RequestURI += f.redacted
	} else {
		logged.RequestURI += separator + f.redacted[1:]
	}
	w.Header().Set("Referrer-Policy", "no-referrer") // or the next request has the URL in Referer
	loggers := h.loggers(r)
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	rec := caddyhttp.NewResponseRecorder(w, nil, nil)
	body := &countingBody{ReadCloser: r.Body}
	r.Body = body
	start := time.Now()
	defer func() { logRequest(loggers, logged, rec, body.n, f.outcome, time.Since(start)) }()
	if err := h.serve(rec, r, f, next); err != nil {
		h.fail(rec, r, logged, err)
	}
	return nil
}

// fail answers with an error as the server itself would.
func (h *Handler) fail(w http.ResponseWriter, r, logged *http.Request, err error) {
	status := http.StatusInternalServerError
	if he, ok := err.(caddyhttp.HandlerError); ok { //nolint:errorlint // as the server looks at it
		status = he.StatusCode
	}
	if status >= http.StatusInternalServerError {
		h.log.Error("request failed", zap.String("method", r.Method), zap.String("host", r.Host), zap.String("uri", logged.RequestURI), zap.Error(err))
	}
	end := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(status)
		return nil
	})
	srv, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || srv == nil || srv.Errors == nil {
		_ = end(w, r)
		return
	}
	if orig, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		r.Method, r.RequestURI = orig.Method, orig.RequestURI
		*r.URL = *orig.URL
	}
	if err = srv.Errors.Routes.Compile(end).ServeHTTP(w, srv.Errors.WithError(r, err)); err != nil {
		w.WriteHeader(status)
	}
}

// loggers are those of the access log that Caddy would have written this request to.
func (h *Handler) loggers(r *http.Request) []*zap.Logger {
	srv, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if skip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.LogSkipVar).(bool); !ok || srv == nil || srv.Logs == nil || skip {
		return nil
	}
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	host = strings.ToLower(host)
	names, mapped := []string{srv.Logs.DefaultLoggerName}, false
	for pattern, own := range srv.Logs.LoggerNames {
		if pattern == host || !mapped && covers(pattern, host) {
			names, mapped = own, true
		}
	}
	skipped := func(pattern string) bool { return covers(pattern, host) }
	if !mapped && (srv.Logs.SkipUnmappedHosts || slices.ContainsFunc(srv.Logs.SkipHosts, skipped)) {
		return nil
	}
	if own, ok := caddyhttp.GetVar(r.Context(), caddyhttp.AccessLoggerNameVarKey).([]any); ok {
		names = nil
		for _, name := range own {
			s, _ := name.(string)
			names = append(names, s)
		}
	}
	var loggers []*zap.Logger
	for _, name := range names {
		loggers = append(loggers, h.access.Named(name)) // of an empty name the same logger
	}
	return loggers
}

// covers says whether the pattern is the host, or has * in the place of one of its labels.
func covers(pattern, host string) bool {
	p, h := strings.Split(strings.ToLower(pattern), "."), strings.Split(host, ".")
	return slices.EqualFunc(p, h, func(pattern, label string) bool { return pattern == label || pattern == "*" })
}

// countingBody counts what is read of a request's body.
type countingBody struct {
	io.ReadCloser
	n int
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += n
	return n, err
}

// logRequest writes the line of the access log, in the words of Caddy.
func logRequest(loggers []*zap.Logger, r *http.Request, rec caddyhttp.ResponseRecorder, read int, o outcome, duration time.Duration) {
	level := zapcore.InfoLevel
	if rec.Status() >= http.StatusInternalServerError {
		level = zapcore.ErrorLevel
	}
	for _, logger := range loggers {
		c := logger.Check(level, "handled request")
		if c == nil {
			continue
		}
		userID := ""
		if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
			userID, _ = repl.GetString(placeholders + "id")
		}
		c.Write(zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: r}), zap.Int("bytes_read", read), zap.String("user_id", userID),
			zap.Duration("duration", duration), zap.Int("size", rec.Size()), zap.Int("status", rec.Status()),
			zap.Object("resp_headers", caddyhttp.LoggableHTTPHeader{Header: rec.Header()}), zap.Stringer(outcomeField, o))
	}
}
