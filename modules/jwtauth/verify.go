package jwtauth

import (
	"cmp"
	"context"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// revoker knows the tokens that were taken back.
type revoker interface {
	// Revoked says whether a token was taken back: by its jti, by its session (sid), or by its subject
	// for tokens issued at or before a time. issuedMS is iat in unix milliseconds. "" is for what the
	// token does not say.
	Revoked(issuer, jti, sid, sub string, issuedMS int64) bool
}

// verifier decides about tokens by one policy and the keys of its issuers.
type verifier struct {
	policy    Policy
	headers   claimHeaders
	providers []*provider
	revoked   func(context.Context) (revoker, error)
	byIssuer  map[string]*provider // "" for the one whose iss is not known beforehand
	owner     uint64               // tells the entries of this verifier from those of others in the cache
	parser    *jwt.Parser
}

var owners atomic.Uint64

func newVerifier(p Policy, revoked func(context.Context) (revoker, error), providers ...*provider) *verifier {
	byIssuer := map[string]*provider{}
	for _, one := range providers {
		byIssuer[one.issuer] = one
	}
	return &verifier{byIssuer: byIssuer, policy: p, headers: canonical(p.ClaimHeaders), providers: providers, revoked: revoked, owner: owners.Add(1),
		// The claims are checked in claims.go: the library takes exp in whole seconds and lets numbers
		// overflow. That the base64 is strict is checked by compact.
		parser: jwt.NewParser(jwt.WithoutClaimsValidation())}
}

// check says who a token is for, and counts the use of the key. Its error is a refusal, or that of a
// client that left.
func (v *verifier) check(ctx context.Context, raw string, now time.Time) (*identity, outcome, error) {
	if err := v.tooLong(raw); err != nil {
		return nil, malformedToken, err
	}
	k, o := keyOf(v.owner, raw), passedCached
	id, ok := verified.get(k, now)
	if !ok {
		err := v.form(raw)
		if err != nil {
			return nil, malformedToken, err
		}
		if id, err = v.verify(ctx, raw, now); err != nil {
			return nil, outcomeOf(err), err
		}
		verified.put(k, id)
		o = passed
	}
	id.key.mark(now, o == passedCached)
	if err := v.decide(ctx, id, now); err != nil {
		return nil, outcomeOf(err), err
	}
	return id, o, nil
}

func errRevoked() error { return invalid(revoked, "The token was revoked.") }

func (v *verifier) tooLong(raw string) error {
	if len(raw) > v.maxSize() {
		return invalid(malformedToken, "The token is longer than "+strconv.Itoa(v.maxSize())+" bytes.")
	}
	return nil
}

func (v *verifier) maxSize() int { return int(cmp.Or(v.policy.MaxSize, maxMaxSize)) }

// fields are the headers that the app behind gets.
func (v *verifier) fields(c *claims, subject string) ([]field, error) {
	return v.headers.fields(c, subject, v.policy.ClaimTooLarge == "drop")
}

func (v *verifier) form(raw string) error {
	if err := v.tooLong(raw); err != nil {
		return err
	}
	if !compact(raw) {
		return invalid(malformedToken, "The token is not a JSON Web Token in compact form.")
	}
	return nil
}

// decide is what must be asked for each request, also of a token that verified before.
func (v *verifier) decide(ctx context.Context, id *identity, now time.Time) error {
	r, err := v.revoked(ctx)
	if err != nil {
		return err
	}
	sub, _ := id.subject.(string)
	switch {
	case r.Revoked(id.iss, id.jti, id.sid, sub, id.issued):
		return errRevoked()
	case id.outcome == insufficientScope:
		return insufficient(v.policy.scopes())
	case id.outcome == insufficientAuthentication || id.recent != 0 && now.UnixMilli() >= id.recent:
		return stepUp(&v.policy)
	}
	return nil
}

// verify is check without the cache and without decide.
func (v *verifier) verify(ctx context.Context, raw string, now time.Time) (*identity, error) {
	c := new(claims)
	t, _, err := v.parser.ParseUnverified(raw, c)
	if err != nil {
		return nil, refusal(err)
	}
	if err = headerNames(raw); err != nil {
		return nil, err
	}
	kid, err := v.policy.checkHeader(t.Header)
	if err != nil {
		return nil, err
	}
	p, err := v.issuedBy(c)
	if err != nil {
		return nil, err
	}
	set, err := p.source.load(ctx, now)
	if err != nil {
		return nil, err
	}
	k, set, err := p.verifying(ctx, t, kid, set, now)
	if err != nil {
		return nil, err
	}
	return v.identify(c, p, set, k, now)
}

// issuedBy is the issuer whose keys may have signed the token: that of its iss, or else the one whose
// iss is not known beforehand.
func (v *verifier) issuedBy(c *claims) (*provider, error) {
	if len(v.providers) == 1 {
		return v.providers[0], nil // which compares iss itself
	}
	iss, _ := c.str("iss")
	if p := v.byIssuer[iss]; p != nil && iss != "" {
		return p, nil
	}
	other := v.byIssuer[""]
	if other == nil {
		return nil, invalid(wrongIssuer, "The token is from another issuer.")
	}
	return other, nil
}

// verifying is the key that verifies the signature, with the set that it is of.
func (p *provider) verifying(ctx context.Context, t *jwt.Token, kid string, set *keySet, now time.Time) (*key, *keySet, error) {
	alg, _ := t.Header["alg"].(string)
	fit, known := set.find(kid, alg, p.algs)
	if !known {
		newer, err := p.source.newer(ctx, now, set, unknownKid)
		if err != nil {
			return nil, nil, err // who knows whether the key is there by now
		}
		set = newer
		fit, known = set.find(kid, alg, p.algs)
	}
	if !known {
		return nil, nil, invalid(unknownKey, "The token is signed with an unknown key.")
	}
	if k := signer(t, fit); k != nil {
		return k, set, nil
	}
	// An issuer may have put another key under the same kid, or uses none.
	if newer, err := p.source.newer(ctx, now, set, otherSignature); err == nil && newer != set {
		if fit, known = newer.find(kid, alg, p.algs); known {
			set = newer
			if k := signer(t, fit); k != nil {
				return k, set, nil
			}
		}
	}
	if len(fit) == 0 {
		return nil, nil, invalid(unsupportedAlgorithm, "The algorithm of the token is not the one of its key.")
	}
	return nil, nil, invalid(invalidSignature, "The signature of the token does not verify.")
}

// signer is the one of the keys that verifies the signature, nil if none does.
func signer(t *jwt.Token, fit []*key) *key {
	signed := t.Raw[:strings.LastIndexByte(t.Raw, '.')]
	method := t.Method
	if strict, ok := strictPSS[method.Alg()]; ok {
		method = strict
	}
	for _, k := range fit {
		if method.Verify(signed, t.Signature, k.key) == nil {
			return k
		}
	}
	return nil
}

// strictPSS are the algorithms PS* with salts of the length of the hash (RFC 7518 section 3.5), where the
// library takes any.
var strictPSS = func() map[string]jwt.SigningMethod {
	all := map[string]jwt.SigningMethod{}
	for _, m := range []*jwt.SigningMethodRSAPSS{jwt.SigningMethodPS256, jwt.SigningMethodPS384, jwt.SigningMethodPS512} {
		strict := *m
		strict.VerifyOptions = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}
		all[m.Alg()] = &strict
	}
	return all
}()

// identify checks what the claims say.
func (v *verifier) identify(c *claims, p *provider, set *keySet, k *key, now time.Time) (*identity, error) {
	issuer, audience := p.wants(set)
	until, issued, err := c.checkDates(now, v.policy.leeway())
	if err != nil {
		return nil, err
	}
	for _, err = range []error{c.checkIssuer(issuer), p.checkClaim(c), c.checkAudience(audience), c.checkBinding()} {
		if err != nil {
			return nil, err
		}
	}
	subject, err := c.subject(v.policy.NumericSubject)
	if err != nil {
		return nil, err
	}
	fields, err := v.fields(c, subject)
	if err != nil {
		return nil, err
	}
	id := &identity{provider: p, set: set, key: k, until: until, issued: issued, subject: subject, iss: issuer, fields: fields}
	if id.iss == "" {
		id.iss, _ = c.str("iss")
	}
	id.jti, id.sid = c.id("jti"), c.id("sid")
	id.outcome, id.recent = v.policy.judge(c, now)
	return id, nil
}

// checkClaim compares the claim that the issuer's name has in it.
func (p *provider) checkClaim(c *claims) error {
	if p.claim == "" {
		return nil
	}
	if value, _ := c.str(p.claim); value != p.value {
		return invalid(wrongIssuer, "The token is from another issuer.")
	}
	return nil
}

// headerNames refuses a header in which a name comes twice (RFC 7515 section 4), of which the library
// takes the last.
func headerNames(raw string) error {
	var few [8]member
	header, err := base64.RawURLEncoding.DecodeString(raw[:strings.IndexByte(raw, '.')])
	if err == nil {
		_, err = members(few[:0], header)
	}
	if err != nil {
		return invalid(malformedToken, "The token is not a well-formed JSON Web Token.")
	}
	return nil
}

// checkHeader checks a token's header and gives its kid, "" where there is none. Keys that the
// header brings along or points to (jwk, jku, x5c, x5u) are not looked at.
func (p *Policy) checkHeader(h map[string]any) (kid string, err error) {
	if _, present := h["crit"]; present { // none is understood, so all must be refused (RFC 7515 section 4.1.11)
		return "", invalid(invalidHeader, "The token has a critical header that is not understood.")
	}
	if err = p.checkType(h); err != nil {
		return "", err
	}
	if alg, _ := h["alg"].(string); !accepted(alg) {
		return "", invalid(unsupportedAlgorithm, "The algorithm of the token is not accepted.")
	}
	v, present := h["kid"]
	kid, ok := v.(string)
	if present && !ok {
		return "", invalid(invalidHeader, "The key id of the token is not a string.")
	}
	return kid, nil
}

// checkType checks the header typ, whose case and prefix do not matter (RFC 7515 section 4.1.9).
func (p *Policy) checkType(h map[string]any) error {
	v, present := h["typ"]
	s, _ := v.(string)
	typ := s
	if present {
		typ = strings.TrimPrefix(strings.ToLower(s), "application/")
		if typ != "jwt" && typ != "at+jwt" {
			return invalid(invalidHeader, "The type of the token is not JWT or at+jwt.")
		}
	}
	if p.Type != "" && !strings.EqualFold(typ, p.Type) {
		return invalid(invalidHeader, "The type of the token is not "+p.Type+".")
	}
	return nil
}

// refusal turns an error of the JWT library into a refusal.
func refusal(err error) error {
	if errors.Is(err, jwt.ErrTokenMalformed) {
		return invalid(malformedToken, "The token is not a well-formed JSON Web Token.")
	}
	return invalid(unsupportedAlgorithm, "The algorithm of the token is not accepted.")
}

// compact says whether s is three base64url segments without padding (RFC 7515 section 7.1), in the
// one way in which their bytes can be written.
func compact(s string) bool {
	parts := [3]int{}
	n, last := 0, byte('A')
	for i := range len(s) {
		c := s[i]
		if c == '.' {
			if n++; n > 2 || !whole(parts[n-1], last) {
				return false
			}
			last = 'A'
			continue
		}
		if alphabet[c] == 0 {
			return false
		}
		parts[n]++
		last = c
	}
	return n == 2 && whole(parts[2], last)
}

// whole says whether a segment of that length ends in c as the encoder writes it: without a lone
// character, and without bits that belong to no byte.
func whole(length int, c byte) bool {
	switch bits := alphabet[c] - 1; length % 4 {
	case 1:
		return false
	case 2:
		return bits&15 == 0
	case 3:
		return bits&3 == 0
	}
	return true
}

// alphabet is the value of each character of base64url, and one more.
var alphabet = func() (a [256]byte) {
	const chars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for i := range len(chars) {
		a[chars[i]] = byte(i + 1)
	}
	return a
}()
