package jwtauth

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
)

// maxStale is the longest time that keys may serve on while their server fails.
const maxStale = 7 * 24 * time.Hour

// Trusted is an issuer whose tokens are accepted, and where its keys come from: one at most of
// Secret, JWKS, JWKSFile, KeyFile and Key. With none of them Issuer is a URL, and its metadata say where
// the keys are: ISSUER/.well-known/openid-configuration, or the document of RFC 8414 if there is no such.
type Trusted struct {
	// Issuer is what the claim iss must be, to the letter: a slash at the end counts. One claim in braces stands
	// for each of its values in Allow: https://login.microsoftonline.com/{tid}/v2.0. Default: with the
	// identity backend's keys its issuer, with other keys iss is not checked.
	Issuer string `json:"issuer,omitempty"`
	// Allow are the values of the claim that Issuer has in braces, at most 1000. The token must have one of them
	// in that claim and in iss.
	Allow map[string][]string `json:"allow,omitempty"`
	// Audience are names of this API: the claim aud must hold one of them. Default: with the identity
	// backend's keys its audience, with other keys aud is not checked, so that a token which the
	// issuer made for another API passes too.
	Audience []string `json:"audience,omitempty"`
	// Algorithms are those that tokens may be signed with: of the one that a key names, or of those that
	// a key can have which names none, such as a PEM or a plain secret. A list that no key can serve is an error.
	// Default: the one that a key names, or else HS256, RS256, EdDSA, and the one of the curve.
	Algorithms []string `json:"algorithms,omitempty"`
	// Secret names a secret set of the app gatehouse: raw bytes (at least 32) for HS256, or a PEM
	// PUBLIC KEY or PRIVATE KEY. Every version of the set that is in force verifies.
	Secret string `json:"secret,omitempty"`
	// JWKS is the URL of a JWK set: https, or http on this machine. It is fetched when a request first
	// needs it, and again every 10 min (Cache-Control: max-age of the answer, kept between 5 min and
	// 24 h) and for an unknown kid, at most every 30 s. The last good set is kept in the data directory.
	JWKS string `json:"jwks,omitempty"`
	// JWKSFile is the path of a file with a JWK set. It is read again every 5 s while requests come, and
	// for an unknown kid, at most once a second; one that cannot be used changes nothing.
	JWKSFile string `json:"jwks_file,omitempty"`
	// KeyFile is the path of a file with one public key, in PEM or as a JWK. It is read again as JWKSFile is.
	KeyFile string `json:"key_file,omitempty"`
	// Key is a public key itself, in PEM or as a JWK. A symmetric or a private one is refused.
	Key string `json:"key,omitempty"`
	// StaleFor is how long fetched keys serve on after the time at which they should have been fetched
	// again, while their server fails; 0s to 168h. Then the answer is 503. Default: 12h.
	StaleFor *unit.Duration `json:"stale_for,omitempty"`
	// MaxKeyAge is how old fetched keys may be before they are fetched again, whatever Cache-Control says, so
	// that a key that the issuer took away ends; 1m to 24h. While the server fails StaleFor holds. Default: 1h.
	MaxKeyAge *unit.Duration `json:"max_key_age,omitempty"`
	// Insecure allows keys and metadata by plain http from any machine. Default: false.
	Insecure bool `json:"insecure,omitempty"`

	claim, value string // of one of the issuers that a template stands for
}

// sources is how many sources of keys are named.
func (t *Trusted) sources() (given int) {
	for _, s := range []string{t.Secret, t.JWKS, t.JWKSFile, t.KeyFile, t.Key} {
		if s != "" {
			given++
		}
	}
	return given
}

// Validate says what is wrong with it.
func (t *Trusted) Validate() error {
	switch {
	case t.sources() > 1:
		return errors.New("jwt_auth takes the keys of an issuer from one place: keep one of secret, jwks URL, jwks file, key file and key")
	case slices.Contains(t.Audience, ""):
		return errors.New("audience must not be empty")
	case t.StaleFor != nil && (*t.StaleFor < 0 || t.StaleFor.Std() > maxStale):
		return fmt.Errorf("stale_for must be from 0s to 168h, not %s", t.StaleFor)
	}
	if t.MaxKeyAge != nil && (t.MaxKeyAge.Std() < time.Minute || t.MaxKeyAge.Std() > refreshMost) {
		return fmt.Errorf("max_key_age must be from 1m to 24h, not %s", t.MaxKeyAge)
	}
	if err := t.checkTemplate(); err != nil {
		return err
	}
	for _, alg := range t.Algorithms {
		if alg == "none" {
			return errors.New("algorithms: none is no signature and is never accepted")
		}
		if !accepted(alg) {
			return errors.New("algorithms: " + dispense.Unknown("algorithm", alg, allAlgs))
		}
	}
	if t.Key != "" {
		if _, err := inlineKey(t.Key); err != nil {
			return fmt.Errorf("key: %w", err)
		}
	}
	if t.JWKS != "" {
		return checkURL("jwks", t.JWKS, t.Insecure)
	}
	if t.sources() == 0 && t.Issuer != "" {
		for _, one := range t.expanded() {
			if err := checkIssuerURL(one.Issuer, t.Insecure); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxAllowed is how many issuers a template may stand for.
const maxAllowed = 1000

// claimInBraces is the claim that the issuer has in braces, "" where it has none, with what stands around it.
func (t *Trusted) claimInBraces() (before, claim, after string) {
	before, rest, opened := strings.Cut(t.Issuer, "{")
	claim, after, closed := strings.Cut(rest, "}")
	if !opened || !closed {
		return t.Issuer, "", ""
	}
	return before, claim, after
}

func (t *Trusted) checkTemplate() error {
	before, claim, after := t.claimInBraces()
	switch {
	case claim == "" && strings.ContainsAny(t.Issuer, "{}"):
		return fmt.Errorf("issuer %s: braces surround the name of a claim, as in https://idp.example.com/{tid}", t.Issuer)
	case strings.ContainsAny(before+after, "{}"):
		return fmt.Errorf("issuer %s: one claim alone may stand in braces", t.Issuer)
	case claim != "" && len(t.Allow[claim]) == 0:
		return fmt.Errorf("issuer %s needs the values that are allowed: allow %s VALUE…", t.Issuer, claim)
	case claim == "" && len(t.Allow) > 0, len(t.Allow) > 1:
		return fmt.Errorf("allow names claims that the issuer %s has in braces, and no others", t.Issuer)
	case len(t.Allow[claim]) > maxAllowed:
		return fmt.Errorf("allow %s has %d values, at most %d are taken", claim, len(t.Allow[claim]), maxAllowed)
	}
	for i, value := range t.Allow[claim] {
		if value == "" || strings.ContainsFunc(value, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune(`/?#%{}\"`, c) }) {
			return fmt.Errorf("allow %s: %q is not a part of a URL's path", claim, value)
		}
		if slices.Contains(t.Allow[claim][:i], value) {
			return fmt.Errorf("allow %s: %s is given twice", claim, value)
		}
	}
	return nil
}

// expanded are the issuers that t stands for: one for each allowed value, or t itself.
func (t Trusted) expanded() []Trusted {
	before, claim, after := t.claimInBraces()
	if claim == "" {
		return []Trusted{t}
	}
	all := make([]Trusted, len(t.Allow[claim]))
	for i, value := range t.Allow[claim] {
		all[i] = t
		all[i].Issuer, all[i].Allow, all[i].claim, all[i].value = before+value+after, nil, claim, value
	}
	return all
}

// checkIssuerURL says whether an issuer's metadata can be looked for (RFC 8414 section 2).
func checkIssuerURL(issuer string, insecure bool) error {
	u, err := url.Parse(issuer)
	if err != nil || u.Host == "" || u.RawQuery != "" {
		return fmt.Errorf("issuer %s has no keys and is no URL to discover them from: name its keys in a block, issuer %s { jwks URL }, or write it as https://…", issuer, issuer)
	}
	return checkURL("issuer", issuer, insecure)
}

func (t *Trusted) maxKeyAge() time.Duration {
	if t.MaxKeyAge == nil {
		return defaultKeyAge
	}
	return t.MaxKeyAge.Std()
}

func (t *Trusted) staleFor() time.Duration {
	if t.StaleFor == nil {
		return defaultStale
	}
	return t.StaleFor.Std()
}

// over is t with what it leaves out as the directive says for all issuers.
func (t Trusted) over(all Trusted) Trusted {
	if len(t.Audience) == 0 {
		t.Audience = all.Audience
	}
	if len(t.Algorithms) == 0 {
		t.Algorithms = all.Algorithms
	}
	if t.StaleFor == nil {
		t.StaleFor = all.StaleFor
	}
	if t.MaxKeyAge == nil {
		t.MaxKeyAge = all.MaxKeyAge
	}
	t.Insecure = t.Insecure || all.Insecure
	return t
}

// Accepted are the issuers of a directive.
type Accepted struct {
	// Trusted is the one issuer of the short form. With nothing set but what Issuers inherit, and
	// without Issuers, the tokens are those of the identity backend.
	Trusted
	// Issuers are further issuers. The claim iss says which one a token is of, and only keys of that one
	// verify it. What one leaves out of Audience, Algorithms, StaleFor and Insecure is as in Trusted.
	Issuers []Trusted `json:"issuers,omitempty"`
	// Identity accepts tokens of the identity backend beside those of Issuers. Default: only without Issuers.
	Identity bool `json:"identity,omitempty"`
}

// own says whether Trusted is an issuer itself.
func (a *Accepted) own() bool { return a.sources() > 0 || a.Issuer != "" }

// bundled says whether tokens of the identity backend are accepted.
func (a *Accepted) bundled() bool { return a.Identity || !a.own() && len(a.Issuers) == 0 }

// all are the issuers whose keys are named or discovered, as they are in force.
func (a *Accepted) all() []Trusted {
	var all []Trusted
	if a.own() {
		all = append(all, a.expanded()...)
	}
	for _, t := range a.Issuers {
		all = append(all, t.over(a.Trusted).expanded()...)
	}
	return all
}

// Validate says what is wrong with them.
func (a *Accepted) Validate() error {
	if err := a.Trusted.Validate(); err != nil {
		return err
	}
	if a.Identity && a.own() && a.Issuer == "" {
		return errors.New("jwt_auth: beside identity, keys need the issuer that they belong to: write issuer ISSUER { … }")
	}
	seen := map[string]bool{a.Issuer: a.Issuer != ""}
	for _, t := range a.Issuers {
		if t.Issuer == "" {
			return errors.New("jwt_auth: an issuer needs its name, as it stands in the claim iss")
		}
		if seen[t.Issuer] {
			return fmt.Errorf("jwt_auth: issuer %s is given twice, keep one of them", t.Issuer)
		}
		seen[t.Issuer] = true
		t = t.over(a.Trusted)
		if err := t.Validate(); err != nil {
			return fmt.Errorf("issuer %s: %w", t.Issuer, err)
		}
	}
	return nil
}

// provider is an issuer with its keys.
type provider struct {
	issuer   string // "" for whatever the keys say, or any
	audience []string
	algs     []string
	source   source
	name     string // of the source

	claim, value string // which its tokens must have; "" for none
}

func newProvider(t Trusted, s source, name string) *provider {
	p := &provider{issuer: t.Issuer, audience: t.Audience, source: s, name: name, claim: t.claim, value: t.value}
	for _, alg := range t.Algorithms {
		if alg == algEd25519 {
			alg = "EdDSA" // by which a key goes that has both names
		}
		p.algs = append(p.algs, alg)
	}
	return p
}

// wants are the issuer and the audience that a token must have.
func (p *provider) wants(set *keySet) (issuer string, audience []string) {
	issuer, audience = p.issuer, p.audience
	if issuer == "" {
		issuer = set.issuer
	}
	if len(audience) == 0 {
		audience = set.audience
	}
	return issuer, audience
}
