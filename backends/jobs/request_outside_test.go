package jobs_test

import (
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// newRequest is a request of an operator.
func newRequest(method, target string, body io.Reader) *http.Request {
	r := httptest.NewRequest(method, target, body)
	r.Header.Set(service.RankHeader, service.RankOperator)
	return r
}
