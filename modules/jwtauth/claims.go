package jwtauth

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// lastDate is the end of the year 9999 in unix seconds. A later date is a mistake, such as one in
// milliseconds.
const lastDate = 253402300799

const maxSubject = 1024 // bytes

// claims are the claims of one token, as they are written: a request needs few of them.
type claims struct {
	// MapClaims stays empty. It makes the type a jwt.Claims; what the library would check by it is
	// switched off.
	jwt.MapClaims

	members []member
	few     [12]member // what members are in, for most tokens
}

// UnmarshalJSON reads an object in which no name comes twice.
func (c *claims) UnmarshalJSON(b []byte) (err error) {
	c.members, err = members(c.few[:0], slices.Clone(b))
	return err
}

// raw is a claim as it is written, nil if it is absent.
func (c *claims) raw(name string) []byte {
	if i := named(c.members, name); i >= 0 {
		return c.members[i].raw
	}
	return nil
}

// str is a claim that is a string.
func (c *claims) str(name string) (s string, ok bool) { return unquote(c.raw(name)) }

// value is the claim of that name or, if there is none, what a path with dots leads to: in
// realm_access.roles the roles of the object realm_access. It is nil where there is nothing.
func (c *claims) value(path string) any {
	if raw := c.raw(path); raw != nil {
		return decode(raw)
	}
	name, rest, nested := strings.Cut(path, ".")
	if !nested {
		return nil
	}
	return within(decode(c.raw(name)), rest)
}

func within(v any, path string) any {
	object, ok := v.(map[string]any)
	if !ok {
		return nil
	}
	if v, ok = object[path]; ok {
		return v
	}
	name, rest, nested := strings.Cut(path, ".")
	if !nested {
		return nil
	}
	return within(object[name], rest)
}

// date reads a NumericDate (RFC 7519 section 2), which may have a fraction, as unix milliseconds.
// It is ok also where the claim is absent.
func (c *claims) date(name string) (ms int64, present, ok bool) {
	raw := c.raw(name)
	if raw == nil {
		return 0, false, true
	}
	if raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		return 0, true, false
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || math.Abs(f) > lastDate {
		return 0, true, false
	}
	return int64(math.Floor(f * 1000)), true, true
}

// checkDates says until when the token is valid, in unix milliseconds with the leeway in it, and when
// it was issued, 0 if it does not say.
func (c *claims) checkDates(now time.Time, leeway time.Duration) (until, issued int64, err error) {
	exp, hasExp, ok1 := c.date("exp")
	nbf, hasNbf, ok2 := c.date("nbf")
	iat, hasIat, ok3 := c.date("iat")
	ms, skew := now.UnixMilli(), leeway.Milliseconds()
	switch {
	case !ok1 || !ok2 || !ok3:
		return 0, 0, invalid(invalidClaims, "The dates of the token are not numbers in a sensible range.")
	case !hasExp:
		return 0, 0, invalid(invalidClaims, "The token does not say when it expires.")
	case ms >= exp+skew:
		return 0, 0, invalid(expired, "The token has expired.")
	case hasNbf && ms < nbf-skew:
		return 0, 0, invalid(notYetValid, "The token is not valid yet.")
	case hasIat && ms < iat-skew:
		return 0, 0, invalid(notYetValid, "The token was issued in the future.")
	}
	return exp + skew, iat, nil
}

// checkIssuer compares iss to the letter. An empty issuer is not checked.
func (c *claims) checkIssuer(issuer string) error {
	if issuer == "" {
		return nil
	}
	if iss, _ := c.str("iss"); iss != issuer {
		return invalid(wrongIssuer, "The token is from another issuer.")
	}
	return nil
}

// checkAudience compares aud, which is a string or an array of strings. With no audience wanted its
// form alone is checked.
func (c *claims) checkAudience(audience []string) error {
	raw := c.raw("aud")
	if one, ok := unquote(raw); ok {
		if len(audience) > 0 && !slices.Contains(audience, one) {
			return invalid(wrongAudience, "The token is for another audience.")
		}
		return nil
	}
	aud, ok := c.strings("aud")
	if !ok {
		return invalid(invalidClaims, "The audience of the token is neither a string nor an array of strings.")
	}
	if len(audience) > 0 && !anyOf(audience, aud) {
		return invalid(wrongAudience, "The token is for another audience.")
	}
	return nil
}

// checkBinding refuses tokens that only the holder of a key may use (RFC 9449 section 6, RFC 8705
// section 3): as a Bearer token a stolen one would pass.
func (c *claims) checkBinding() error {
	raw := c.raw("cnf")
	if raw == nil {
		return nil
	}
	cnf, _ := decode(raw).(map[string]any)
	for _, method := range []string{"jkt", "x5t#S256"} {
		if _, is := cnf[method]; is {
			return invalid(bound, "The token is bound to a key and cannot be used as a Bearer token.")
		}
	}
	return nil
}

// subject is the claim sub, "" where there is none.
func (c *claims) subject() (string, error) {
	if c.raw("sub") == nil {
		return "", nil
	}
	sub, ok := c.str("sub")
	if !ok || sub == "" || len(sub) > maxSubject || strings.ContainsFunc(sub, control) {
		return "", invalid(invalidClaims, "The subject of the token is not a short printable string.")
	}
	return sub, nil
}

func control(r rune) bool { return r < ' ' || r == 0x7f }

// strings reads a string or an array of strings; absent or null is none.
func (c *claims) strings(name string) (list []string, ok bool) {
	switch v := decode(c.raw(name)).(type) {
	case nil:
		return nil, true
	case string:
		return []string{v}, true
	case []any:
		for _, e := range v {
			s, isString := e.(string)
			if !isString {
				return nil, false
			}
			list = append(list, s)
		}
		return list, true
	}
	return nil, false
}

// list are the texts of a scalar claim or of the scalars in an array.
func (c *claims) list(path string) []string { return texts(c.value(path)) }

func texts(v any) []string {
	if s, ok := text(v); ok {
		return []string{s}
	}
	var list []string
	array, _ := v.([]any)
	for _, e := range array {
		if s, ok := text(e); ok {
			list = append(list, s)
		}
	}
	return list
}

// scopes are the words of the claims scope (RFC 9068 section 2.2.3) and scp, with single spaces between
// them (RFC 6749 section 3.3), or the elements of an array.
func (c *claims) scopes() []string {
	var all []string
	for _, name := range []string{"scope", "scp"} {
		if s, ok := c.str(name); ok {
			all = append(all, strings.Split(s, " ")...)
		} else {
			all = append(all, c.list(name)...)
		}
	}
	return all
}

// text is a string, a number or a boolean as it is written.
func text(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}
