package uploadstest

import (
	"bytes"
	"crypto/rand"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

func png(size int) []byte {
	b := make([]byte, size)
	_, _ = rand.Read(b)
	copy(b, "\x89PNG\r\n\x1a\n")
	return b
}

func (x *examiner) uploadAndDownload(t *testing.T) {
	pdf := append([]byte("%PDF-1.7\n"), png(3000)...)
	for _, f := range []struct {
		filename, contentType string
		content               []byte
		disposition           string
	}{
		{"Größe 1.png", "image/png", png(1_500_000), "attachment; filename*=UTF-8''Gr%C3%B6%C3%9Fe%201.png"},
		{`a"b;c.pdf`, "application/pdf", pdf, "attachment; filename*=UTF-8''a%22b%3Bc.pdf"},
	} {
		tk := x.upload(t, ann, f.filename, f.contentType, f.content)
		got := x.download(t, ann, tk.ID, nil)
		if got.status != http.StatusOK || !bytes.Equal(got.body, f.content) {
			t.Errorf("%s: %d, %d bytes, want the %d that were uploaded", f.filename, got.status, len(got.body), len(f.content))
		}
		for name, want := range map[string]string{
			"Content-Type": f.contentType, "Content-Disposition": f.disposition,
			"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox",
		} {
			if v := got.header.Get(name); v != want {
				t.Errorf("%s: %s is %q, want %q", f.filename, name, v, want)
			}
		}
		part := x.download(t, ann, tk.ID, http.Header{"Range": {"bytes=1-3"}})
		if part.status != http.StatusPartialContent || !bytes.Equal(part.body, f.content[1:4]) {
			t.Errorf("%s: the range 1-3 is %d %q, want %q", f.filename, part.status, part.body, f.content[1:4])
		}
		a := x.call(t, ann, http.MethodGet, "/uploads/"+tk.ID, nil)
		for member, want := range map[string]string{"filename": f.filename, "content_type": f.contentType, "key": tk.Key, "state": "ready", "owner": ann} {
			if v := a.text(member); v != want {
				t.Errorf("%s: %s is %q, want %q", f.filename, member, v, want)
			}
		}
		if _, err := time.Parse(time.RFC3339, a.text("ready_at")); err != nil {
			t.Errorf("%s: ready_at is %q", f.filename, a.text("ready_at"))
		}
	}
}

func (x *examiner) putRefusals(t *testing.T) {
	content := png(1000)
	tk := x.presign(t, ann, "a.png", "image/png", len(content))
	query := func(change func(q url.Values)) func(r *http.Request) {
		return func(r *http.Request) {
			q := r.URL.Query()
			change(q)
			r.URL.RawQuery = q.Encode()
		}
	}
	for _, tt := range []struct {
		name    string
		content []byte
		change  func(r *http.Request)
		status  int
		code    string
	}{
		{"longer", png(1001), nil, 403, "SignatureDoesNotMatch"},
		{"shorter", png(999), nil, 403, "SignatureDoesNotMatch"},
		{"no-length", content, func(r *http.Request) { r.ContentLength = -1 }, 411, "MissingContentLength"},
		{"other-type", content, func(r *http.Request) { r.Header.Set("Content-Type", "text/html") }, 403, "SignatureDoesNotMatch"},
		{"no-condition", content, func(r *http.Request) { r.Header.Del("If-None-Match") }, 403, "SignatureDoesNotMatch"},
		{"other-key", content, func(r *http.Request) { r.URL.Path += ".html" }, 403, "SignatureDoesNotMatch"},
		{"bad-signature", content, query(func(q url.Values) { q.Set("X-Amz-Signature", strings.Repeat("0", 64)) }), 403, "SignatureDoesNotMatch"},
		{"longer-life", content, query(func(q url.Values) { q.Set("X-Amz-Expires", "604800") }), 403, "SignatureDoesNotMatch"},
		{"expired", content, query(func(q url.Values) {
			q.Set("X-Amz-Credential", strings.Replace(q.Get("X-Amz-Credential"), q.Get("X-Amz-Date")[:8], "20260101", 1))
			q.Set("X-Amz-Date", "20260101T000000Z")
		}), 403, "AccessDenied</Code><Message>Request has expired"},
		{"not-signed", content, func(r *http.Request) { r.URL.RawQuery = "" }, 403, "AccessDenied"},
		{"other-method", content, func(r *http.Request) { r.Method = http.MethodDelete }, 405, "MethodNotAllowed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := x.put(t, tk, tt.content, tt.change)
			if a.status != tt.status || !bytes.Contains(a.body, []byte("<Code>"+tt.code)) || a.header.Get("Content-Type") != "application/xml" {
				t.Errorf("got %d %s, want %d %s as XML", a.status, a.body, tt.status, tt.code)
			}
		})
	}
	x.mustPut(t, tk, content)
	replay := func(when string) {
		if a := x.put(t, tk, png(1000), nil); a.status != http.StatusPreconditionFailed {
			t.Errorf("using the URL again %s: %d, want 412", when, a.status)
		}
	}
	replay("before the confirmation")
	if a := x.confirm(t, ann, tk.Key); a.status != http.StatusOK {
		t.Fatalf("confirm: %d %s", a.status, a.body)
	}
	replay("after the confirmation")
	x.await(t, ann, tk.ID, "ready")
	if got := x.download(t, ann, tk.ID, nil); !bytes.Equal(got.body, content) {
		t.Error("the content is not what was uploaded first")
	}
}

func (x *examiner) confirmBeforePut(t *testing.T) {
	tk := x.presign(t, ann, "a.png", "image/png", 100)
	wantProblem(t, x.confirm(t, ann, tk.Key), http.StatusConflict)
	wantProblem(t, x.call(t, ann, http.MethodGet, "/uploads/"+tk.ID+"/content", nil), http.StatusConflict)
	x.mustPut(t, tk, png(100))
	if a := x.confirm(t, ann, tk.Key); a.status != http.StatusOK {
		t.Errorf("confirm after the PUT: %d %s", a.status, a.body)
	}
}

func (x *examiner) confirmRaces(t *testing.T) {
	content := png(1000)
	tk := x.presign(t, ann, "a.png", "image/png", len(content))
	x.mustPut(t, tk, content)
	answers := make([]answer, 8)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() { answers[i] = x.confirm(t, ann, tk.Key) })
	}
	wg.Wait()
	for _, a := range answers {
		if s := a.text("state"); a.status != http.StatusOK || a.text("id") != tk.ID || s != "processing" && s != "ready" {
			t.Errorf("confirm: %d %s", a.status, a.body)
		}
	}
	x.await(t, ann, tk.ID, "ready")
	if a := x.confirm(t, ann, tk.Key); a.status != http.StatusOK || a.text("state") != "ready" {
		t.Errorf("confirming what is ready: %d %s", a.status, a.body)
	}
}

func (x *examiner) lie(t *testing.T) {
	html := []byte("<html><script>alert(1)</script>%PDF-1.7")
	for filename, contentType := range map[string]string{"a.png": "image/png", "a.pdf": "application/pdf", "a.jpg": "image/jpeg", "a.webp": "image/webp"} {
		tk := x.presign(t, ann, filename, contentType, len(html))
		x.mustPut(t, tk, html)
		if a := x.confirm(t, ann, tk.Key); a.status != http.StatusOK {
			t.Fatalf("confirm: %d %s", a.status, a.body)
		}
		if a := x.await(t, ann, tk.ID, "rejected"); a.text("reason") != "type-mismatch" {
			t.Errorf("%s: %s, want the reason type-mismatch", filename, a.body)
		}
		wantProblem(t, x.call(t, ann, http.MethodGet, "/uploads/"+tk.ID+"/content", nil), http.StatusConflict)
		if a := x.confirm(t, ann, tk.Key); a.text("reason") != "type-mismatch" {
			t.Errorf("confirm again: %d %s, want the reason type-mismatch", a.status, a.body)
		} else {
			wantProblem(t, a, http.StatusConflict)
		}
	}
}

func (x *examiner) foreigner(t *testing.T) {
	tk := x.upload(t, ann, "a.png", "image/png", png(100))
	waiting := x.presign(t, ann, "b.png", "image/png", 100)
	x.mustPut(t, waiting, png(100))
	for _, id := range []string{tk.ID, waiting.ID} {
		wantProblem(t, x.call(t, bob, http.MethodGet, "/uploads/"+id, nil), http.StatusNotFound)
		wantProblem(t, x.call(t, bob, http.MethodGet, "/uploads/"+id+"/content", nil), http.StatusNotFound)
		wantProblem(t, x.call(t, bob, http.MethodDelete, "/uploads/"+id, nil), http.StatusNotFound)
	}
	for _, key := range []string{tk.Key, waiting.Key} {
		wantProblem(t, x.confirm(t, bob, key), http.StatusNotFound)
	}
	if a := x.call(t, ann, http.MethodGet, "/uploads/"+waiting.ID, nil); a.text("state") != "pending" {
		t.Errorf("after another's confirm: %s, want pending", a.body)
	}
}

func (x *examiner) remove(t *testing.T) {
	tk := x.upload(t, ann, "a.png", "image/png", png(100))
	link := x.call(t, ann, http.MethodGet, "/uploads/"+tk.ID+"/content", nil).header.Get("Location")
	if a := x.call(t, ann, http.MethodDelete, "/uploads/"+tk.ID, nil); a.status != http.StatusNoContent {
		t.Fatalf("DELETE: %d %s", a.status, a.body)
	}
	wantProblem(t, x.call(t, ann, http.MethodDelete, "/uploads/"+tk.ID, nil), http.StatusNotFound)
	wantProblem(t, x.call(t, ann, http.MethodGet, "/uploads/"+tk.ID, nil), http.StatusNotFound)
	wantProblem(t, x.call(t, ann, http.MethodGet, "/uploads/"+tk.ID+"/content", nil), http.StatusNotFound)
	wantProblem(t, x.confirm(t, ann, tk.Key), http.StatusNotFound)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, link, nil)
	if err != nil {
		t.Fatal(err)
	}
	if a := x.do(t, r); a.status != http.StatusNotFound {
		t.Errorf("the URL of the content after the DELETE: %d, want 404", a.status)
	}
}

func (x *examiner) preflight(t *testing.T) {
	tk := x.presign(t, ann, "a.png", "image/png", 100)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, tk.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Origin", "https://app.example")
	r.Header.Set("Access-Control-Request-Method", http.MethodPut)
	r.Header.Set("Access-Control-Request-Headers", "content-type,if-none-match")
	a := x.do(t, r)
	if a.status != http.StatusNoContent || a.header.Get("Access-Control-Allow-Origin") != "*" || !strings.Contains(a.header.Get("Access-Control-Allow-Methods"), "PUT") {
		t.Errorf("preflight: %d %v", a.status, a.header)
	}
	put := x.put(t, tk, png(100), func(r *http.Request) { r.Header.Set("Origin", "https://app.example") })
	if put.status != http.StatusOK || put.header.Get("Access-Control-Allow-Origin") != "*" || !strings.Contains(put.header.Get("Access-Control-Expose-Headers"), "ETag") {
		t.Errorf("PUT of another origin: %d %v", put.status, put.header)
	}
}

func wantProblem(t *testing.T, a answer, status int) {
	t.Helper()
	if a.status != status || a.header.Get("Content-Type") != "application/problem+json" || a.text("type") == "" || a.text("title") == "" {
		t.Errorf("got %d %s %s, want the problem %d", a.status, a.header.Get("Content-Type"), a.body, status)
	}
}
