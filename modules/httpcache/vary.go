package httpcache

import (
	"net/http"
	"slices"
	"strings"
)

const (
	// maxVariants is how many responses of one URL are kept for different requests.
	maxVariants = 32
	// maxVary is how many fields a response may vary on.
	maxVary = 16
)

// parseVary reads the lines of a Vary field: the sorted canonical names of the request fields that
// choose the response. ok is false if it must not be stored: it varies on anything at all (*), on
// who asks, or on what is no field name.
func parseVary(lines []string) (names []string, ok bool) {
	for _, line := range lines {
		for member := range strings.SplitSeq(line, ",") {
			member = strings.Trim(member, " \t")
			if member == "" {
				continue
			}
			name := http.CanonicalHeaderKey(member)
			if !isToken(member) || identifies(name) {
				return nil, false
			}
			names = append(names, name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return names, len(names) <= maxVary
}

// identifies says whether a request field says who asks. The asterisk of Vary is one of them: it
// may stand for any.
func identifies(name string) bool {
	switch name {
	case "*", "Authorization", "Proxy-Authorization", "Cookie", "X-Api-Key":
		return true
	}
	return false
}

func isToken(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// varyValues are the values of the named request fields, made comparable.
func varyValues(names []string, h http.Header) []string {
	if len(names) == 0 {
		return nil
	}
	values := make([]string, len(names))
	for i, name := range names {
		values[i] = normalize(h[name])
	}
	return values
}

// varyMatches says whether a request has these values, without allocating in the usual case.
func varyMatches(names, values []string, h http.Header) bool {
	for i, name := range names {
		if normalize(h[name]) != values[i] {
			return false
		}
	}
	return true
}

// normalize joins the lines of a field and removes the space around its commas (RFC 9111 section
// 4.1). A field that is missing is unlike an empty one.
func normalize(lines []string) string {
	switch len(lines) {
	case 0:
		return "\x00"
	case 1:
		if !strings.ContainsAny(lines[0], ",") {
			return strings.Trim(lines[0], " \t")
		}
	}
	var b strings.Builder
	for i, line := range lines {
		for j, part := range strings.Split(line, ",") {
			if i+j > 0 {
				b.WriteByte(',')
			}
			b.WriteString(strings.Trim(part, " \t"))
		}
	}
	return b.String()
}
