package httpcache_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

// twoApps answers by name and path, for an hour.
func twoApps(t *testing.T) (a, b *app) {
	named := func(name string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=3600")
			_, _ = fmt.Fprint(w, name+" "+r.URL.Path)
		}
	}
	return newApp(t, named("a")), newApp(t, named("b"))
}

func serveBoth(t *testing.T, a, b *app, site string) *modtest.Gateway {
	t.Helper()
	return modtest.Start(t, "{\n\tgatehouse {\n\t\tdata_dir @@data@@\n\t}\n}\n:80 {\n"+strings.NewReplacer("@@a@@", a.Listener.Addr().String(), "@@b@@", b.Listener.Addr().String()).Replace(site)+"\n}\n")
}

// TestHitsAreJudgedLikeMisses stores a response for one client and lets another ask that the site does not
// let through to the app.
func TestHitsAreJudgedLikeMisses(t *testing.T) {
	const out = "@out not header X-In yes\n"
	for name, tc := range map[string]struct {
		site    string
		refused int // 0 for none: the second client gets a hit
	}{
		"respond":           {"http_cache\n" + out + "respond @out 403\nreverse_proxy @@a@@", 403},
		"respond-200":       {"http_cache\n" + out + "respond @out \"no\" 200\nreverse_proxy @@a@@", 200},
		"error":             {"http_cache\n" + out + "error @out 403\nreverse_proxy @@a@@", 403},
		"nested":            {"http_cache\nhandle /x* {\n" + out + "respond @out 403\nreverse_proxy @@a@@\n}", 403},
		"twice-nested":      {"http_cache\nhandle {\nroute {\n" + out + "error @out 403\nreverse_proxy @@a@@\n}\n}", 403},
		"handle-of-matcher": {"http_cache\n" + out + "handle @out {\nrespond 403\n}\nhandle {\nreverse_proxy @@a@@\n}", 403},
		"named-route":       {"http_cache\ninvoke rules\nreverse_proxy @@a@@\n}\n&(rules) {\n" + out + "respond @out 403", 403},

		"after-a-rewrite":    {"http_cache\nhandle_path /x/* {\n@out {\npath /page\nnot header X-In yes\n}\nrespond @out 403\nreverse_proxy @@a@@\n}", 403},
		"after-a-map":        {"http_cache\nroute {\nvars who {header.X-In}\n@out not vars who yes\nrespond @out 403\nreverse_proxy @@a@@\n}", 403},
		"fallback-elsewhere": {"http_cache\nhandle /x/* {\nreverse_proxy @@a@@\n}\nrespond 404", 0},
		"other-path":         {"http_cache\nhandle /y/* {\nrespond 403\n}\nhandle {\nreverse_proxy @@a@@\n}", 0},
		"no-rule":            {"http_cache\nreverse_proxy @@a@@", 0},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := twoApps(t)
			g := serveBoth(t, a, b, tc.site)
			if got := get(g, "http://h/x/page", "X-In", "yes"); got.StatusCode != 200 || !strings.HasPrefix(got.body, "a ") {
				t.Fatalf("got %d %q, want the app's answer", got.StatusCode, got.body)
			}
			got := get(g, "http://h/x/page")
			if tc.refused == 0 {
				if !got.hit() {
					t.Errorf("got %d %q, want a hit", got.StatusCode, got.cacheStatus())
				}
				return
			}
			if got.StatusCode != tc.refused || strings.HasPrefix(got.body, "a ") {
				t.Errorf("got %d %q, want %d and not what is stored", got.StatusCode, got.body, tc.refused)
			}
			if got := get(g, "http://h/x/page", "X-In", "yes"); !strings.HasPrefix(got.body, "a ") {
				t.Errorf("got %d %q, want the app's answer and not what the rule said", got.StatusCode, got.body)
			}
		})
	}
}

func TestRoutesKeepTheirOwn(t *testing.T) {
	a, b := twoApps(t)
	g := serveBoth(t, a, b, "handle_path /a/* {\nhttp_cache\nreverse_proxy @@a@@\n}\nhandle_path /b/* {\nhttp_cache\nreverse_proxy @@b@@\n}")
	for range 2 {
		for _, name := range []string{"a", "b"} {
			if got := get(g, "http://h/"+name+"/x"); got.body != name+" /x" {
				t.Errorf("/%s/x: got %q", name, got.body)
			}
		}
	}
	if got := get(g, "http://h/b/x"); !got.hit() {
		t.Errorf("got %q, want a hit", got.cacheStatus())
	}
}

// TestListenersKeepTheirOwn: the same host and URL on another port is another site.
func TestListenersKeepTheirOwn(t *testing.T) {
	a, b := twoApps(t)
	g := serveBoth(t, a, b, "http_cache\nreverse_proxy @@a@@\n}\n:81 {\nhttp_cache\nreverse_proxy @@b@@")
	ask := func(h http.Handler) string {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://h/x", nil))
		return w.Body.String() + " " + w.Header().Get("Cache-Status")
	}
	for _, want := range []string{"fwd=uri-miss", "hit"} {
		for name, h := range map[string]http.Handler{"a": g, "b": g.Server("srv1")} {
			if got := ask(h); !strings.HasPrefix(got, name+" /x ") || !strings.Contains(got, want) {
				t.Errorf("the listener of %s: got %q, want a %s", name, got, want)
			}
		}
	}
}

func TestReloadKeepsWhatIsStored(t *testing.T) {
	a, b := twoApps(t)
	dir := t.TempDir()
	config := "{\n\tgatehouse {\n\t\tdata_dir @@data@@\n\t}\n}\n:80 {\n\thttp_cache\n\treverse_proxy " + a.Listener.Addr().String() + "\n}\n"
	g, err := modtest.StartIn(t, dir, config)
	if err != nil {
		t.Fatal(err)
	}
	get(g, "http://h/x")
	again, err := modtest.StartIn(t, dir, config)
	if err != nil {
		t.Fatal(err)
	}
	g.Stop()
	if got := get(again, "http://h/x"); !got.hit() {
		t.Errorf("got %q, want a hit", got.cacheStatus())
	}
	_ = b
}

// TestFieldsThatConnectionNamesAreGone: the front door takes them before the cache, so that the proxy behind
// it takes away nothing by which a response was stored.
func TestFieldsThatConnectionNamesAreGone(t *testing.T) {
	a, b := twoApps(t)
	a.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Vary", "X-Tenant")
		_, _ = io.WriteString(w, "tenant "+r.Header.Get("X-Tenant"))
	}
	g := serveBoth(t, a, b, "http_cache\nreverse_proxy @@a@@")
	for _, c := range []struct{ connection, want string }{
		{"X-Tenant", "tenant "},
		{"keep-alive", "tenant acme"},
		{"close, x-tenant", "tenant "},
		{"close", "tenant acme"},
	} {
		if got := get(g, "http://h/x", "X-Tenant", "acme", "Connection", c.connection); got.body != c.want {
			t.Errorf("%q: got %q, want %q", c.connection, got.body, c.want)
		}
	}
}
