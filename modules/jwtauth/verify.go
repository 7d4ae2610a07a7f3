package jwtauth

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// maxToken is the greatest length of a token in bytes.
const maxToken = 8 << 10

const placeholders = "http.auth.user."

// identity is what a verified token says to one policy. It is shared by requests and never changes.
type identity struct {
	set   *keySet // the keys that verified it
	until int64   // unix milliseconds: the end of its validity, leeway included

	subject any // the claim sub, a string; "" where there is none. Kept as any, so that no request boxes it
	fields  []field
	refused bool // a rule does not allow the token
	// token is what the claims are in. Most requests ask for none of them but the subject, and a
	// thousand decoded tokens make the heap so large that each allocation costs more.
	token   string
	decoded atomic.Pointer[claims]
}

// all are the claims of the token, which has been verified.
func (id *identity) all() *claims {
	if c := id.decoded.Load(); c != nil {
		return c
	}
	c := new(claims)
	_, payload, _ := strings.Cut(id.token, ".")
	payload, _, _ = strings.Cut(payload, ".")
	if b, err := base64.RawURLEncoding.DecodeString(payload); err != nil || json.Unmarshal(b, c) != nil {
		c = new(claims) // of nobody
	}
	id.decoded.Store(c)
	return c
}

// nobody is the identity of a request without a token.
var nobody = &identity{subject: ""}

// placeholder gives the claims as {http.auth.user.<claim>}, empty where there is none: a placeholder
// that nobody knows would reach the app as it is written.
func (id *identity) placeholder(name string) (any, bool) {
	claim, ours := strings.CutPrefix(name, placeholders)
	if !ours {
		return nil, false
	}
	if claim == "id" { // the subject, never a claim of that name
		return id.subject, true
	}
	all := id.all()
	v, ok := all.MapClaims[claim]
	if !ok {
		return "", true
	}
	if s, ok := text(v); ok {
		return s, true
	}
	if array, ok := v.([]any); ok {
		if list := all.list(claim); len(list) == len(array) {
			return strings.Join(list, ","), true
		}
	}
	b, _ := json.Marshal(v) //nolint:errchkjson // it came from JSON
	return string(b), true
}

// verifier decides about tokens by one policy and the keys of one source.
type verifier struct {
	policy  Policy
	headers claimHeaders
	source  source
	owner   uint64 // tells the entries of this verifier from those of others in the cache
	parser  *jwt.Parser
}

var owners atomic.Uint64

func newVerifier(p Policy, s source) *verifier {
	return &verifier{policy: p, headers: canonical(p.ClaimHeaders), source: s, owner: owners.Add(1),
		// The dates and the parties are checked in claims.go: the library takes exp in whole seconds
		// and lets numbers overflow.
		parser: jwt.NewParser(jwt.WithoutClaimsValidation(), jwt.WithStrictDecoding())}
}

// check says who a token is for. Its error is a problem: invalid-token, insufficient-scope or
// keys-unavailable.
func (v *verifier) check(ctx context.Context, raw string, now time.Time) (*identity, error) {
	if len(raw) > maxToken {
		return nil, invalid("The token is longer than 8192 bytes.")
	}
	if set := v.source.current(now); set != nil {
		if id, ok := verified.get(v.owner, raw, set, now); ok {
			return v.decide(id)
		}
	}
	if !compact(raw) {
		return nil, invalid("The token is not a JSON Web Token in compact form.")
	}
	id, err := v.verify(ctx, raw, now)
	if err != nil {
		return nil, err
	}
	verified.put(v.owner, id)
	return v.decide(id)
}

func (v *verifier) decide(id *identity) (*identity, error) {
	if id.refused {
		return nil, insufficient(v.policy.scopes())
	}
	return id, nil
}

// verify is check without the cache.
func (v *verifier) verify(ctx context.Context, raw string, now time.Time) (*identity, error) {
	set, err := v.source.load(ctx, now)
	if err != nil {
		return nil, err
	}
	var c claims
	_, err = v.parser.ParseWithClaims(raw, &c, func(t *jwt.Token) (any, error) {
		kid, err := checkHeader(t.Header)
		if err != nil {
			return nil, err
		}
		alg, _ := t.Header["alg"].(string)
		if !accepted(alg) {
			return nil, invalid("The algorithm of the token is not accepted.")
		}
		fit, known := set.find(kid, alg)
		if len(fit) == 0 && !known {
			set = v.source.newer(ctx, now, set)
			fit, known = set.find(kid, alg)
		}
		switch {
		case !known:
			return nil, invalid("The token is signed with an unknown key.")
		case len(fit) == 0:
			return nil, invalid("The algorithm of the token is not the one of its key.")
		}
		return jwt.VerificationKeySet{Keys: fit}, nil
	})
	if err != nil {
		return nil, refusal(err)
	}
	id, err := v.identify(c, set, now)
	if err != nil {
		return nil, err
	}
	id.token = strings.Clone(raw) // it is part of a larger header buffer
	return id, nil
}

// identify checks what the claims say.
func (v *verifier) identify(c claims, set *keySet, now time.Time) (*identity, error) {
	issuer, audience := v.policy.Issuer, v.policy.Audience
	if issuer == "" {
		issuer = set.issuer
	}
	if len(audience) == 0 && set.audience != "" {
		audience = []string{set.audience}
	}
	until, err := c.checkDates(now, v.policy.leeway())
	if err != nil {
		return nil, err
	}
	if err = errors.Join(c.checkParties(issuer, audience), c.checkBinding()); err != nil {
		return nil, err
	}
	subject, err := c.subject()
	if err != nil {
		return nil, err
	}
	fields, err := v.headers.fields(c)
	if err != nil {
		return nil, err
	}
	return &identity{set: set, until: until, subject: subject, fields: fields, refused: !v.policy.allows(c)}, nil
}

// checkHeader checks a token's header and gives its kid, "" where there is none. Keys that the
// header brings along or points to (jwk, jku, x5c, x5u) are not looked at.
func checkHeader(h map[string]any) (kid string, err error) {
	if _, present := h["crit"]; present { // none is understood, so all must be refused (RFC 7515 section 4.1.11)
		return "", invalid("The token has a critical header that is not understood.")
	}
	if typ, present := h["typ"]; present {
		s, _ := typ.(string)
		switch strings.TrimPrefix(strings.ToLower(s), "application/") {
		case "jwt", "at+jwt":
		default:
			return "", invalid("The type of the token is not JWT or at+jwt.")
		}
	}
	v, present := h["kid"]
	kid, ok := v.(string)
	if present && !ok {
		return "", invalid("The key id of the token is not a string.")
	}
	return kid, nil
}

// refusal turns an error of the JWT library into a problem.
func refusal(err error) error {
	e, ours := errors.AsType[*problem.Error](err)
	switch {
	case ours:
		return e
	case errors.Is(err, jwt.ErrTokenMalformed):
		return invalid("The token is not a well-formed JSON Web Token.")
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return invalid("The signature of the token does not verify.")
	}
	return invalid("The algorithm of the token is not accepted.")
}

// compact says whether s is three base64url segments without padding (RFC 7515 section 7.1).
func compact(s string) bool {
	dots := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.':
			dots++
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return dots == 2
}
