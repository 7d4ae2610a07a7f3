package objects_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/objects"
)

func TestPutThenGet(t *testing.T) {
	s := start(t)
	const key = "objects/ann/1-x/report 1.pdf"
	content := strings.Repeat("%PDF-1.7 content ", 30_000)
	put := s.put(t, key, "application/pdf", content, nil)
	if put.StatusCode != http.StatusOK || put.Header.Get("ETag") == "" {
		t.Fatalf("PUT: %d, ETag %q: %s", put.StatusCode, put.Header.Get("ETag"), body(t, put))
	}
	got := s.get(t, key, objects.GetSpec{Disposition: "attachment; filename*=UTF-8''r%C3%A9port.pdf"}, nil)
	if got.StatusCode != http.StatusOK || body(t, got) != content {
		t.Fatalf("GET: %d, content differs", got.StatusCode)
	}
	for name, want := range map[string]string{
		"Content-Type":                "application/pdf",
		"Content-Length":              strconv.Itoa(len(content)),
		"Content-Disposition":         "attachment; filename*=UTF-8''r%C3%A9port.pdf",
		"Etag":                        put.Header.Get("ETag"),
		"X-Content-Type-Options":      "nosniff",
		"Content-Security-Policy":     "sandbox",
		"Accept-Ranges":               "bytes",
		"Access-Control-Allow-Origin": "*",
		"Cache-Control":               "private, no-store",
	} {
		if v := got.Header.Get(name); v != want {
			t.Errorf("%s: %q, want %q", name, v, want)
		}
	}
	if !strings.Contains(got.Header.Get("Access-Control-Expose-Headers"), "ETag") {
		t.Error("the ETag is not exposed to scripts")
	}
	t.Run("default-disposition", func(t *testing.T) {
		if v := s.get(t, key, objects.GetSpec{}, nil).Header.Get("Content-Disposition"); v != "attachment" {
			t.Errorf("got %q, want attachment", v)
		}
	})
	t.Run("range", func(t *testing.T) {
		part := s.get(t, key, objects.GetSpec{}, func(r *http.Request) { r.Header.Set("Range", "bytes=-5") })
		if part.StatusCode != http.StatusPartialContent || body(t, part) != content[len(content)-5:] {
			t.Errorf("got %d %q, want the last five bytes of the content", part.StatusCode, body(t, part))
		}
		beyond := s.get(t, key, objects.GetSpec{}, func(r *http.Request) { r.Header.Set("Range", "bytes="+strconv.Itoa(len(content))+"-") })
		if beyond.StatusCode != http.StatusRequestedRangeNotSatisfiable {
			t.Errorf("a range behind the content: %d, want 416", beyond.StatusCode)
		}
	})
	t.Run("head-with-the-url-of-get", func(t *testing.T) {
		head := do(t, http.MethodHead, s.PresignGet(s.now(), s.base, key, objects.GetSpec{}, time.Minute), nil, nil)
		if head.StatusCode != http.StatusOK || head.ContentLength != int64(len(content)) {
			t.Errorf("got %d, length %d", head.StatusCode, head.ContentLength)
		}
	})
	t.Run("stat-and-open", func(t *testing.T) {
		info, err := s.Stat(t.Context(), key)
		if err != nil || info.Size != int64(len(content)) || info.ContentType != "application/pdf" || info.ETag != put.Header.Get("ETag") {
			t.Fatalf("Stat: %+v, %v", info, err)
		}
		f, err := s.Open(t.Context(), key, info.ETag)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		if b, err := io.ReadAll(f); err != nil || string(b) != content {
			t.Errorf("Open: content differs, %v", err)
		}
		if _, err = s.Open(t.Context(), key, `"other"`); !errors.Is(err, objects.ErrChanged) {
			t.Errorf("Open with another ETag: %v, want ErrChanged", err)
		}
	})
	t.Run("delete", func(t *testing.T) {
		for range 2 {
			if err := s.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Stat(t.Context(), key); !errors.Is(err, objects.ErrNotFound) {
			t.Errorf("Stat: %v, want ErrNotFound", err)
		}
		if _, err := s.Open(t.Context(), key, put.Header.Get("ETag")); !errors.Is(err, objects.ErrNotFound) {
			t.Errorf("Open: %v, want ErrNotFound", err)
		}
		wantError(t, s.get(t, key, objects.GetSpec{}, nil), http.StatusNotFound, "NoSuchKey")
	})
}

func TestPutRefusals(t *testing.T) {
	s := start(t)
	tests := []struct {
		name   string
		change func(r *http.Request)
		status int
		code   string
	}{
		{"longer", func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("123456")), 6
		}, 403, "SignatureDoesNotMatch"},
		{"shorter", func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("1234")), 4
		}, 403, "SignatureDoesNotMatch"},
		{"empty", func(r *http.Request) { r.Body, r.ContentLength = http.NoBody, 0 }, 403, "SignatureDoesNotMatch"},
		{"chunked", func(r *http.Request) { r.ContentLength = -1 }, 411, "MissingContentLength"},
		{"other-type", func(r *http.Request) { r.Header.Set("Content-Type", "text/html") }, 403, "SignatureDoesNotMatch"},
		{"without-condition", func(r *http.Request) { r.Header.Del("If-None-Match") }, 403, "SignatureDoesNotMatch"},
		{"other-key", func(r *http.Request) { r.URL.Path += "x" }, 403, "SignatureDoesNotMatch"},
		{"unsigned-amz-header", func(r *http.Request) { r.Header.Set("X-Amz-Meta-A", "b") }, 403, "AccessDenied"},
		{"content-md5", func(r *http.Request) { r.Header.Set("Content-Md5", "AAAAAAAAAAAAAAAAAAAAAA==") }, 501, "NotImplemented"},
		{"content-encoding", func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") }, 501, "NotImplemented"},
		{"post", func(r *http.Request) { r.Method = http.MethodPost }, 405, "MethodNotAllowed"},
		{"delete", func(r *http.Request) { r.Method = http.MethodDelete }, 405, "MethodNotAllowed"},
		{"odd-method", func(r *http.Request) { r.Method = "PROPFIND" }, 405, "MethodNotAllowed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wantError(t, s.put(t, "objects/a", "text/plain", "12345", tt.change), tt.status, tt.code)
			if _, err := s.Stat(t.Context(), "objects/a"); !errors.Is(err, objects.ErrNotFound) {
				t.Errorf("Stat: %v, want that nothing was stored", err)
			}
		})
	}
	t.Run("expired", func(t *testing.T) {
		u, headers := s.PresignPut(s.now(), s.base, "objects/a", objects.PutSpec{ContentType: "text/plain", Size: 1}, time.Minute)
		s.ahead.Store(int64(2 * time.Minute))
		defer s.ahead.Store(0)
		resp := do(t, http.MethodPut, u, strings.NewReader("1"), func(r *http.Request) {
			for name, v := range headers {
				r.Header.Set(name, v)
			}
		})
		if raw := body(t, resp); resp.StatusCode != http.StatusForbidden || !strings.Contains(raw, "<Code>AccessDenied</Code><Message>Request has expired</Message>") {
			t.Errorf("got %d %s, want 403 AccessDenied: Request has expired", resp.StatusCode, raw)
		}
	})
	t.Run("wrong-bucket", func(t *testing.T) {
		u := testKeys().Presign(s.now(), http.MethodGet, mustURL(t, s.base.String()+"/other/key"), nil, time.Minute)
		wantError(t, do(t, http.MethodGet, u, nil, nil), 404, "NoSuchBucket")
	})
	t.Run("long-key", func(t *testing.T) {
		wantError(t, s.get(t, strings.Repeat("k", 1025), objects.GetSpec{}, nil), 400, "KeyTooLongError")
	})
	t.Run("unknown-parameter", func(t *testing.T) {
		u := mustURL(t, s.base.String()+"/uploads/a?acl")
		wantError(t, do(t, http.MethodGet, testKeys().Presign(s.now(), http.MethodGet, u, nil, time.Minute), nil, nil), 501, "NotImplemented")
	})
	if tmp, err := os.ReadDir(filepath.Join(s.root, "tmp")); err != nil || len(tmp) != 0 {
		t.Errorf("left in tmp: %v, %v", tmp, err)
	}
}

// TestUnfinishedBodyStoresNothing sends a third of what was signed and then ends or stands still.
func TestUnfinishedBodyStoresNothing(t *testing.T) {
	for name, then := range map[string]func(conn *net.TCPConn) error{
		"ends":         (*net.TCPConn).CloseWrite,
		"stands-still": func(*net.TCPConn) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			s.endpoint.SetIdle(200 * time.Millisecond)
			u, _ := s.PresignPut(s.now(), s.base, "objects/a", objects.PutSpec{ContentType: "text/plain", Size: 300_000}, time.Minute)
			conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.base.Host)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			target := mustURL(t, u)
			_, err = fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 300000\r\nContent-Type: text/plain\r\nIf-None-Match: *\r\n\r\n%s",
				target.RequestURI(), target.Host, strings.Repeat("x", 100_000))
			if err = errors.Join(err, then(conn.(*net.TCPConn)), conn.SetReadDeadline(time.Now().Add(20*time.Second))); err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(conn) // to its end: the server hangs up
			if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") || !strings.Contains(string(answer), "<Code>IncompleteBody</Code>") {
				t.Errorf("got %s, %v, want 400 IncompleteBody", answer, err)
			}
			if _, err = s.Stat(t.Context(), "objects/a"); !errors.Is(err, objects.ErrNotFound) {
				t.Errorf("Stat: %v, want ErrNotFound", err)
			}
			if tmp, err := os.ReadDir(filepath.Join(s.root, "tmp")); err != nil || len(tmp) != 0 {
				t.Errorf("left in tmp: %v, %v", tmp, err)
			}
		})
	}
}

func TestPutCreatesOnce(t *testing.T) {
	s := start(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	winners, statuses := []string{}, map[int]int{}
	for i := range 8 {
		wg.Go(func() {
			content := fmt.Sprintf("content %d", i)
			resp := s.put(t, "objects/a", "text/plain", content, nil)
			mu.Lock()
			defer mu.Unlock()
			statuses[resp.StatusCode]++
			if resp.StatusCode == http.StatusOK {
				winners = append(winners, content)
			}
		})
	}
	wg.Wait()
	if len(winners) != 1 || statuses[http.StatusPreconditionFailed] != 7 {
		t.Fatalf("statuses %v, want one 200 and seven 412", statuses)
	}
	wantError(t, s.put(t, "objects/a", "text/plain", "content x", nil), http.StatusPreconditionFailed, "PreconditionFailed")
	if got := body(t, s.get(t, "objects/a", objects.GetSpec{}, nil)); got != winners[0] {
		t.Errorf("content %q, want %q of the PUT that was answered 200", got, winners[0])
	}
}

func TestPreflight(t *testing.T) {
	s := start(t)
	resp := do(t, http.MethodOptions, s.base.String()+"/uploads/objects/a", nil, func(r *http.Request) {
		r.Header.Set("Origin", "https://app.example")
		r.Header.Set("Access-Control-Request-Method", "PUT")
		r.Header.Set("Access-Control-Request-Headers", "content-type,if-none-match")
	})
	h := resp.Header
	if resp.StatusCode != http.StatusNoContent || h.Get("Access-Control-Allow-Origin") != "*" ||
		!strings.Contains(h.Get("Access-Control-Allow-Methods"), "PUT") ||
		!strings.Contains(h.Get("Access-Control-Allow-Headers"), "Content-Type") ||
		!strings.Contains(h.Get("Access-Control-Allow-Headers"), "If-None-Match") || h.Get("Access-Control-Allow-Credentials") != "" {
		t.Errorf("got %d %v", resp.StatusCode, h)
	}
}

// FuzzEndpoint sends what it likes to an endpoint whose secret it does not have: nothing may be
// stored, and nothing may be answered with success or with a fault of ours.
func FuzzEndpoint(f *testing.F) {
	d := open(f, filepath.Join(f.TempDir(), "objects"))
	h := d.Endpoint(slog.New(slog.DiscardHandler), time.Now)
	base := &url.URL{Scheme: "http", Host: "h"}
	_, signedQuery, _ := strings.Cut(d.PresignGet(time.Unix(1_700_000_000, 0), base, "objects/a", objects.GetSpec{}, time.Minute), "?")
	f.Add("GET", "/uploads/objects/a", signedQuery, "Range", "bytes=0-", []byte(nil))
	f.Add("PUT", "/uploads/objects/../a", "X-Amz-Signature=", "If-None-Match", "*", []byte("12345"))
	f.Add("HEAD", "", "", "X-Amz-Content-Sha256", "\xff", []byte("\x00"))
	f.Fuzz(func(t *testing.T, method, path, query, name, value string, content []byte) {
		r := (&http.Request{Method: method, Host: "h", URL: &url.URL{Path: path, RawQuery: query}, Header: http.Header{name: {value}},
			ContentLength: int64(len(content)), Body: io.NopCloser(bytes.NewReader(content))}).WithContext(t.Context())
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if method != http.MethodOptions && (w.Code < 400 || w.Code >= 500) {
			t.Errorf("%s %q?%q: %d", method, path, query, w.Code)
		}
		key := strings.TrimPrefix(path, "/uploads/")
		if _, err := d.Stat(t.Context(), key); !errors.Is(err, objects.ErrNotFound) {
			t.Errorf("stored %q: %v", key, err)
		}
	})
}
