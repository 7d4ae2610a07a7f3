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

func TestAnonymous(t *testing.T) { pgtest.Each(t, testAnonymous) }

func testAnonymous(t *testing.T, url string) {
	b := start(t, uploads.Config{}, nil, url)
	tk := b.presign("", "a.png", 8)
	b.put(tk, png)
	if status, doc := b.confirm("ann", tk); status != http.StatusOK {
		t.Errorf("another confirms what has no owner: %d %v", status, doc)
	}
	b.work(t)
	if got := b.state("", tk); got != "ready" {
		t.Errorf("state %s, want ready", got)
	}
	_, err := b.db.Write.ExecContext(t.Context(), `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 1000)
		INSERT INTO uploads_files (id, owner, object_key, filename, content_type, size, state, created_at, expires_at, sweep_at)
		SELECT 'id'||i, '', 'key'||i, 'a.png', 'image/png', 1, 'pending', 0, $1, $2 FROM n`, b.now().Add(time.Minute).UnixMilli(), b.now().Add(time.Hour).UnixMilli())
	noError(t, err)
	in := map[string]any{"filename": "a.png", "content_type": "image/png", "size": 1}
	if status, doc := b.call("", http.MethodPost, "/uploads/presign", in); status != http.StatusTooManyRequests || doc["retry-after"] != "60" {
		t.Errorf("the 1001st anonymous upload: %d %v, want 429 for a minute", status, doc)
	}
	b.presign("ann", "a.png", 1)
	b.at(61 * time.Second)
	b.presign("", "a.png", 1) // the URLs have expired, so they do not count any more
}

func TestPublicURL(t *testing.T) {
	ask := func(h http.Handler, change func(r *http.Request)) (int, string) {
		r := httptest.NewRequest(http.MethodPost, "http://gw.example/uploads/presign", strings.NewReader(`{"filename":"a.png","content_type":"image/png","size":1}`))
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
