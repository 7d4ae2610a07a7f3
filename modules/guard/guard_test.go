package guard_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	_ "github.com/gatehouse-proxy/gatehouse/modules/guard"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
	_ "github.com/gatehouse-proxy/gatehouse/modules/limit"
)

func TestGolden(t *testing.T) { modtest.Golden(t, "testdata") }

// ask is the status of a GET for the target as it stands on the wire, and the body.
func ask(t *testing.T, g *modtest.Gateway, host, target string) (int, string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Host = host
	var err error
	if r.URL, err = url.ParseRequestURI(target); err != nil {
		t.Fatal(err)
	}
	r.RequestURI = target
	resp := g.Do(r)
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// TestItStandsBeforeEveryRoute, wherever a directive of ours stands, and in whatever order.
func TestItStandsBeforeEveryRoute(t *testing.T) {
	for name, site := range map[string]string{
		"open-beside-ours":   ":80 {\n\thandle /news/* {\n\t\trespond open\n\t}\n\thandle {\n\t\tlimit 5/1m\n\t\trespond ours\n\t}\n}",
		"ours-first":         ":80 {\n\thandle /admin/* {\n\t\tlimit 5/1m\n\t\trespond ours\n\t}\n\thandle {\n\t\trespond open\n\t}\n}",
		"ours-in-the-site":   ":80 {\n\tlimit 5/1m\n\trespond open\n}",
		"nested":             ":80 {\n\trespond /news/* open\n\troute /x/* {\n\t\thandle_path /x/* {\n\t\t\troute {\n\t\t\t\tlimit 5/1m\n\t\t\t}\n\t\t}\n\t}\n\trespond open\n}",
		"the-directive":      ":80 {\n\tguard\n\trespond open\n}",
		"the-directive-deep": ":80 {\n\thandle /news/* {\n\t\trespond open\n\t}\n\thandle {\n\t\tguard\n\t\trespond open\n\t}\n}",
		"another-site":       "http://a.example:80 {\n\trespond open\n}\nhttp://b.example:80 {\n\tlimit 5/1m\n\trespond ours\n}",
		"site-with-path":     "http://a.example:80/news/* {\n\trespond open\n}\nhttp://a.example:80 {\n\tlimit 5/1m\n\trespond ours\n}",
		"error-routes":       ":80 {\n\tlimit 5/1m\n\trespond open\n\thandle_errors {\n\t\trespond open 200\n\t}\n}",
		"redirect":           ":80 {\n\tlimit 5/1m\n\tredir /news/* /open{uri}\n\trespond open\n}",
	} {
		t.Run(name, func(t *testing.T) {
			g := modtest.Start(t, site)
			for _, target := range []string{"/news/../admin", "/admin/../news/y", "/news/x%2f..%2fadmin", `/news/x\y`, "/news/..;/admin", "/news//x", "/news/%2e%2e/admin"} {
				if status, body := ask(t, g, "a.example", target); status != http.StatusBadRequest || strings.Contains(body, "open") {
					t.Errorf("%s: got %d %q, want 400", target, status, body)
				}
			}
			if status, body := ask(t, g, "a.example", "/news/x%20y?z=/../%2f"); status >= 300 && status != http.StatusFound {
				t.Errorf("a plain path: got %d %q", status, body)
			}
		})
	}
}

func TestTheRefusal(t *testing.T) {
	g := modtest.Start(t, ":80 {\n\tguard\n\trespond open\n}")
	resp := g.Get("/a/../b")
	var got struct {
		Type, Detail, Instance string
		Status                 int
	}
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if ct := resp.Header.Get("Content-Type"); ct != "application/problem+json" || resp.Header.Get("Connection") != "close" {
		t.Errorf("got Content-Type %q, Connection %q", ct, resp.Header.Get("Connection"))
	}
	if got.Type != "https://gatehouse-proxy.github.io/problems/ambiguous-request" || got.Status != 400 || got.Detail == "" || !strings.HasPrefix(got.Instance, "urn:uuid:") {
		t.Errorf("got %+v", got)
	}
}

// TestPathsPass: the one option loosens where it stands and nowhere else.
func TestPathsPass(t *testing.T) {
	g := modtest.Start(t, `http://a.example:80 {
	limit 50/1m
	respond a
}
http://b.example:80 {
	guard {
		paths pass
	}
	limit 50/1m
	respond b
}
http://c.example:80 {
	limit 50/1m
	handle /git/* {
		guard {
			paths pass
		}
		respond git
	}
	handle_path /strip/* {
		guard {
			paths pass
		}
		respond strip
	}
	respond c
}
`)
	for _, c := range []struct {
		host, target string
		status       int
	}{
		{"a.example", "/x%2fy", 400},
		{"b.example", "/x%2fy", 200},
		{"B.Example", "/x%2fy", 200},
		{"b.example", "/a/../b", 200},
		{"c.example", "/x%2fy", 400},
		{"c.example", "/git/x%2fy", 200},
		{"c.example", "/git/../x", 400},
		{"c.example", "/x/../git/y", 200},
		{"c.example", "/strip/x%2fy", 200},
		{"other.example", "/x%2fy", 400},
	} {
		if status, body := ask(t, g, c.host, c.target); status != c.status {
			t.Errorf("%s %s: got %d %q, want %d", c.host, c.target, status, body, c.status)
		}
	}
}

// TestPrefixesAreStrippedInOneWay: where a route is chosen by a prefix, the app gets the path without it,
// however the prefix was spelled, or nothing at all.
func TestPrefixesAreStrippedInOneWay(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RequestURI) }))
	defer app.Close()
	proxy := "reverse_proxy " + app.Listener.Addr().String()
	g := modtest.Start(t, "http://a.example:80 {\n\thandle_path /api/* {\n\t\tlimit 50/1m\n\t\t"+proxy+"\n\t}\n\trespond none 404\n}\n"+
		"http://b.example:80 {\n\tguard\n\turi strip_prefix /api\n\t"+proxy+"\n}\n")
	for _, host := range []string{"a.example", "b.example"} {
		for target, want := range map[string]string{
			"/api/x":           "/x",
			"/api/x%20y?q=%2f": "/x%20y?q=%2f",
			"/%61pi/x":         "/x",
			"/a%70i/x%20y":     "/x%20y",
			"/api/%61dmin":     "/%61dmin",
			"/api%2fx":         "",
			"/api//x":          "",
			"/%61pi/%2e%2e/x":  "",
			"/api/..%2fx":      "",
			"/api%5cx":         "",
		} {
			status, got := ask(t, g, host, target)
			if want == "" && status != 400 || want != "" && got != want {
				t.Errorf("%s%s: got %d %q, want %q", host, target, status, got, want)
			}
		}
	}
}

// TestInnermostHolds: a stricter guard inside a looser one is the one that holds.
func TestInnermostHolds(t *testing.T) {
	g := modtest.Start(t, ":80 {\n\tguard {\n\t\tpaths pass\n\t}\n\thandle /admin/* {\n\t\tguard\n\t\trespond admin\n\t}\n\trespond rest\n}")
	if status, _ := ask(t, g, "a", "/admin/x%2fy"); status != 400 {
		t.Errorf("inner: got %d, want 400", status)
	}
	if status, _ := ask(t, g, "a", "/x%2fy"); status != 200 {
		t.Errorf("outer: got %d, want 200", status)
	}
}

// TestNamedRoutes: a server whose only directives of ours stand in named routes is compiled before them, so
// it needs the directive and is refused without it.
func TestNamedRoutes(t *testing.T) {
	named := "&(ours) {\n\troute {\n\t\tlimit 5/1m\n\t}\n}\n"
	_, err := modtest.TryStart(t, named+":80 {\n\tinvoke ours\n\trespond open\n}")
	if err == nil || !strings.Contains(err.Error(), "Write the directive guard into the site") {
		t.Errorf("without guard: got %v", err)
	}
	g := modtest.Start(t, named+":80 {\n\tguard\n\tinvoke ours\n\trespond open\n}")
	if status, _ := ask(t, g, "a", "/a/../b"); status != 400 {
		t.Errorf("with guard: got %d, want 400", status)
	}
	// A guard in a named route loosens nothing.
	g = modtest.Start(t, "&(loose) {\n\troute {\n\t\tguard {\n\t\t\tpaths pass\n\t\t}\n\t}\n}\n:80 {\n\tlimit 5/1m\n\tinvoke loose\n\trespond open\n}")
	if status, _ := ask(t, g, "a", "/a/../b"); status != 400 {
		t.Errorf("loosened from afar: got %d, want 400", status)
	}
}

// TestJSON: no adapter is needed for the front door.
func TestJSON(t *testing.T) {
	g := modtest.StartJSON(t, `{"apps":{"http":{"servers":{"srv0":{"listen":[":80"],"routes":[
		{"match":[{"path":["/news/*"]}],"handle":[{"handler":"static_response","body":"open"}],"terminal":true},
		{"handle":[{"handler":"subroute","routes":[{"handle":[{"handler":"limit","policies":[{"quota":5,"window":"1m"}]}]}]},{"handler":"static_response","body":"ours"}]}]}}}}}`)
	if status, body := ask(t, g, "a", "/news/../admin"); status != 400 {
		t.Errorf("got %d %q, want 400", status, body)
	}
	if status, body := ask(t, g, "a", "/news/x"); status != 200 || body != "open" {
		t.Errorf("got %d %q, want the open route", status, body)
	}
	if status, body := ask(t, g, "a", "/x"); status != 200 || body != "ours" {
		t.Errorf("got %d %q, want ours", status, body)
	}
}
