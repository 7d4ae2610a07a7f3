package httpcache

import (
	"net/http"
	"strings"
	"time"
)

// notModified says whether a client that sent these fields has the response already (RFC 9110
// section 13.2.2). If-None-Match alone decides where there is one.
func notModified(h http.Header, etag string, modified time.Time) bool {
	if lines := h["If-None-Match"]; len(lines) > 0 {
		return matches(lines, etag)
	}
	since, ok := onlyDate(h["If-Modified-Since"])
	return ok && !modified.IsZero() && !modified.After(since)
}

// matches compares a list of entity tags with one, weakly (RFC 9110 section 8.8.3.2). A list that
// is malformed matches as far as it can be read.
func matches(lines []string, etag string) bool {
	for _, line := range lines {
		if strings.Trim(line, " \t") == "*" {
			return true
		}
		for line != "" {
			tag, rest, ok := cutTag(line)
			if !ok {
				break
			}
			if etag != "" && opaque(tag) == opaque(etag) {
				return true
			}
			line = rest
		}
	}
	return false
}

// cutTag is the first entity tag of a list and what follows its comma.
func cutTag(s string) (tag, rest string, ok bool) {
	s = strings.TrimLeft(s, " \t,")
	start := 0
	if strings.HasPrefix(s, "W/") {
		start = 2
	}
	if len(s) <= start || s[start] != '"' {
		return "", "", false
	}
	end := strings.IndexByte(s[start+1:], '"')
	if end < 0 {
		return "", "", false
	}
	tag, rest = s[:start+end+2], strings.TrimLeft(s[start+end+2:], " \t")
	return tag, rest, rest == "" || rest[0] == ','
}

func opaque(tag string) string { return strings.TrimPrefix(tag, "W/") }
