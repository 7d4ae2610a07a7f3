package problem

import (
	"errors"
	"net/http"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// describe turns the error that ended a request into a problem and the status to send it with.
// status is what the failed handler asked for, 0 if it asked for none.
func describe(err error, status int) (*problem.Error, int) {
	if e, ok := errors.AsType[*problem.Error](err); ok {
		if status == 0 {
			status = e.Code.Status()
		}
		return e, failure(status)
	}
	// A body over its cap often arrives as the failure of whoever was reading it.
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		e := problem.From(err)
		return e, e.Code.Status()
	}
	status = failure(status)
	return problem.FromStatus(status), status
}

// failure is status if it is that of an error, and 500 if not.
func failure(status int) int {
	if status < 400 || status > 599 {
		return http.StatusInternalServerError
	}
	return status
}
