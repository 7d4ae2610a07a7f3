package cache

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

func fillBody(target string) string { return `{"url":"` + target + `","ttl":"1m"}` }

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func TestFillTimesOut(t *testing.T) { pgtest.Each(t, testFillTimesOut) }

func testFillTimesOut(t *testing.T, url string) {
	origin := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer origin.Close()
	s, srv, stop := start(t, t.TempDir(), Config{FillAllow: []string{"127.0.0.1"}}, url)
	defer stop()
	s.fillTime = 100 * time.Millisecond
	status, body := send(t, "POST", srv.URL+"/cache/k/fill", fillBody(origin.URL))
	if status != 504 || !strings.Contains(body, "upstream-timeout") {
		t.Errorf("got %d %q, want a 504 problem", status, body)
	}
}

// The first caller leaves; the others still get the value of its fetch.
func TestFillSurvivesItsFirstCaller(t *testing.T) { pgtest.Each(t, testFillSurvivesItsFirstCaller) }

func testFillSurvivesItsFirstCaller(t *testing.T, url string) {
	var hits atomic.Int64
	gate := make(chan struct{})
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		hits.Add(1)
		<-gate
		_, _ = w.Write([]byte("value"))
	}))
	defer origin.Close()
	_, srv, stop := start(t, t.TempDir(), Config{FillAllow: []string{"127.0.0.1"}}, url)
	defer stop()

	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		req, _ := http.NewRequestWithContext(ctx, "POST", srv.URL+"/cache/k/fill", strings.NewReader(fillBody(origin.URL)))
		_, err := http.DefaultClient.Do(req)
		left <- err
	}()
	eventually(t, "the origin is asked", func() bool { return hits.Load() == 1 })
	got := make(chan string, 1)
	go func() {
		_, body := send(t, "POST", srv.URL+"/cache/k/fill", fillBody(origin.URL))
		got <- body
	}()
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Fatalf("the first caller got %v", err)
	}
	close(gate)
	if body := <-got; body != "value" || hits.Load() != 1 {
		t.Errorf("got %q after %d fetches, want the value of the first", body, hits.Load())
	}
}

func TestFailuresAreRememberedForAMoment(t *testing.T) {
	pgtest.Each(t, testFailuresAreRememberedForAMoment)
}

func testFailuresAreRememberedForAMoment(t *testing.T, url string) {
	var hits atomic.Int64
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		hits.Add(1)
		w.WriteHeader(http.StatusInternalServerError)
	}))
	defer origin.Close()
	_, srv, stop := start(t, t.TempDir(), Config{FillAllow: []string{"127.0.0.1"}}, url)
	defer stop()
	for range 5 {
		if status, _ := send(t, "POST", srv.URL+"/cache/k/fill", fillBody(origin.URL)); status != 502 {
			t.Fatalf("got %d, want 502", status)
		}
	}
	if n := hits.Load(); n > 2 {
		t.Errorf("the origin was asked %d times at once, want once a second", n)
	}
	eventually(t, "the origin is asked again", func() bool {
		send(t, "POST", srv.URL+"/cache/k/fill", fillBody(origin.URL))
		return hits.Load() >= 2
	})
}

func TestFillsAreBounded(t *testing.T) {
	s, srv, stop := start(t, t.TempDir(), Config{FillAllow: []string{"127.0.0.1"}})
	defer stop()
	s.fillTime = 50 * time.Millisecond
	for range maxFills {
		s.slots <- struct{}{}
	}
	status, body := send(t, "POST", srv.URL+"/cache/k/fill", fillBody("http://127.0.0.1:1/"))
	if status != 503 || !strings.Contains(body, "temporary-reduced-capacity") {
		t.Errorf("got %d %q, want a 503 problem", status, body)
	}
	for range maxFills {
		<-s.slots
	}
}

// A value that a client puts while a fill is on its way is newer than what the fill brings.
func TestPutBeatsFill(t *testing.T) { pgtest.Each(t, testPutBeatsFill) }

func testPutBeatsFill(t *testing.T, url string) {
	gate := make(chan struct{})
	var hits atomic.Int64
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		hits.Add(1)
		<-gate
		_, _ = w.Write([]byte("fetched"))
	}))
	defer origin.Close()
	_, srv, stop := start(t, t.TempDir(), Config{FillAllow: []string{"127.0.0.1"}}, url)
	defer stop()
	done := make(chan string, 1)
	go func() {
		_, body := send(t, "POST", srv.URL+"/cache/k/fill", fillBody(origin.URL))
		done <- body
	}()
	eventually(t, "the origin is asked", func() bool { return hits.Load() == 1 })
	send(t, "PUT", srv.URL+"/cache/k", "put")
	close(gate)
	<-done
	if _, got := send(t, "GET", srv.URL+"/cache/k", ""); got != "put" {
		t.Errorf("got %q, want what was put", got)
	}
}

func TestRedirectsStayOnTheHost(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("secret")) }))
	defer other.Close()
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/near":
			http.Redirect(w, r, "/there", http.StatusFound)
		case "/far":
			http.Redirect(w, r, other.URL, http.StatusFound)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		default:
			_, _ = w.Write([]byte("there"))
		}
	}))
	defer origin.Close()
	s, _, stop := start(t, t.TempDir(), Config{FillAllow: []string{"127.0.0.1"}})
	defer stop()
	for path, want := range map[string]problem.Code{"/near": "", "/far": problem.UpstreamFailed, "/loop": problem.UpstreamFailed} {
		u, err := url.JoinPath(origin.URL, path)
		if err != nil {
			t.Fatal(err)
		}
		value, _, err := s.fetch(t.Context(), u)
		if (err == nil) != (want == "") || err != nil && problem.From(err).Code != want {
			t.Errorf("%s: got %q, %v, want %q", path, value, err, want)
		}
	}
}
