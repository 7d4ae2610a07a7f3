package flags_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// newRequest is a request of an operator.
func newRequest(ctx context.Context, method, target string, body io.Reader) *http.Request {
	r := httptest.NewRequestWithContext(ctx, method, target, body)
	r.Header.Set(service.RankHeader, service.RankOperator)
	return r
}
