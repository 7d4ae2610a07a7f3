// Package problem is the directive `problem` for error routes: it answers with the error as a
// problem document (RFC 9457), in the same form in which our own handlers answer.
package problem

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/refuse"
)

// Handler answers a failed request with application/problem+json. An error of our own handlers says
// what it has to say; of any other only the status is told, never its message. Headers that were
// set before the failure, such as Retry-After, stay. Outside an error route it does nothing.
type Handler struct{}

// ServeHTTP renders the error of the error route that r passes.
func (Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	err, ok := r.Context().Value(caddyhttp.ErrorCtxKey).(error)
	if !ok {
		return next.ServeHTTP(w, r)
	}
	status := 0
	if failed, ok := errors.AsType[caddyhttp.HandlerError](err); ok {
		status = failed.StatusCode
	}
	e, status := describe(err, status)
	e.SetHeader(w.Header())
	problem.WriteStatus(w, refuse.Identified(r), e, status)
	return nil
}

// Interface guards
var _ caddyhttp.MiddlewareHandler = Handler{}
