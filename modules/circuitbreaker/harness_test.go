package circuitbreaker_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	_ "github.com/gatehouse-proxy/gatehouse/modules/circuitbreaker"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

func TestGolden(t *testing.T) { modtest.Golden(t, "testdata") }

// app is the app behind the gateway. It can be killed and started again on its port.
type app struct {
	t      testing.TB
	addr   string
	server *http.Server
	hits   atomic.Int64
	answer atomic.Pointer[http.HandlerFunc]
}

func newApp(t testing.TB, answer http.HandlerFunc) *app {
	a := &app{t: t}
	a.does(answer)
	a.start()
	t.Cleanup(a.kill)
	return a
}

func (a *app) does(answer http.HandlerFunc) { a.answer.Store(&answer) }

func (a *app) start() {
	a.t.Helper()
	addr := a.addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		a.t.Fatal(err)
	}
	a.addr = l.Addr().String()
	a.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.hits.Add(1)
		(*a.answer.Load())(w, r)
	})}
	go func(s *http.Server) { _ = s.Serve(l) }(a.server)
}

func (a *app) kill() { _ = a.server.Close() }

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = fmt.Fprintf(w, "status %d", code)
	}
}

// site is a Caddyfile with a circuit breaker before the app.
func site(options, upstream string) string {
	return ":80 {\n\tcircuit_breaker {\n" + options + "\n\t}\n\treverse_proxy " + upstream + "\n}\n"
}

// quick opens early.
const quick = "trip 50% min 5 window 10s\n"

func gateway(t testing.TB, options string, a *app) *modtest.Gateway {
	t.Helper()
	return modtest.Start(t, site(options, a.addr))
}

func body(t testing.TB, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// running is a configuration that serves.
type running interface {
	Get(target string, headers ...string) *http.Response
	Context() caddy.Context
}

// send makes n requests and counts the statuses.
func send(g running, n int) map[int]int {
	got := map[int]int{}
	for range n {
		got[g.Get("/").StatusCode]++
	}
	return got
}

// metric is the value of one of our metrics for a zone, summed up over those with all labels given as
// name=value; -1 for none.
func metric(t testing.TB, g running, name, zone string, labels ...string) float64 {
	t.Helper()
	ctx := g.Context()
	families, err := ctx.GetMetricsRegistry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := -1.0
	for _, f := range families {
		if f.GetName() != "gatehouse_circuit_breaker_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			all := ""
			for _, l := range m.GetLabel() {
				all += " " + l.GetName() + "=" + l.GetValue() + " "
			}
			match := strings.Contains(all, " zone="+zone+" ")
			for _, l := range labels {
				match = match && strings.Contains(all, " "+l+" ")
			}
			if match {
				sum = max(sum, 0) + m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

const (
	isClosed = 0
	isOpen   = 2
)

// state is the state of the first numbered circuit.
func state(t testing.TB, g *modtest.Gateway) float64 {
	t.Helper()
	return metric(t, g, "state", "circuit_breaker#1")
}

func wantState(t testing.TB, g *modtest.Gateway, want float64) {
	t.Helper()
	if got := state(t, g); got != want {
		t.Fatalf("the state is %v, want %v", got, want)
	}
}

// until polls for what must become true soon.
func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !done(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("it takes too long until %s", what)
		}
	}
}

// listen serves the gateway on a socket.
func listen(t testing.TB, g *modtest.Gateway) *httptest.Server {
	srv := httptest.NewServer(g)
	t.Cleanup(srv.Close)
	return srv
}
