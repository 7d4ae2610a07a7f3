package circuitbreaker_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

func TestAnAppIsKilledAndComesBack(t *testing.T) {
	a := newApp(t, status(200))
	g := gateway(t, quick+"open 200ms\nprobes 2\nslow_start 100ms", a)
	if got := send(g, 10); got[200] != 10 {
		t.Fatalf("got %v", got)
	}
	a.kill()
	got := send(g, 20)
	wantState(t, g, isOpen)
	if got[502] != 10 || got[503] != 10 {
		t.Errorf("got %v, want ten failures, half of all, and then refusals", got)
	}
	hits := a.hits.Load()
	a.start()
	until(t, "the app is asked again", func() bool { return g.Get("/").StatusCode == 200 })
	until(t, "the circuit is closed", func() bool { g.Get("/"); return state(t, g) == isClosed })
	if got = send(g, 20); got[200] != 20 || a.hits.Load() == hits {
		t.Errorf("got %v after the app has come back", got)
	}
}

func TestRefusalSaysWhenToComeBack(t *testing.T) {
	a := newApp(t, status(500))
	g := gateway(t, quick+"open 30s", a)
	send(g, 5)
	resp := g.Get("/")
	after, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	if resp.StatusCode != 503 || after < 27 || after > 36 || resp.Header.Get("Content-Type") != "application/problem+json" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("got %d %v, want a problem with Retry-After of 27 to 36", resp.StatusCode, resp.Header)
	}
	var doc map[string]any
	if err := json.Unmarshal([]byte(body(t, resp)), &doc); err != nil || !strings.HasSuffix(doc["type"].(string), "/unavailable") || !strings.Contains(doc["detail"].(string), "try again in") {
		t.Errorf("got %v, %v", doc, err)
	}
	if a.hits.Load() != 5 {
		t.Errorf("the app got %d requests, want 5", a.hits.Load())
	}
}

func TestErrorRouteHasItsSay(t *testing.T) {
	a := newApp(t, status(500))
	g := modtest.Start(t, ":80 {\n circuit_breaker {\n trip 50% min 5\n }\n reverse_proxy "+a.addr+"\n handle_errors {\n respond \"sorry {err.status_code}\" 503\n }\n}\n")
	send(g, 5)
	resp := g.Get("/")
	if got := body(t, resp); got != "sorry 503" || resp.Header.Get("Retry-After") == "" {
		t.Errorf("got %q %v", got, resp.Header)
	}
}

func TestWhatIsNoFailure(t *testing.T) {
	for name, code := range map[string]int{"bad-request": 400, "not-found": 404, "timeout": 408, "too-many": 429, "teapot": 418, "not-implemented": 501, "redirect": 302} {
		t.Run(name, func(t *testing.T) {
			g := gateway(t, quick, newApp(t, status(code)))
			if got := send(g, 50); got[code] != 50 {
				t.Errorf("got %v", got)
			}
			wantState(t, g, isClosed)
		})
	}
}

func TestFailuresAreConfigured(t *testing.T) {
	a := newApp(t, status(500))
	g := gateway(t, quick+"failures 507", a)
	send(g, 20)
	wantState(t, g, isClosed)
	a.does(status(507))
	send(g, 20)
	wantState(t, g, isOpen)
}

func TestConnectionErrorsCountInAnyCase(t *testing.T) {
	a := newApp(t, status(200))
	a.kill()
	g := gateway(t, quick+"failures 507", a)
	send(g, 20)
	wantState(t, g, isOpen)
}

func TestRefusalsOfTheGatewayAreNoFailures(t *testing.T) {
	for name, inner := range map[string]string{
		"error": "error 418",
		"abort": "abort",
		"shed":  "test_shed",
	} {
		for _, route := range []string{"", "handle_errors {\n respond \"sorry\" 503\n}\n"} {
			g := modtest.Start(t, ":80 {\n circuit_breaker {\n trip 1% min 2\n }\n handle {\n "+inner+"\n }\n "+route+"}\n")
			for range 20 {
				func() {
					defer func() { _ = recover() }() // abort
					g.Get("/")
				}()
			}
			if got := state(t, g); got != isClosed {
				t.Errorf("%s, error route %q: the state is %v", name, route, got)
			}
			g.Stop()
		}
	}
}

func TestClientsThatLeaveAreNoFailures(t *testing.T) {
	entered, release := make(chan struct{}, 100), make(chan struct{})
	a := newApp(t, func(_ http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		select {
		case <-r.Context().Done():
		case <-release:
		}
	})
	defer close(release)
	g := gateway(t, "trip 1% min 2", a)
	for range 10 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			g.Do(httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
		}()
		<-entered
		cancel()
		<-done
	}
	wantState(t, g, isClosed)
}

func TestClientsThatSendNonsenseAreNoFailures(t *testing.T) {
	a := newApp(t, status(200))
	g := gateway(t, "trip 1% min 2", a)
	srv := listen(t, g)
	for range 10 {
		resp := raw(t, srv.Listener.Addr().String(), "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\nnonsense\r\n")
		if resp.StatusCode < 400 {
			t.Fatalf("got %d", resp.StatusCode)
		}
	}
	wantState(t, g, isClosed)
}

func TestSlowAnswersCount(t *testing.T) {
	a := newApp(t, status(200))
	g := gateway(t, quick+"slow 1ns", a)
	if got := send(g, 10); got[200] != 5 || got[503] != 5 {
		t.Errorf("got %v", got)
	}
}

func TestFallback(t *testing.T) {
	a, b := newApp(t, status(500)), newApp(t, status(203))
	g := gateway(t, quick+"fallback "+b.addr, a)
	if got := send(g, 12); got[500] != 5 || got[203] != 7 {
		t.Errorf("got %v", got)
	}
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("a body"))
	b.does(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	if got := body(t, g.Do(r)); got != "a body" {
		t.Errorf("the fallback got the body %q", got)
	}
	b.kill()
	if resp := g.Get("/"); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("without a fallback: got %d %v", resp.StatusCode, resp.Header)
	}
}

func TestReloadKeepsTheState(t *testing.T) {
	a := newApp(t, status(500))
	old := gateway(t, quick+"open 1h max 1h", a)
	send(old, 5)
	g := gateway(t, quick+"open 1h max 1h", a)
	old.Stop()
	wantState(t, g, isOpen)
	if got := g.Get("/").StatusCode; got != 503 {
		t.Errorf("after a reload: got %d", got)
	}
	if got := old.Get("/").StatusCode; got != 503 {
		t.Errorf("in flight in the old configuration: got %d", got)
	}
	g.Stop()
	g = gateway(t, quick, a)
	wantState(t, g, isClosed) // nobody has kept it
}

func TestFailedReloadChangesNothing(t *testing.T) {
	a := newApp(t, status(500))
	g := gateway(t, "trip 50% min 1000", a)
	send(g, 1)
	if _, err := modtest.TryStart(t, strings.Replace(site("trip 50% min 5", a.addr), "reverse_proxy", "circuit_breaker {\n trip 50% min 6\n zone circuit_breaker#1\n }\n reverse_proxy", 1)); err == nil || !strings.Contains(err.Error(), "must have the same trip") {
		t.Fatalf("two settings of one zone: got %v", err)
	}
	if got := send(g, 50); got[500] != 50 {
		t.Errorf("got %v, want the numbers of the configuration that serves", got)
	}
	changed := gateway(t, "trip 50% min 60", a)
	if got := send(g, 5); got[500] != 5 {
		t.Errorf("got %v, want the old numbers while nothing is served by the new", got)
	}
	g.Stop()
	if got := send(changed, 10); got[500] != 4 || got[503] != 6 {
		t.Errorf("got %v, want the new numbers over the old counts", got)
	}
}

func TestRoutesShareAZone(t *testing.T) {
	a := newApp(t, status(500))
	g := modtest.Start(t, strings.ReplaceAll(`:80 {
	handle /a {
		circuit_breaker {
			zone one
			trip 50% min 5
		}
		reverse_proxy @@
	}
	handle /b {
		circuit_breaker {
			zone one
			trip 50% min 5
			failures 507
		}
		reverse_proxy @@
	}
}
`, "@@", a.addr))
	for range 5 {
		g.Get("/a")
	}
	if got := g.Get("/b").StatusCode; got != 503 {
		t.Errorf("got %d", got)
	}
}

// listener notes events.
type listener struct {
	mu   sync.Mutex
	seen []string
}

func (l *listener) Handle(_ context.Context, e caddy.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = append(l.seen, e.Name()+" "+e.Data["zone"].(string)+" from "+e.Data["from"].(string))
	return nil
}

func TestEventsAndMetrics(t *testing.T) {
	a := newApp(t, status(500))
	g := gateway(t, quick+"zone events\nopen 10ms\nslow_start off\nprobes 1", a)
	events, err := g.Context().App("events")
	if err != nil {
		t.Fatal(err)
	}
	l := new(listener)
	for _, name := range []string{"circuit_opened", "circuit_closed"} {
		if err = events.(*caddyevents.App).On(name, l); err != nil {
			t.Fatal(err)
		}
	}
	send(g, 5)
	g.Get("/")
	a.does(status(200))
	until(t, "the app is asked again", func() bool { return g.Get("/").StatusCode == 200 })
	if len(l.seen) < 2 || l.seen[0] != "circuit_opened events from closed" || l.seen[len(l.seen)-1] != "circuit_closed events from half_open" {
		t.Errorf("got %q", l.seen)
	}
	for _, test := range []struct {
		name, label string
		least       float64
	}{
		{"requests_total", "outcome=failure", 5}, {"requests_total", "outcome=success", 1}, {"requests_total", "outcome=refused", 1},
		{"transitions_total", "to=open", 1}, {"transitions_total", "to=half_open", 1}, {"transitions_total", "to=closed", 1},
		{"retries_total", "zone=events", 0}, {"retries_refused_total", "zone=events", 0}, {"state", "zone=events", 0},
	} {
		if got := metric(t, g, test.name, "events", test.label); got < test.least {
			t.Errorf("%s %s: got %v, want at least %v", test.name, test.label, got, test.least)
		}
	}
}

func TestProxyModule(t *testing.T) {
	a := newApp(t, status(500))
	start := func(breaker string) (jsonGateway, error) {
		cfg := strings.NewReplacer("@@app@@", a.addr, "@@breaker@@", breaker).Replace(`{"apps":{"http":{"servers":{"srv0":{"listen":[":80"],"routes":[{"handle":[
			{"handler":"reverse_proxy","upstreams":[{"dial":"@@app@@"}],"circuit_breaker":@@breaker@@}]}]}}}}}`)
		return startJSON(t, cfg)
	}
	g, err := start(`{"type":"gatehouse","zone":"proxy","min_requests":5,"open":"50ms","slow_start":"10ms"}`)
	if err != nil {
		t.Fatal(err)
	}
	if got := send(g, 10); got[500] != 5 || got[503] != 5 {
		t.Errorf("got %v", got)
	}
	a.does(status(200))
	until(t, "the app is asked again", func() bool { return g.Get("/").StatusCode == 200 })
	until(t, "the circuit is closed", func() bool { g.Get("/"); return metric(t, g, "state", "proxy") == isClosed })
	for breaker, want := range map[string]string{
		`{"type":"gatehouse","ratio":2}`:            "the ratio must be",
		`{"type":"gatehouse","failures":["404"]}`:   "the request was wrong",
		`{"type":"gatehouse","zone":"not a\nzone"}`: "cannot be a zone",
	} {
		if _, err = start(strings.ReplaceAll(breaker, "\n", `\n`)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", breaker, err, want)
		}
	}
}

func TestBadJSON(t *testing.T) {
	for handler, want := range map[string]string{
		`"retry":6`:                                "retry must be 1 to 5",
		`"retry":1,"retry_budget":0.5`:             "at most 20%",
		`"retry":1,"retry_budget":-0.1`:            "at most 20%",
		`"failures":["200"]`:                       "the request was wrong",
		`"fallback":{"handler":"none"}`:            "loading the fallback",
		`"probes":-1`:                              "probes must be",
		`"zone":"` + strings.Repeat("x", 65) + `"`: "cannot be a zone",
	} {
		_, err := startJSON(t, `{"apps":{"http":{"servers":{"srv0":{"listen":[":80"],"routes":[{"handle":[{"handler":"circuit_breaker",`+handler+`}]}]}}}}}`)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", handler, err, want)
		}
	}
}

func TestPlaceInTheJourney(t *testing.T) {
	raw, err := modtest.Adapt(":80 {\n respond ok\n reverse_proxy a:1\n circuit_breaker\n encode\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	var order []int
	for _, name := range []string{"circuit_breaker", `"encode"`, "static_response", "reverse_proxy"} {
		order = append(order, strings.Index(string(raw), name))
	}
	if !slices.IsSorted(order) || order[0] < 0 {
		t.Errorf("got the order %v in %s", order, raw)
	}
}
