package circuitbreaker_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/gatehouse-proxy/gatehouse/modules/httpcache"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

// flaky fails with code until it is asked for the n-th time.
func flaky(n int64, code int, header ...string) http.HandlerFunc {
	var asked atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) < n {
			w.Header().Set("X-Failed", "yes")
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(code)
			_, _ = io.WriteString(w, "an answer that has failed")
			return
		}
		_, _ = fmt.Fprintf(w, "%s %s attempt=%s", r.Method, r.URL, r.Header.Get("Gatehouse-Attempt"))
	}
}

func TestFailedRequestsAreRepeated(t *testing.T) {
	for _, code := range []int{502, 503, 504} {
		a := newApp(t, flaky(3, code))
		g := gateway(t, "retry 2\ntrip 100% min 1000", a)
		// The first repeat is always allowed; a second needs requests that it may be a share of.
		a.does(status(200))
		send(g, 20)
		a.does(flaky(3, code))
		resp := g.Get("/x?y=1", "Gatehouse-Attempt", "9")
		if got := body(t, resp); resp.StatusCode != 200 || got != "GET /x?y=1 attempt=3" {
			t.Errorf("%d: got %d %q", code, resp.StatusCode, got)
		}
		if resp.Header.Get("X-Failed") != "" || len(resp.Header.Values("Via")) != 1 {
			t.Errorf("%d: a failed answer has leaked into %v", code, resp.Header)
		}
		g.Stop()
	}
}

func TestWhatClientsSayOfAttemptsIsDeleted(t *testing.T) {
	a := newApp(t, flaky(1, 500))
	for _, options := range []string{"retry 2", "probes 3"} {
		if got := body(t, gateway(t, "zone x"+options[:3]+"\n"+options, a).Get("/", "Gatehouse-Attempt", "9")); got != "GET / attempt=" {
			t.Errorf("%s: got %q", options, got)
		}
	}
}

func TestConnectionErrorsAreRepeated(t *testing.T) {
	var asked atomic.Int64
	a := newApp(t, func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			conn, _, _ := http.NewResponseController(w).Hijack()
			_ = conn.Close()
			return
		}
		_, _ = io.WriteString(w, "ok")
	})
	g := gateway(t, "retry 1", a)
	if got := body(t, g.Do(httptest.NewRequest(http.MethodPut, "/", nil))); got != "ok" {
		t.Errorf("got %q", got)
	}
}

func TestWhatIsNotRepeated(t *testing.T) {
	post := httptest.NewRequest(http.MethodPost, "/", nil)
	put := httptest.NewRequest(http.MethodPut, "/", strings.NewReader("body"))
	for _, test := range []struct {
		name   string
		r      *http.Request
		code   int
		header []string
	}{
		{"post", post, 503, nil}, {"with-a-body", put, 503, nil}, {"internal-error", nil, 500, nil}, {"not-found", nil, 404, nil},
		{"retry-after", nil, 503, []string{"Retry-After", "5"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := newApp(t, flaky(100, test.code, test.header...))
			g := gateway(t, "retry 2", a)
			r := test.r
			if r == nil {
				r = httptest.NewRequest(http.MethodGet, "/", nil)
			}
			resp := g.Do(r)
			if got := body(t, resp); resp.StatusCode != test.code || got != "an answer that has failed" || a.hits.Load() != 1 {
				t.Errorf("got %d %q after %d requests", resp.StatusCode, got, a.hits.Load())
			}
		})
	}
}

func TestLastFailureIsPassedOn(t *testing.T) {
	a := newApp(t, flaky(100, 503))
	g := gateway(t, "retry 1", a)
	resp := g.Get("/")
	if got := body(t, resp); resp.StatusCode != 503 || got != "an answer that has failed" || resp.Header.Get("X-Failed") != "yes" || a.hits.Load() != 2 {
		t.Errorf("got %d %q %v after %d requests, want the second answer", resp.StatusCode, got, resp.Header, a.hits.Load())
	}
}

func TestRepeatsGoTheSameWay(t *testing.T) {
	a := newApp(t, flaky(2, 503))
	g := modtest.Start(t, strings.ReplaceAll(`:80 {
	circuit_breaker {
		retry 2
	}
	handle_path /api/* {
		request_header +X-Way api
		reverse_proxy @@ {
			header_up X-Path {path}
		}
	}
	handle {
		respond "the wrong way" 418
	}
}
`, "@@", a.addr))
	resp := g.Get("/api/x?y=1")
	if got := body(t, resp); got != "GET /x?y=1 attempt=2" {
		t.Errorf("got %d %q", resp.StatusCode, got)
	}
}

func TestBrokenErrorsAreRepeated(t *testing.T) {
	var asked atomic.Int64
	a := newApp(t, func(w http.ResponseWriter, _ *http.Request) {
		switch asked.Add(1) {
		case 1: // larger than what is dropped
			w.WriteHeader(503)
			_, _ = w.Write(make([]byte, 1<<20))
		case 2:
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(503)
			_, _ = io.WriteString(w, "the beginning")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		default:
			_, _ = io.WriteString(w, "ok")
		}
	})
	var fine atomic.Int64
	b := newApp(t, ok(&fine))
	g := modtest.Start(t, ":80 {\n circuit_breaker {\n trip 100% min 1000\n retry 2\n }\n handle /b {\n reverse_proxy "+b.addr+"\n }\n reverse_proxy "+a.addr+"\n}\n")
	for range 20 {
		g.Get("/b")
	}
	resp := g.Get("/")
	if got := body(t, resp); got != "ok" || resp.StatusCode != 200 {
		t.Errorf("got %d %q", resp.StatusCode, got)
	}
}

func TestBudgetUnderATotalOutage(t *testing.T) {
	a := newApp(t, status(503))
	g := gateway(t, "zone outage\ntrip 100% min 100000\nretry 5", a)
	const requests = 200
	start := time.Now()
	if got := send(g, requests); got[503] != requests {
		t.Errorf("got %v", got)
	}
	seconds := int64(time.Since(start) / time.Second)
	if got := a.hits.Load() - requests; got > requests/5+seconds || got < requests/10 {
		t.Errorf("got %d repeats of %d requests, want at most a fifth", got, requests)
	}
	if sent, refused := metric(t, g, "retries_total", "outage"), metric(t, g, "retries_refused_total", "outage"); sent != float64(a.hits.Load()-requests) || refused < requests/2 {
		t.Errorf("the metrics say %v sent and %v refused", sent, refused)
	}
}

func TestNothingIsRepeatedWhileOpen(t *testing.T) {
	a := newApp(t, status(503))
	g := gateway(t, "trip 50% min 20\nretry 5", a)
	send(g, 100)
	if got := a.hits.Load(); got != 20 {
		t.Errorf("the app got %d requests, want the 20 that open the circuit, repeats included", got)
	}
}

// cached is a site with a cache before the circuit breaker.
func cached(stale, options, upstream string) string {
	return "{\n\tgatehouse {\n\t\tdata_dir @@data@@\n\t}\n}\n:80 {\n\thttp_cache {\n\t\t" + stale + "\n\t}\n" + strings.TrimPrefix(site(options, upstream), ":80 {\n")
}

// shortLived answers /kept with a response that is stale at once.
func shortLived(control string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", control)
		w.Header().Set("X-From", "app")
		_, _ = io.WriteString(w, "from the app")
	}
}

func TestStaleBeforeFallbackBeforeRefusal(t *testing.T) {
	tests := []struct {
		name, stale, control, fallback, want string
	}{
		{"stale", "", "max-age=1", "", "200 from the app"},
		{"stale-before-fallback", "", "max-age=1", "with", "200 from the app"},
		{"configured", "stale 1h", "max-age=1", "with", "200 from the app"},
		{"as-the-response-says", "", "max-age=1, stale-if-error=600", "with", "200 from the app"},
		{"the-response-says-no", "", "max-age=1, stale-if-error=0", "with", "203 status 203"},
		{"must-revalidate", "stale 1h", "max-age=1, must-revalidate", "with", "203 status 203"},
		{"switched-off", "stale 0s", "max-age=1", "with", "203 status 203"},
		{"nothing-kept", "", "no-store", "with", "203 status 203"},
		{"nothing-at-all", "", "no-store", "", "503"},
	}
	// All of them first: then their responses become stale at the same time.
	gateways := make([]*modtest.Gateway, len(tests))
	for i, test := range tests {
		a, b := newApp(t, shortLived(test.control)), newApp(t, status(203))
		options := quick + "open 1m\nzone " + test.name + "\n"
		if test.fallback != "" {
			options += "fallback " + b.addr
		}
		g := modtest.Start(t, cached(test.stale, options, a.addr))
		gateways[i] = g
		if got := body(t, g.Get("http://h/kept")); got != "from the app" {
			t.Fatalf("%s: got %q", test.name, got)
		}
		a.kill()
		for range 5 {
			g.Do(httptest.NewRequest(http.MethodPost, "http://h/", nil))
		}
		if got := metric(t, g, "state", test.name); got != isOpen {
			t.Fatalf("%s: the state is %v", test.name, got)
		}
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var resp *http.Response
			until(t, "the response is stale", func() bool {
				resp = gateways[i].Get("http://h/kept")
				how := resp.Header.Get("Cache-Status")
				return !strings.HasPrefix(how, "gatehouse; hit") || strings.Contains(how, "ttl=-")
			})
			got := fmt.Sprint(resp.StatusCode) + " " + body(t, resp)
			if !strings.HasPrefix(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if strings.HasPrefix(test.want, "200") && (resp.Header.Get("Age") == "" || resp.Header.Get("Retry-After") != "" || resp.Header.Get("X-From") != "app") {
				t.Errorf("stale: got %v", resp.Header)
			}
		})
	}
}

func TestFallbackIsNotKeptByTheCache(t *testing.T) {
	a := newApp(t, status(500))
	b := newApp(t, shortLived("max-age=3600"))
	g := modtest.Start(t, cached("", quick+"open 1h max 1h\nfallback "+b.addr, a.addr))
	for range 5 {
		g.Get("http://h/x")
	}
	for range 3 {
		if got := g.Get("http://h/y").Header.Get("Cache-Status"); got != "gatehouse; fwd=uri-miss" {
			t.Errorf("got %q", got)
		}
	}
}
