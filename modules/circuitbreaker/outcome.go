package circuitbreaker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// statusClientClosed is what Caddy gives a request whose client has left.
const statusClientClosed = 499

// defaultFailures are the statuses that count as failures.
var defaultFailures = []string{"500", "502", "503", "504"}

// failures are the statuses that count as failures, from 500 on.
type failures [600]bool

func (f *failures) include(status int) bool {
	return status >= 500 && status < len(f) && f[status]
}

// parseFailures reads statuses and the class 5xx.
func parseFailures(words []string) (f failures, err error) {
	if len(words) == 0 {
		words = defaultFailures
	}
	for _, word := range words {
		if word == "5xx" {
			for status := range f {
				f[status] = status >= 500
			}
			continue
		}
		status, err := strconv.Atoi(word)
		switch {
		case err != nil || status < 100 || status >= len(f):
			return f, fmt.Errorf("failures: %.40q is no status, write 5xx or statuses such as 500 502", word)
		case status < 500:
			return f, fmt.Errorf("failures: %d says that the request was wrong, not that the app has failed; write statuses from 500 on", status)
		}
		f[status] = true //nolint:gosec // G602: below 600
	}
	return f, nil
}

// unreachable says whether a status that the gateway gives by itself means that the app did not answer.
func unreachable(status int) bool {
	return status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout
}

// grpcFailures are the statuses of gRPC that mean that the app has failed: UNKNOWN, DEADLINE_EXCEEDED,
// INTERNAL and UNAVAILABLE.
var grpcFailures = []string{"2", "4", "13", "14"}

// grpcFailed says whether an answer of gRPC says that the app has failed, which it does in its trailers, or
// in the header of an answer that is nothing else. HTTP's status is 200 then.
func grpcFailed(h http.Header) bool {
	contentType := h["Content-Type"]
	if len(contentType) == 0 || !problem.IsGRPC(contentType[0]) {
		return false
	}
	for _, name := range []string{"Grpc-Status", http.TrailerPrefix + "Grpc-Status"} {
		if values := h[name]; len(values) > 0 {
			return slices.Contains(grpcFailures, values[0])
		}
	}
	return false
}

// repeatable says whether a request may be sent again: it changes nothing by being sent twice, and
// nothing of it is gone after the first time.
func repeatable(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete:
	default:
		return false
	}
	return r.ContentLength == 0 && len(r.TransferEncoding) == 0 && len(r.Header["Upgrade"]) == 0
}

// clientLeft says whether the request has ended on the client's side. One whose time is up has not.
func clientLeft(r *http.Request) bool { return errors.Is(r.Context().Err(), context.Canceled) }

// unavailable asks the client to come back a little after the next probe, not all at once.
func unavailable(wait time.Duration) *problem.Error {
	wait += time.Duration(rand.Float64() * 0.2 * float64(wait))
	e := problem.New(problem.Unavailable, "The app behind the gateway is failing and gets few requests or none for now, try again in %d s.", problem.Seconds(wait))
	e.RetryAfter = wait
	return e
}
