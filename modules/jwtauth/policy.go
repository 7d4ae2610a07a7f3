package jwtauth

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
)

const (
	defaultLeeway = 30 * time.Second
	maxLeeway     = 5 * time.Minute
)

// minMaxSize and maxMaxSize bound MaxSize; the latter is what servers let pass at most.
const minMaxSize, maxMaxSize = 1 << 10, 1 << 20

// tooLarge are the values of ClaimTooLarge.
var tooLarge = []string{"refuse", "drop"}

// types are the values of Type.
var types = []string{"at+jwt", "JWT"}

// Policy is where a token is looked for, what it must say to pass, and what is told to the app behind.
type Policy struct {
	// From are the places where the token may be, of which the first that has one counts. Default: the
	// header Authorization alone.
	From []From `json:"from,omitempty"`
	// Type is what the header typ of a token must be: at+jwt (RFC 9068) or JWT. Default: either, or none.
	Type string `json:"type,omitempty"`
	// Require are rules that must all hold; otherwise the answer is 403, or 401 where a stronger or more
	// recent login would help.
	Require []Rule `json:"require,omitempty"`
	// ClaimHeaders are claims that the app behind gets as request headers.
	ClaimHeaders []ClaimHeader `json:"claim_headers,omitempty"`
	// Leeway is how far the clocks of the issuer and of this machine may be apart, 0s to 5m. Default: 30s.
	Leeway *unit.Duration `json:"leeway,omitempty"`
	// NumericSubject accepts a sub that is an integer, for the text of it. Default: false, so that sub must be
	// a string (RFC 7519 section 4.1.2).
	NumericSubject bool `json:"numeric_subject,omitempty"`
	// MaxSize is the greatest length of a token in bytes, 1KiB to 1MiB. Default: what the server lets pass in
	// a request's headers.
	MaxSize unit.Size `json:"max_size,omitempty"`
	// ClaimTooLarge says what happens where a claim does not fit into its header: "refuse" answers 401, "drop"
	// leaves the header out. Default: refuse.
	ClaimTooLarge string `json:"claim_too_large,omitempty"`
	// ResourceMetadata is the URL of this API's metadata, which challenges name (RFC 9728). Default: none.
	ResourceMetadata string `json:"resource_metadata,omitempty"`
	// EndWebSockets closes a WebSocket when the token that it was opened with expires. Default: false.
	EndWebSockets bool `json:"end_websockets,omitempty"`
	// Optional lets requests without a token pass, without an identity. A token that is not valid is
	// refused all the same. Default: false.
	Optional bool `json:"optional,omitempty"`
}

// Rule is one requirement. Exactly one of Any, Scope, Role, Claim, ACR and MaxAge is set.
type Rule struct {
	// Any are rules of which one must hold, each of them with Scope, Role or Claim.
	Any []Rule `json:"any,omitempty"`
	// Scope are scopes that the token must all have, in its claim scope or scp: words with spaces
	// between them, or an array.
	Scope []string `json:"scope,omitempty"`
	// Role are roles of which the token must have one, in its claim role or roles: a string, or an array.
	Role []string `json:"role,omitempty"`
	// Claim is the name of a claim that must be one of Values, or an array that holds one of them. If
	// there is no claim of that name, dots lead into objects: realm_access.roles. The names there may have
	// dots, too; a part in double quotes is a name as it stands: resource_access."com.acme.api".roles.
	Claim string `json:"claim,omitempty"`
	// Values go with Claim. Numbers and booleans are compared by their text.
	Values []string `json:"values,omitempty"`
	// ACR are authentication contexts: the claim acr must be one of them. Otherwise the answer is 401
	// insufficient_user_authentication (RFC 9470).
	ACR []string `json:"acr,omitempty"`
	// MaxAge is how long ago the user may have logged in, by the claim auth_time; at least 1s. Otherwise
	// the answer is 401 insufficient_user_authentication.
	MaxAge unit.Duration `json:"max_age,omitempty"`
}

// ClaimHeader names a claim and the request header that carries it. Dots lead into objects, as in Rule.
//
// A string is sent as it is, with control characters, characters outside ASCII, % and spaces at
// either end percent-encoded. Numbers and booleans are sent as their text, an array of these joined
// by commas (a comma inside an element is encoded), and anything else as JSON in base64url without
// padding. A claim that is absent or null sends no header. What happens to a value of more than 8000 bytes,
// which common servers refuse, says Policy.ClaimTooLarge.
type ClaimHeader struct {
	Claim  string `json:"claim"`
	Header string `json:"header"`
}

// Validate says what is wrong with the policy.
func (p *Policy) Validate() error {
	if p.Leeway != nil && (*p.Leeway < 0 || p.Leeway.Std() > maxLeeway) {
		return fmt.Errorf("leeway must be from 0s to 5m, not %s: correct the clocks instead", p.Leeway)
	}
	switch {
	case p.MaxSize != 0 && (p.MaxSize < minMaxSize || p.MaxSize > maxMaxSize):
		return fmt.Errorf("max_size must be from 1KiB to 1MiB, not %s", p.MaxSize)
	case p.ClaimTooLarge != "" && !slices.Contains(tooLarge, p.ClaimTooLarge):
		return errors.New(dispense.Unknown("claim_too_large", p.ClaimTooLarge, tooLarge))
	}
	if p.ResourceMetadata != "" {
		if u, err := url.Parse(p.ResourceMetadata); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || strings.ContainsAny(p.ResourceMetadata, "\"\\ ") {
			return fmt.Errorf("resource_metadata %q is not a URL, such as https://api.example.com/.well-known/oauth-protected-resource", p.ResourceMetadata)
		}
	}
	if p.Type != "" && !slices.Contains(types, p.Type) {
		return errors.New(dispense.Unknown("type", p.Type, types))
	}
	for i, f := range p.From {
		if err := f.validate(); err != nil {
			return err
		}
		if slices.Contains(p.From[:i], f) {
			return fmt.Errorf("from %s is given twice, keep one of the lines", strings.TrimSpace(f.In+" "+f.Name))
		}
	}
	for _, r := range p.Require {
		if err := r.validate(); err != nil {
			return err
		}
	}
	headers := map[string]string{}
	for _, c := range p.ClaimHeaders {
		if err := checkPath(c.Claim); err != nil {
			return fmt.Errorf("claim_header: %w", err)
		}
		name := http.CanonicalHeaderKey(c.Header)
		switch {
		case c.Claim == "":
			return errors.New("claim_header needs the name of a claim, such as: claim_header sub X-User-Id")
		case !fieldName(c.Header) || strings.Contains(c.Header, "_"):
			return fmt.Errorf("claim_header %s: %q is not a header's name, use letters, digits and hyphens, such as X-User-Id", c.Claim, c.Header)
		case slices.Contains(reserved, name):
			return fmt.Errorf("claim_header %s: the header %s has a meaning of its own, choose another such as X-User-Id", c.Claim, name)
		case headers[name] != "":
			return fmt.Errorf("claim_header: the claims %s and %s both go to the header %s, keep one of the lines", headers[name], c.Claim, name)
		}
		headers[name] = c.Claim
	}
	return nil
}

// reserved are headers that a claim must not replace.
var reserved = []string{
	"Authorization", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Cookie", "Expect", "Host", "Keep-Alive",
	"Origin", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

func (r Rule) validate() error {
	set := 0
	for _, given := range []bool{len(r.Any) > 0, len(r.Scope) > 0, len(r.Role) > 0, r.Claim != "", len(r.ACR) > 0, r.MaxAge != 0} {
		if given {
			set++
		}
	}
	for _, one := range r.Any {
		if len(one.Any) > 0 || len(one.ACR) > 0 || one.MaxAge != 0 {
			return errors.New("any takes the requirements scope, role and claim")
		}
		if err := one.validate(); err != nil {
			return err
		}
	}
	path := checkPath(r.Claim)
	switch {
	case set != 1:
		return errors.New("a require rule needs exactly one of any, scope, role, claim, acr and max_age")
	case path != nil:
		return fmt.Errorf("require claim: %w", path)
	case r.Claim != "" && len(r.Values) == 0:
		return fmt.Errorf("require claim %s needs at least one value", r.Claim)
	case r.Claim == "" && len(r.Values) > 0:
		return errors.New("in a require rule, values go with claim")
	case r.MaxAge != 0 && r.MaxAge.Std() < time.Second:
		return fmt.Errorf("require max_age must be at least 1s, not %s", r.MaxAge)
	case slices.ContainsFunc(r.ACR, func(s string) bool { return !scopeToken(s) }):
		return errors.New("require acr: a value has printable ASCII characters without spaces, quotes and backslashes")
	case slices.ContainsFunc(r.Scope, func(s string) bool { return !scopeToken(s) }):
		return errors.New("require scope: a scope has printable ASCII characters without spaces, quotes and backslashes")
	}
	return nil
}

// scopeToken is the grammar of one scope (RFC 6749 section 3.3).
func scopeToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' || c == '"' || c == '\\' })
}

// fieldName is the grammar of a header's name (RFC 9110 section 5.6.2).
func fieldName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return c <= ' ' || c > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, c)
	})
}

func (p *Policy) leeway() time.Duration {
	if p.Leeway == nil {
		return defaultLeeway
	}
	return p.Leeway.Std()
}

// scopes are all scopes that the rules ask for, without repetition.
func (p *Policy) scopes() []string {
	var all []string
	for _, r := range p.Require {
		for _, s := range r.Scope {
			if !slices.Contains(all, s) {
				all = append(all, s)
			}
		}
	}
	return all
}

// stepUp are the parameters of a challenge that asks for another login: the contexts that will do, and
// within how many seconds it must have been.
func (p *Policy) stepUp() (acr, age string) {
	var all []string
	least := time.Duration(0)
	for _, r := range p.Require {
		all = append(all, r.ACR...)
		if m := r.MaxAge.Std(); m > 0 && (least == 0 || m < least) {
			least = m
		}
	}
	if least > 0 {
		age = strconv.Itoa(int(least.Seconds()))
	}
	return strings.Join(all, " "), age
}

// judge says whether the claims meet all rules, and until when in unix milliseconds the login is recent
// enough; 0 where its age does not matter.
func (p *Policy) judge(c *claims, now time.Time) (o outcome, recent int64) {
	for i := range p.Require {
		r := &p.Require[i]
		if r.MaxAge > 0 {
			at, known, ok := c.date("auth_time")
			if !known || !ok || at > now.Add(p.leeway()).UnixMilli() { // a login that is yet to come is none
				o = insufficientAuthentication
			} else if until := at + (r.MaxAge.Std() + p.leeway()).Milliseconds(); recent == 0 || until < recent {
				recent = until
			}
			continue
		}
		if r.holds(c) {
			continue
		}
		if len(r.ACR) == 0 { // another login would not help
			return insufficientScope, 0
		}
		o = insufficientAuthentication
	}
	return o, recent
}

// holds is for all rules but MaxAge, which depends on the time.
func (r *Rule) holds(c *claims) bool {
	switch {
	case len(r.Any) > 0:
		return slices.ContainsFunc(r.Any, func(one Rule) bool { return one.holds(c) })
	case len(r.Scope) > 0:
		has := c.scopes()
		return !slices.ContainsFunc(r.Scope, func(s string) bool { return !slices.Contains(has, s) })
	case len(r.Role) > 0:
		return anyOf(r.Role, append(c.list("role"), c.list("roles")...))
	case len(r.ACR) > 0:
		acr, _ := c.str("acr")
		return slices.Contains(r.ACR, acr)
	default:
		return anyOf(r.Values, c.list(r.Claim))
	}
}

func anyOf(wanted, has []string) bool {
	return slices.ContainsFunc(wanted, func(s string) bool { return slices.Contains(has, s) })
}
