package uploads_test

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/objects"
	"github.com/gatehouse-proxy/gatehouse/backends/uploads"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

// client speaks to the API as a subject.
type client struct {
	t    testing.TB
	base string
}

func (c client) call(who, method, path string, body any) (int, map[string]any) {
	c.t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		c.t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.base+path, bytes.NewReader(raw))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set(service.SubjectHeader, who)
	return c.do(r)
}

func (c client) do(r *http.Request) (int, map[string]any) {
	c.t.Helper()
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		c.t.Error(err)
		return 0, nil
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Error(err)
	}
	doc := map[string]any{"retry-after": resp.Header.Get("Retry-After"), "location": resp.Header.Get("Location")}
	_ = json.Unmarshal(b, &doc)
	return resp.StatusCode, doc
}

type ticket struct {
	ID, Key, URL string
	Headers      map[string]string
}

func (c client) presign(who, filename string, size int) ticket {
	c.t.Helper()
	status, doc := c.call(who, http.MethodPost, "/uploads/presign", map[string]any{"filename": filename, "content_type": "image/png", "size": size})
	if status != http.StatusCreated {
		c.t.Fatalf("presign: %d %v", status, doc)
	}
	raw, _ := json.Marshal(doc)
	var tk ticket
	if err := json.Unmarshal(raw, &tk); err != nil {
		c.t.Fatal(err)
	}
	return tk
}

func (tk ticket) request(t testing.TB, content io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, tk.URL, content)
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range tk.Headers {
		r.Header.Set(name, v)
	}
	return r
}

// put uploads content and returns the status.
func (c client) put(tk ticket, content string) int {
	c.t.Helper()
	status, _ := c.do(tk.request(c.t, strings.NewReader(content)))
	return status
}

func (c client) confirm(who string, tk ticket) (int, map[string]any) {
	c.t.Helper()
	return c.call(who, http.MethodPost, "/uploads/confirm", map[string]any{"key": tk.Key})
}

func (c client) state(who string, tk ticket) string {
	c.t.Helper()
	_, doc := c.call(who, http.MethodGet, "/uploads/"+tk.ID, nil)
	s, _ := doc["state"].(string)
	return s
}

// bench is the service on its own resources, with a clock that can be set and a queue that runs
// only when it is told to.
type bench struct {
	client
	*uploads.Service
	db    *sqldb.DB
	disk  *objects.Disk
	keys  objects.Keys
	queue *queue
	root  string
	ahead atomic.Int64
}

func (b *bench) now() time.Time         { return time.Now().Add(time.Duration(b.ahead.Load())) }
func (b *bench) at(since time.Duration) { b.ahead.Store(int64(since)) }
func (b *bench) exists(tk ticket) bool {
	_, err := b.disk.Stat(b.t.Context(), tk.Key)
	return err == nil
}
func (b *bench) sweep(t testing.TB) { t.Helper(); noError(t, b.Sweep(t.Context(), b.now())) }
func (b *bench) work(t testing.TB)  { t.Helper(); noError(t, b.queue.drain(t.Context())) }
func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start makes a bench on SQLite, or on the PostgreSQL at url.
func start(t testing.TB, c uploads.Config, change func(d *uploads.Deps), url ...string) *bench {
	t.Helper()
	dir := t.TempDir()
	db, err := sqldb.Open(t.Context(), dir)
	if len(url) > 0 && url[0] != "" {
		db, err = sqldb.OpenPostgres(t.Context(), url[0])
	}
	noError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	noError(t, uploads.Migrate(t.Context(), db))
	secrets := secret.NewSet("objects", secret.Version{Value: secret.NewValue([]byte("a secret for tests"))})
	b := &bench{db: db, queue: newQueue(t, db), root: filepath.Join(dir, "objects"), keys: objects.Keys{AccessKey: "gatehouse", Region: "us-east-1", Secrets: secrets}}
	b.disk, err = objects.OpenDisk(b.root, "uploads", b.keys)
	noError(t, err)
	log := slog.New(slog.DiscardHandler)
	deps := uploads.Deps{DB: db, Store: b.disk, Endpoint: b.disk.Endpoint(log, b.now), Queue: b.queue, Log: log, Now: b.now}
	if change != nil {
		change(&deps)
	}
	b.Service, err = uploads.New(c, deps)
	noError(t, err)
	web := httptest.NewServer(b.Service)
	t.Cleanup(web.Close)
	b.client = client{t: t, base: web.URL}
	return b
}

// replace puts other content under the key, as somebody can who reaches the disk.
func (b *bench) replace(tk ticket, content, contentType string) {
	b.t.Helper()
	u, err := url.Parse(tk.URL)
	noError(b.t, err)
	u.RawQuery = ""
	r := httptest.NewRequestWithContext(b.t.Context(), http.MethodPut, b.keys.Presign(b.now(), http.MethodPut, u, nil, time.Minute), strings.NewReader(content))
	r.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	b.disk.Endpoint(slog.New(slog.DiscardHandler), b.now).ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		b.t.Fatalf("replacing the object: %d %s", w.Code, w.Body)
	}
}
