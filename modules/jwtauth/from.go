package jwtauth

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
)

// The values of From.In.
const (
	inHeader = "header"
	inCookie = "cookie"
	inQuery  = "query"
)

// From is a place where the token may be.
type From struct {
	// In is header for Authorization: Bearer, cookie, or query. A token in the query is taken out of the
	// URL, so that neither the access log nor the app behind sees it; what answers before jwt_auth, such as
	// limit, is logged with the token unless the parameter is called token, access_token or id_token. The answer says Referrer-Policy: no-referrer.
	In string `json:"in"`
	// Name is that of the cookie or of the parameter of the query.
	Name string `json:"name,omitempty"`
}

func (f From) validate() error {
	switch {
	case f.In != inHeader && f.In != inCookie && f.In != inQuery:
		return errors.New(dispense.Unknown("place of the token", f.In, []string{inHeader, inCookie, inQuery}))
	case f.In == inHeader && f.Name != "":
		return errors.New("from header takes no name: the token is in Authorization: Bearer")
	case f.In == inCookie && !fieldName(f.Name):
		return fmt.Errorf("from cookie: %q is not the name of a cookie, such as: from cookie session", f.Name)
	case f.In == inQuery && f.Name == "":
		return errors.New("from query needs the name of the parameter, such as: from query access_token")
	}
	return nil
}

func (f From) String() string {
	switch f.In {
	case inCookie:
		return "the cookie " + f.Name
	case inQuery:
		return "the parameter " + f.Name + " of the query"
	}
	return "the header Authorization: Bearer"
}

// where says where a token is looked for.
func (p *Policy) where() string {
	if len(p.From) == 0 {
		return From{In: inHeader}.String()
	}
	var all []string
	for _, f := range p.From {
		all = append(all, f.String())
	}
	return strings.Join(all, " or ")
}

// found is what a request has instead of, or as, a token.
type found struct {
	token string
	err   error
	// redacted is what stood in the query, without the tokens; "" if there was none.
	redacted string
	cookie   bool    // the token came in one
	outcome  outcome // what was decided
}

// find looks for the token, "" if there is none. It takes tokens out of the URL.
func (p *Policy) find(r *http.Request) (f found) {
	if len(p.From) == 0 {
		f.token, f.err = bearer(r.Header)
		return f
	}
	taken := p.takeQuery(r)
	for name := range taken {
		f.redacted += "&" + url.QueryEscape(name) + "=REDACTED"
	}
	for _, from := range p.From {
		switch from.In {
		case inCookie:
			f.token, f.err = cookie(r, from.Name)
			f.cookie = f.token != ""
		case inQuery:
			f.token, f.err = one(taken[from.Name], from)
		default:
			f.token, f.err = bearer(r.Header)
		}
		if f.token != "" || f.err != nil {
			break
		}
	}
	return f
}

// bearer is the token in Authorization, "" where no Bearer token is sent.
func bearer(h http.Header) (string, error) {
	values := h["Authorization"]
	switch {
	case len(values) == 0 || len(values) == 1 && values[0] == "":
		return "", nil
	case len(values) > 1:
		return "", malformed("The header Authorization must be sent once.")
	}
	scheme, rest, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", nil
	}
	rest = strings.TrimLeft(rest, " ")
	// Searches for one byte are many times faster here than one for any of three.
	if rest == "" || strings.IndexByte(rest, ' ') >= 0 || strings.IndexByte(rest, ',') >= 0 || strings.IndexByte(rest, '\t') >= 0 {
		return "", malformed("The header Authorization must hold Bearer, one space and one token.")
	}
	return rest, nil
}

// cookie is the token in a cookie. Who can set a cookie for a neighbouring host could put a second one
// of that name before it.
func cookie(r *http.Request, name string) (string, error) {
	var values []string
	for _, c := range r.CookiesNamed(name) {
		values = append(values, c.Value)
	}
	return one(values, From{inCookie, name})
}

func one(values []string, from From) (string, error) {
	switch len(values) {
	case 0:
		return "", nil
	case 1:
		return values[0], nil
	}
	return "", malformed(strings.ToUpper(from.String()[:1]) + from.String()[1:] + " must be sent once.")
}

// takeQuery takes the parameters in which tokens are looked for out of the URL, and gives their values.
func (p *Policy) takeQuery(r *http.Request) map[string][]string {
	if r.URL.RawQuery == "" || !slices.ContainsFunc(p.From, func(f From) bool { return f.In == inQuery }) {
		return nil
	}
	rest, taken := p.splitQuery(r.URL.RawQuery)
	if len(taken) == 0 {
		return nil
	}
	r.URL.RawQuery = rest
	r.RequestURI, _, _ = strings.Cut(r.RequestURI, "?")
	if rest != "" {
		r.RequestURI += "?" + rest
	}
	return taken
}

// splitQuery leaves the other parameters as they are written.
func (p *Policy) splitQuery(raw string) (rest string, taken map[string][]string) {
	var keep []string
	for part := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(part, "=")
		if n, err := url.QueryUnescape(name); err == nil {
			name = n
		}
		if !slices.Contains(p.From, From{inQuery, name}) {
			keep = append(keep, part)
			continue
		}
		if v, err := url.QueryUnescape(value); err == nil {
			value = v
		}
		if taken == nil {
			taken = map[string][]string{}
		}
		taken[name] = append(taken[name], value)
	}
	return strings.Join(keep, "&"), taken
}
