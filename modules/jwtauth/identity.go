package jwtauth

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"sync/atomic"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

const (
	placeholders = "http.auth.user."
	own          = "http.jwt_auth."
)

// identity is what a verified token says to one policy. It is shared by requests and never changes.
// A hundred thousand of them are kept, so that it holds nothing that few requests need.
type identity struct {
	provider *provider
	set      *keySet // the keys of which key is one
	key      *key    // that verified it
	until    int64   // unix milliseconds: the end of its validity, leeway included
	issued   int64   // iat in unix milliseconds, 0 if it does not say
	recent   int64   // unix milliseconds: the login is recent enough until then; 0 if that does not matter

	subject  any // the claim sub, a string; "" where there is none. Kept as any, so that no request boxes it
	iss      string
	jti, sid string
	fields   []field
	outcome  outcome // why no request passes with it, or passed
}

// bytes is about the memory that it costs in the cache.
func (id *identity) bytes() int {
	n := cacheEntry + rounded(len(id.jti)) + rounded(len(id.sid)) + fieldBytes*len(id.fields)
	sub, _ := id.subject.(string)
	n += rounded(len(sub))
	if id.provider.issuer == "" { // otherwise all share it
		n += rounded(len(id.iss))
	}
	for _, f := range id.fields {
		if f.value != sub { // of which it is the same bytes
			n += rounded(len(f.value))
		}
	}
	return n
}

// rounded is what the runtime takes for that many bytes.
func rounded(n int) int { return (n + 15) &^ 15 }

// nobody is the identity of a request without a token.
var nobody = &identity{subject: ""}

// verifiedBy is where the keys are from that verified the token, "" where none did.
func (id *identity) verifiedBy() string {
	if id == nil || id.provider == nil {
		return ""
	}
	return id.provider.name
}

// user is the identity of one request, with its token.
type user struct {
	*identity
	token   string
	cookie  bool // the token came in one
	decoded atomic.Pointer[claims]
}

// all are the claims of the token, which has been verified.
func (u *user) all() *claims {
	if c := u.decoded.Load(); c != nil {
		return c
	}
	c := new(claims)
	_, payload, _ := strings.Cut(u.token, ".")
	payload, _, _ = strings.Cut(payload, ".")
	if b, err := base64.RawURLEncoding.DecodeString(payload); err != nil || json.Unmarshal(b, c) != nil {
		c = new(claims) // of nobody
	}
	u.decoded.Store(c)
	return c
}

// placeholder gives the claims as {http.auth.user.<claim>}, empty where there is none: a placeholder
// that nobody knows would reach the app as it is written.
func (u *user) placeholder(name string) (any, bool) {
	claim, ours := strings.CutPrefix(name, placeholders)
	if !ours {
		return u.ownPlaceholder(name)
	}
	if claim == "id" { // the subject, never a claim of that name
		return u.subject, true
	}
	return shown(u.all().value(claim)), true
}

// ownPlaceholder gives what is ours alone.
func (u *user) ownPlaceholder(name string) (any, bool) {
	name, ours := strings.CutPrefix(name, own)
	if !ours {
		return nil, false
	}
	switch name {
	case "authenticated":
		return u.token != "", true
	case "cookie":
		return u.cookie, true
	case "roles":
		c := u.all()
		return encoded(append(c.list("role"), c.list("roles")...), ","), true
	case "scopes":
		return encoded(u.all().scopes(), " "), true
	}
	claim, ours := strings.CutPrefix(name, "header.")
	if !ours {
		return nil, false
	}
	var value any
	if value = u.subject; claim != "id" {
		value = u.all().value(claim)
	}
	s, _ := text(value)
	return service.EncodeHeader(s, ""), true
}

// encoded is a list as a header has it.
func encoded(list []string, separator string) string {
	for i := range list {
		list[i] = service.EncodeHeader(list[i], separator)
	}
	return strings.Join(list, separator)
}

// shown is a claim as a placeholder shows it.
func shown(v any) string {
	if v == nil {
		return ""
	}
	if s, ok := text(v); ok {
		return s
	}
	if array, ok := v.([]any); ok {
		if list := texts(v); len(list) == len(array) {
			return strings.Join(list, ",")
		}
	}
	b, _ := json.Marshal(v) //nolint:errchkjson // it came from JSON
	return string(b)
}
