package jwtauth

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// Check is one thing that was looked at in a token.
type Check struct {
	Check string `json:"check"`
	OK    bool   `json:"ok"`
	// Detail is what was found. It holds nothing that would let anyone pass: no key, no signature.
	Detail string `json:"detail"`
}

// Explanation is what one jwt_auth says about a token.
type Explanation struct {
	// Directive tells the directives of a configuration apart: its number, and whom it trusts.
	Directive string `json:"directive"`
	Passes    bool   `json:"passes"`
	// Outcome is the label that the request would have in the metrics; Answer is what the client would be told.
	Outcome string  `json:"outcome"`
	Answer  string  `json:"answer,omitempty"`
	Checks  []Check `json:"checks"`
}

// explainer goes through the checks, and on after one that fails as far as there is something to look at.
type explainer struct {
	*verifier
	now    time.Time
	checks []Check
}

func (e *explainer) add(check string, err error, format string, args ...any) bool {
	detail := fmt.Sprintf(format, args...)
	if err != nil {
		if detail != "" {
			detail += ": "
		}
		detail += sentence(err)
	}
	e.checks = append(e.checks, Check{check, err == nil, detail})
	return err == nil
}

// sentence is what a client would be told.
func sentence(err error) string {
	if p := problem.From(err); p.Detail != "" {
		return p.Detail
	}
	return err.Error()
}

// explain says what v thinks of a token. The verdict is that of verify and decide themselves.
func (v *verifier) explain(ctx context.Context, raw string, now time.Time) Explanation {
	e := explainer{verifier: v, now: now}
	e.all(ctx, raw)
	x := Explanation{Directive: v.name(), Passes: true, Outcome: passed.String(), Checks: e.checks}
	if err := v.dry(ctx, raw, now); err != nil {
		x.Passes, x.Outcome, x.Answer = false, outcomeOf(err).String(), sentence(err)
	}
	return x
}

// dry is check without the cache and without a trace.
func (v *verifier) dry(ctx context.Context, raw string, now time.Time) error {
	if err := v.form(raw); err != nil {
		return err
	}
	id, err := v.verify(ctx, raw, now)
	if err != nil {
		return err
	}
	return v.decide(ctx, id, now)
}

// name is by which issuers and sources people know the directive.
func (v *verifier) name() string {
	var parts []string
	for _, p := range v.providers {
		switch {
		case p.issuer != "" && p.issuer != p.name:
			parts = append(parts, p.issuer+" ("+p.name+")")
		default:
			parts = append(parts, p.name)
		}
	}
	return strings.Join(parts, ", ")
}

func (e *explainer) all(ctx context.Context, raw string) {
	if !e.add("size", e.tooLong(raw), "%d bytes of at most %d", len(raw), e.maxSize()) {
		return
	}
	if !e.add("form", e.form(raw), "three segments of base64url") {
		return
	}
	c := new(claims)
	t, _, err := e.parser.ParseUnverified(raw, c)
	if err != nil {
		e.add("parsing", refusal(err), "")
		return
	}
	kid := e.header(t)
	p, err := e.issuedBy(c)
	iss, _ := c.str("iss")
	if err != nil {
		e.add("issuer", err, "iss is %q", printable(iss))
		e.dates(c)
		return
	}
	set := e.keys(ctx, t, p, kid)
	if set == nil {
		set = new(keySet)
	}
	issuer, audience := p.wants(set)
	err = c.checkIssuer(issuer)
	if err == nil {
		err = p.checkClaim(c)
	}
	e.add("issuer", err, "iss is %q, wanted is %s", printable(iss), anything(issuer))
	e.dates(c)
	aud, _ := c.strings("aud")
	e.add("audience", c.checkAudience(audience), "aud is %q, wanted is %s", printable(strings.Join(aud, " ")), anything(strings.Join(audience, " or ")))
	e.add("binding", c.checkBinding(), "a Bearer token")
	sub, err := c.subject(e.policy.NumericSubject)
	e.add("subject", err, "sub %s", have(sub != ""))
	_, err = e.fields(c, sub)
	e.add("claim headers", err, "%d are configured", len(e.headers))
	e.revocation(ctx, c, issuer, sub)
	e.rules(c)
}

// header explains the token's header and gives its kid.
func (e *explainer) header(t *jwt.Token) string {
	alg, _ := t.Header["alg"].(string)
	typ, _ := t.Header["typ"].(string)
	kid, _ := t.Header["kid"].(string)
	err := headerNames(t.Raw)
	if err == nil {
		_, err = e.policy.checkHeader(t.Header)
	}
	e.add("header", err, "alg %s, typ %s, kid %s", anything(printable(alg)), anything(printable(typ)), anything(printable(kid)))
	return kid
}

// keys explains the key and the signature.
func (e *explainer) keys(ctx context.Context, t *jwt.Token, p *provider, kid string) *keySet {
	set, err := p.source.load(ctx, e.now)
	if !e.add("keys", err, "%s", p.name) {
		return nil
	}
	alg, _ := t.Header["alg"].(string)
	age := "always at hand"
	if at := p.source.fetched(); !at.IsZero() {
		age = "fetched " + distance(e.now.Sub(at)) + " ago"
	}
	e.checks[len(e.checks)-1].Detail += ": " + strconv.Itoa(len(set.keys)) + " in force, " + age
	k, newer, err := p.verifying(ctx, t, kid, set, e.now)
	if newer != nil {
		set = newer
	} else {
		set, _ = p.source.load(ctx, e.now) // for which verifying may have fetched
	}
	if set == nil {
		return nil
	}
	o := outcomeOf(err)
	if err != nil && o == unknownKey {
		e.add("key", err, "none has the kid %q", printable(kid))
		return set
	}
	e.add("key", nil, "found")
	if err != nil && o == unsupportedAlgorithm {
		e.add("algorithm", err, "%s", anything(printable(alg)))
		return set
	}
	e.add("algorithm", nil, "%s", alg)
	label := ""
	if k != nil && k.label != "" {
		label = "verified by " + k.label
	}
	e.add("signature", err, "%s", label)
	return set
}

// dates explains how far the dates are away.
func (e *explainer) dates(c *claims) {
	var parts []string
	for _, name := range []string{"exp", "nbf", "iat"} {
		ms, present, ok := c.date(name)
		switch d := time.UnixMilli(ms).Sub(e.now); {
		case !present:
			parts = append(parts, name+" is absent")
		case !ok:
			parts = append(parts, name+" is no sensible date")
		case d < 0:
			parts = append(parts, name+" was "+distance(-d)+" ago")
		default:
			parts = append(parts, name+" is in "+distance(d))
		}
	}
	_, _, err := c.checkDates(e.now, e.policy.leeway())
	e.add("dates", err, "%s, leeway %s", strings.Join(parts, ", "), e.policy.leeway())
}

func (e *explainer) revocation(ctx context.Context, c *claims, issuer, sub string) {
	r, err := e.revoked(ctx)
	if err != nil {
		e.add("revocation", err, "")
		return
	}
	if issuer == "" {
		issuer, _ = c.str("iss")
	}
	jti, sid := c.id("jti"), c.id("sid")
	iat, _, _ := c.date("iat")
	if r.Revoked(issuer, jti, sid, sub, iat) {
		e.add("revocation", errRevoked(), "jti %s, sid %s", have(jti != ""), have(sid != ""))
		return
	}
	e.add("revocation", nil, "not revoked; jti %s, sid %s", have(jti != ""), have(sid != ""))
}

func (e *explainer) rules(c *claims) {
	for _, r := range e.policy.Require {
		p := Policy{Require: []Rule{r}, Leeway: e.policy.Leeway}
		o, recent := p.judge(c, e.now)
		var err error
		switch {
		case o == insufficientScope:
			err = insufficient(p.scopes())
		case o != passed || recent != 0 && e.now.UnixMilli() >= recent:
			err = stepUp(&p)
		}
		e.add("require", err, "%s", r)
	}
}

// String is the rule as it is configured.
func (r Rule) String() string {
	switch {
	case len(r.Any) > 0:
		parts := make([]string, len(r.Any))
		for i, one := range r.Any {
			parts[i] = one.String()
		}
		return "any of: " + strings.Join(parts, "; ")
	case len(r.Scope) > 0:
		return "scope " + strings.Join(r.Scope, " ")
	case len(r.Role) > 0:
		return "role " + strings.Join(r.Role, " ")
	case len(r.ACR) > 0:
		return "acr " + strings.Join(r.ACR, " ")
	case r.MaxAge > 0:
		return "max_age " + r.MaxAge.String()
	}
	return "claim " + r.Claim + " " + strings.Join(r.Values, " ")
}

// printable is what may be shown of a text in a token, which need not be anyone's we know.
func printable(s string) string {
	const most = 128
	s = strings.ToValidUTF8(strings.Map(func(c rune) rune {
		if control(c) {
			return '?'
		}
		return c
	}, s), "?")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

func anything(s string) string {
	if s == "" {
		return "any or none"
	}
	return s
}

func have(there bool) string {
	if there {
		return "is there"
	}
	return "is absent"
}

func distance(d time.Duration) string { return d.Round(time.Second).String() }

// alike says whether two verifiers decide alike.
func (v *verifier) alike(other *verifier) bool {
	return reflect.DeepEqual(v.policy, other.policy) && slices.EqualFunc(v.providers, other.providers, func(a, b *provider) bool {
		return a.name == b.name && a.issuer == b.issuer && slices.Equal(a.audience, b.audience) && slices.Equal(a.algs, b.algs)
	})
}

// distinct leaves out verifiers that decide alike.
func distinct(all []*verifier) []*verifier {
	var list []*verifier
	for _, v := range all {
		if !slices.ContainsFunc(list, v.alike) {
			list = append(list, v)
		}
	}
	return list
}
