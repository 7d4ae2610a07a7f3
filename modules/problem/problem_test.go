package problem_test

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/google/go-cmp/cmp"

	own "github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/refuse"
	_ "github.com/gatehouse-proxy/gatehouse/modules/problem"
)

func TestGolden(t *testing.T) { modtest.Golden(t, "testdata") }

const ours = "https://gatehouse-proxy.github.io/problems/"

// document reads a problem and checks what all problems have in common.
func document(t *testing.T, resp *http.Response) map[string]any {
	t.Helper()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err = json.Unmarshal(body, &doc); err != nil {
		t.Fatalf("%d with %q: %v", resp.StatusCode, body, err)
	}
	if resp.Header.Get("Content-Type") != "application/problem+json" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers are %v", resp.Header)
	}
	if doc["status"] != float64(resp.StatusCode) {
		t.Errorf("the document says %v, the response %d", doc["status"], resp.StatusCode)
	}
	if instance, _ := doc["instance"].(string); !strings.HasPrefix(instance, "urn:uuid:") {
		t.Errorf("instance is %q", instance)
	}
	return doc
}

const errorRoute = "\n\thandle_errors {\n\t\tproblem\n\t}\n}\n"

func TestErrorsByStatus(t *testing.T) {
	for name, test := range map[string]struct {
		directive, typ, title string
		status                int
	}{
		"not-found":     {"error 404", ours + "not-found", "Nothing is here", 404},
		"private":       {`error "password is hunter2" 403`, ours + "forbidden", "This is not allowed", 403},
		"no-status":     {`error "password is hunter2"`, ours + "internal", "Something went wrong on our side", 500},
		"not-allowed":   {"error 405", ours + "method-not-allowed", "The method is not allowed here", 405},
		"client-closed": {"error 499", ours + "client-closed-request", "The client went away", 499},
		"teapot":        {"error 418", "about:blank", "I'm a teapot", 418},
		"unnamed":       {"error 599", "about:blank", "Error", 599},
		"timeout":       {"error 504", ours + "upstream-timeout", "The app behind the gateway did not answer in time", 504},
	} {
		t.Run(name, func(t *testing.T) {
			g := modtest.Start(t, ":80 {\n\t"+test.directive+errorRoute)
			resp := g.Get("/")
			doc := document(t, resp)
			delete(doc, "instance")
			want := map[string]any{"type": test.typ, "title": test.title, "status": float64(test.status)}
			if diff := cmp.Diff(want, doc); diff != "" || resp.StatusCode != test.status {
				t.Errorf("status %d: %s", resp.StatusCode, diff)
			}
		})
	}
}

func TestDeadUpstreamIs502(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	g := modtest.Start(t, ":80 {\n\treverse_proxy "+addr+errorRoute)
	resp := g.Get("/")
	doc := document(t, resp)
	if resp.StatusCode != http.StatusBadGateway || doc["type"] != ours+"upstream-failed" {
		t.Errorf("got %d %v", resp.StatusCode, doc)
	}
	for member, v := range doc {
		if s, ok := v.(string); ok && (strings.Contains(s, "127.0.0.1") || strings.Contains(s, "dial")) {
			t.Errorf("%s tells the private cause: %q", member, s)
		}
	}
}

func TestSilentUpstreamIs504(t *testing.T) {
	release := make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer upstream.Close()
	defer close(release)
	g := modtest.Start(t, ":80 {\n\treverse_proxy "+upstream.Listener.Addr().String()+
		" {\n\t\ttransport http {\n\t\t\tresponse_header_timeout 50ms\n\t\t}\n\t}"+errorRoute)
	resp := g.Get("/")
	if doc := document(t, resp); resp.StatusCode != http.StatusGatewayTimeout || doc["type"] != ours+"upstream-timeout" {
		t.Errorf("got %d %v", resp.StatusCode, doc)
	}
}

func TestLargeBodyIs413(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	defer upstream.Close()
	g := modtest.Start(t, ":80 {\n\trequest_body {\n\t\tmax_size 10\n\t}\n\treverse_proxy "+upstream.Listener.Addr().String()+errorRoute)
	for name, body := range map[string]io.Reader{
		"length":  strings.NewReader("more than ten bytes"),
		"chunked": struct{ io.Reader }{strings.NewReader("more than ten bytes")},
	} {
		t.Run(name, func(t *testing.T) {
			resp := g.Do(httptest.NewRequest(http.MethodPost, "/", body))
			if doc := document(t, resp); resp.StatusCode != http.StatusRequestEntityTooLarge || doc["type"] != ours+"content-too-large" {
				t.Errorf("got %d %v", resp.StatusCode, doc)
			}
		})
	}
}

// refusing is a handler of ours that refuses every request. Its directive stands in route blocks.
type refusing struct{ refuse *refuse.Refuser }

func (*refusing) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_refusing", New: func() caddy.Module { return new(refusing) }}
}

func (h *refusing) Provision(ctx caddy.Context) error {
	h.refuse = refuse.New(ctx.Logger())
	return nil
}

func (h *refusing) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	e := own.New(own.InvalidToken, "The token has expired, get a new one.").Because(errors.New("key hunter2 said no"))
	e.Extra = map[string]any{"expired_at": "2027-06-01T00:00:00Z"}
	e.RetryAfter = 1500 * time.Millisecond
	e.Header = http.Header{"Www-Authenticate": {`Bearer error="invalid_token"`}}
	return h.refuse.Error(w, r, e)
}

func init() {
	caddy.RegisterModule(new(refusing))
	httpcaddyfile.RegisterHandlerDirective("test_refusing", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return new(refusing), nil
	})
}

func TestOwnErrorsKeepTheirWordsAndHeaders(t *testing.T) {
	site := ":80 {\n\troute {\n\t\theader X-Kept yes\n\t\ttest_refusing\n\t}"
	for name, config := range map[string]string{"by-route": site + errorRoute, "in-place": site + "\n}\n"} {
		t.Run(name, func(t *testing.T) {
			resp := modtest.Start(t, config).Get("/")
			doc := document(t, resp)
			delete(doc, "instance")
			want := map[string]any{
				"type": ours + "invalid-token", "title": "The access token is not valid", "status": 401.0,
				"detail": "The token has expired, get a new one.", "expired_at": "2027-06-01T00:00:00Z",
			}
			if diff := cmp.Diff(want, doc); diff != "" {
				t.Error(diff)
			}
			for name, want := range map[string]string{"Retry-After": "2", "WWW-Authenticate": `Bearer error="invalid_token"`, "X-Kept": "yes"} {
				if got := resp.Header.Get(name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
		})
	}
}

func TestHeadHasNoBody(t *testing.T) {
	g := modtest.Start(t, ":80 {\n\terror 404"+errorRoute)
	resp := g.Do(httptest.NewRequest(http.MethodHead, "/", nil))
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 404 || len(body) != 0 || resp.Header.Get("Content-Type") != "application/problem+json" || resp.Header.Get("Content-Length") == "" {
		t.Errorf("got %d %v with %q", resp.StatusCode, resp.Header, body)
	}
}

func TestOutsideAnErrorRouteItPasses(t *testing.T) {
	g := modtest.Start(t, ":80 {\n\tproblem\n\trespond ok\n}\n")
	resp := g.Get("/")
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || string(body) != "ok" {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
}

func TestInstanceIsTheRequestID(t *testing.T) {
	g := modtest.Start(t, ":80 {\n\theader X-Request-Id {http.request.uuid}\n\terror 404"+errorRoute)
	resp := g.Get("/")
	if got, want := document(t, resp)["instance"], "urn:uuid:"+resp.Header.Get("X-Request-Id"); got != want {
		t.Errorf("instance is %v, want %s", got, want)
	}
}
