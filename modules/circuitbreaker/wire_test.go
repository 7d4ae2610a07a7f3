package circuitbreaker_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/refuse"
)

// shed refuses every request with 503, as a directive under load does.
type shed struct{ refuse *refuse.Refuser }

func init() {
	caddy.RegisterModule(shed{})
	httpcaddyfile.RegisterHandlerDirective("test_shed", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return new(shed), nil
	})
	httpcaddyfile.RegisterDirectiveOrder("test_shed", httpcaddyfile.Before, "respond")
}

func (shed) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_shed", New: func() caddy.Module { return new(shed) }}
}

func (s *shed) Provision(ctx caddy.Context) error {
	s.refuse = refuse.New(ctx.Logger())
	return nil
}

func (s *shed) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	return s.refuse.Error(w, r, problem.New(problem.ReducedCapacity, "Too busy."))
}

// jsonGateway is a configuration that no Caddyfile can express. It lasts as long as the process.
type jsonGateway struct {
	ctx    caddy.Context
	server *caddyhttp.Server
}

func (g jsonGateway) Context() caddy.Context { return g.ctx }

func (g jsonGateway) Get(target string, _ ...string) *http.Response {
	w := httptest.NewRecorder()
	g.server.ServeHTTP(w, httptest.NewRequest(http.MethodGet, target, nil))
	return w.Result()
}

func startJSON(t *testing.T, raw string) (g jsonGateway, err error) {
	t.Helper()
	if g.ctx, err = caddy.ProvisionContext(modtest.Config(t, []byte(raw))); err != nil {
		return g, err
	}
	app, err := g.ctx.App("http")
	if err != nil {
		return g, err
	}
	g.server = app.(*caddyhttp.App).Servers["srv0"]
	return g, nil
}

// raw sends bytes and reads a response.
func raw(t *testing.T, addr, request string) *http.Response {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err = io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func breaksOff(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "100")
	_, _ = io.WriteString(w, "the beginning")
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func TestAnswersThatBreakOffAreFailures(t *testing.T) {
	a := newApp(t, breaksOff)
	srv := listen(t, gateway(t, quick, a))
	for i := range 10 {
		resp, err := http.Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if i < 5 && (resp.StatusCode != 200 || !errors.Is(err, io.ErrUnexpectedEOF)) {
			t.Errorf("answer %d: got %d, %v, want it to break off", i, resp.StatusCode, err)
		}
		if i >= 6 && resp.StatusCode != 503 {
			t.Errorf("answer %d: got %d, want a refusal", i, resp.StatusCode)
		}
	}
}

func TestClientsThatLeaveMidwayAreNoFailures(t *testing.T) {
	ended := make(chan struct{}, 100)
	a := newApp(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 32<<10)); err != nil {
				break
			}
		}
		ended <- struct{}{}
	})
	g := gateway(t, "trip 1% min 2\nzone midway", a)
	srv := listen(t, g)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for range 10 {
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.ReadFull(resp.Body, make([]byte, 1000))
		cancel()
		_ = resp.Body.Close()
		<-ended
	}
	srv.Close() // waits for the handlers
	if got := metric(t, g, "state", "midway"); got != isClosed {
		t.Errorf("the state is %v", got)
	}
	if got := metric(t, g, "requests_total", "midway", "outcome=success"); got != 10 {
		t.Errorf("%v answers count as successes, want all 10: their headers have arrived", got)
	}
}

func TestStreamsCountWhenTheirHeaderArrives(t *testing.T) {
	release := make(chan struct{})
	a := newApp(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: 1\n\n")
		_ = http.NewResponseController(w).Flush()
		<-release
	})
	g := gateway(t, "zone stream", a)
	srv := listen(t, g)
	before := metric(t, g, "requests_total", "stream", "outcome=success")
	resp, err := http.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(resp.Body).ReadString('\n')
	if got := metric(t, g, "requests_total", "stream", "outcome=success"); got != before+1 || line != "data: 1\n" {
		t.Errorf("got %q and %v successes while the stream goes on", line, got-before)
	}
	close(release)
	_ = resp.Body.Close()
}

func TestInformationalResponsesAndUpgradesPass(t *testing.T) {
	a := newApp(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			conn, rw, _ := http.NewResponseController(w).Hijack()
			_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			_ = rw.Flush()
			line, _ := rw.ReadString('\n')
			_, _ = rw.WriteString("echo " + line)
			_ = rw.Flush()
			_ = conn.Close()
			return
		}
		w.Header().Set("Link", "</x.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusOK)
	})
	srv := listen(t, gateway(t, quick+"retry 2", a))
	var hints atomic.Int64
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
		hints.Store(int64(code))
		return nil
	}})
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != 200 || hints.Load() != 103 {
		t.Errorf("got %v, %v, hints %d", resp, err, hints.Load())
	}
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello\n")
	rest, _ := io.ReadAll(conn)
	if !strings.HasPrefix(string(rest), "HTTP/1.1 101 ") || !strings.HasSuffix(string(rest), "\r\n\r\necho hello\n") {
		t.Errorf("got %q", rest)
	}
}

type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }

func benchmark(b *testing.B, directive string) {
	g := modtest.Start(b, ":80 {\n"+directive+"\nrespond hello\n}\n")
	r := httptest.NewRequest(http.MethodGet, "http://h/x", nil)
	b.ReportAllocs()
	for b.Loop() {
		g.ServeHTTP(&discard{http.Header{}}, r)
	}
}

// What a closed circuit costs is the difference to the first.
func BenchmarkServe(b *testing.B) {
	for name, directive := range map[string]string{"without": "", "closed": "circuit_breaker", "closed-retry": "circuit_breaker {\nretry 2\n}"} {
		b.Run(name, func(b *testing.B) { benchmark(b, directive) })
	}
}

func TestAllocations(t *testing.T) {
	allocs := func(directive string) float64 {
		g := modtest.Start(t, ":80 {\n"+directive+"\nrespond hello\n}\n")
		r := httptest.NewRequest(http.MethodGet, "http://h/x", nil)
		return testing.AllocsPerRun(200, func() { g.ServeHTTP(&discard{http.Header{}}, r) })
	}
	if with, without := allocs("circuit_breaker"), allocs(""); with > without+3 {
		t.Errorf("a closed circuit costs %.0f allocations, want at most 3, the writer included", with-without)
	}
}

func ok(n *atomic.Int64) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintf(w, "answer %d", n.Add(1)) }
}
