// Package accesslog keeps secrets that stand in URLs out of Caddy's logs. Caddy takes the URL down before
// any handler has its say, so such a request is left out of the access log and gets a line here in its
// place; and as the log of errors has the URL too, an error goes to the site's error routes from here.
package accesslog

import (
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Logs are where Caddy writes its access log, and where errors go.
type Logs struct{ access, errors *zap.Logger }

// New is the logs of the configuration that is being provisioned.
func New(ctx caddy.Context) *Logs { return &Logs{ctx.Logger(name{}), ctx.Logger()} }

// name is where Caddy writes its access log.
type name struct{}

// CaddyModule gives the logger its name. It is registered nowhere.
func (name) CaddyModule() caddy.ModuleInfo { return caddy.ModuleInfo{ID: "http.log.access"} }

// line is what is logged of a request.
type line struct {
	request *http.Request
	fields  []func() zap.Field // of handlers, beside Caddy's own
}

func (l *line) redact(headers []string) {
	hideIn(l.request.Header, "Referer")
	for _, name := range headers {
		if _, there := l.request.Header[name]; there {
			l.request.Header[name] = []string{"REDACTED"}
		}
	}
}

// hideIn hides the secrets in the URLs of a header.
func hideIn(h http.Header, name string) {
	for i, url := range h[name] {
		if hidden := hide(url); hidden != url {
			h[name] = slices.Clone(h[name]) // which others may share
			h[name][i] = hidden
		}
	}
}

const lineVar = "gatehouse.accesslog"

// Serve serves the request with uri in the logs, in the place of its own, and REDACTED for the values of
// parameters that are known to be secrets and of the headers of those names. Field is one more of the line in
// the access log, asked for when the request is over; nil for none. Within another Serve of the same
// request it changes that one's line.
func (l *Logs) Serve(w http.ResponseWriter, r *http.Request, uri string, headers []string, field func() zap.Field, next func(http.ResponseWriter, *http.Request) error) error {
	if outer, ok := caddyhttp.GetVar(r.Context(), lineVar).(*line); ok {
		outer.request.RequestURI = hide(uri)
		outer.redact(headers)
		if field != nil {
			outer.fields = append(outer.fields, field)
		}
		return next(w, r)
	}
	logged := &line{request: r.Clone(r.Context())}
	logged.request.RequestURI = hide(uri)
	logged.redact(headers)
	if field != nil {
		logged.fields = append(logged.fields, field)
	}
	loggers := l.loggers(r)
	caddyhttp.SetVar(r.Context(), lineVar, logged)
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	rec := caddyhttp.NewResponseRecorder(w, nil, nil)
	body := &countingBody{ReadCloser: r.Body}
	r.Body = body
	start := time.Now()
	defer func() { logged.write(loggers, rec, body.n, time.Since(start)) }()
	if err := next(rec, r); err != nil {
		l.fail(rec, r, logged.request, err)
	}
	return nil
}

// fail answers with an error as the server itself would.
func (l *Logs) fail(w http.ResponseWriter, r, logged *http.Request, err error) {
	status := http.StatusInternalServerError
	if he, ok := err.(caddyhttp.HandlerError); ok { //nolint:errorlint // as the server looks at it
		status = he.StatusCode
	}
	if status >= http.StatusInternalServerError {
		l.errors.Error("request failed", zap.String("method", r.Method), zap.String("host", r.Host), zap.String("uri", logged.RequestURI), zap.Error(err))
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
func (l *Logs) loggers(r *http.Request) []*zap.Logger {
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
		loggers = append(loggers, l.access.Named(name)) // of an empty name the same logger
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

// write writes the line, in the words of Caddy.
func (l *line) write(loggers []*zap.Logger, rec caddyhttp.ResponseRecorder, read int, duration time.Duration) {
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
		if repl, ok := l.request.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
			userID, _ = repl.GetString("http.auth.user.id")
		}
		answered := rec.Header()
		if len(answered["Location"]) > 0 {
			answered = answered.Clone()
			hideIn(answered, "Location")
		}
		fields := []zap.Field{
			zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: l.request}), zap.Int("bytes_read", read), zap.String("user_id", userID),
			zap.Duration("duration", duration), zap.Int("size", rec.Size()), zap.Int("status", rec.Status()),
			zap.Object("resp_headers", caddyhttp.LoggableHTTPHeader{Header: answered}),
		}
		for _, field := range l.fields {
			fields = append(fields, field())
		}
		c.Write(fields...)
	}
}
