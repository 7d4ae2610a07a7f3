// Package once refuses requests that give twice what the gateway keys by. Caddy's placeholders join the
// lines of a header field and the values of a query parameter, and take the first of several cookies,
// while apps take the first, the last or all of them: a client that may choose which one counts could
// leave its key behind.
package once

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// Part is a header field, a query parameter or a cookie of a request.
type Part struct {
	in   place
	name string
}

type place string

const (
	inHeader place = "header"
	inQuery  place = "query parameter"
	inCookie place = "cookie"
)

var prefixes = []struct {
	prefix string
	in     place
}{
	{"http.request.header.", inHeader}, {"header.", inHeader},
	{"http.request.uri.query.", inQuery}, {"query.", inQuery},
	{"http.request.cookie.", inCookie}, {"cookie.", inCookie},
}

// Of returns what the placeholder, written without braces, reads of a request; ok is false if that is
// neither a header field nor a query parameter nor a cookie.
func Of(placeholder string) (p Part, ok bool) {
	for _, known := range prefixes {
		if name, ok := strings.CutPrefix(placeholder, known.prefix); ok && name != "" {
			if known.in == inHeader {
				name = http.CanonicalHeaderKey(name)
			}
			return Part{known.in, name}, true
		}
	}
	return Part{}, false
}

// In returns what the placeholders of a template read of a request.
func In(template string) (parts []Part) {
	for {
		_, rest, ok := strings.Cut(template, "{")
		if !ok {
			return parts
		}
		placeholder, rest, ok := strings.Cut(rest, "}")
		if !ok {
			return parts
		}
		if p, ok := Of(placeholder); ok {
			parts = append(parts, p)
		}
		template = rest
	}
}

// Check returns the problem with a request that has one of the parts more than once: invalid-request.
func Check(r *http.Request, parts []Part) error {
	for _, p := range parts {
		if p.repeated(r) {
			return problem.New(problem.InvalidRequest, "The %s %s is given more than once, send it once.", p.in, p.name)
		}
	}
	return nil
}

func (p Part) repeated(r *http.Request) bool {
	switch p.in {
	case inHeader:
		return len(r.Header[p.name]) > 1
	case inQuery:
		return p.count(r.URL.RawQuery, "&", queryName) > 1
	}
	n := 0
	for _, line := range r.Header["Cookie"] {
		n += p.count(line, ";", cookieName)
	}
	return n > 1
}

// count returns how many of the pairs in s have the part's name.
func (p Part) count(s, separator string, name func(string) string) (n int) {
	for s != "" {
		var pair string
		pair, s, _ = strings.Cut(s, separator)
		key, _, _ := strings.Cut(pair, "=")
		if name(key) == p.name {
			n++
		}
	}
	return n
}

func cookieName(s string) string { return strings.Trim(s, " \t") }

func queryName(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	name, err := url.QueryUnescape(s)
	if err != nil {
		return s
	}
	return name
}
