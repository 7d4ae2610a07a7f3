package service

import (
	"net/http"
	"strings"
)

// EncodeHeader writes a text as a header value that no proxy changes: every byte that is not printable
// ASCII, %, a space at either end, and the bytes of also are percent-encoded. A text that needs none of it
// is returned as it is.
func EncodeHeader(s, also string) string {
	const hex = "0123456789ABCDEF"
	as := func(i int) bool { // as it is
		c := s[i]
		return c >= ' ' && c <= '~' && c != '%' && (c != ' ' || i != 0 && i != len(s)-1) && strings.IndexByte(also, c) < 0
	}
	n := 0
	for n < len(s) && as(n) {
		n++
	}
	if n == len(s) {
		return s
	}
	var b strings.Builder
	b.WriteString(s[:n])
	for i := n; i < len(s); i++ {
		if c := s[i]; as(i) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// DecodeHeader reads what EncodeHeader wrote with an empty also. It is empty for everything else, so that
// no two values mean the same: for a % that encodes nothing or what needs no encoding, for other bytes than
// printable ASCII, and for a placeholder that nothing has expanded.
func DecodeHeader(s string) string {
	if strings.HasPrefix(s, "{http.") {
		return ""
	}
	if strings.IndexByte(s, '%') < 0 {
		if EncodeHeader(s, "") != s {
			return ""
		}
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' {
			if i+2 >= len(s) {
				return ""
			}
			high, low := strings.IndexByte("0123456789ABCDEF", s[i+1]), strings.IndexByte("0123456789ABCDEF", s[i+2])
			if high < 0 || low < 0 {
				return ""
			}
			c, i = byte(high<<4|low), i+2
		}
		b = append(b, c)
	}
	if text := string(b); EncodeHeader(text, "") == s {
		return text
	}
	return ""
}

// DeleteCallerHeaders deletes CallerHeaders, and those that differ from them in other signs than hyphens
// alone, which some servers cannot tell apart.
func DeleteCallerHeaders(h http.Header) {
	for name := range h {
		if len(name) < len("Gatehouse-X") || !strings.EqualFold(name[:len("Gatehouse")], "Gatehouse") {
			continue
		}
		twin := strings.Map(func(c rune) rune {
			if c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' {
				return c
			}
			return '-'
		}, name)
		for _, ours := range CallerHeaders {
			if strings.EqualFold(twin, ours) {
				delete(h, name)
			}
		}
	}
}
