package apiversion

import (
	"net/url"
	"path"
	"regexp"
	"strings"
)

// clean is path.Clean with the trailing slash kept.
func clean(p string) string {
	c := path.Clean(p)
	if len(c) > 1 && (strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..")) {
		c += "/"
	}
	return c
}

// under cuts prefix off the path p: rest is empty or begins with a slash. The prefix "" holds every path.
func under(p, prefix string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(p, prefix)
	return rest, ok && (rest == "" || rest[0] == '/')
}

// first is the first segment of rest and what follows it.
func first(rest string) (segment, tail string) {
	rest = strings.TrimPrefix(rest, "/")
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		return rest[:i], rest[i:]
	}
	return rest, ""
}

// odd says that apps may read the path p in more than one way: those that resolve dot segments, merge
// slashes, drop ;parameters or take a backslash for a slash, and those that do not.
func odd(p string) bool {
	return strings.ContainsAny(p, `;\`) || strings.Contains(p, "//") || p != clean(p)
}

// segments are the parts of p without their ;parameters, for an app that takes backslashes as slashes.
func segments(p string) []string {
	all := strings.FieldsFunc(p, func(c rune) bool { return c == '/' || c == '\\' })
	for i := range all {
		all[i], _, _ = strings.Cut(all[i], ";")
	}
	return all
}

var numbered = regexp.MustCompile(`^[vV][0-9]+(\.[0-9]+)*$`)

// stem is the part of a segment that a lenient app may take for the whole: "v1" of "v1.", "v1 " and "v1;x".
func stem(segment string) string {
	end := strings.IndexFunc(segment, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._~-", c))
	})
	if end >= 0 {
		segment = segment[:end]
	}
	return strings.TrimRight(segment, ".")
}

// splice replaces the bytes from..to of u.Path, and the same bytes of its escaped form, so that all
// else keeps its encoding. with consists of characters that need no escaping.
func splice(u *url.URL, from, to int, with string) (decoded, raw string) {
	decoded = u.Path[:from] + with + u.Path[to:]
	if u.RawPath == "" {
		return decoded, ""
	}
	escaped := u.EscapedPath()
	start := escapedOffset(escaped, from)
	end := start + escapedOffset(escaped[start:], to-from)
	return decoded, escaped[:start] + with + escaped[end:]
}

// escapedOffset is where the n-th decoded byte begins in a valid escaped path.
func escapedOffset(escaped string, n int) int {
	i := 0
	for ; n > 0; n-- {
		if escaped[i] == '%' {
			i += 2
		}
		i++
	}
	return i
}
