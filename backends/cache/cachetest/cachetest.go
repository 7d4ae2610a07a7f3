// Package cachetest examines the cache over HTTP, wherever it runs: in this process, behind
// `backend cache`, or in cmd/backends behind a proxy.
package cachetest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// patience bounds every wait of the examiner.
const patience = 15 * time.Second

// Examine runs the whole API at base, such as http://127.0.0.1:8080, through client. The cache must
// have its default limits and fill_allow 127.0.0.1; the examiner's origins listen there. Keys and
// tags are its own, so it can run several times against the same cache.
func Examine(t *testing.T, base string, client *http.Client) {
	e := &examiner{base: strings.TrimSuffix(base, "/"), client: client, run: strconv.FormatInt(time.Now().UnixNano(), 36)}
	t.Run("values", e.values)
	t.Run("expiry", e.expiry)
	t.Run("invalidation", e.invalidation)
	t.Run("fill", e.fill)
	t.Run("fill-fails", e.fillFails)
	t.Run("invalidation-during-fill", e.invalidationDuringFill)
	t.Run("bad-input", e.badInput)
}

type examiner struct {
	base   string
	client *http.Client
	run    string
}

// answer is a response, read to its end.
type answer struct {
	status int
	header http.Header
	body   string
}

func (e *examiner) key(name string) string { return e.run + "-" + name }

// do sends a request; target is an escaped path with a query. Headers come as name, value.
func (e *examiner) do(t *testing.T, method, target, body string, headers ...string) answer {
	t.Helper()
	a, err := e.try(method, target, body, headers...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (e *examiner) try(method, target, body string, headers ...string) (answer, error) {
	req, err := http.NewRequest(method, e.base+target, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(b)}, err
}

func (e *examiner) want(t *testing.T, a answer, status int) answer {
	t.Helper()
	if a.status != status {
		t.Fatalf("got status %d, want %d; body %q", a.status, status, a.body)
	}
	return a
}

// problem checks that the answer is a problem of that status and type.
func (e *examiner) problem(t *testing.T, a answer, status int, code string) {
	t.Helper()
	var doc struct {
		Type, Title, Detail, Instance string
		Status                        int
	}
	if ct := a.header.Get("Content-Type"); a.status != status || ct != "application/problem+json" {
		t.Fatalf("got status %d and %q, want %d as application/problem+json; body %q", a.status, ct, status, a.body)
	}
	if err := json.Unmarshal([]byte(a.body), &doc); err != nil {
		t.Fatalf("the problem is not JSON: %v in %q", err, a.body)
	}
	if doc.Status != status || !strings.HasSuffix(doc.Type, code) || doc.Title == "" || doc.Detail == "" || doc.Instance == "" {
		t.Errorf("got problem %+v, want status %d, type …%s, and title, detail and instance", doc, status, code)
	}
}

func (e *examiner) values(t *testing.T) {
	for _, name := range []string{"plain", "with/slashes/in/it", "esc%2Faped", "sp%20ace", "%C3%BCml%C3%A4ut", "ends/fill", "a:b;c=d,e@f", "q%3Fuery%23"} {
		t.Run(name, func(t *testing.T) {
			path := "/cache/" + e.key(name)
			e.problem(t, e.do(t, "GET", path, ""), 404, "not-found")
			e.want(t, e.do(t, "PUT", path, "one", "Content-Type", "text/plain; charset=utf-8"), 201)
			got := e.want(t, e.do(t, "GET", path, ""), 200)
			if ct := got.header.Get("Content-Type"); got.body != "one" || ct != "text/plain; charset=utf-8" {
				t.Errorf("got %q of type %q, want what was put", got.body, ct)
			}
			if got.header.Get("Age") == "" || !strings.Contains(got.header.Get("Cache-Status"), "gatehouse; hit") {
				t.Errorf("got header %v, want Age and a hit in Cache-Status", got.header)
			}
			if got.header.Get("X-Content-Type-Options") != "nosniff" || got.header.Get("Content-Security-Policy") != "sandbox" || got.header.Get("Content-Disposition") != "attachment" {
				t.Errorf("got header %v, want a download in a sandbox", got.header)
			}
			e.problem(t, e.do(t, "PUT", path, "other", "If-None-Match", "*"), 412, "precondition-failed")
			if got = e.want(t, e.do(t, "GET", path, ""), 200); got.body != "one" {
				t.Errorf("got %q after a refused PUT, want what was there", got.body)
			}
			e.want(t, e.do(t, "PUT", path, "two"), 204)
			if got = e.want(t, e.do(t, "GET", path, ""), 200); got.body != "two" || got.header.Get("Content-Type") != "application/octet-stream" {
				t.Errorf("got %q of type %q, want the second value", got.body, got.header.Get("Content-Type"))
			}
			head := e.want(t, e.do(t, "HEAD", path, ""), 200)
			if head.body != "" || head.header.Get("Content-Length") != "3" {
				t.Errorf("HEAD: got body %q, Content-Length %q", head.body, head.header.Get("Content-Length"))
			}
			e.want(t, e.do(t, "DELETE", path, ""), 204)
			e.want(t, e.do(t, "DELETE", path, ""), 204)
			e.problem(t, e.do(t, "GET", path, ""), 404, "not-found")
		})
	}
	t.Run("escaped-and-plain-slashes-are-one-key", func(t *testing.T) {
		e.want(t, e.do(t, "PUT", "/cache/"+e.key("x")+"%2Fy", "v"), 201)
		if got := e.want(t, e.do(t, "GET", "/cache/"+e.key("x")+"/y", ""), 200); got.body != "v" {
			t.Errorf("got %q", got.body)
		}
	})
	t.Run("created-once", func(t *testing.T) {
		path := "/cache/" + e.key("created")
		var created atomic.Int64
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if a, err := e.try("PUT", path, "v", "If-None-Match", "*"); err == nil && a.status == 201 {
					created.Add(1)
				}
			})
		}
		wg.Wait()
		if n := created.Load(); n != 1 {
			t.Errorf("%d of 20 created the value, want 1", n)
		}
	})
	t.Run("empty-and-binary", func(t *testing.T) {
		path := "/cache/" + e.key("bytes")
		for i, body := range []string{"", "\x00\xff\r\n\x00", strings.Repeat("x", 1<<20)} {
			e.want(t, e.do(t, "PUT", path, body), 201+3*min(i, 1))
			if got := e.want(t, e.do(t, "GET", path, ""), 200); got.body != body {
				t.Errorf("got %d bytes, want the %d that were put", len(got.body), len(body))
			}
		}
	})
}

func (e *examiner) expiry(t *testing.T) {
	path := "/cache/" + e.key("short")
	e.want(t, e.do(t, "PUT", path+"?ttl=1500ms", "v"), 201)
	e.want(t, e.do(t, "GET", path, ""), 200)
	e.eventually(t, "the value expires", func() bool { return e.do(t, "GET", path, "").status == 404 })
	e.want(t, e.do(t, "PUT", path+"?ttl=1m", "v"), 201)
	e.want(t, e.do(t, "GET", path, ""), 200)
}

func (e *examiner) invalidation(t *testing.T) {
	a, b, c := "/cache/"+e.key("a"), "/cache/"+e.key("b"), "/cache/"+e.key("c")
	red, blue := e.key("red"), e.key("blue")
	e.want(t, e.do(t, "PUT", a+"?tag="+red+"&tag="+blue, "a"), 201)
	e.want(t, e.do(t, "PUT", b, "b", "Cache-Tag", red+", other"), 201)
	e.want(t, e.do(t, "PUT", c+"?tag="+blue, "c"), 201)

	got := e.want(t, e.do(t, "POST", "/cache/invalidate", `{"tags":["`+red+`"]}`), 200)
	if !strings.Contains(got.body, `"invalidated"`) {
		t.Errorf("got %q, want what was invalidated", got.body)
	}
	for path, status := range map[string]int{a: 404, b: 404, c: 200} {
		e.want(t, e.do(t, "GET", path, ""), status)
	}
	e.want(t, e.do(t, "PUT", a+"?tag="+red, "again"), 201)
	e.want(t, e.do(t, "GET", a, ""), 200)

	e.want(t, e.do(t, "POST", "/cache/invalidate", `{"keys":["`+e.key("a")+`","`+e.key("c")+`","never-there"]}`), 200)
	for _, path := range []string{a, c} {
		e.want(t, e.do(t, "GET", path, ""), 404)
	}
}

// origin is an HTTP server that counts its requests and answers each with its number, after gate.
type origin struct {
	*httptest.Server
	hits  atomic.Int64
	gate  chan struct{}
	reply func(w http.ResponseWriter, n int64)
}

func newOrigin(t *testing.T, reply func(w http.ResponseWriter, n int64)) *origin {
	o := &origin{gate: make(chan struct{}), reply: reply}
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := o.hits.Add(1)
		select {
		case <-o.gate:
		case <-r.Context().Done():
			return
		case <-time.After(patience):
		}
		o.reply(w, n)
	}))
	t.Cleanup(o.Close)
	return o
}

func numbered(w http.ResponseWriter, n int64) {
	w.Header().Set("Content-Type", "text/plain")
	_, _ = fmt.Fprintf(w, "answer %d", n)
}

func order(fields map[string]any) string {
	b, err := json.Marshal(fields)
	if err != nil {
		panic(err) // the examiner's own fields
	}
	return string(b)
}

func (e *examiner) fill(t *testing.T) {
	const callers = 50
	o := newOrigin(t, numbered)
	path := "/cache/" + e.key("filled/one") + "/fill"
	body := order(map[string]any{"url": o.URL + "/v", "ttl": "1m", "tags": []string{e.key("filled")}})

	answers := make([]answer, callers)
	errs := make([]error, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() { answers[i], errs[i] = e.try("POST", path, body) })
	}
	e.eventually(t, "the origin is asked", func() bool { return o.hits.Load() > 0 })
	close(o.gate)
	wg.Wait()
	for i, a := range answers {
		if errs[i] != nil || a.status != 200 || a.body != "answer 1" || a.header.Get("Content-Type") != "text/plain" {
			t.Fatalf("caller %d: got %d %q %v, want the origin's first answer", i, a.status, a.body, errs[i])
		}
	}
	if n := o.hits.Load(); n != 1 {
		t.Errorf("the origin was asked %d times by %d callers, want once", n, callers)
	}
	again := e.want(t, e.do(t, "POST", path, body), 200)
	if again.body != "answer 1" || !strings.Contains(again.header.Get("Cache-Status"), "hit") {
		t.Errorf("got %q with Cache-Status %q, want a hit", again.body, again.header.Get("Cache-Status"))
	}
	if got := e.want(t, e.do(t, "GET", strings.TrimSuffix(path, "/fill"), ""), 200); got.body != "answer 1" {
		t.Errorf("GET after a fill: got %q", got.body)
	}
	e.want(t, e.do(t, "POST", "/cache/invalidate", order(map[string]any{"tags": []string{e.key("filled")}})), 200)
	next := e.want(t, e.do(t, "POST", path, body), 200)
	if next.body != "answer 2" || !strings.Contains(next.header.Get("Cache-Status"), "stored") {
		t.Errorf("after an invalidation: got %q with Cache-Status %q, want a new answer", next.body, next.header.Get("Cache-Status"))
	}
}

func (e *examiner) fillFails(t *testing.T) {
	path := "/cache/" + e.key("unfilled") + "/fill"
	e.problem(t, e.do(t, "POST", path, `{"url":"http://elsewhere.invalid/"}`), 422, "unprocessable")
	if a := e.do(t, "POST", path, `{"url":"http://elsewhere.invalid/"}`); !strings.Contains(a.body, "fill_allow") {
		t.Errorf("got %q, want a sentence that names fill_allow", a.body)
	}
	e.problem(t, e.do(t, "POST", path, `{"url":"http://user:pw@127.0.0.1/"}`), 422, "unprocessable")

	o := newOrigin(t, func(w http.ResponseWriter, _ int64) { w.WriteHeader(http.StatusServiceUnavailable) })
	close(o.gate)
	e.problem(t, e.do(t, "POST", path, order(map[string]any{"url": o.URL})), 502, "upstream-failed")
	e.want(t, e.do(t, "GET", strings.TrimSuffix(path, "/fill"), ""), 404)

	away := newOrigin(t, func(w http.ResponseWriter, _ int64) {
		w.Header().Set("Location", "http://localhost:1/")
		w.WriteHeader(http.StatusFound)
	})
	close(away.gate)
	e.problem(t, e.do(t, "POST", path, order(map[string]any{"url": away.URL})), 502, "upstream-failed")

	large := newOrigin(t, func(w http.ResponseWriter, _ int64) { _, _ = w.Write(make([]byte, 1<<20+1)) })
	close(large.gate)
	e.problem(t, e.do(t, "POST", path, order(map[string]any{"url": large.URL})), 502, "upstream-failed")

	gone := newOrigin(t, numbered)
	gone.Close()
	e.problem(t, e.do(t, "POST", path, order(map[string]any{"url": gone.URL})), 502, "upstream-failed")
}

// invalidationDuringFill makes sure that a value fetched before an invalidation is not there after it.
func (e *examiner) invalidationDuringFill(t *testing.T) {
	tag := e.key("fenced")
	for name, act := range map[string]func(path string) answer{
		"by-tag":    func(string) answer { return e.do(t, "POST", "/cache/invalidate", `{"tags":["`+tag+`"]}`) },
		"by-delete": func(path string) answer { return e.do(t, "DELETE", path, "") },
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t, numbered)
			path := "/cache/" + e.key(name)
			body := order(map[string]any{"url": o.URL, "tags": []string{tag}})
			done := make(chan answer, 1)
			go func() {
				a, _ := e.try("POST", path+"/fill", body)
				done <- a
			}()
			e.eventually(t, "the origin is asked", func() bool { return o.hits.Load() == 1 })
			if a := act(path); a.status >= 300 {
				t.Fatalf("invalidating: got status %d, body %q", a.status, a.body)
			}
			close(o.gate)
			e.want(t, <-done, 200)
			e.want(t, e.do(t, "GET", path, ""), 404)
			if a := e.want(t, e.do(t, "POST", path+"/fill", body), 200); a.body != "answer 2" {
				t.Errorf("got %q, want the origin's answer after the invalidation", a.body)
			}
		})
	}
}

func (e *examiner) badInput(t *testing.T) {
	path := "/cache/" + e.key("bad")
	many := `["` + strings.Repeat(`k","`, 1000) + `k"]`
	for name, c := range map[string]struct {
		method, target, body string
		headers              []string
		status               int
		code                 string
	}{
		"key-empty":            {"GET", "/cache/", "", nil, 400, "invalid-request"},
		"key-too-long":         {"PUT", "/cache/" + strings.Repeat("k", 513), "v", nil, 400, "invalid-request"},
		"key-not-utf8":         {"PUT", "/cache/%ff%fe", "v", nil, 400, "invalid-request"},
		"key-control":          {"PUT", "/cache/a%00b", "v", nil, 400, "invalid-request"},
		"ttl-not-a-duration":   {"PUT", path + "?ttl=soon", "v", nil, 400, "invalid-request"},
		"ttl-without-unit":     {"PUT", path + "?ttl=60", "v", nil, 400, "invalid-request"},
		"ttl-negative":         {"PUT", path + "?ttl=-1s", "v", nil, 400, "invalid-request"},
		"ttl-zero":             {"PUT", path + "?ttl=0s", "v", nil, 400, "invalid-request"},
		"ttl-huge":             {"PUT", path + "?ttl=99999h", "v", nil, 400, "invalid-request"},
		"tag-with-space":       {"PUT", path + "?tag=a%20b", "v", nil, 400, "invalid-request"},
		"tag-empty":            {"PUT", path + "?tag=", "v", nil, 400, "invalid-request"},
		"tag-too-long":         {"PUT", path + "?tag=" + strings.Repeat("t", 257), "v", nil, 400, "invalid-request"},
		"tags-too-many":        {"PUT", path + "?" + strings.Repeat("tag=a&", 65), "v", nil, 400, "invalid-request"},
		"content-type":         {"PUT", path, "v", []string{"Content-Type", "not a type"}, 400, "invalid-request"},
		"value-too-large":      {"PUT", path, strings.Repeat("x", 1<<20+1), nil, 413, "content-too-large"},
		"condition-on-a-tag":   {"PUT", path, "v", []string{"If-None-Match", `"a"`}, 400, "invalid-request"},
		"condition-match":      {"PUT", path, "v", []string{"If-Match", "*"}, 400, "invalid-request"},
		"post-without-act":     {"POST", path, "{}", nil, 405, "method-not-allowed"},
		"patch":                {"PATCH", path, "{}", nil, 405, "method-not-allowed"},
		"invalidate-nothing":   {"POST", "/cache/invalidate", "{}", nil, 400, "invalid-request"},
		"invalidate-no-json":   {"POST", "/cache/invalidate", "{", nil, 400, "invalid-request"},
		"invalidate-unknown":   {"POST", "/cache/invalidate", `{"urls":["a"]}`, nil, 400, "invalid-request"},
		"invalidate-type":      {"POST", "/cache/invalidate", `{"keys":"a"}`, nil, 400, "invalid-request"},
		"invalidate-many-keys": {"POST", "/cache/invalidate", `{"keys":` + many + `}`, nil, 400, "invalid-request"},
		"invalidate-many-tags": {"POST", "/cache/invalidate", `{"tags":` + many + `}`, nil, 400, "invalid-request"},
		"invalidate-empty-key": {"POST", "/cache/invalidate", `{"keys":[""]}`, nil, 400, "invalid-request"},
		"invalidate-media":     {"POST", "/cache/invalidate", `{"keys":["a"]}`, []string{"Content-Type", "text/xml"}, 415, "unsupported-media-type"},
		"fill-no-url":          {"POST", path + "/fill", `{}`, nil, 400, "invalid-request"},
		"fill-relative":        {"POST", path + "/fill", `{"url":"/x"}`, nil, 400, "invalid-request"},
		"fill-file":            {"POST", path + "/fill", `{"url":"file:///etc/passwd"}`, nil, 400, "invalid-request"},
		"fill-ttl":             {"POST", path + "/fill", `{"url":"http://127.0.0.1/","ttl":5}`, nil, 400, "invalid-request"},
		"fill-empty-key":       {"POST", "/cache/fill", `{"url":"http://127.0.0.1/"}`, nil, 405, "method-not-allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			e.problem(t, e.do(t, c.method, c.target, c.body, c.headers...), c.status, c.code)
		})
	}
	e.want(t, e.do(t, "GET", path, ""), 404)
	for _, target := range []string{"//x", "/a//b", "/" + url.PathEscape("..") + "/x"} {
		if a := e.do(t, "PUT", "/cache"+target, "v"); a.status < 300 || a.status >= 500 {
			t.Errorf("PUT /cache%s: got %d, want a refusal", target, a.status)
		}
	}
}

// eventually polls until ok, and fails after patience.
func (e *examiner) eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain until %s", patience, what)
		}
	}
}
