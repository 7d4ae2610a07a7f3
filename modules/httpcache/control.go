package httpcache

import "strings"

// maxSeconds is where numbers of seconds saturate (RFC 9111 section 1.2.2).
const maxSeconds = 1 << 31

// control is a Cache-Control field, of a request or a response, as a shared cache understands it.
type control struct {
	noStore, noCache, private, public, onlyIfCached bool
	revalidate                                      bool // must-revalidate or proxy-revalidate
	maxAge, sMaxAge, staleIfError                   seconds
}

// seconds is a directive's argument.
type seconds struct {
	n   int64
	set bool
}

// least keeps the smaller of two arguments of the same directive.
func (s *seconds) least(n int64) {
	if !s.set || n < s.n {
		*s = seconds{n, true}
	}
}

// parseControl reads the lines of a Cache-Control field (RFC 9111 section 5.2). It is lenient where
// that keeps a response out of the cache and strict where it would let it in: unknown directives are
// ignored, an argument that is no number counts as 0, the smallest of several counts, and private and
// no-cache with field names count like those without.
func parseControl(lines []string) control {
	var c control
	for _, line := range lines {
		for line != "" {
			var member string
			member, line = cutMember(line)
			c.add(member)
		}
	}
	return c
}

func (c *control) add(member string) {
	name, arg, hasArg := strings.Cut(strings.Trim(member, " \t"), "=")
	trimmed := strings.TrimRight(name, " \t")
	if trimmed != name {
		arg = "" // a space before the sign makes the argument none
	}
	switch strings.ToLower(trimmed) {
	case "no-store":
		c.noStore = true
	case "no-cache":
		c.noCache = true
	case "private":
		c.private = true
	case "public":
		c.public = c.public || !hasArg
	case "only-if-cached":
		c.onlyIfCached = c.onlyIfCached || !hasArg
	case "must-revalidate", "proxy-revalidate":
		c.revalidate = true
	case "stale-if-error":
		c.staleIfError.least(parseSeconds(arg))
	case "max-age":
		c.maxAge.least(parseSeconds(arg))
	case "s-maxage":
		c.sMaxAge.least(parseSeconds(arg))
	}
}

// cutMember is the first member of a comma-separated list, whose quoted strings may hold commas,
// and the rest.
func cutMember(s string) (member, rest string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted:
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// parseSeconds reads a number of seconds, bare or quoted. What is none is 0, what is large is maxSeconds.
func parseSeconds(s string) int64 {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	n, ok := parseDigits(s)
	if !ok {
		return 0
	}
	return n
}

// parseDigits reads one digit or more, saturating at maxSeconds.
func parseDigits(s string) (n int64, ok bool) {
	if s == "" {
		return 0, false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = min(n*10+int64(c-'0'), maxSeconds)
	}
	return n, true
}
