package limit_test

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	_ "github.com/caddyserver/caddy/v2/modules/caddyevents/eventsconfig" // the global option events
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	_ "github.com/gatehouse-proxy/gatehouse/modules/problem" // renders refusals on an error route
)

func init() {
	caddy.RegisterModule(new(sleeper))
	caddy.RegisterModule(new(ear))
	httpcaddyfile.RegisterHandlerDirective("sleep_for_test", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h.Next()
		args := h.RemainingArgs()
		d, err := time.ParseDuration(args[0])
		return &sleeper{d}, err
	})
	httpcaddyfile.RegisterDirectiveOrder("sleep_for_test", httpcaddyfile.Before, "respond")
}

// sleeper is an app that takes its time.
type sleeper struct{ For time.Duration }

func (*sleeper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.sleep_for_test", New: func() caddy.Module { return new(sleeper) }}
}

func (s *sleeper) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	select {
	case <-time.After(s.For):
	case <-r.Context().Done():
	}
	return next.ServeHTTP(w, r)
}

// ear hands events to listener.
type ear struct{}

func (*ear) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.limit_test_listener", New: func() caddy.Module { return new(ear) }}
}

func (*ear) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

func (*ear) Handle(_ context.Context, e caddy.Event) error {
	listener(e.Data)
	return nil
}

func body(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var _ caddyevents.Handler = (*ear)(nil)
