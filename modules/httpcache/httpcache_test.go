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

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	_ "github.com/gatehouse-proxy/gatehouse/modules/backend"
	_ "github.com/gatehouse-proxy/gatehouse/modules/guard"
	_ "github.com/gatehouse-proxy/gatehouse/modules/httpcache"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

func TestGolden(t *testing.T) { modtest.Golden(t, "testdata") }

// app is the app behind the gateway. It counts its requests and, unless answer does, writes the
// number of the request as the body.
type app struct {
	*httptest.Server
	hits   atomic.Int64
	answer func(w http.ResponseWriter, r *http.Request)
}

func newApp(t testing.TB, answer func(w http.ResponseWriter, r *http.Request)) *app {
	a := &app{answer: answer}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.hits.Add(1)
		a.answer(w, r)
	}))
	t.Cleanup(a.Close)
	return a
}

// fresh answers with a lifetime of an hour, further fields given as name, value, and the request's number.
func (a *app) fresh(fields ...string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "max-age=3600")
		for i := 0; i+1 < len(fields); i += 2 {
			w.Header().Add(fields[i], fields[i+1])
		}
		_, _ = fmt.Fprintf(w, "answer %d", a.hits.Load())
	}
}

// config is the Caddyfile with http_cache before the app, and the cache's API mounted beside it.
func (a *app) config(inner string) string {
	return strings.NewReplacer("@@app@@", a.Listener.Addr().String(), "@@inner@@", inner).Replace(`{
	gatehouse {
		data_dir @@data@@
	}
}
:80 {
	http_cache {
		tags Cache-Tag Surrogate-Key
	}
	@@inner@@
	handle /cache/* {
		backend cache as operator
	}
	handle {
		reverse_proxy @@app@@
	}
}
`)
}

func start(t testing.TB, a *app, inner string) *modtest.Gateway {
	t.Helper()
	return modtest.Start(t, a.config(inner))
}

type answer struct {
	*http.Response
	body string
}

func (a answer) cacheStatus() string { return strings.Join(a.Header.Values("Cache-Status"), ", ") }

func (a answer) hit() bool { return strings.Contains(a.cacheStatus(), "gatehouse; hit") }

func do(g http.Handler, method, target string, headers ...string) answer {
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	resp := w.Result()
	b, _ := io.ReadAll(resp.Body)
	return answer{resp, string(b)}
}

func get(g http.Handler, target string, headers ...string) answer {
	return do(g, http.MethodGet, target, headers...)
}

func TestHit(t *testing.T) {
	a := newApp(t, nil)
	date := time.Now().Add(-100 * time.Second).UTC().Format(http.TimeFormat)
	a.answer = a.fresh("Date", date, "Etag", `"v1"`, "X-App", "yes", "Age", "200", "Content-Type", "text/plain", "Cache-Status", "origin; hit")
	g := start(t, a, "")

	first := get(g, "http://h/x")
	if got, want := first.cacheStatus(), "origin; hit, gatehouse; fwd=uri-miss; stored"; got != want {
		t.Errorf("miss: got Cache-Status %q, want %q", got, want)
	}
	second := get(g, "http://h/x")
	if second.body != "answer 1" || second.StatusCode != 200 || a.hits.Load() != 1 {
		t.Fatalf("got %d %q after %d requests to the app, want its first answer", second.StatusCode, second.body, a.hits.Load())
	}
	if got := second.cacheStatus(); !strings.HasPrefix(got, "origin; hit, gatehouse; hit; ttl=33") {
		t.Errorf("hit: got Cache-Status %q, want a ttl of about 3400", got)
	}
	for name, want := range map[string]string{"Date": date, "Etag": `"v1"`, "X-App": "yes", "Content-Type": "text/plain", "Content-Length": "8"} {
		if got := second.Header.Values(name); len(got) != 1 || got[0] != want {
			t.Errorf("hit: got %s %q, want %q once", name, got, want)
		}
	}
	if age := second.Header.Get("Age"); age != "200" && age != "201" {
		t.Errorf("hit: got Age %q, want 200", age)
	}
	head := do(g, http.MethodHead, "http://h/x")
	if !head.hit() || head.body != "" || head.Header.Get("Content-Length") != "8" {
		t.Errorf("HEAD: got %q, body %q, Content-Length %q, want a hit without body", head.cacheStatus(), head.body, head.Header.Get("Content-Length"))
	}
}

func TestExpires(t *testing.T) {
	a := newApp(t, nil)
	a.answer = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "max-age=2")
		_, _ = fmt.Fprint(w, a.hits.Load())
	}
	g := start(t, a, "")
	get(g, "http://h/x")
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(20 * time.Millisecond) {
		got := get(g, "http://h/x")
		if got.body == "2" {
			if want := "gatehouse; fwd=stale; stored"; got.cacheStatus() != want {
				t.Errorf("got Cache-Status %q, want %q", got.cacheStatus(), want)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the response does not expire")
		}
	}
}

func TestIdentitiesNeverShare(t *testing.T) {
	a := newApp(t, nil)
	a.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=3600, s-maxage=3600, must-revalidate")
		_, _ = fmt.Fprint(w, "for "+r.Header.Get("Authorization")+r.Header.Get("X-User"))
	}
	t.Run("authorization", func(t *testing.T) {
		g := start(t, a, "")
		for range 2 {
			for _, user := range []string{"alice", "bob"} {
				got := get(g, "http://h/me", "Authorization", user)
				if got.body != "for "+user || got.cacheStatus() != "gatehouse; fwd=bypass" {
					t.Errorf("%s got %q with Cache-Status %q", user, got.body, got.cacheStatus())
				}
			}
		}
		if got := get(g, "http://h/me"); got.body != "for " {
			t.Errorf("an anonymous client got %q", got.body)
		}
		if got := get(g, "http://h/me", "Authorization", "alice"); got.body != "for alice" {
			t.Errorf("alice got %q, what is kept for anonymous clients", got.body)
		}
	})
	t.Run("user-id", func(t *testing.T) {
		g := start(t, a, "test_user")
		for range 2 {
			for _, user := range []string{"alice", "bob"} {
				if got := get(g, "http://h/me", "X-User", user); got.body != "for "+user || got.cacheStatus() != "gatehouse; fwd=bypass" {
					t.Errorf("%s got %q with Cache-Status %q", user, got.body, got.cacheStatus())
				}
			}
		}
	})
}

// testUser authenticates whom X-User names, and leaves no Authorization behind.
type testUser struct{}

func init() {
	caddy.RegisterModule(testUser{})
	httpcaddyfile.RegisterHandlerDirective("test_user", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) { return testUser{}, nil })
	httpcaddyfile.RegisterDirectiveOrder("test_user", httpcaddyfile.Before, "basic_auth")
}

func (testUser) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_user", New: func() caddy.Module { return testUser{} }}
}

func (testUser) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set("http.auth.user.id", r.Header.Get("X-User"))
	return next.ServeHTTP(w, r)
}

func TestVary(t *testing.T) {
	a := newApp(t, nil)
	a.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=3600")
		w.Header().Set("Vary", "Accept-Language")
		_, _ = fmt.Fprint(w, strings.Join(r.Header["Accept-Language"], "|"))
	}
	g := start(t, a, "")
	for _, c := range []struct {
		headers []string
		status  string
	}{
		{[]string{"Accept-Language", "de, en"}, "gatehouse; fwd=uri-miss; stored"},
		{[]string{"Accept-Language", "de,en"}, "gatehouse; hit"},
		{[]string{"Accept-Language", "de", "Accept-Language", "en"}, "gatehouse; hit"},
		{[]string{"Accept-Language", "fr"}, "gatehouse; fwd=vary-miss; stored"},
		{nil, "gatehouse; fwd=vary-miss; stored"},
		{[]string{"Accept-Language", ""}, "gatehouse; fwd=vary-miss; stored"},
		{nil, "gatehouse; hit"},
		{[]string{"Accept-Language", "fr"}, "gatehouse; hit"},
		{[]string{"Accept-Language", "de,en"}, "gatehouse; hit"},
	} {
		if got := get(g, "http://h/x", c.headers...).cacheStatus(); !strings.HasPrefix(got, c.status) {
			t.Errorf("%q: got Cache-Status %q, want %q", c.headers, got, c.status)
		}
	}
	for i := range 40 {
		get(g, "http://h/x", "Accept-Language", fmt.Sprint(i))
	}
	if got := get(g, "http://h/x", "Accept-Language", "39"); !got.hit() {
		t.Errorf("newest of many variants: got %q, want a hit", got.cacheStatus())
	}
	if got := get(g, "http://h/x", "Accept-Language", "fr"); got.hit() {
		t.Error("an old one of many variants is still there, want at most 32")
	}
}

func TestKey(t *testing.T) {
	a := newApp(t, nil)
	a.answer = a.fresh()
	g := start(t, a, "guard {\n\t\tpaths pass\n\t}")
	targets := []string{"http://h/a", "http://h/a/", "http://h/a?", "http://h/a?x=1", "http://h/a?x=1&y", "http://other/a", "https://h/a",
		"http://h/%61", "http://h/a%2Fb", "http://h/a%252Fb", "http://h/a/b", "http://h/a%20b", "http://h/A"}
	want := map[string]string{}
	for _, target := range targets {
		first := get(g, target)
		if first.hit() && target != "http://h/%61" { // %61 is a
			t.Errorf("%s: a hit for another URL: %q", target, first.body)
		}
		want[target] = first.body
	}
	for _, target := range targets {
		if got := get(g, target); !got.hit() || got.body != want[target] {
			t.Errorf("%s: got %q %q, want a hit with %q", target, got.cacheStatus(), got.body, want[target])
		}
	}
	for _, target := range []string{"http://H/a", "http://h:80/a", "https://h:443/a"} {
		if got := get(g, target); !got.hit() {
			t.Errorf("%s: got %q, want a hit", target, got.cacheStatus())
		}
	}
}

func TestConditional(t *testing.T) {
	a := newApp(t, nil)
	a.answer = a.fresh("Etag", `W/"v1"`, "Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT", "Content-Type", "text/plain")
	g := start(t, a, "")
	get(g, "http://h/x")
	for name, c := range map[string]struct {
		headers []string
		want    int
	}{
		"same":                {[]string{"If-None-Match", `W/"v1"`}, 304},
		"weakly-same":         {[]string{"If-None-Match", `"v1"`}, 304},
		"in-a-list":           {[]string{"If-None-Match", `"a,b", "v1"`}, 304},
		"any":                 {[]string{"If-None-Match", "*"}, 304},
		"other":               {[]string{"If-None-Match", `"v2"`}, 200},
		"malformed":           {[]string{"If-None-Match", `v1`}, 200},
		"tag-beats-date":      {[]string{"If-None-Match", `"v2"`, "If-Modified-Since", "Sun, 06 Nov 2094 08:49:37 GMT"}, 200},
		"not-modified":        {[]string{"If-Modified-Since", "Sun, 06 Nov 1994 08:49:37 GMT"}, 304},
		"modified":            {[]string{"If-Modified-Since", "Sun, 06 Nov 1994 08:49:36 GMT"}, 200},
		"date-in-another-way": {[]string{"If-Modified-Since", "1994-11-06"}, 200},
	} {
		t.Run(name, func(t *testing.T) {
			got := get(g, "http://h/x", c.headers...)
			if got.StatusCode != c.want || !got.hit() {
				t.Fatalf("got %d with Cache-Status %q, want %d from the cache", got.StatusCode, got.cacheStatus(), c.want)
			}
			if c.want == 304 && (got.body != "" || got.Header.Get("Content-Type") != "" || got.Header.Get("Etag") != `W/"v1"` || got.Header.Get("Cache-Control") == "") {
				t.Errorf("304 with body %q and header %v", got.body, got.Header)
			}
		})
	}
	if n := a.hits.Load(); n != 1 {
		t.Errorf("the app was asked %d times, want once", n)
	}
}

func TestNotModifiedOfTheAppPassesUnstored(t *testing.T) {
	a := newApp(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		if r.Header.Get("If-None-Match") != "" {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = fmt.Fprint(w, "whole")
	})
	g := start(t, a, "")
	if got := get(g, "http://h/x", "If-None-Match", `"mine"`); got.StatusCode != 304 {
		t.Fatalf("got %d, want the app's 304", got.StatusCode)
	}
	if got := get(g, "http://h/x"); got.StatusCode != 200 || got.body != "whole" {
		t.Errorf("got %d %q, want the whole response", got.StatusCode, got.body)
	}
}

func TestHeadIsNotStoredAsGet(t *testing.T) {
	a := newApp(t, nil)
	a.answer = a.fresh()
	g := start(t, a, "")
	if got := do(g, http.MethodHead, "http://h/x"); got.cacheStatus() != "gatehouse; fwd=uri-miss" {
		t.Errorf("HEAD: got Cache-Status %q", got.cacheStatus())
	}
	if got := get(g, "http://h/x"); got.hit() || got.body != "answer 2" {
		t.Errorf("GET after HEAD: got %q %q", got.cacheStatus(), got.body)
	}
}

func TestOnlyIfCached(t *testing.T) {
	a := newApp(t, nil)
	a.answer = a.fresh()
	g := start(t, a, "")
	got := get(g, "http://h/x", "Cache-Control", "only-if-cached")
	if got.StatusCode != 504 || got.Header.Get("Content-Type") != "application/problem+json" || a.hits.Load() != 0 {
		t.Errorf("got %d after %d requests to the app, want a 504 problem", got.StatusCode, a.hits.Load())
	}
	get(g, "http://h/x")
	if got = get(g, "http://h/x", "Cache-Control", "only-if-cached"); !got.hit() {
		t.Errorf("got %q, want a hit", got.cacheStatus())
	}
}

func TestFieldsOfTheGatewayAreNotStored(t *testing.T) {
	a := newApp(t, nil)
	a.answer = a.fresh("Vary", "Accept", "Link", "</app>", "Retry-After", "7", "RateLimit", `"app";r=1`, "Connection", "X-Hop", "X-Hop", "1",
		"X-RateLimit-Limit", "5", "Keep-Alive", "timeout=5")
	// header runs before http_cache, as limit and api_version do.
	g := start(t, a, `header ?Early {http.request.header.X-Number}
	header +Link "<{http.request.header.X-Number}>"`)
	first := get(g, "http://h/x", "X-Number", "one")
	second := get(g, "http://h/x", "X-Number", "two")
	if !second.hit() {
		t.Fatalf("got %q, want a hit", second.cacheStatus())
	}
	for name, want := range map[string]string{"Link": "<two>, </app>", "Vary": "Accept", "Retry-After": "", "Ratelimit": "", "X-Hop": "",
		"X-Ratelimit-Limit": "", "Keep-Alive": ""} {
		if got := strings.Join(second.Header.Values(name), ", "); got != want {
			t.Errorf("hit: got %s %q, want %q", name, got, want)
		}
	}
	if got := first.Header.Get("Retry-After"); got != "7" {
		t.Errorf("miss: got Retry-After %q, want the app's", got)
	}
}

func TestHitsDoNotShareValues(t *testing.T) {
	a := newApp(t, nil)
	a.answer = a.fresh("X-Name", "world")
	g := start(t, a, "header >X-Name world {http.request.header.X-New}") // replaces in place, on the way back
	for i := range 3 {
		want := fmt.Sprint("v", i)
		if got := get(g, "http://h/x", "X-New", want).Header.Get("X-Name"); got != want {
			t.Errorf("request %d: got X-Name %q, want %q", i, got, want)
		}
	}
}
