package objects_test

import (
	"bytes"
	"context"
	"encoding/xml"
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
)

// server is a disk with its endpoint on loopback and a clock that can be set ahead.
type server struct {
	*objects.Disk
	endpoint *objects.Endpoint
	root     string
	base     *url.URL
	ahead    atomic.Int64
	admit    atomic.Pointer[error] // what the endpoint is told of the next objects
}

func start(t testing.TB) *server {
	t.Helper()
	s := &server{root: filepath.Join(t.TempDir(), "objects")}
	s.Disk = open(t, s.root)
	s.endpoint = s.Endpoint(slog.New(slog.DiscardHandler), s.now).Admitting(func(context.Context, string) error {
		if err := s.admit.Load(); err != nil {
			return *err
		}
		return nil
	})
	web := httptest.NewServer(s.endpoint)
	t.Cleanup(web.Close)
	s.base = mustURL(t, web.URL)
	return s
}

func open(t testing.TB, root string) *objects.Disk {
	t.Helper()
	d, err := objects.OpenDisk(root, "uploads", testKeys())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func testKeys() objects.Keys {
	return objects.Keys{AccessKey: "gatehouse", Region: "us-east-1", Secrets: secretSet("a secret for tests")}
}

func (s *server) now() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) }

// put uploads content under the URL made for it, changed by change.
func (s *server) put(t testing.TB, key, contentType, content string, change func(r *http.Request)) *http.Response {
	t.Helper()
	u, headers := s.PresignPut(s.now(), s.base, key, objects.PutSpec{ContentType: contentType, Size: int64(len(content))}, time.Minute)
	return do(t, http.MethodPut, u, strings.NewReader(content), func(r *http.Request) {
		for name, v := range headers {
			r.Header.Set(name, v)
		}
		if change != nil {
			change(r)
		}
	})
}

func (s *server) get(t testing.TB, key string, spec objects.GetSpec, change func(r *http.Request)) *http.Response {
	t.Helper()
	return do(t, http.MethodGet, s.PresignGet(s.now(), s.base, key, spec, time.Minute), nil, change)
}

func do(t testing.TB, method, target string, body io.Reader, change func(r *http.Request)) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, target, body)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(r)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(b))
	return resp
}

func body(t testing.TB, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// wantError reads the S3 error and checks its status and code.
func wantError(t *testing.T, resp *http.Response, status int, code string) {
	t.Helper()
	var doc struct {
		XMLName   xml.Name `xml:"Error"`
		Code      string
		Message   string
		RequestID string `xml:"RequestId"`
	}
	raw := body(t, resp)
	if err := xml.Unmarshal([]byte(raw), &doc); err != nil {
		t.Fatalf("%d %q is not an S3 error: %v", resp.StatusCode, raw, err)
	}
	if resp.StatusCode != status || doc.Code != code || doc.Message == "" || doc.RequestID == "" {
		t.Errorf("got %d %s %q, want %d %s", resp.StatusCode, doc.Code, doc.Message, status, code)
	}
	if ct := resp.Header.Get("Content-Type"); ct != "application/xml" {
		t.Errorf("Content-Type %q, want application/xml", ct)
	}
}
