package frontdoor

import "strings"

// reason says why a request can be read in more than one way; "" if it cannot. The values are those of
// the metric's label.
type reason string

const (
	dotSegment     reason = "dot_segment"
	emptySegment   reason = "empty_segment"
	backslash      reason = "backslash"
	semicolon      reason = "semicolon"
	control        reason = "control"
	encodedSlash   reason = "encoded_slash"
	encodedDot     reason = "encoded_dot"
	doubleEncoding reason = "double_encoding"
	badEncoding    reason = "bad_encoding"
	fragment       reason = "fragment"
	target         reason = "target"
	host           reason = "host"
	method         reason = "method"
	trailer        reason = "trailer"
)

// sentences are what a client is told.
var sentences = map[reason]string{
	dotSegment:     "The path has a segment of dots, which apps resolve in different ways: send the path that it leads to.",
	emptySegment:   "The path has two slashes in a row, which some apps take for one: send one.",
	backslash:      "The path has a backslash, which some apps take for a slash.",
	semicolon:      "The path has a semicolon, behind which some apps ignore the rest of the segment.",
	control:        "The path has a control character.",
	encodedSlash:   "The path has an encoded slash, which some apps take for one that separates segments.",
	encodedDot:     "The path has an encoded dot: send it as it is.",
	doubleEncoding: "The path has an escape that stands for another one, of a sign that changes its meaning.",
	badEncoding:    "The path has a sign in more bytes of UTF-8 than it needs.",
	fragment:       "The request target has a fragment, which belongs to clients.",
	target:         "The request target is neither a path nor the URL of one.",
	method:         "The method is not a word that a method can be.",
	trailer:        "The request announces a trailer by what is not the name of a field.",
	host:           "The request names two hosts.",
}

// special are the bytes of a decoded path at which it is looked at more closely.
var special = func() (t [256]bool) {
	for c := range t {
		t[c] = c < ' ' || c == 0x7f || c == 0xc0 || c == 0xc1 || c == 0xe0 || c == 0xf0 || strings.IndexByte("./%\\;", byte(c)) >= 0
	}
	return t
}()

// judgePath says why two parsers could take the path for different ones. The path is decoded; raw is what
// it is decoded from, or "" if that is its usual encoding, as in url.URL.
func judgePath(path, raw string) reason {
	if path == "" || path[0] != '/' {
		return target
	}
	for i := 1; i < len(path); i++ {
		c := path[i]
		if !special[c] {
			continue
		}
		switch {
		case c == '/':
			if path[i-1] == '/' {
				return emptySegment
			}
		case c == '.':
			if path[i-1] == '/' && onlyDots(path[i:]) {
				return dotSegment
			}
		case c == '%':
			if hidden(path[i+1:]) {
				return doubleEncoding
			}
		case c == '\\':
			return backslash
		case c == ';':
			return semicolon
		case c < ' ' || c == 0x7f:
			return control
		case overlong(path[i:]):
			return badEncoding
		}
	}
	if raw == "" {
		return ""
	}
	return judgeRaw(raw)
}

// overlong says whether s begins with more bytes of UTF-8 than its sign needs, which lax decoders take for
// the sign itself. Other text that is not UTF-8 is left alone: it may be Latin-1.
func overlong(s string) bool {
	if s[0] <= 0xc1 {
		return true
	}
	if len(s) < 2 || s[1]&0xc0 != 0x80 {
		return false
	}
	return s[0] == 0xe0 && s[1] < 0xa0 || s[0] == 0xf0 && s[1] < 0x90
}

// onlyDots says whether the segment at the beginning of s, whose first byte is a dot, has nothing but dots
// and spaces: file systems drop them at the end of a name.
func onlyDots(s string) bool {
	for i := range len(s) {
		switch s[i] {
		case '.', ' ':
		case '/', ';', '\\':
			return true
		default:
			return false
		}
	}
	return true
}

// hidden says whether the two bytes behind a percent sign of a decoded path are an escape of a sign that
// would change the path's meaning, at any depth of encoding. Others are left alone: "100%25" is a name.
func hidden(s string) bool {
	for strings.HasPrefix(s, "25") {
		s = s[2:]
	}
	if len(s) < 2 {
		return false
	}
	high, low := hex(s[0]), hex(s[1])
	if high > 0xf || low > 0xf {
		return false
	}
	switch c := high<<4 | low; c {
	case '/', '\\', '.', ';':
		return true
	default:
		return c < ' ' || c == 0x7f || c == 0xc0 || c == 0xc1 // the last two begin overlong forms
	}
}

// hex is the value of a hexadecimal digit; more than 15 for another byte.
func hex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 0xff
}

// judgeRaw looks for what decoding hides.
func judgeRaw(raw string) reason {
	for i := range len(raw) {
		switch {
		case raw[i] == '#':
			return fragment
		case raw[i] != '%' || i+2 >= len(raw):
		case raw[i+1] == '2' && raw[i+2]|0x20 == 'f':
			return encodedSlash
		case raw[i+1] == '2' && raw[i+2]|0x20 == 'e':
			return encodedDot
		}
	}
	return ""
}
