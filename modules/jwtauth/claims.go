package jwtauth

import (
	"encoding/json"
	"fmt"
	"iter"
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

// id is a claim that names something, "" where there is none. Some issuers write numbers.
func (c *claims) id(name string) string {
	s, _ := text(decode(c.raw(name)))
	return s
}

// value is the claim of that name or, if there is none, what a path with dots leads to: in
// realm_access.roles the roles of the object realm_access. A name may have dots itself, as in
// resource_access.com.acme.api.roles: the longest name that leads somewhere counts. A part in double quotes
// is a name as it stands, as in resource_access."com.acme.api".roles. It is nil where there is nothing.
func (c *claims) value(path string) any {
	if raw := c.raw(path); raw != nil {
		return decode(raw)
	}
	for name, rest := range splits(path) {
		if raw := c.raw(name); raw != nil {
			if v := within(decode(raw), rest); v != nil {
				return v
			}
		}
	}
	return nil
}

// within is value in an object; an empty path is the value itself.
func within(v any, path string) any {
	if path == "" {
		return v
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil
	}
	if v, ok = object[path]; ok {
		return v
	}
	for name, rest := range splits(path) {
		if v, ok = object[name]; ok {
			if v = within(v, rest); v != nil {
				return v
			}
		}
	}
	return nil
}

// splits are the names that may begin a path, the longest first, with the rest of the path behind each.
func splits(path string) iter.Seq2[string, string] {
	return func(yield func(name, rest string) bool) {
		if quoted, ok := strings.CutPrefix(path, `"`); ok {
			if name, rest, closed := strings.Cut(quoted, `"`); closed && (rest == "" || rest[0] == '.') {
				yield(name, strings.TrimPrefix(rest, "."))
				return
			}
		}
		for i := len(path) - 1; i > 0; i-- {
			if path[i] == '.' && !yield(path[:i], path[i+1:]) {
				return
			}
		}
	}
}

// checkPath says what is wrong with the path of a claim.
func checkPath(path string) error {
	for rest := path; rest != ""; {
		quoted, is := strings.CutPrefix(rest, `"`)
		if !is {
			_, rest, _ = strings.Cut(rest, ".")
			continue
		}
		name, after, closed := strings.Cut(quoted, `"`)
		if !closed || name == "" || after != "" && (after[0] != '.' || after == ".") {
			return fmt.Errorf("the claim %s has a quote that does not surround a name: write it as resource_access.\"com.acme.api\".roles", path)
		}
		rest = strings.TrimPrefix(after, ".")
	}
	return nil
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

// checkBinding refuses tokens that only the holder of a key may use (RFC 7800), in whatever way they are bound
// to it (RFC 9449 section 6, RFC 8705 section 3): as a Bearer token a stolen one would pass.
func (c *claims) checkBinding() error {
	raw := c.raw("cnf")
	if raw == nil {
		return nil
	}
	if decode(raw) == nil && string(raw) == "null" {
		return nil
	}
	return invalid(bound, "The token is bound to a key and cannot be used as a Bearer token.")
}

// subject is the claim sub, "" where there is none: absent, null or an empty string. With numeric it may be
// an integer, for the text of it.
func (c *claims) subject(numeric bool) (string, error) {
	raw := c.raw("sub")
	if raw == nil || string(raw) == "null" {
		return "", nil
	}
	sub, ok := unquote(raw)
	if !ok && numeric && strings.Trim(string(raw), "0123456789") == "" {
		sub, ok = string(raw), true
	}
	if !ok || len(sub) > maxSubject || strings.ContainsFunc(sub, control) {
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
