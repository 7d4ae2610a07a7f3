package flags

import (
	"net/http"
	"strings"
)

// featureHeader names the header that tells the app which variant the request is in:
// X-Feature-<flag>, with hyphens for the dots and underscores that servers drop from headers.
func featureHeader(flag string) string {
	return http.CanonicalHeaderKey("X-Feature-" + strings.NewReplacer(".", "-", "_", "-").Replace(flag))
}

// strip deletes the header from what the client sent, in all spellings that an app may take for
// one: many make no difference between hyphen and underscore.
func strip(h http.Header, name string) {
	for sent := range h {
		if sameHeader(sent, name) {
			delete(h, sent)
		}
	}
}

func sameHeader(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if fold(a[i]) != fold(b[i]) {
			return false
		}
	}
	return true
}

func fold(c byte) byte {
	switch {
	case c == '_' || c == '.':
		return '-'
	case c >= 'A' && c <= 'Z':
		return c + 'a' - 'A'
	}
	return c
}
