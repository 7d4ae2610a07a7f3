// Package flagstest is the examiner of the backend flags: it judges any server of its HTTP API by
// HTTP alone.
package flagstest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// exam is one run of the examiner.
type exam struct {
	base   string
	client *http.Client
	run    string // makes the keys of this run its own
}

// Examine judges the API at base, a URL without a slash at its end. It uses keys of its own and the
// keys new-checkout, dark-mode and checkout-v2, and deletes them all.
func Examine(t *testing.T, base string, client *http.Client) {
	e := &exam{base: strings.TrimSuffix(base, "/"), client: client, run: fmt.Sprint("examine-", time.Now().UnixNano(), "-")}
	t.Run("life-of-a-flag", e.life)
	t.Run("preconditions", e.preconditions)
	t.Run("list", e.list)
	t.Run("evaluate", e.evaluate)
	t.Run("buckets", e.buckets)
	t.Run("evaluate-all", e.evaluateAll)
	t.Run("bad-flags", e.badFlags)
	t.Run("bad-evaluations", e.badEvaluations)
	t.Run("unknown-routes", e.unknownRoutes)
}

// response is what came back.
type response struct {
	status int
	header http.Header
	body   []byte
}

func (r response) json(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal(r.body, v); err != nil {
		t.Fatalf("reading %s: %v", r.body, err)
	}
}

// do sends one request; headers are name, value, name, value.
func (e *exam) do(t *testing.T, method, path, body string, headers ...string) response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, e.base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Gatehouse-Rank", "operator") // where nothing stands in front; a gateway says it itself
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := e.client.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return response{resp.StatusCode, resp.Header, b}
}

// want is do with a status that must come back.
func (e *exam) want(t *testing.T, status int, method, path, body string, headers ...string) response {
	t.Helper()
	r := e.do(t, method, path, body, headers...)
	if r.status != status {
		t.Fatalf("%s %s: got %d %s, want %d", method, path, r.status, r.body, status)
	}
	return r
}

// problem is do with a problem document that must come back.
func (e *exam) problem(t *testing.T, status int, code, method, path, body string, headers ...string) {
	t.Helper()
	r := e.want(t, status, method, path, body, headers...)
	var doc struct {
		Type     string
		Title    string
		Status   int
		Instance string
	}
	if ct := r.header.Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("%s %s: got %s %s, want a problem document", method, path, ct, r.body)
		return
	}
	r.json(t, &doc)
	if !strings.HasSuffix(doc.Type, "/"+code) || doc.Status != status || doc.Title == "" || doc.Instance == "" {
		t.Errorf("%s %s: got %s, want a whole problem of type %s", method, path, r.body, code)
	}
}

// key is a key of this run that is deleted at the end.
func (e *exam) key(t *testing.T, name string) string {
	return e.clean(t, e.run+name)
}

func (e *exam) clean(t *testing.T, key string) string {
	t.Cleanup(func() {
		req, err := http.NewRequest(http.MethodDelete, e.base+"/flags/"+key, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Gatehouse-Rank", "operator") // where nothing stands in front; a gateway says it itself
		if resp, err := e.client.Do(req); err == nil {
			_ = resp.Body.Close()
		}
	})
	return key
}

type flag struct {
	Key        string
	Enabled    bool
	Percentage int
	AllowList  []string `json:"allowList"`
	DenyList   []string `json:"denyList"`
	Version    int64
	UpdatedAt  time.Time `json:"updated_at"`
}

func (e *exam) life(t *testing.T) {
	path := "/flags/" + e.key(t, "life")
	e.problem(t, 404, "not-found", "GET", path, "")
	e.problem(t, 404, "not-found", "DELETE", path, "")
	r := e.want(t, 201, "PUT", path, `{"enabled":true,"percentage":25,"allowList":["ann"],"denyList":["bob","eve"]}`)
	if got := r.header.Get("ETag"); got != `"1"` {
		t.Errorf("got ETag %s of a new flag, want \"1\"", got)
	}
	r = e.want(t, 200, "GET", path, "")
	var f flag
	r.json(t, &f)
	if f.Key != strings.TrimPrefix(path, "/flags/") || !f.Enabled || f.Percentage != 25 || !slices.Equal(f.AllowList, []string{"ann"}) ||
		!slices.Equal(f.DenyList, []string{"bob", "eve"}) || f.Version != 1 || r.header.Get("ETag") != `"1"` {
		t.Errorf("got %s with ETag %s", r.body, r.header.Get("ETag"))
	}
	if age := time.Since(f.UpdatedAt); age < -time.Minute || age > time.Hour || f.UpdatedAt.Location() != time.UTC {
		t.Errorf("got updated_at %s", f.UpdatedAt)
	}
	e.want(t, 200, "PUT", path, `{"enabled":false}`)
	r = e.want(t, 200, "GET", path, "")
	r.json(t, &f)
	if f.Enabled || f.Percentage != 0 || len(f.AllowList) != 0 || f.Version != 2 || !bytes.Contains(r.body, []byte(`"allowList":[]`)) {
		t.Errorf("got %s after a replacement", r.body)
	}
	e.want(t, 304, "GET", path, "", "If-None-Match", `"2"`)
	e.want(t, 200, "GET", path, "", "If-None-Match", `"1"`)
	if r = e.want(t, 200, "HEAD", path, ""); len(r.body) != 0 || r.header.Get("ETag") != `"2"` {
		t.Errorf("HEAD: got a body of %d bytes and ETag %s", len(r.body), r.header.Get("ETag"))
	}
	if r = e.want(t, 204, "DELETE", path, ""); len(r.body) != 0 {
		t.Errorf("DELETE: got %s", r.body)
	}
	e.problem(t, 404, "not-found", "GET", path, "")
}

func (e *exam) preconditions(t *testing.T) {
	path := "/flags/" + e.key(t, "preconditions")
	on, off := `{"enabled":true}`, `{"enabled":false}`
	e.problem(t, 412, "precondition-failed", "PUT", path, on, "If-Match", `"1"`)
	e.problem(t, 412, "precondition-failed", "PUT", path, on, "If-Match", `*`)
	e.want(t, 201, "PUT", path, on, "If-None-Match", "*")
	e.problem(t, 412, "precondition-failed", "PUT", path, off, "If-None-Match", "*")
	e.want(t, 200, "PUT", path, on, "If-Match", `"1"`)
	e.problem(t, 412, "precondition-failed", "PUT", path, off, "If-Match", `"1"`)
	e.problem(t, 412, "precondition-failed", "PUT", path, off, "If-Match", `W/"2"`)
	e.want(t, 200, "PUT", path, on, "If-Match", `"7", "2"`)
	e.problem(t, 412, "precondition-failed", "DELETE", path, "", "If-Match", `"2"`)
	e.problem(t, 400, "invalid-request", "PUT", path, off, "If-Match", `2`)
	e.problem(t, 400, "invalid-request", "DELETE", path, "", "If-None-Match", `"`)
	var f flag
	e.want(t, 200, "GET", path, "").json(t, &f)
	if !f.Enabled || f.Version != 3 {
		t.Errorf("got %+v after changes that were refused, want version 3", f)
	}
	e.want(t, 204, "DELETE", path, "", "If-Match", `"3"`)
	e.want(t, 201, "PUT", path, on)
	// A tag of the deleted flag must not fit the new one.
	e.problem(t, 412, "precondition-failed", "PUT", path, off, "If-Match", `"1"`)
}

func (e *exam) list(t *testing.T) {
	var want []string
	for i := range 5 {
		key := e.key(t, fmt.Sprint("list-", i))
		e.want(t, 201, "PUT", "/flags/"+key, `{"enabled":true}`)
		want = append(want, key)
	}
	var all []string
	cursor := ""
	for pages := 0; ; pages++ {
		if pages > 10_000 {
			t.Fatal("the list does not end")
		}
		var page struct {
			Items      []flag
			NextCursor string `json:"next_cursor"`
		}
		e.want(t, 200, "GET", "/flags?limit=2&cursor="+cursor, "").json(t, &page)
		if len(page.Items) > 2 {
			t.Fatalf("got %d items in a page of 2", len(page.Items))
		}
		for _, f := range page.Items {
			all = append(all, f.Key)
		}
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	var got []string
	for _, key := range all {
		if strings.HasPrefix(key, e.run+"list-") {
			got = append(got, key)
		}
	}
	if !slices.Equal(got, want) || !slices.IsSorted(all) {
		t.Errorf("got %v, want %v, in order", got, want)
	}
	for _, q := range []string{"limit=0", "limit=1001", "limit=x", "cursor=%21", "cursor=" + strings.Repeat("a", 300), "cursor=QQ"} {
		e.problem(t, 400, "invalid-request", "GET", "/flags?"+q, "")
	}
}

func (e *exam) badFlags(t *testing.T) {
	path := "/flags/" + e.key(t, "bad")
	for _, body := range []string{
		``, `null`, `[]`, `"x"`, `{`, `{}`, `{"enabled":1}`, `{"enabled":true,"percentage":0.5}`, `{"enabled":true,"percentage":10.0}`,
		`{"enabled":true,"percentage":101}`, `{"enabled":true,"percentage":-1}`, `{"enabled":true,"percentage":"1"}`,
		`{"enabled":true,"allowList":"ann"}`, `{"enabled":true,"allowList":[""]}`, `{"enabled":true,"denyList":[null]}`,
		`{"enabled":true,"unknown":1}`, `{"enabled":true}{}`, "{\"enabled\":true,\"allowList\":[\"\xff\"]}",
		`{"enabled":true,"allowList":[` + strings.Repeat(`"u",`, 10_000) + `"u"]}`,
	} {
		e.problem(t, 400, "invalid-request", "PUT", path, body)
	}
	e.problem(t, 413, "content-too-large", "PUT", path, `{"enabled":true,"allowList":["`+strings.Repeat("x", 1<<20)+`"]}`)
	e.problem(t, 415, "unsupported-media-type", "PUT", path, `{"enabled":true}`, "Content-Type", "text/plain")
	for _, key := range []string{"A", "-a", "a%20b", "a%2Fb", "a%00", "%FF", "%C3%A4", strings.Repeat("k", 129)} {
		e.problem(t, 400, "invalid-request", "PUT", "/flags/"+key, `{"enabled":true}`)
		e.problem(t, 400, "invalid-request", "GET", "/flags/"+key, "")
		e.problem(t, 400, "invalid-request", "DELETE", "/flags/"+key, "")
	}
	e.problem(t, 404, "not-found", "GET", path, "")
}

func (e *exam) unknownRoutes(t *testing.T) {
	key := e.key(t, "routes")
	e.want(t, 201, "PUT", "/flags/"+key, `{"enabled":true}`)
	e.problem(t, 404, "not-found", "GET", "/flags/"+key+"/history", "")
	e.problem(t, 405, "method-not-allowed", "POST", "/flags/"+key, "{}")
	e.problem(t, 405, "method-not-allowed", "DELETE", "/flags", "")
	e.problem(t, 405, "method-not-allowed", "GET", "/ofrep/v1/evaluate/flags", "")
	e.want(t, 204, "OPTIONS", "/flags/"+key, "")
}
