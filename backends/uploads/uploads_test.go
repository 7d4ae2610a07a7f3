package uploads_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/objects"
	"github.com/gatehouse-proxy/gatehouse/backends/uploads"
	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

const png = "\x89PNG\r\n\x1a\n"

func TestExpiry(t *testing.T) { pgtest.Each(t, testExpiry) }

func testExpiry(t *testing.T, url string) {
	b := start(t, uploads.Config{}, nil, url)
	unused, used := b.presign("ann", "a.png", 8), b.presign("ann", "b.png", 8)
	if status := b.put(used, png); status != http.StatusOK {
		t.Fatalf("PUT: %d", status)
	}
	b.at(5*time.Minute + 2*time.Second)
	if status := b.put(unused, png); status != http.StatusForbidden {
		t.Errorf("PUT after the URL expired: %d, want 403", status)
	}
	if status, doc := b.confirm("ann", unused); status != http.StatusGone {
		t.Errorf("confirming what was never sent: %d %v, want 410", status, doc)
	}
	if status, doc := b.confirm("ann", used); status != http.StatusOK {
		t.Errorf("confirming late what is there: %d %v, want 200", status, doc)
	}
	b.work(t)
	if got := b.state("ann", used); got != "ready" {
		t.Errorf("state %s, want ready", got)
	}
}

func TestOneJobForManyConfirms(t *testing.T) { pgtest.Each(t, testOneJobForManyConfirms) }

func testOneJobForManyConfirms(t *testing.T, url string) {
	b := start(t, uploads.Config{}, nil, url)
	tk := b.presign("ann", "a.png", 8)
	b.put(tk, png)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if status, doc := b.confirm("ann", tk); status != http.StatusOK || doc["state"] != "processing" || doc["id"] != tk.ID {
				t.Errorf("confirm: %d %v", status, doc)
			}
		})
	}
	wg.Wait()
	if jobs := b.queue.jobs(t); len(jobs) != 1 {
		t.Errorf("jobs %v, want one", jobs)
	}
}

func TestConfirmRejectsWhatDiffers(t *testing.T) {
	for name, other := range map[string]struct{ content, contentType, reason string }{
		"size": {png + "x", "image/png", "size-mismatch"},
		"type": {png, "text/html", "type-mismatch"},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, uploads.Config{}, nil)
			tk := b.presign("ann", "a.png", 8)
			b.replace(tk, other.content, other.contentType)
			if status, doc := b.confirm("ann", tk); status != http.StatusUnprocessableEntity || doc["reason"] != other.reason {
				t.Errorf("confirm: %d %v, want 422 %s", status, doc, other.reason)
			}
			if got := b.state("ann", tk); got != "rejected" || b.exists(tk) || len(b.queue.jobs(t)) != 0 {
				t.Errorf("state %s, object there %v, jobs %v; want it rejected and gone", got, b.exists(tk), b.queue.jobs(t))
			}
			if status, doc := b.confirm("ann", tk); status != http.StatusConflict || doc["reason"] != other.reason {
				t.Errorf("confirm again: %d %v, want 409 %s", status, doc, other.reason)
			}
		})
	}
}

func TestJobLooksAtTheConfirmedObject(t *testing.T) { pgtest.Each(t, testJobLooksAtTheConfirmedObject) }

func testJobLooksAtTheConfirmedObject(t *testing.T, url string) {
	b := start(t, uploads.Config{}, nil, url)
	confirmed := func() ticket {
		tk := b.presign("ann", "a.png", 8)
		b.put(tk, png)
		if status, doc := b.confirm("ann", tk); status != http.StatusOK {
			t.Fatalf("confirm: %d %v", status, doc)
		}
		return tk
	}
	reason := func(tk ticket) any {
		_, doc := b.call("ann", http.MethodGet, "/uploads/"+tk.ID, nil)
		return doc["reason"]
	}
	t.Run("replaced", func(t *testing.T) {
		tk := confirmed()
		b.replace(tk, "\x89PNG\r\n\x1a!", "image/png")
		b.work(t)
		if reason(tk) != "object-changed" || b.exists(tk) {
			t.Errorf("reason %v, object there %v", reason(tk), b.exists(tk))
		}
	})
	t.Run("missing", func(t *testing.T) {
		tk := confirmed()
		noError(t, b.disk.Delete(t.Context(), tk.Key))
		if b.db.Postgres() { // another instance may have it
			later, ok := errors.AsType[interface {
				error
				RetryAfter() time.Duration
			}](b.queue.drain(t.Context()))
			if !ok || later.RetryAfter() <= 0 || b.state("ann", tk) != "processing" {
				t.Errorf("got %v, state %s, want the job to be offered again", later, b.state("ann", tk))
			}
			b.at(11 * time.Minute)
			defer b.at(0)
		}
		b.work(t)
		if reason(tk) != "object-missing" {
			t.Errorf("reason %v", reason(tk))
		}
	})
	t.Run("deleted-meanwhile", func(t *testing.T) {
		tk := confirmed()
		if status, doc := b.call("ann", http.MethodDelete, "/uploads/"+tk.ID, nil); status != http.StatusNoContent {
			t.Fatalf("DELETE: %d %v", status, doc)
		}
		b.work(t)
		if status, _ := b.call("ann", http.MethodGet, "/uploads/"+tk.ID, nil); status != http.StatusNotFound || b.exists(tk) {
			t.Errorf("GET: %d, object there %v", status, b.exists(tk))
		}
	})
	t.Run("twice-and-late", func(t *testing.T) {
		tk := confirmed()
		payload := []byte(b.queue.jobs(t)[0])
		worker := b.queue.work["uploads.process"]
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if err := worker(context.Background(), payload); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		b.work(t)
		// A job that comes when the upload is ready must not look at what is there now.
		b.replace(tk, "not a png", "image/png")
		noError(t, worker(t.Context(), payload))
		if got := b.state("ann", tk); got != "ready" {
			t.Errorf("state %s, want ready", got)
		}
	})
	t.Run("bad-payload", func(t *testing.T) {
		for _, payload := range []string{"", "{", "[]", "\xff"} {
			var permanent interface{ Permanent() bool }
			if err := b.queue.work["uploads.process"](t.Context(), []byte(payload)); !errors.As(err, &permanent) || !permanent.Permanent() {
				t.Errorf("%q: %v, want a permanent error", payload, err)
			}
		}
	})
}

// meanwhile is a store during whose answers something else happens.
type meanwhile struct {
	objects.Store
	stat, open func()
}

func (m *meanwhile) Stat(ctx context.Context, key string) (objects.Info, error) {
	info, err := m.Store.Stat(ctx, key)
	m.stat()
	return info, err
}

func (m *meanwhile) Open(ctx context.Context, key, etag string) (io.ReadCloser, error) {
	f, err := m.Store.Open(ctx, key, etag)
	m.open()
	return f, err
}

// TestDeletedWhileDeciding deletes an upload after a confirm or a job has read it.
func TestDeletedWhileDeciding(t *testing.T) { pgtest.Each(t, testDeletedWhileDeciding) }

func testDeletedWhileDeciding(t *testing.T, url string) {
	hook := &meanwhile{stat: func() {}, open: func() {}}
	b := start(t, uploads.Config{}, func(d *uploads.Deps) { hook.Store, d.Store = d.Store, hook }, url)
	for name, arrange := range map[string]func(remove func()){
		"confirm": func(remove func()) { hook.stat, hook.open = remove, func() {} },
		"job":     func(remove func()) { hook.stat, hook.open = func() {}, remove },
	} {
		t.Run(name, func(t *testing.T) {
			tk := b.presign("ann", "a.png", 8)
			b.put(tk, png)
			arrange(func() {
				if status, doc := b.call("ann", http.MethodDelete, "/uploads/"+tk.ID, nil); status != http.StatusNoContent {
					t.Errorf("DELETE: %d %v", status, doc)
				}
			})
			if status, doc := b.confirm("ann", tk); (status == http.StatusNotFound) != (name == "confirm") {
				t.Errorf("confirm: %d %v", status, doc)
			}
			b.work(t)
			if status, doc := b.call("ann", http.MethodGet, "/uploads/"+tk.ID, nil); status != http.StatusNotFound || b.exists(tk) {
				t.Errorf("GET: %d %v, object there %v; want it to stay deleted", status, doc, b.exists(tk))
			}
		})
	}
}

// TestOwners walks who may do what: the owner and who acts for all, nobody else, and nobody without a name.
func TestOwners(t *testing.T) { pgtest.Each(t, testOwners) }

func testOwners(t *testing.T, url string) {
	b := start(t, uploads.Config{}, nil, url)
	ask := func(h http.Header, method, path string, body string) int {
		r, err := http.NewRequestWithContext(t.Context(), method, b.base+path, strings.NewReader(body))
		noError(t, err)
		r.Header = h.Clone()
		status, _ := b.do(r)
		return status
	}
	who := map[string]http.Header{
		"nobody":   {},
		"ann":      {service.SubjectHeader: {"ann"}},
		"bob":      {service.SubjectHeader: {"bob"}},
		"tenant":   {service.SubjectHeader: {"carl"}, service.OwnerHeader: {"ann"}},
		"operator": {service.SubjectHeader: {"root"}, service.RoleHeader: {"admin"}},
		"service":  {service.SubjectHeader: {"app"}, service.ScopeHeader: {"uploads:write"}},
		"socket":   {service.RankHeader: {service.RankService}},
		"scope":    {service.SubjectHeader: {"eve"}, service.ScopeHeader: {"jobs:write"}},
	}
	for _, tt := range []struct {
		name                                string
		show, confirm, presign, forAnn, del int
	}{
		{"nobody", 401, 401, 401, 401, 401},
		{"bob", 404, 404, 201, 403, 404},
		{"scope", 404, 404, 201, 403, 404},
		{"ann", 200, 409, 201, 201, 204},
		{"tenant", 200, 409, 201, 201, 204},
		{"operator", 200, 409, 201, 201, 204},
		{"service", 200, 409, 201, 201, 204},
		{"socket", 200, 409, 201, 201, 204},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tk, h := b.presign("ann", "a.png", 8), who[tt.name]
			for call, want := range map[string]int{"show": tt.show, "confirm": tt.confirm, "presign": tt.presign, "for-ann": tt.forAnn} {
				got := map[string]func() int{
					"show":    func() int { return ask(h, http.MethodGet, "/uploads/"+tk.ID, "") },
					"confirm": func() int { return ask(h, http.MethodPost, "/uploads/confirm", `{"key":"`+tk.Key+`"}`) },
					"presign": func() int {
						return ask(h, http.MethodPost, "/uploads/presign", `{"filename":"a.png","content_type":"image/png","size":1}`)
					},
					"for-ann": func() int {
						return ask(h, http.MethodPost, "/uploads/presign", `{"filename":"a.png","content_type":"image/png","size":1,"owner":"ann"}`)
					},
				}[call]()
				if got != want {
					t.Errorf("%s: got %d, want %d", call, got, want)
				}
			}
			unknown := ask(h, http.MethodGet, "/uploads/unknown", "")
			if want := map[int]int{401: 401}[tt.show]; want == 0 && unknown != 404 || want != 0 && unknown != want {
				t.Errorf("an unknown one: %d", unknown)
			}
			if got := ask(h, http.MethodDelete, "/uploads/"+tk.ID, ""); got != tt.del {
				t.Errorf("delete: got %d, want %d", got, tt.del)
			}
		})
	}
}

// TestQuota walks what counts against the bytes of an owner.
func TestQuota(t *testing.T) { pgtest.Each(t, testQuota) }

func testQuota(t *testing.T, url string) {
	b := start(t, uploads.Config{Quota: 100}, nil, url)
	ask := func(who string, size int) int {
		status, doc := b.call(who, http.MethodPost, "/uploads/presign", map[string]any{"filename": "a.png", "content_type": "image/png", "size": size})
		if status == http.StatusTooManyRequests && doc["quota"] != 100.0 {
			t.Errorf("the refusal does not tell the quota: %v", doc)
		}
		return status
	}
	want := func(when string, got, want int) {
		t.Helper()
		if got != want {
			t.Errorf("%s: got %d, want %d", when, got, want)
		}
	}
	first := b.presign("ann", "a.png", 60)
	want("more than is left", ask("ann", 41), 429)
	want("another owner", ask("bob", 100), 201)
	want("as much as is left", ask("ann", 40), 201)
	status, _ := b.call("ann", http.MethodDelete, "/uploads/"+first.ID, nil)
	want("delete", status, 204)
	want("a deleted one counts", ask("ann", 1), 429)
	want("its URL does nothing", b.put(first, png+strings.Repeat("x", 52)), 403)
	b.at(6 * time.Minute)
	want("until its URL has expired", ask("ann", 60), 201)
	want("what waits counts further", ask("ann", 1), 429)
	b.at(2 * time.Hour)
	b.sweep(t)
	want("what was never sent is forgotten", ask("ann", 100), 201)
}

// TestDeletedOnesCount shows that deleting what waits makes no place for more URLs.
func TestDeletedOnesCount(t *testing.T) {
	b := start(t, uploads.Config{}, nil)
	for range 50 {
		tk := b.presign("ann", "a.png", 8)
		if status, _ := b.call("ann", http.MethodDelete, "/uploads/"+tk.ID, nil); status != http.StatusNoContent {
			t.Fatalf("delete: %d", status)
		}
	}
	in := map[string]any{"filename": "a.png", "content_type": "image/png", "size": 1}
	if status, doc := b.call("ann", http.MethodPost, "/uploads/presign", in); status != http.StatusTooManyRequests || doc["retry-after"] == "" {
		t.Errorf("the 51st URL: %d %v, want 429 with Retry-After", status, doc)
	}
	b.at(6 * time.Minute)
	b.presign("ann", "a.png", 1)
}

// TestURLOfAnEndedUpload puts bytes to the URLs of uploads in each state.
func TestURLOfAnEndedUpload(t *testing.T) { pgtest.Each(t, testURLOfAnEndedUpload) }

func testURLOfAnEndedUpload(t *testing.T, url string) {
	b := start(t, uploads.Config{}, nil, url)
	confirmed := func() ticket {
		tk := b.presign("ann", "a.png", 8)
		b.put(tk, png)
		if status, doc := b.confirm("ann", tk); status != http.StatusOK {
			t.Fatalf("confirm: %d %v", status, doc)
		}
		return tk
	}
	for _, tt := range []struct {
		name string
		make func() ticket
		want int
	}{
		{"pending", func() ticket { return b.presign("ann", "a.png", 8) }, 200},
		{"sent", func() ticket { tk := b.presign("ann", "a.png", 8); b.put(tk, png); return tk }, 412},
		{"processing", confirmed, 412},
		{"ready", func() ticket { tk := confirmed(); b.work(t); return tk }, 412},
		{"rejected", func() ticket {
			tk := b.presign("ann", "a.png", 8)
			b.put(tk, "not a png"[:8])
			b.confirm("ann", tk)
			b.work(t)
			return tk
		}, 403},
		{"deleted", func() ticket {
			tk := b.presign("ann", "a.png", 8)
			b.call("ann", http.MethodDelete, "/uploads/"+tk.ID, nil)
			return tk
		}, 403},
		{"deleted-when-ready", func() ticket {
			tk := confirmed()
			b.work(t)
			b.call("ann", http.MethodDelete, "/uploads/"+tk.ID, nil)
			return tk
		}, 403},
		// Last, as its job is one that nobody can do.
		{"processing-and-lost", func() ticket {
			tk := confirmed()
			noError(t, b.disk.Delete(t.Context(), tk.Key))
			return tk
		}, 412},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tk := tt.make()
			before := b.exists(tk)
			if got := b.put(tk, png); got != tt.want {
				t.Errorf("PUT: got %d, want %d", got, tt.want)
			}
			if after := b.exists(tk); after != (before || tt.want == 200) {
				t.Errorf("the object is there: %v", after)
			}
		})
	}
}

func TestEmptyFiles(t *testing.T) {
	allow := []string{"text/plain", "image/png", "application/octet-stream"}
	for name, tt := range map[string]struct {
		config                uploads.Config
		filename, contentType string
		presign               int
		state                 string
	}{
		"not-allowed": {uploads.Config{Allow: allow}, "a.txt", "text/plain", 400, ""},
		"text":        {uploads.Config{Allow: allow, AllowEmpty: true}, "a.txt", "text/plain; charset=utf-8", 201, "ready"},
		"bytes":       {uploads.Config{Allow: allow, AllowEmpty: true}, "a.bin", "application/octet-stream", 201, "ready"},
		"image":       {uploads.Config{Allow: allow, AllowEmpty: true}, "a.png", "image/png", 201, "rejected"},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, tt.config, nil)
			status, doc := b.call("ann", http.MethodPost, "/uploads/presign", map[string]any{"filename": tt.filename, "content_type": tt.contentType, "size": 0})
			if status != tt.presign {
				t.Fatalf("presign: %d %v, want %d", status, doc, tt.presign)
			}
			if status != http.StatusCreated {
				return
			}
			var tk ticket
			raw, err := json.Marshal(doc)
			noError(t, err)
			noError(t, json.Unmarshal(raw, &tk))
			if tk.Headers["Content-Type"] != tt.contentType {
				t.Errorf("got the headers %v, want the type %s", tk.Headers, tt.contentType)
			}
			if status := b.put(tk, ""); status != http.StatusOK {
				t.Fatalf("PUT: %d", status)
			}
			if status, doc := b.confirm("ann", tk); status != http.StatusOK {
				t.Fatalf("confirm: %d %v", status, doc)
			}
			b.work(t)
			if got := b.state("ann", tk); got != tt.state {
				t.Errorf("state %s, want %s", got, tt.state)
			}
		})
	}
	t.Run("no-size", func(t *testing.T) {
		b := start(t, uploads.Config{AllowEmpty: true}, nil)
		if status, doc := b.call("ann", http.MethodPost, "/uploads/presign", map[string]any{"filename": "a.png", "content_type": "image/png"}); status != 400 {
			t.Errorf("got %d %v, want 400", status, doc)
		}
	})
}

func TestPublicURL(t *testing.T) {
	ask := func(h http.Handler, change func(r *http.Request)) (int, string) {
		r := httptest.NewRequest(http.MethodPost, "http://gw.example/uploads/presign", strings.NewReader(`{"filename":"a.png","content_type":"image/png","size":1}`))
		r.Header.Set(service.SubjectHeader, "ann")
		change(r)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		var tk ticket
		_ = json.Unmarshal(w.Body.Bytes(), &tk)
		base, _, _ := strings.Cut(tk.URL, "/uploads/")
		return w.Code, base
	}
	byRequest := start(t, uploads.Config{}, nil)
	fixed := start(t, uploads.Config{PublicURL: "https://files.example.com:443/"}, nil)
	for _, tt := range []struct {
		name   string
		change func(r *http.Request)
		status int
		want   string
	}{
		{"plain", func(*http.Request) {}, 201, "http://gw.example"},
		{"port", func(r *http.Request) { r.Host = "127.0.0.1:8080" }, 201, "http://127.0.0.1:8080"},
		{"own-port", func(r *http.Request) { r.Host = "[::1]:80" }, 201, "http://[::1]"},
		{"behind-tls", func(r *http.Request) { r.Header.Set("X-Forwarded-Proto", "https") }, 201, "https://gw.example"},
		{"no-such-scheme", func(r *http.Request) { r.Header.Set("X-Forwarded-Proto", "javascript") }, 201, "http://gw.example"},
		{"forwarded-host-is-nothing", func(r *http.Request) { r.Header.Set("X-Forwarded-Host", "evil.example") }, 201, "http://gw.example"},
		{"no-host", func(r *http.Request) { r.Host = "" }, 400, ""},
		{"path-in-host", func(r *http.Request) { r.Host = "gw.example/x" }, 400, ""},
		{"user-in-host", func(r *http.Request) { r.Host = "a@gw.example" }, 400, ""},
		{"query-in-host", func(r *http.Request) { r.Host = "gw.example?x" }, 400, ""},
		{"not-a-host", func(r *http.Request) { r.Host = "a b\x00" }, 400, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if status, base := ask(byRequest, tt.change); status != tt.status || base != tt.want {
				t.Errorf("got %d %s, want %d %s", status, base, tt.status, tt.want)
			}
			if status, base := ask(fixed, tt.change); status != 201 || base != "https://files.example.com" {
				t.Errorf("with public_url: %d %s", status, base)
			}
		})
	}
}

// silent is a store that does not answer.
type silent struct{ objects.Store }

func (silent) Stat(ctx context.Context, _ string) (objects.Info, error) {
	<-ctx.Done()
	return objects.Info{}, ctx.Err()
}

func TestStoreDoesNotAnswer(t *testing.T) {
	b := start(t, uploads.Config{}, func(d *uploads.Deps) { d.Store = silent{d.Store} })
	tk := b.presign("ann", "a.png", 8)
	if status, doc := b.confirm("ann", tk); status != http.StatusServiceUnavailable || doc["retry-after"] != "1" {
		t.Errorf("confirm: %d %v, want 503 with Retry-After", status, doc)
	}
	if got := b.state("ann", tk); got != "pending" {
		t.Errorf("state %s, want pending", got)
	}
}

func TestCheck(t *testing.T) { pgtest.Each(t, testCheck) }

func testCheck(t *testing.T, url string) {
	b := start(t, uploads.Config{}, nil, url)
	noError(t, b.Check(t.Context()))
	noError(t, os.RemoveAll(filepath.Join(b.root, "tmp")))
	if err := b.Check(t.Context()); err == nil {
		t.Error("healthy without a directory to write to")
	}
}

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		name   string
		config uploads.Config
		want   string
	}{
		{"zero", uploads.Config{}, ""},
		{"all-set", uploads.Config{Allow: []string{"Image/PNG", "application/vnd.api+json"}, MaxSize: 5 << 30, Expires: 1_000_000_000, PublicURL: "http://localhost:8080"}, ""},
		{"wildcard", uploads.Config{Allow: []string{"image/*"}}, "media type"},
		{"parameters", uploads.Config{Allow: []string{"text/plain; charset=utf-8"}}, "media type"},
		{"no-subtype", uploads.Config{Allow: []string{"image"}}, "media type"},
		{"too-large", uploads.Config{MaxSize: 5<<30 + 1}, "max_size"},
		{"negative", uploads.Config{MaxSize: -1}, "max_size"},
		{"too-short", uploads.Config{Expires: 1}, "expires"},
		{"too-long", uploads.Config{Expires: 8 * 24 * 3600 * 1_000_000_000}, "expires"},
		{"fraction", uploads.Config{Expires: 1_500_000_000}, "expires"},
		{"public-path", uploads.Config{PublicURL: "https://a.example/files"}, "public_url"},
		{"public-scheme", uploads.Config{PublicURL: "ftp://a.example"}, "public_url"},
		{"public-host", uploads.Config{PublicURL: "a.example"}, "public_url"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.config.Validate()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error on %q", err, tt.want)
			}
		})
	}
}
