package circuitbreaker

import (
	"context"
	"errors"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/clientbody"
)

func TestErrorsAreJudged(t *testing.T) {
	h := new(Handler)
	var err error
	if h.failures, err = parseFailures([]string{"500", "507"}); err != nil {
		t.Fatal(err)
	}
	refused := errors.New("connection refused")
	caddyError := func(status int, err error) error { return caddyhttp.HandlerError{StatusCode: status, Err: err} }
	for _, test := range []struct {
		name   string
		err    error
		want   Outcome
		status int
	}{
		{"connection", caddyError(502, refused), Failure, 502},
		{"timeout", caddyError(504, context.DeadlineExceeded), Failure, 504},
		{"no-upstream", caddyError(503, refused), Failure, 503},
		{"configured", caddyError(507, refused), Failure, 507},
		{"not-configured", caddyError(501, refused), Success, 501},
		{"plain", refused, Failure, 500},
		{"client-left", caddyError(499, context.Canceled), Ignored, 499},
		{"not-found", caddyError(404, refused), Ignored, 404},
		{"our-429", caddyError(429, problem.New(problem.QuotaExceeded, "")), Ignored, 500},
		{"our-503", caddyError(503, problem.New(problem.ReducedCapacity, "")), Ignored, 500},
		{"our-503-bare", problem.New(problem.Unavailable, ""), Ignored, 500},
		{"our-503-with-a-cause", problem.New(problem.KeysUnavailable, "").Because(refused), Ignored, 500},
		{"only-if-cached", caddyError(504, problem.New(problem.UpstreamTimeout, "")), Ignored, 500},
		{"a-failure-passed-on", caddyError(502, problem.New(problem.UpstreamFailed, "").Because(caddyError(502, refused))), Failure, 502},
	} {
		got, status := h.judgeError(&exchange{r: httptest.NewRequest("GET", "/", nil)}, test.err)
		if got != test.want || status != test.status {
			t.Errorf("%s: got %d, %d, want %d, %d", test.name, got, status, test.want, test.status)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	x := &exchange{r: httptest.NewRequestWithContext(ctx, "GET", "/", nil)}
	if got, _ := h.judgeError(x, caddyError(502, refused)); got != Ignored {
		t.Errorf("after the client has left: got %d", got)
	}
	body := new(clientbody.Body)
	body.Failed.Store(true)
	x = &exchange{r: httptest.NewRequest("POST", "/", nil), body: body}
	if got, _ := h.judgeError(x, caddyError(502, refused)); got != Ignored {
		t.Errorf("after the client has broken its body off: got %d", got)
	}
}
