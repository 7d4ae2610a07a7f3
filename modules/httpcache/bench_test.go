package httpcache_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }

func newBench(tb testing.TB, inner string) func() {
	a := newApp(tb, nil)
	a.answer = a.fresh("Etag", `"v"`, "Content-Type", "application/json", "Vary", "Accept-Encoding", "Cache-Tag", "a b")
	g := start(tb, a, inner)
	r := httptest.NewRequest(http.MethodGet, "http://h/x?page=1", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	if get(g, "http://h/x?page=1", "Accept-Encoding", "gzip"); !get(g, "http://h/x?page=1", "Accept-Encoding", "gzip").hit() {
		tb.Fatal("not kept")
	}
	return func() {
		w := &discard{http.Header{}}
		g.ServeHTTP(w, r)
		if w.h["Age"] == nil {
			tb.Fatal("not a hit")
		}
	}
}

func BenchmarkHit(b *testing.B) {
	serve := newBench(b, "")
	b.ReportAllocs()
	for b.Loop() {
		serve()
	}
}

// BenchmarkRespond is the same server without a cache, what a hit is to be compared with.
func BenchmarkRespond(b *testing.B) {
	g := modtest.Start(b, ":80 {\n\trespond hello\n}\n")
	r := httptest.NewRequest(http.MethodGet, "http://h/x?page=1", nil)
	b.ReportAllocs()
	for b.Loop() {
		g.ServeHTTP(&discard{http.Header{}}, r)
	}
}

// A hit may cost a few allocations more than the least that Caddy answers with.
func TestHitAllocations(t *testing.T) {
	serve := newBench(t, "")
	hit := testing.AllocsPerRun(200, serve)
	g := modtest.Start(t, ":80 {\n\trespond hello\n}\n")
	r := httptest.NewRequest(http.MethodGet, "http://h/x?page=1", nil)
	respond := testing.AllocsPerRun(200, func() { g.ServeHTTP(&discard{http.Header{}}, r) })
	if hit > respond+12 {
		t.Errorf("a hit costs %.0f allocations, respond %.0f, want at most 12 more", hit, respond)
	}
}
