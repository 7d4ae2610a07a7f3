package uploadstest

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
)

func (x *examiner) badInput(t *testing.T) {
	file := func(filename, contentType string, size any) map[string]any {
		return map[string]any{"filename": filename, "content_type": contentType, "size": size}
	}
	for _, tt := range []struct {
		name, method, path string
		body               any
		status             int
		contains           string
	}{
		{"not-json", "POST", "/uploads/presign", "{", 400, ""},
		{"empty-body", "POST", "/uploads/presign", "", 400, ""},
		{"two-values", "POST", "/uploads/presign", "{} {}", 400, ""},
		{"unknown-member", "POST", "/uploads/presign", `{"file":"a"}`, 400, "file"},
		{"huge-body", "POST", "/uploads/presign", `{"filename":"` + strings.Repeat("a", 20_000) + `"}`, 413, ""},
		{"wrong-kind", "POST", "/uploads/presign", file("a.png", "image/png", "100"), 400, "size"},
		{"type-not-allowed", "POST", "/uploads/presign", file("a.html", "text/html", 1), 415, `"allowed":["image/jpeg"`},
		{"type-with-parameters", "POST", "/uploads/presign", file("a.png", "image/png; charset=x", 1), 415, "allowed"},
		{"no-type", "POST", "/uploads/presign", file("a.png", "", 1), 415, "allowed"},
		{"no-filename", "POST", "/uploads/presign", file("", "image/png", 1), 400, "filename"},
		{"long-filename", "POST", "/uploads/presign", file(strings.Repeat("ä", 126)+".png", "image/png", 1), 400, "filename"},
		{"slash", "POST", "/uploads/presign", file("../a.png", "image/png", 1), 400, "filename"},
		{"backslash", "POST", "/uploads/presign", file(`a\b.png`, "image/png", 1), 400, "filename"},
		{"dots", "POST", "/uploads/presign", file("..", "image/png", 1), 400, "filename"},
		{"nul", "POST", "/uploads/presign", file("a\x00.png", "image/png", 1), 400, "filename"},
		{"newline", "POST", "/uploads/presign", file("a\r\nX: y.png", "image/png", 1), 400, "filename"},
		{"bidi", "POST", "/uploads/presign", file("gnp.\u202eexe.png", "image/png", 1), 400, "filename"},
		{"not-utf8", "POST", "/uploads/presign", "{\"filename\":\"a\xff.png\",\"content_type\":\"image/png\",\"size\":1}", 400, "filename"},
		{"other-extension", "POST", "/uploads/presign", file("a.exe", "image/png", 1), 400, "filename"},
		{"no-size", "POST", "/uploads/presign", `{"filename":"a.png","content_type":"image/png"}`, 400, "size"},
		{"zero", "POST", "/uploads/presign", file("a.png", "image/png", 0), 400, "size"},
		{"negative", "POST", "/uploads/presign", file("a.png", "image/png", -1), 400, "size"},
		{"fraction", "POST", "/uploads/presign", file("a.png", "image/png", 1.5), 400, "size"},
		{"overflow", "POST", "/uploads/presign", `{"filename":"a.png","content_type":"image/png","size":99999999999999999999}`, 400, "size"},
		{"too-large", "POST", "/uploads/presign", file("a.png", "image/png", 10<<20+1), 413, `"max_size":10485760`},
		{"confirm-not-json", "POST", "/uploads/confirm", "key", 400, ""},
		{"confirm-nothing", "POST", "/uploads/confirm", "{}", 404, ""},
		{"confirm-unknown", "POST", "/uploads/confirm", `{"key":"objects/x/1-y/a.png"}`, 404, ""},
		{"confirm-hostile", "POST", "/uploads/confirm", `{"key":"' OR 1=1 --\u0000"}`, 404, ""},
		{"show-unknown", "GET", "/uploads/AAAAAAAAAAAAAAAAAAAAAAAAAA", nil, 404, ""},
		{"show-hostile", "GET", "/uploads/%00%ff'", nil, 404, ""},
		{"content-unknown", "GET", "/uploads/x/content", nil, 404, ""},
		{"delete-unknown", "DELETE", "/uploads/x", nil, 404, ""},
		{"no-such-path", "GET", "/uploads/x/y", nil, 404, ""},
		{"no-uppy", "GET", "/uploads/s3/params?filename=a.png&type=image/png", nil, 404, ""},
		{"wrong-method", "GET", "/uploads/presign", nil, 405, ""},
		{"wrong-method-on-one", "PUT", "/uploads/x", "{}", 405, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := x.call(t, ann, tt.method, tt.path, tt.body)
			wantProblem(t, a, tt.status)
			if !bytes.Contains(a.body, []byte(tt.contains)) {
				t.Errorf("got %s, want it to say %s", a.body, tt.contains)
			}
			if tt.status == http.StatusMethodNotAllowed && a.header.Get("Allow") == "" {
				t.Error("405 without Allow")
			}
		})
	}
	t.Run("upper-case-type", func(t *testing.T) {
		tk := x.presign(t, ann, "A.PNG", "IMAGE/PNG", 100)
		if tk.Headers["Content-Type"] != "image/png" {
			t.Errorf("got the headers %v, want image/png", tk.Headers)
		}
	})
}

func (x *examiner) tooManyOpen(t *testing.T) {
	for range 51 {
		a := x.call(t, "uploads-flood", http.MethodPost, "/uploads/presign", map[string]any{"filename": "a.png", "content_type": "image/png", "size": 1})
		if a.status == http.StatusCreated {
			continue
		}
		wantProblem(t, a, http.StatusTooManyRequests)
		if a.header.Get("Retry-After") == "" {
			t.Error("429 without Retry-After")
		}
		x.presign(t, bob, "a.png", "image/png", 1) // another's flood is not his
		return
	}
	t.Error("51 uploads are open at once, want at most 50")
}
