package apiversion_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-proxy/gatehouse/modules/apiversion"
	_ "github.com/gatehouse-proxy/gatehouse/modules/guard"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

func TestGolden(t *testing.T) { modtest.Golden(t, "testdata") }

// site has a retired, a deprecated and a current version; the dates are far from every test's clock.
func site(body string) string {
	return `:80 {
	guard {
		paths pass
	}
	api_version {
		from path /api
		version v1 {
			deprecated 1990-01-01
			sunset     1999-01-01
			successor  v2
			link       sunset https://docs.example.com/v1-sunset
		}
		version v2 {
			deprecated 1999-06-01
			sunset     2999-06-01T12:00:00Z
			successor  v3
			link       deprecation https://docs.example.com/v2 text/html
		}
		version v3
		latest v3
	}
	` + body + "\n}\n"
}

var deprecatedFields = http.Header{
	"Deprecation": {"@928195200"},
	"Sunset":      {"Sat, 01 Jun 2999 12:00:00 GMT"},
	"Link":        {`<https://docs.example.com/v2>; rel="deprecation"; type="text/html"`, `</api/v3/users>; rel="successor-version"`},
}

// fields are the header fields of h that the directive may set.
func fields(h http.Header) http.Header {
	got := http.Header{}
	for _, name := range []string{"Deprecation", "Sunset", "Link"} {
		if v := h.Values(name); v != nil {
			got[name] = v
		}
	}
	return got
}

func body(resp *http.Response) string {
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

func TestVersionIsSettled(t *testing.T) {
	g := modtest.Start(t, site(`respond "{http.api_version.name} {http.api_version.status} {uri}"`))
	for target, want := range map[string]string{
		"/api/v3/users?a=b%20c": "v3 current /api/v3/users?a=b%20c",
		"/api/v2/users":         "v2 deprecated /api/v2/users",
		"/api/users?a=b%20c":    "v3 current /api/v3/users?a=b%20c",
		"/api/a%2Fb":            "v3 current /api/v3/a%2Fb",
		"/other":                "  /other",
	} {
		if got := body(g.Get(target)); got != want {
			t.Errorf("%s: got %q, want %q", target, got, want)
		}
	}
}

func TestUpstreamSeesTheVersion(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RequestURI) }))
	defer upstream.Close()
	g := modtest.Start(t, site("reverse_proxy "+upstream.Listener.Addr().String()))
	for target, want := range map[string]string{
		"/api/users?a=b&c":      "/api/v3/users?a=b&c",
		"/api/a%2Fb%20c/?x=%2F": "/api/v3/a%2Fb%20c/?x=%2F",
		"/api/v2/a%2Fb":         "/api/v2/a%2Fb",
		"/api":                  "/api/v3",
		"/api?":                 "/api/v3?",
		"/else/a%2Fb":           "/else/a%2Fb",
	} {
		if got := body(g.Get(target)); got != want {
			t.Errorf("%s reaches the app as %s, want %s", target, got, want)
		}
	}
}

func TestRequestURIAgreesWithThePath(t *testing.T) {
	h := &apiversion.Handler{From: apiversion.From{Path: "/api"}, Versions: []apiversion.Version{{Name: "v1"}}, Latest: "v1"}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	if err := h.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/api/a%2Fb?x=%20y", nil)
	next := caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
		got := []string{r.RequestURI, r.URL.Path, r.URL.RawPath, r.URL.RawQuery}
		if diff := cmp.Diff([]string{"/api/v1/a%2Fb?x=%20y", "/api/v1/a/b", "/api/v1/a%2Fb", "x=%20y"}, got); diff != "" {
			t.Error(diff)
		}
		return nil
	})
	if err := h.ServeHTTP(httptest.NewRecorder(), r, next); err != nil {
		t.Fatal(err)
	}
}

func TestRoutesSeeTheRewrittenPath(t *testing.T) {
	g := modtest.Start(t, site("handle /api/v3/* {\n\t\trespond three\n\t}\n\thandle {\n\t\trespond other\n\t}"))
	if got := body(g.Get("/api/users")); got != "three" {
		t.Errorf("got %q", got)
	}
}

func TestDeprecatedVersionIsAnnounced(t *testing.T) {
	g := modtest.Start(t, site("respond ok"))
	if diff := cmp.Diff(deprecatedFields, fields(g.Get("/api/v2/users?x=1").Header)); diff != "" {
		t.Error(diff)
	}
	for _, target := range []string{"/api/v3/users", "/api/users", "/other"} {
		if got := fields(g.Get(target).Header); len(got) > 0 {
			t.Errorf("%s has %v", target, got)
		}
	}
}

func TestErrorsAreAnnouncedToo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := l.Addr().String()
	_ = l.Close()
	for name, test := range map[string]struct {
		body   string
		status int
	}{
		"error":        {"error 404", 404},
		"handled":      {"error 404\n\thandle_errors {\n\t\trespond mine\n\t}", 404},
		"dead":         {"reverse_proxy " + dead, 502},
		"not-modified": {"respond 304", 304},
	} {
		t.Run(name, func(t *testing.T) {
			resp := modtest.Start(t, site(test.body)).Get("/api/v2/users")
			if resp.StatusCode != test.status {
				t.Errorf("got status %d, want %d", resp.StatusCode, test.status)
			}
			if diff := cmp.Diff(deprecatedFields, fields(resp.Header)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestUpstreamFieldsAreMerged(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", `</next>; rel="next"`)
		w.Header().Set("Deprecation", "true")
		w.Header().Set("Sunset", "soon")
		w.WriteHeader(http.StatusTeapot)
		if r.URL.Query().Has("flush") {
			_ = http.NewResponseController(w).Flush()
		}
		_, _ = io.WriteString(w, "body")
	}))
	defer upstream.Close()
	addr := upstream.Listener.Addr().String()
	for name, test := range map[string]struct {
		body string
		link []string
	}{
		"proxied":  {"reverse_proxy " + addr, append(append([]string{}, deprecatedFields["Link"]...), `</next>; rel="next"`)},
		"flushed":  {"reverse_proxy " + addr + " {\n\t\tflush_interval -1\n\t}", append(append([]string{}, deprecatedFields["Link"]...), `</next>; rel="next"`)},
		"replaced": {"header Link mine\n\troute {\n\t\theader Link </later>;rel=next\n\t\trespond body 418\n\t}", append([]string{"</later>;rel=next"}, deprecatedFields["Link"]...)},
	} {
		t.Run(name, func(t *testing.T) {
			resp := modtest.Start(t, site(test.body)).Get("/api/v2/users?flush")
			want := http.Header{"Deprecation": deprecatedFields["Deprecation"], "Sunset": deprecatedFields["Sunset"], "Link": test.link}
			if diff := cmp.Diff(want, fields(resp.Header)); diff != "" {
				t.Error(diff)
			}
			if got := body(resp); resp.StatusCode != http.StatusTeapot || got != "body" {
				t.Errorf("got %d %q", resp.StatusCode, got)
			}
		})
	}
}

func TestInformationalResponsesPass(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(w, "late")
	}))
	defer upstream.Close()
	front := httptest.NewServer(modtest.Start(t, site("reverse_proxy "+upstream.Listener.Addr().String())))
	defer front.Close()
	resp, err := http.Get(front.URL + "/api/v2/users")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if got := body(resp); got != "late" || resp.Header.Get("Deprecation") != "@928195200" || len(resp.Header.Values("Deprecation")) != 1 {
		t.Errorf("got %q with %v", got, resp.Header)
	}
}

func TestRetiredVersionIsGone(t *testing.T) {
	g := modtest.Start(t, site("respond reached"))
	resp := g.Get("/api/v1/users?x=1")
	var doc map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
		t.Fatal(err)
	}
	delete(doc, "instance")
	want := map[string]any{
		"type": "https://gatehouse-proxy.github.io/problems/version-sunset", "title": "This API version has been retired", "status": 410.0,
		"detail": "Version v1 of this API was retired on 1999-01-01, use /api/v2/users instead.", "successor": "/api/v2/users",
	}
	if diff := cmp.Diff(want, doc); diff != "" {
		t.Error(diff)
	}
	if resp.StatusCode != http.StatusGone || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("got %d %v", resp.StatusCode, resp.Header)
	}
	wantFields := http.Header{
		"Deprecation": {"@631152000"}, "Sunset": {"Fri, 01 Jan 1999 00:00:00 GMT"},
		"Link": {`<https://docs.example.com/v1-sunset>; rel="sunset"`, `</api/v2/users>; rel="successor-version"`},
	}
	if diff := cmp.Diff(wantFields, fields(resp.Header)); diff != "" {
		t.Error(diff)
	}
}

func TestRetiredVersionIsNotReachedOverTheWire(t *testing.T) {
	front := httptest.NewServer(modtest.Start(t, site("respond reached")))
	defer front.Close()
	for _, target := range []string{"/api/v1/users", "/api/x/../v1/users", "/api//v1/users", "/api/./v1", "/api/%76%31", "/api/x/%2e%2e/v1", "/api%2Fv1", "/api/v1/..;/x"} {
		conn, err := net.Dial("tcp", front.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", target)
		answer, _ := io.ReadAll(conn)
		_ = conn.Close()
		if !strings.HasPrefix(string(answer), "HTTP/1.1 410 ") {
			t.Errorf("%s: got %.60q", target, answer)
		}
	}
}

func TestSunsetComesWithTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // starts at 2000-01-01
		g := modtest.Start(t, ":80 {\n\tapi_version {\n\t\tfrom path /\n\t\tversion v1 {\n\t\t\tsunset 2000-01-02\n\t\t}\n\t}\n\trespond {http.api_version.status}\n}\n")
		if resp := g.Get("/v1/x"); resp.StatusCode != 200 || body(resp) != "current" || resp.Header.Get("Deprecation") != "" || resp.Header.Get("Sunset") == "" {
			t.Errorf("before: got %d %v", resp.StatusCode, resp.Header)
		}
		<-time.After(24*time.Hour - time.Second)
		if resp := g.Get("/v1/x"); resp.StatusCode != 200 {
			t.Errorf("a second before: got %d", resp.StatusCode)
		}
		<-time.After(time.Second)
		if resp := g.Get("/v1/x"); resp.StatusCode != http.StatusGone || strings.Contains(body(resp), "successor") {
			t.Errorf("at the date: got %d", resp.StatusCode)
		}
		g.Stop()
	})
}

func TestUnknownVersionIsNamed(t *testing.T) {
	g := modtest.Start(t, site("respond reached"))
	resp := g.Get("/api/v9/users")
	if got := body(resp); resp.StatusCode != http.StatusNotFound || !strings.Contains(got, "known are: v2, v3.") || !strings.Contains(got, "not-found") {
		t.Errorf("got %d %s", resp.StatusCode, got)
	}
}

func TestRefusesBadSettings(t *testing.T) {
	for name, test := range map[string]struct{ block, want string }{
		"header":         {"from header API-Version\nversion v1", "from header is not supported by this version"},
		"media-type":     {"from media_type vnd.acme\nversion v1", "from media_type is not supported"},
		"query":          {"from query v\nversion v1", "from query is not supported"},
		"unknown-place":  {"from paht /api\nversion v1", "did you mean path?"},
		"no-from":        {"version v1", "from is missing"},
		"two-from":       {"from path /api\nfrom path /\nversion v1", "given twice"},
		"no-version":     {"from path /api", "no version"},
		"bad-date":       {"from path /api\nversion v1 {\nsunset \"Sat, 01 Jan 2026\"\n}", "write 2027-06-01"},
		"bad-month":      {"from path /api\nversion v1 {\ndeprecated 2026-13-01\n}", "2026-13-01"},
		"bad-day":        {"from path /api\nversion v1 {\ndeprecated 2026-02-30\n}", "2026-02-30"},
		"wrong-order":    {"from path /api\nversion v1 {\ndeprecated 2027-01-02\nsunset 2027-01-01\n}", "before the deprecation"},
		"brownout":       {"from path /api\nversion v1 {\nbrownout \"0 9 * * 1\" 15m\n}", "unknown option of version v1: brownout"},
		"downgrade":      {"from path /api\nversion v1 {\ndowngrade /users/* .id\n}", "unknown option of version v1: downgrade"},
		"short-link":     {"from path /api\nversion v1 {\nlink deprecation\n}", "a relation and a URL"},
		"unknown-latest": {"from path /api\nversion v1\nlatest v2", "latest v2 is not one"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := modtest.Adapt(":80 {\napi_version {\n" + test.block + "\n}\n}\n")
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "Caddyfile:") {
				t.Errorf("got %v, want it to say %q and where", err, test.want)
			}
		})
	}
}

// TestRetiredLatestStartsAndRefuses: a configuration that was right yesterday still starts today.
func TestRetiredLatestStartsAndRefuses(t *testing.T) {
	g := modtest.Start(t, ":80 {\napi_version {\nfrom path /api\nversion v1 {\nsunset 1999-01-01\n}\nlatest v1\n}\nrespond here\n}\n")
	if resp := g.Get("/api/users"); resp.StatusCode != http.StatusGone {
		t.Errorf("got %d, want 410", resp.StatusCode)
	}
}
