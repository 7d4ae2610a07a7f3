package httpcache_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

func TestUnsafeMethodsInvalidate(t *testing.T) {
	for name, c := range map[string]struct {
		method   string
		status   int
		location string
		gone     map[string]bool // whether each target is asked for again
	}{
		"post":                {"POST", 200, "", map[string]bool{"http://h/x": true, "http://h/x?q": false, "http://h/y": false}},
		"put":                 {"PUT", 204, "", map[string]bool{"http://h/x": true}},
		"delete":              {"DELETE", 204, "", map[string]bool{"http://h/x": true}},
		"patch":               {"PATCH", 200, "", map[string]bool{"http://h/x": true}},
		"unknown-method":      {"M-SEARCH", 200, "", map[string]bool{"http://h/x": true}},
		"redirect":            {"POST", 303, "", map[string]bool{"http://h/x": true}},
		"location":            {"POST", 201, "/y", map[string]bool{"http://h/x": true, "http://h/y": true, "http://h/x?q": false}},
		"absolute-location":   {"POST", 201, "http://H/y", map[string]bool{"http://h/y": true}},
		"location-elsewhere":  {"POST", 201, "http://other/y", map[string]bool{"http://h/x": true, "http://other/y": false, "http://h/y": false}},
		"refused":             {"POST", 403, "", map[string]bool{"http://h/x": false}},
		"failed":              {"POST", 500, "", map[string]bool{"http://h/x": false}},
		"options-is-no-write": {"OPTIONS", 200, "", map[string]bool{"http://h/x": false}},
	} {
		t.Run(name, func(t *testing.T) {
			a := newApp(t, nil)
			a.answer = func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodGet {
					if c.location != "" {
						w.Header().Set("Location", c.location)
					}
					w.WriteHeader(c.status)
					return
				}
				a.fresh()(w, r)
			}
			g := start(t, a, "")
			for target := range c.gone {
				get(g, target)
			}
			if got := do(g, c.method, "http://h/x"); got.StatusCode != c.status || got.cacheStatus() != "gatehouse; fwd=method" {
				t.Fatalf("got %d with Cache-Status %q", got.StatusCode, got.cacheStatus())
			}
			for target, gone := range c.gone {
				if got := get(g, target); got.hit() == gone {
					t.Errorf("%s: got Cache-Status %q, want invalid: %t", target, got.cacheStatus(), gone)
				}
			}
		})
	}
}

func TestAllVariantsAreInvalidated(t *testing.T) {
	a := newApp(t, nil)
	a.answer = a.fresh("Vary", "Accept")
	g := start(t, a, "")
	for _, accept := range []string{"a/a", "b/b"} {
		get(g, "http://h/x", "Accept", accept)
	}
	do(g, http.MethodPost, "http://h/x", "Authorization", "anyone")
	for _, accept := range []string{"a/a", "b/b"} {
		if got := get(g, "http://h/x", "Accept", accept); got.hit() {
			t.Errorf("%s is still there", accept)
		}
	}
}

// A response that the app made before a write must not be stored after it.
func TestGetBegunBeforeAWriteIsNotStored(t *testing.T) {
	for name, invalidate := range map[string]func(g *modtest.Gateway) answer{
		"by-write": func(g *modtest.Gateway) answer { return do(g, http.MethodPost, "http://h/x") },
		"by-tag":   func(g *modtest.Gateway) answer { return invalidateTag(g, "t1") },
	} {
		t.Run(name, func(t *testing.T) {
			arrived, released := make(chan bool, 1), make(chan bool)
			a := newApp(t, nil)
			a.answer = func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet && a.hits.Load() == 1 {
					arrived <- true
					<-released
				}
				a.fresh("Cache-Tag", "t1")(w, r)
			}
			g := start(t, a, "")
			done := make(chan answer)
			go func() { done <- get(g, "http://h/x") }()
			<-arrived
			if got := invalidate(g); got.StatusCode != 200 {
				t.Fatalf("invalidating: got %d %q", got.StatusCode, got.body)
			}
			close(released)
			<-done
			if got := get(g, "http://h/x"); got.hit() {
				t.Error("what the app answered before the invalidation was stored after it")
			}
			if got := get(g, "http://h/x"); !got.hit() {
				t.Errorf("the next response is not stored: %q", got.cacheStatus())
			}
		})
	}
}

func invalidateTag(g http.Handler, tag string) answer {
	r := httptest.NewRequest(http.MethodPost, "http://h/cache/invalidate", strings.NewReader(`{"tags":["`+tag+`"]}`))
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	return answer{w.Result(), w.Body.String()}
}

func TestTags(t *testing.T) {
	a := newApp(t, nil)
	tags := map[string][]string{"/a": {"red, blue"}, "/b": {"blue green"}, "/c": {"red", "green"}, "/d": nil}
	a.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Cache-Tag"] = tags[r.URL.Path]
		w.Header().Set("Surrogate-Key", "key"+r.URL.Path[1:])
		a.fresh()(w, r)
	}
	g := start(t, a, "")
	load := func() {
		for path := range tags {
			for _, method := range []string{"GET", "GET", "OPTIONS"} {
				got := do(g, method, "http://h"+path)
				if got.Header.Get("Cache-Tag") != "" || got.Header.Get("Surrogate-Key") != "" {
					t.Errorf("the client sees the tags: %v", got.Header)
				}
			}
			if got := get(g, "http://h"+path); !got.hit() {
				t.Fatalf("%s is not kept: %q", path, got.cacheStatus())
			}
		}
	}
	for tag, gone := range map[string]string{"red": "/a/c", "blue": "/a/b", "keyd": "/d", "Red": ""} {
		load()
		if got := invalidateTag(g, tag); got.StatusCode != 200 {
			t.Fatalf("got %d %q", got.StatusCode, got.body)
		}
		for path := range tags {
			if got := get(g, "http://h"+path); got.hit() == strings.Contains(gone, path) {
				t.Errorf("after invalidating %s: %s has Cache-Status %q", tag, path, got.cacheStatus())
			}
		}
	}
}

func TestEntriesSurviveAReload(t *testing.T) {
	a := newApp(t, nil)
	a.answer = a.fresh("Cache-Tag", "t1")
	dir := t.TempDir()
	before, err := modtest.StartIn(t, dir, a.config(""))
	if err != nil {
		t.Fatal(err)
	}
	get(before, "http://h/x")
	// Another size of the memory, so that the backend is opened anew beside the one that runs.
	after, err := modtest.StartIn(t, dir, strings.Replace(a.config(""), "data_dir @@data@@", "data_dir @@data@@\n\t\tbackend cache {\n\t\t\tmemory 32MiB\n\t\t}", 1))
	if err != nil {
		t.Fatal(err)
	}
	if got := get(after, "http://h/x"); !got.hit() {
		t.Errorf("during the reload: got %q, want a hit", got.cacheStatus())
	}
	if got := invalidateTag(before, "t1"); got.StatusCode != 200 {
		t.Fatalf("got %d", got.StatusCode)
	}
	if got := get(after, "http://h/x"); got.hit() {
		t.Error("what the old configuration invalidated is valid in the new one")
	}
	before.Stop()
	if got := get(after, "http://h/x"); !got.hit() {
		t.Errorf("after the reload: got %q, want a hit", got.cacheStatus())
	}
}

func TestTrustedProxy(t *testing.T) {
	a := newApp(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=3600")
		_, _ = fmt.Fprint(w, r.Header.Get("X-Forwarded-Proto"), "://", r.Header.Get("X-Forwarded-Host"))
	})
	config := strings.Replace(a.config(""), "\tgatehouse {", "\tservers {\n\t\ttrusted_proxies static 192.0.2.1/32\n\t}\n\tgatehouse {", 1)
	g := modtest.Start(t, config) // httptest requests come from 192.0.2.1
	for range 2 {
		for _, c := range [][]string{{"https", "one.test"}, {"http", "one.test"}, {"https", "two.test"}} {
			got := get(g, "http://h/x", "X-Forwarded-Proto", c[0], "X-Forwarded-Host", c[1])
			if want := c[0] + "://" + c[1]; got.body != want {
				t.Errorf("got %q, want %q", got.body, want)
			}
		}
	}
	t.Run("untrusted", func(t *testing.T) {
		g := start(t, a, "")
		get(g, "http://h/x")
		if got := get(g, "http://h/x", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "evil"); !got.hit() || got.body != "http://h" {
			t.Errorf("got %q %q, want the entry for h", got.cacheStatus(), got.body)
		}
	})
}
