// Package refuse is the one way in which our handlers answer with an error. Where the site has an
// error route, the error goes there, so that handle_errors keeps its say; where it has none, the
// problem is written in place, so that clients get problem+json without any configuration. An error
// route for some statuses alone (handle_errors 404) takes all of the site's errors, as in Caddy.
package refuse

import (
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/gatehouse-proxy/gatehouse/internal/drain"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// Refuser answers requests with errors on behalf of one handler.
type Refuser struct {
	log   *zap.Logger
	often *rate.Sometimes
}

// New is a Refuser that logs faults of our own side to log, once a second at most.
func New(log *zap.Logger) *Refuser {
	return &Refuser{log: log, often: &rate.Sometimes{First: 5, Interval: time.Second}}
}

// Error answers with err. A handler returns what Error returns, and does nothing more.
func (f *Refuser) Error(w http.ResponseWriter, r *http.Request, err error) error {
	e := problem.From(err)
	status := e.Code.Status()
	if status >= http.StatusInternalServerError {
		f.often.Do(func() { f.log.Error("request failed", zap.Int("status", status), zap.Error(e)) })
		trace.SpanFromContext(r.Context()).SetStatus(codes.Error, string(e.Code))
	}
	if route := errorRoute(r); route != nil {
		e.SetHeader(w.Header())
		if drain.Needed(r) && !rendersProblems(route.Handlers) {
			drain.Before(w, r) // what answers knows nothing of clients that are still sending
		}
		return caddyhttp.HandlerError{StatusCode: status, Err: e}
	}
	caddyhttp.SetVar(r.Context(), writtenVar, true)
	problem.Write(w, Identified(r), e)
	return nil
}

const writtenVar = "gatehouse.refused"

// Written says that the answer to the request is an error that Error has written in place: it is the
// gateway's, and says nothing about the app.
func Written(r *http.Request) bool {
	written, _ := caddyhttp.GetVar(r.Context(), writtenVar).(bool)
	return written
}

// InPlace says that Error would write the problem in place, so that a handler which has the document
// ready may do so itself.
func (f *Refuser) InPlace(r *http.Request) bool { return errorRoute(r) == nil }

// Instance is what a problem of the request names as its instance.
func Instance(r *http.Request) string {
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		if id, ok := repl.GetString("http.request.uuid"); ok {
			return "urn:uuid:" + id
		}
	}
	return problem.RequestID(r.Context())
}

// errorRoute is where an error of this request goes, nil for nowhere: the error routes are those of all
// sites on the server, told apart by their matchers.
func errorRoute(r *http.Request) *caddyhttp.Route {
	srv, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || srv.Errors == nil {
		return nil
	}
	for i := range srv.Errors.Routes {
		route := &srv.Errors.Routes[i]
		if matches, err := route.MatcherSets.AnyMatchWithError(r); matches || err != nil {
			return route
		}
	}
	return nil
}

// rendersProblems says whether the directive problem is among the handlers of an error route.
func rendersProblems(handlers []caddyhttp.MiddlewareHandler) bool {
	return slices.ContainsFunc(handlers, func(h caddyhttp.MiddlewareHandler) bool {
		if sub, ok := h.(*caddyhttp.Subroute); ok {
			return slices.ContainsFunc(sub.Routes, func(route caddyhttp.Route) bool { return rendersProblems(route.Handlers) })
		}
		m, ok := h.(caddy.Module)
		return ok && m.CaddyModule().ID == "http.handlers.problem"
	})
}

// Identified is r with the id that Caddy gave it, as the instance of its problems.
func Identified(r *http.Request) *http.Request {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return r
	}
	id, ok := repl.GetString("http.request.uuid")
	if !ok {
		return r
	}
	return r.WithContext(problem.WithRequestID(r.Context(), id))
}
