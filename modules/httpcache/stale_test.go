package httpcache_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

// stalePaths are responses by what they say on stale ones.
var stalePaths = map[string]string{
	"/plain":      "max-age=1",
	"/allowed":    "max-age=1, stale-if-error=600",
	"/shared":     "s-maxage=1, stale-if-error=600",
	"/forbidden":  "max-age=1, stale-if-error=0",
	"/revalidate": "max-age=1, stale-if-error=600, must-revalidate",
	"/proxy":      "max-age=1, stale-if-error=600, proxy-revalidate",
	"/short":      "max-age=1, stale-if-error=1",
}

// failing is an app whose responses to stalePaths have been kept and are stale. Then it answers as
// fail says.
func failing(t *testing.T, option string, fail http.HandlerFunc) (*app, *modtest.Gateway) {
	t.Helper()
	a := newApp(t, nil)
	var fails atomic.Bool
	a.answer = func(w http.ResponseWriter, r *http.Request) {
		if fails.Load() {
			fail(w, r)
			return
		}
		w.Header().Set("Cache-Control", stalePaths[r.URL.Path])
		w.Header().Set("Cache-Tag", "stale")
		_, _ = fmt.Fprint(w, "kept")
	}
	g := modtest.Start(t, strings.Replace(a.config(""), "tags Cache-Tag", option+"\n\t\ttags Cache-Tag", 1))
	for path := range stalePaths {
		get(g, "http://h"+path)
	}
	fails.Store(true)
	for end := time.Now().Add(10 * time.Second); anyFresh(g); <-time.After(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the responses do not end")
		}
	}
	return a, g
}

func anyFresh(g *modtest.Gateway) bool {
	for path := range stalePaths {
		if got := get(g, "http://h"+path); got.StatusCode == 200 && got.hit() || path == "/short" && got.StatusCode == 200 {
			return true
		}
	}
	return false
}

func withStatus(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Failed", "yes")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, "an answer that has failed")
	}
}

func TestStaleResponsesAnswerForAnAppThatFails(t *testing.T) {
	for option, want := range map[string]map[string]bool{
		"":         {"/allowed": true},
		"stale 1h": {"/allowed": true, "/plain": true},
		"stale 0s": {},
	} {
		a, g := failing(t, option, withStatus(503))
		check := func(when, status string) {
			t.Helper()
			for path := range stalePaths {
				got := get(g, "http://h"+path)
				if stale := got.StatusCode == 200; stale != want[path] {
					t.Errorf("%q, %s, %s: got %d", option, when, path, got.StatusCode)
					continue
				}
				if want[path] && (got.body != "kept" || got.cacheStatus() != status || got.Header.Get("Age") == "" || got.Header.Get("X-Failed") != "" || len(got.Header["Cache-Tag"]) > 0) {
					t.Errorf("%q, %s, %s: got %q %v", option, when, path, got.body, got.Header)
				}
			}
		}
		check("with an answer", "gatehouse; fwd=stale; fwd-status=503")
		a.Close()
		check("without an answer", "gatehouse; fwd=stale")
		g.Stop()
	}
}

func TestWhichAnswersAreReplaced(t *testing.T) {
	var code atomic.Int64
	code.Store(503)
	_, g := failing(t, "", func(w http.ResponseWriter, r *http.Request) { withStatus(int(code.Load()))(w, r) })
	for status, want := range map[int]bool{500: true, 502: true, 503: true, 504: true, 501: false, 507: false, 404: false, 429: false, 403: false} {
		code.Store(int64(status))
		if got := get(g, "http://h/allowed"); (got.StatusCode == 200) != want {
			t.Errorf("%d: got %d", status, got.StatusCode)
		}
	}
	code.Store(503)
	if got := do(g, http.MethodHead, "http://h/allowed"); got.StatusCode != 200 || got.Header.Get("Content-Length") != "4" {
		t.Errorf("HEAD: got %d %v", got.StatusCode, got.Header)
	}
	if got := do(g, http.MethodPost, "http://h/allowed"); got.StatusCode != 503 {
		t.Errorf("POST: got %d", got.StatusCode)
	}
	if got := get(g, "http://h/allowed", "Authorization", "Bearer x"); got.StatusCode != 503 {
		t.Errorf("with Authorization: got %d", got.StatusCode)
	}
}

func TestInvalidResponsesAnswerForNobody(t *testing.T) {
	_, g := failing(t, "stale 1h", withStatus(503))
	r := httptest.NewRequest(http.MethodPost, "http://h/cache/invalidate", strings.NewReader(`{"tags":["stale"]}`))
	r.Header.Set("Content-Type", "application/json")
	if got := g.Do(r).StatusCode; got != 200 {
		t.Fatalf("got %d", got)
	}
	if got := get(g, "http://h/allowed"); got.StatusCode != 503 {
		t.Errorf("got %d %q", got.StatusCode, got.body)
	}
}

func TestErrorsThatBreakOffAreReplaced(t *testing.T) {
	_, g := failing(t, "", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/allowed" {
			withStatus(503)(w, r)
			return
		}
		w.Header().Set("Content-Length", "100")
		w.WriteHeader(503)
		_, _ = io.WriteString(w, "the beginning")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Host = "h"
		g.ServeHTTP(w, r)
	}))
	defer srv.Close()
	resp, err := http.Get(srv.URL + "/allowed")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "kept" || resp.StatusCode != 200 {
		t.Errorf("got %d %q, %v", resp.StatusCode, b, err)
	}
}
