package refuse_test

import (
	"net/http"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/refuse"
)

// refuser refuses every request.
type refuser struct{ refuse *refuse.Refuser }

func init() {
	caddy.RegisterModule(refuser{})
	httpcaddyfile.RegisterHandlerDirective("test_refuse", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return new(refuser), nil
	})
	httpcaddyfile.RegisterDirectiveOrder("test_refuse", httpcaddyfile.Before, "respond")
}

func (refuser) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_refuse", New: func() caddy.Module { return new(refuser) }}
}

func (h *refuser) Provision(ctx caddy.Context) error {
	h.refuse = refuse.New(ctx.Logger())
	return nil
}

func (h *refuser) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	return h.refuse.Error(w, r, problem.New(problem.LockHeld, "Held."))
}

// TestEachSiteHasItsSay: the error route of one site takes no error of another on the same server.
func TestEachSiteHasItsSay(t *testing.T) {
	g := modtest.Start(t, `http://a.example:80 {
	test_refuse
	handle_errors {
		respond "a says {err.status_code}" 418
	}
}
http://b.example:80 {
	test_refuse
}
`)
	if resp := g.Get("http://a.example/"); resp.StatusCode != http.StatusTeapot {
		t.Errorf("a: got %d, want its error route's 418", resp.StatusCode)
	}
	resp := g.Get("http://b.example/")
	if resp.StatusCode != http.StatusConflict || resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("b: got %d %s, want the problem in place", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
}
