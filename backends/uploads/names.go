package uploads

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// maxFilename is the longest filename in bytes, as on most file systems.
	maxFilename = 255
	// maxSafeName is the longest last part of a key in bytes.
	maxSafeName = 100
)

// extensions are those that a filename of the type may have.
var extensions = map[string][]string{
	"image/jpeg":      {".jpg", ".jpeg", ".jpe", ".jfif"},
	"image/png":       {".png"},
	"image/webp":      {".webp"},
	"image/gif":       {".gif"},
	"application/pdf": {".pdf"},
}

// badFilename says what is wrong with the name, or nothing.
func badFilename(name, contentType string) string {
	switch {
	case name == "":
		return "must not be empty"
	case len(name) > maxFilename:
		return fmt.Sprintf("must not be longer than %d bytes", maxFilename)
	// Package json has replaced what was not UTF-8.
	case !utf8.ValidString(name) || strings.ContainsRune(name, utf8.RuneError):
		return "must be UTF-8"
	case strings.ContainsFunc(name, isHidden):
		return "must not have control characters, also not such that change the direction of text"
	case strings.ContainsAny(name, `/\`):
		return "must not have slashes"
	case strings.Trim(name, ". ") == "":
		return "must not be made of dots"
	}
	allowed, ext := extensions[contentType], strings.ToLower(path.Ext(name))
	if len(allowed) > 0 && ext != "" && !slices.Contains(allowed, ext) {
		return "must end in " + strings.Join(allowed, " or ") + " for this content_type"
	}
	return ""
}

// isHidden are characters that are not seen, or that make others be seen elsewhere.
func isHidden(c rune) bool {
	return unicode.IsControl(c) || unicode.Is(unicode.Bidi_Control, c) || c == '\u2028' || c == '\u2029' || c == '\uFEFF'
}

// newKey is a key that nobody can guess and that says neither who the owner is nor, in more than
// its safe characters, what the file is called.
func newKey(owner, filename string, now time.Time) string {
	who := "anonymous"
	if owner != "" {
		sum := sha256.Sum256([]byte(owner))
		who = hex.EncodeToString(sum[:16])
	}
	return prefix + who + "/" + strconv.FormatInt(now.UnixMilli(), 10) + "-" + rand.Text() + "/" + safeName(filename)
}

// safeName is the name with nothing but letters, digits, dots, dashes and underscores of ASCII, no
// leading dot, at most 100 bytes with its extension kept, and never empty.
func safeName(name string) string {
	name = name[strings.LastIndexAny(name, `/\`)+1:]
	var b strings.Builder
	for _, c := range name {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
			b.WriteRune(c)
		case isHidden(c):
		default:
			b.WriteByte('_')
		}
	}
	safe := strings.TrimLeft(b.String(), ".")
	if safe == "" {
		return "file"
	}
	if len(safe) > maxSafeName {
		ext := path.Ext(safe)
		ext = ext[:min(len(ext), maxSafeName/2)]
		safe = safe[:maxSafeName-len(ext)] + ext
	}
	return safe
}

// attachment is the Content-Disposition that saves under the name (RFC 6266, RFC 8187).
func attachment(filename string) string {
	var b strings.Builder
	b.WriteString("attachment; filename*=UTF-8''")
	for i := range len(filename) {
		c := filename[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.', c == '~':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
