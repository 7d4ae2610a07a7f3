package uploads_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/uploads"
	"github.com/gatehouse-proxy/gatehouse/backends/uploads/uploadstest"
	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// opener opens the queue of the tests as the backend jobs.
type opener func(ctx context.Context, h *service.Host) (service.Service, error)

func (o opener) Open(ctx context.Context, h *service.Host) (service.Service, error) { return o(ctx, h) }

// host opens uploads with its settings on the data directory, as the gateway does.
func host(t testing.TB, dir string, c uploads.Config, database string) (*service.Host, http.Handler) {
	t.Helper()
	h, err := service.NewHost(t.Context(), service.Settings{DataDir: dir, Database: database}, nil, func(name string) (service.Opener, error) {
		switch name {
		case "uploads":
			return c, nil
		case "jobs":
			return opener(func(_ context.Context, h *service.Host) (service.Service, error) { return newQueue(t, h.DB), nil }), nil
		}
		return nil, errors.New("unknown backend")
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	if err = h.Open(t.Context(), "uploads"); err != nil {
		t.Fatal(err)
	}
	handler, err := h.Handler("uploads")
	if err != nil {
		t.Fatal(err)
	}
	return h, handler
}

func TestExamine(t *testing.T) { pgtest.Each(t, testExamine) }

func testExamine(t *testing.T, database string) {
	h, handler := host(t, t.TempDir(), uploads.Config{}, database)
	web := httptest.NewServer(handler)
	defer web.Close()
	uploadstest.Examine(t, web.URL, web.Client(), func(r *http.Request, name string) { r.Header.Set(service.SubjectHeader, name) })
	for name, err := range h.Check(t.Context()) {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if database != "" {
		return // the key is a row
	}
	keys, err := os.ReadDir(filepath.Join(h.Dir, "keys"))
	if err != nil || len(keys) != 1 || keys[0].Name() != "objects-secret" {
		t.Errorf("keys: %v, %v", keys, err)
	}
}

// TestExamineOnTLS runs on HTTP/2, where a body is not framed by its length.
func TestExamineOnTLS(t *testing.T) {
	_, handler := host(t, t.TempDir(), uploads.Config{}, "")
	web := httptest.NewUnstartedServer(handler)
	web.EnableHTTP2 = true
	web.StartTLS()
	defer web.Close()
	uploadstest.Examine(t, web.URL, web.Client(), func(r *http.Request, name string) { r.Header.Set(service.SubjectHeader, name) })
}

// TestReloadAndRestart sends one upload through a change of configuration, and uses a URL after a
// restart that was given out before.
func TestReloadAndRestart(t *testing.T) { pgtest.Each(t, testReloadAndRestart) }

func testReloadAndRestart(t *testing.T, database string) {
	dir := t.TempDir()
	first, handler := host(t, dir, uploads.Config{}, database)
	web := httptest.NewServer(handler)
	defer web.Close()
	c := client{t: t, base: web.URL}
	before, unused := c.presign("ann", "a.png", 12), c.presign("ann", "b.png", 12)

	body, sender := io.Pipe()
	type result struct {
		status int
		err    error
	}
	sent := make(chan result, 1)
	go func() {
		r := before.request(t, body)
		r.ContentLength = 12
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			sent <- result{0, err}
			return
		}
		_ = resp.Body.Close()
		sent <- result{resp.StatusCode, nil}
	}()
	if _, err := sender.Write([]byte("\x89PNG\r\n")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the upload to reach the disk", func() bool {
		tmp, err := filepath.Glob(filepath.Join(dir, "objects", "tmp", "*"))
		return err == nil && len(tmp) == 1
	})
	second, _ := host(t, dir, uploads.Config{MaxSize: 1000}, database)
	if _, err := sender.Write([]byte("\x1a\n1234")); err != nil {
		t.Fatal(err)
	}
	if got := <-sent; got.err != nil || got.status != http.StatusOK {
		t.Fatalf("the upload in flight: %d, %v", got.status, got.err)
	}
	if err := errors.Join(first.Close(), second.Close()); err != nil {
		t.Fatal(err)
	}

	_, handler = host(t, dir, uploads.Config{}, database)
	again := httptest.NewServer(handler)
	defer again.Close()
	// The signature covers the host, which a server of tests does not keep over a restart.
	r := unused.request(t, strings.NewReader("\x89PNG\r\n\x1a\n1234"))
	r.Host = strings.TrimPrefix(web.URL, "http://")
	at, err := url.Parse(again.URL)
	if err != nil {
		t.Fatal(err)
	}
	r.URL.Host = at.Host
	resp, err := http.DefaultClient.Do(r)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("a URL from before the restart: %v, %v", resp, err)
	}
	_ = resp.Body.Close()
	c.base = again.URL
	if status, doc := c.call("ann", http.MethodPost, "/uploads/confirm", map[string]any{"key": before.Key}); status != http.StatusOK {
		t.Errorf("confirm after the restart: %d %v", status, doc)
	}
}

func waitFor(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); <-time.After(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
	}
}
