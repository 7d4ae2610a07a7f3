package traffic

import (
	"net"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxMethod  = 16 // bytes
	maxHost    = 64
	maxSegment = 48
	// segments is how many of the path name a route: what follows is what it is about.
	segments = 2
	// longID is the length from which a segment with a digit is taken for a key or a token.
	longID = 25
	// shortHex is the same for a segment of nothing but hexadecimal digits.
	shortHex = 12
)

// routeOf names the route of a request from what the client sent, so that all requests to one kind
// of thing have one name.
func routeOf(r *http.Request) string {
	var b strings.Builder
	b.Grow(96)
	printable(&b, r.Method, maxMethod)
	b.WriteByte(' ')
	printable(&b, strings.ToLower(hostOf(r.Host)), maxHost)
	b.WriteByte(' ')
	path(&b, r.URL.Path)
	return b.String()
}

func hostOf(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if host == "" {
		return "-"
	}
	return host
}

func path(b *strings.Builder, p string) {
	rest := strings.TrimLeft(p, "/")
	if rest == "" {
		b.WriteByte('/')
		return
	}
	for range segments {
		var segment string
		segment, rest, _ = strings.Cut(rest, "/")
		if segment == "" {
			return
		}
		b.WriteByte('/')
		if isID(segment) {
			b.WriteString(":id")
		} else {
			printable(b, segment, maxSegment)
		}
	}
}

// printable writes at most most bytes of s; what does not print, and spaces, which separate the
// parts of a name, become question marks.
func printable(b *strings.Builder, s string, most int) {
	for _, r := range s {
		if r == utf8.RuneError || r == ' ' || !unicode.IsPrint(r) {
			r = '?'
		}
		if most -= utf8.RuneLen(r); most < 0 {
			return
		}
		b.WriteRune(r)
	}
}

// isID says whether a segment of a path stands for one thing among many: a number, a UUID, a long
// hexadecimal word, or a long word with digits in it, which may even be a token.
func isID(s string) bool {
	digits, hex, dashes := 0, 0, 0
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			digits++
			hex++
		case c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F':
			hex++
		case c == '-':
			dashes++
		}
	}
	if digits == 0 {
		return false
	}
	return digits == len(s) || hex+dashes == len(s) && hex >= shortHex || len(s) >= longID
}
