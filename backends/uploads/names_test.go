package uploads

import (
	"mime"
	"path"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestSafeName(t *testing.T) {
	long := strings.Repeat("a", 300)
	for in, want := range map[string]string{
		"photo.png":             "photo.png",
		"Größe 1.png":           "Gr__e_1.png",
		"../../etc/passwd":      "passwd",
		`C:\Users\ann\cv.pdf`:   "cv.pdf",
		"..":                    "file",
		".htaccess":             "htaccess",
		"":                      "file",
		"a/":                    "file",
		"\x00\x1f\u202e.png":    "png",
		"gnp\u202eexe.png":      "gnpexe.png",
		"a\xff.png":             "a_.png",
		long + ".png":           strings.Repeat("a", 96) + ".png",
		"a." + long:             "a." + strings.Repeat("a", 49) + strings.Repeat("a", 49),
		"日本語.webp":              "___.webp",
		"a;b=\"c\"<script>.pdf": "a_b__c__script_.pdf",
	} {
		if in == "a."+long {
			if got := safeName(in); len(got) != maxSafeName {
				t.Errorf("%q: %d bytes, want %d", in, len(got), maxSafeName)
			}
			continue
		}
		if got := safeName(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

var keyForm = regexp.MustCompile(`^objects/(anonymous|[0-9a-f]{32})/[0-9]+-[A-Z2-7]{26}/[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$`)

func FuzzFilename(f *testing.F) {
	for _, s := range []string{"a.png", "", "..", "../a", `a\b`, "a\x00b", "\u202e", "\xff\xfe", strings.Repeat("ä", 200) + ".jpeg", ".png", "a.", "%2e%2e", "日本.pdf"} {
		f.Add(s, "image/png")
		f.Add(s, "")
	}
	at := time.Unix(1_700_000_000, 0)
	f.Fuzz(func(t *testing.T, name, owner string) {
		if key := newKey(owner, name, at); !keyForm.MatchString(key) || len(key) > 1024 {
			t.Errorf("key %q", key)
		}
		if badFilename(name, "image/png") != "" {
			return
		}
		if !utf8.ValidString(name) || len(name) > 255 || strings.ContainsAny(name, "/\\\x00\r\n") {
			t.Errorf("accepted %q", name)
		}
		if ext := path.Ext(name); ext != "" && !strings.EqualFold(ext, ".png") {
			t.Errorf("accepted the extension of %q", name)
		}
		kind, params, err := mime.ParseMediaType(attachment(name))
		if err != nil || kind != "attachment" || params["filename"] != name {
			t.Errorf("%q saves as %q, %v", name, params["filename"], err)
		}
	})
}

func TestBadFilename(t *testing.T) {
	for _, name := range []string{"a.png", "A.PNG", "photo", "Größe 1.png", "日本語.png", "a.tar.png", "👨\u200d👩\u200d👧.png", strings.Repeat("a", 251) + ".png", "-rf.png", "'; DROP TABLE--.png"} {
		if why := badFilename(name, "image/png"); why != "" {
			t.Errorf("%q %s", name, why)
		}
	}
	for _, name := range []string{"", ".", "..", "...", " ", "a/b.png", `a\b.png`, "a\x00.png", "a\n.png", "a\x7f.png", "a\u0085.png", "a\u202e.png", "a\u2066.png", "a\u200f.png",
		"a\u2028.png", "\ufeffa.png", "a\xff.png", "a\ufffd.png", strings.Repeat("a", 252) + ".png", "a.exe", "a.png.exe", "a.", "a.pdf"} {
		if badFilename(name, "image/png") == "" {
			t.Errorf("%q is accepted", name)
		}
	}
	if why := badFilename("data.xyz", "application/octet-stream"); why != "" {
		t.Errorf("an extension of a type without known ones: %s", why)
	}
}

func TestIsType(t *testing.T) {
	pad := func(s string, n int) string { return strings.Repeat(s, n/len(s)+1)[:n] }
	for _, tt := range []struct {
		contentType, head string
		want              bool
	}{
		{"image/jpeg", "\xff\xd8\xff\xe0", true},
		{"image/jpeg", "\xff\xd8", false},
		{"image/jpeg", " \xff\xd8\xff\xe0", false},
		{"image/png", "\x89PNG\r\n\x1a\n", true},
		{"image/png", "\x89PNG\n\x1a\n", false},
		{"image/gif", "GIF89a", true},
		{"image/gif", "GIF87a.", true},
		{"image/gif", "GIF90a", false},
		{"image/webp", "RIFF\x00\x00\x00\x00WEBPVP8 ", true},
		{"image/webp", "RIFF\x00\x00\x00\x00WAVE", false},
		{"image/webp", "RIFF", false},
		{"application/pdf", "%PDF-1.7", true},
		{"application/pdf", "\xef\xbb\xbf%PDF-1.7", false},
		{"application/pdf", "<html>%PDF-1.7", false},
		{"image/png", "", false},
		{"text/plain", "", true},
		{"text/plain", "grüße", true},
		{"text/plain", "a\x00b", false},
		{"text/csv", "a;\xff;b", true},                  // Latin-1
		{"text/plain", "gr\xfc\xdfe \x96 5 \x80", true}, // Windows-1252
		{"text/plain", "ends in \xc3", true},            // as Latin-1: nothing completes it as UTF-8
		{"text/plain", "\x7fELF\x02\x01\xff", false},
		{"text/plain", "%PDF-1.7\n%\xe2\xe3", false},
		{"text/plain", "\xff\xfeg\x00r\x00\xfc\x00", true},
		{"text/plain", "\xfe\xff\x00g\x00r\x00\xfc", true},
		{"text/plain", "\xff\xfeg\x00r", false}, // half a character
		{"text/plain", "\xff\xfe\x00\x00a\x00\x00\x00", false},
		{"text/plain", "g\x00r\x00\xfc\x00\r\x00\n\x00", true},
		{"text/plain", "\x00g\x00r\x00\xfc", true},
		{"text/plain", "\x01\x00\x02\x00", false},
		{"text/plain", "\x89\x50\x00\x4e\x1a\x70", false},
		{"text/plain", "\xff\xfe\x3d\xd8\x00\xde", true}, // a pair of surrogates
		{"text/plain", "\xff\xfe\x3d\xd8a\x00", false},   // half of one
		{"text/plain; charset=utf-16le", "\x00\x4e\x8c\x4e\x09\x4e", true},
		{"text/plain", "\x00\x4e\x8c\x4e\x09\x4e", false}, // nothing says that it is Chinese
		{"text/plain; charset=utf-8", "grüße", true},
		{"image/svg+xml; charset=utf-8", "<svg/>", true},
		{"text/plain", pad("x", 511) + "\xc3", true},
		{"text/plain", pad("x", 509) + "\xf0\x9f\x98", true},
		{"text/plain", pad("x", 511) + "\xff", true},
		{"text/plain", pad("x", 511) + "\x80", true},
		{"text/plain", "\xff\xfe" + pad("x\x00", 508) + "\x3d\xd8", true},
		{"text/plain", pad("ü", 512), true},
		{"application/octet-stream", "\x00\xff", true},
		{"application/json", "not json", true},
	} {
		if got := isType(tt.contentType, []byte(tt.head)); got != tt.want {
			t.Errorf("%s %.20q: got %v, want %v", tt.contentType, tt.head, got, tt.want)
		}
	}
}

func FuzzIsType(f *testing.F) {
	f.Add("text/plain", []byte("\xf0\x9f\x98"))
	f.Add("image/webp", []byte("RIFF0000WEBP"))
	f.Fuzz(func(t *testing.T, contentType string, file []byte) {
		head := file[:min(len(file), sniffLen)]
		got := isType(contentType, head)
		if strings.HasPrefix(contentType, "text/") && utf8.Valid(file) && !strings.ContainsRune(string(head), 0) && !got {
			t.Errorf("%q is text", file)
		}
	})
}

func TestContentType(t *testing.T) {
	s := &Service{allow: normalTypes([]string{"text/plain", "image/png", "image/svg+xml", "application/json", "application/pdf"})}
	for _, tt := range []struct{ declared, want string }{
		{"text/plain", "text/plain"},
		{" TEXT/Plain ", "text/plain"},
		{"text/plain; charset=utf-8", "text/plain; charset=utf-8"},
		{`text/plain;Charset="UTF-8"`, "text/plain; charset=utf-8"},
		{"image/svg+xml;charset=utf-8", "image/svg+xml; charset=utf-8"},
		{"application/json; charset=utf-8", "application/json; charset=utf-8"},
		{"text/plain; charset=", ""},
		{`text/plain; charset="a b"`, ""},
		{"text/plain; charset=utf-8; format=flowed", ""},
		{"text/plain; format=flowed", ""},
		{"text/plain; charset=utf-8; charset=latin1", ""},
		{"text/plain\r\nX: y", ""},
		{"image/png; charset=utf-8", ""},
		{"application/pdf; charset=utf-8", ""},
		{"text/html; charset=utf-8", ""},
		{"", ""},
	} {
		if got, ok := s.contentType(tt.declared); got != tt.want || ok != (tt.want != "") {
			t.Errorf("%q: got %q, %v, want %q", tt.declared, got, ok, tt.want)
		}
	}
}
