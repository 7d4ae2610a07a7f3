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
	// inProtocol is Sec-WebSocket-Protocol, in which the API of browsers can send a text of the page's own.
	inProtocol = "websocket_protocol"
)

var places = []string{inHeader, inCookie, inQuery, inProtocol}

// From is a place where the token may be.
type From struct {
	// In is header, cookie, query or websocket_protocol. A token in the query is taken out of the
	// URL, so that neither the access log nor the app behind sees it; what answers before jwt_auth, such as
	// limit, is logged with the token unless the parameter is called token, access_token or id_token. The answer says Referrer-Policy: no-referrer.
	//
	// websocket_protocol is Sec-WebSocket-Protocol of a WebSocket's handshake: the one of the protocols that has
	// the form of a token is taken out, and the app chooses among the others, of which browsers need one.
	// Tokens in it, and in a header of another name, are not in the access log either.
	In string `json:"in"`
	// Name is that of the header, the cookie or the parameter of the query. Default: of a header
	// Authorization, with the prefix Bearer.
	Name string `json:"name,omitempty"`
	// Prefix is what stands before the token in a header of another name, or in the protocol. A space between
	// the two does not matter. Default: none.
	Prefix string `json:"prefix,omitempty"`
}

func (f From) validate() error {
	switch {
	case !slices.Contains(places, f.In):
		return errors.New(dispense.Unknown("place of the token", f.In, places))
	case f.In == inHeader && f.Name != "" && (!fieldName(f.Name) || strings.Contains(f.Name, "_")):
		return fmt.Errorf("from header: %q is not a header's name, use letters, digits and hyphens, such as: from header Cf-Access-Jwt-Assertion", f.Name)
	case f.In == inHeader && http.CanonicalHeaderKey(f.Name) == "Authorization":
		return errors.New("from header takes no name for Authorization: Bearer, write: from header")
	case f.In == inHeader && slices.Contains(reserved, http.CanonicalHeaderKey(f.Name)):
		return fmt.Errorf("from header: %s has a meaning of its own, choose another header", f.Name)
	case f.In == inProtocol && f.Name != "":
		return errors.New("from websocket_protocol takes no name")
	case f.Prefix != "" && (f.In == inCookie || f.In == inQuery || f.In == inHeader && f.Name == ""):
		return fmt.Errorf("from %s %s: %q is one value too many", f.In, f.Name, f.Prefix)
	case strings.ContainsFunc(f.Prefix, func(c rune) bool { return c <= ' ' || c > '~' || c == ',' }):
		return fmt.Errorf("from %s: the prefix %q has signs that are none of a header's value", f.In, f.Prefix)
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
	case inProtocol:
		return "the header Sec-WebSocket-Protocol of a WebSocket"
	}
	if f.Name != "" {
		return "the header " + f.Name
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
	hidden   []string // headers that have a token, in canonical form
	cookie   bool     // the token came in one
	outcome  outcome  // what was decided
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
		case inProtocol:
			f.token, f.err = from.protocol(r, &f.hidden)
		default:
			if from.Name == "" {
				f.token, f.err = bearer(r.Header)
			} else {
				f.token, f.err = from.header(r, &f.hidden)
			}
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

// header is the token in a header of another name than Authorization.
func (f From) header(r *http.Request, hidden *[]string) (string, error) {
	name := http.CanonicalHeaderKey(f.Name)
	values := r.Header[name]
	if len(values) > 0 {
		*hidden = append(*hidden, name)
	}
	value, err := one(values, f)
	if value == "" || err != nil || f.Prefix == "" {
		return value, err
	}
	if len(value) < len(f.Prefix) || !strings.EqualFold(value[:len(f.Prefix)], f.Prefix) {
		return "", nil
	}
	return strings.TrimLeft(value[len(f.Prefix):], " "), nil
}

const protocols = "Sec-Websocket-Protocol"

// protocol is the token among the protocols of a WebSocket's handshake, and takes it from them.
func (f From) protocol(r *http.Request, hidden *[]string) (string, error) {
	if len(r.Header[protocols]) == 0 || !handshake(r) {
		return "", nil
	}
	var tokens, others []string
	for _, line := range r.Header[protocols] {
		for p := range strings.SplitSeq(line, ",") {
			p = strings.TrimSpace(p)
			if token, ok := strings.CutPrefix(p, f.Prefix); ok && compact(token) {
				tokens = append(tokens, token)
			} else if p != "" {
				others = append(others, p)
			}
		}
	}
	if len(tokens) == 0 {
		return "", nil
	}
	*hidden = append(*hidden, protocols)
	if len(others) == 0 {
		delete(r.Header, protocols)
	} else {
		r.Header[protocols] = []string{strings.Join(others, ", ")}
	}
	return one(tokens, f)
}

// handshake says whether the request opens a WebSocket (RFC 6455 section 4.1, RFC 8441 section 5).
func handshake(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket") || r.Method == http.MethodConnect && r.ProtoMajor >= 2
}

// cookie is the token in a cookie. Who can set a cookie for a neighbouring host could put a second one
// of that name before it.
func cookie(r *http.Request, name string) (string, error) {
	var values []string
	for _, c := range r.CookiesNamed(name) {
		values = append(values, c.Value)
	}
	return one(values, From{In: inCookie, Name: name})
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
		if !slices.Contains(p.From, From{In: inQuery, Name: name}) {
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
