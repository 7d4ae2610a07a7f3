package jwtauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
)

// lastDate is the end of the year 9999 in unix seconds. A later date is a mistake, such as one in
// milliseconds.
const lastDate = 253402300799

const maxSubject = 1024 // bytes

var errClaims = errors.New("the claims are not one JSON object in UTF-8 with each name once")

// claims are the claims of one token. Numbers are json.Number, so that none loses digits.
type claims struct{ jwt.MapClaims }

// UnmarshalJSON reads an object in which no name comes twice (RFC 7519 section 4): another reader of
// the same token might take the other of the two.
func (c *claims) UnmarshalJSON(b []byte) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if t, err := dec.Token(); err != nil || t != json.Delim('{') || !utf8.Valid(b) {
		return errClaims
	}
	c.MapClaims = jwt.MapClaims{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return errClaims
		}
		name, _ := t.(string)
		if _, twice := c.MapClaims[name]; twice {
			return errClaims
		}
		var v any
		if err = dec.Decode(&v); err != nil {
			return errClaims
		}
		c.MapClaims[name] = v
	}
	return nil
}

// date reads a NumericDate (RFC 7519 section 2), which may have a fraction, as unix milliseconds.
// It is ok also where the claim is absent.
func (c claims) date(name string) (ms int64, present, ok bool) {
	v, present := c.MapClaims[name]
	if !present {
		return 0, false, true
	}
	n, isNumber := v.(json.Number)
	if !isNumber {
		return 0, true, false
	}
	f, err := n.Float64()
	if err != nil || math.Abs(f) > lastDate {
		return 0, true, false
	}
	return int64(math.Floor(f * 1000)), true, true
}

// checkDates says until when the token is valid, in unix milliseconds with the leeway in it.
func (c claims) checkDates(now time.Time, leeway time.Duration) (until int64, err error) {
	exp, hasExp, ok1 := c.date("exp")
	nbf, hasNbf, ok2 := c.date("nbf")
	iat, hasIat, ok3 := c.date("iat")
	ms, skew := now.UnixMilli(), leeway.Milliseconds()
	switch {
	case !ok1 || !ok2 || !ok3:
		return 0, invalid("The dates of the token are not numbers in a sensible range.")
	case !hasExp:
		return 0, invalid("The token does not say when it expires.")
	case ms >= exp+skew:
		return 0, invalid("The token has expired.")
	case hasNbf && ms < nbf-skew:
		return 0, invalid("The token is not valid yet.")
	case hasIat && ms < iat-skew:
		return 0, invalid("The token was issued in the future.")
	}
	return exp + skew, nil
}

// checkParties compares iss and aud. An empty issuer or audience is not checked.
func (c claims) checkParties(issuer string, audience []string) error {
	if iss, _ := c.MapClaims["iss"].(string); issuer != "" && iss != issuer {
		return invalid("The token is from another issuer.")
	}
	aud, ok := c.strings("aud")
	if !ok {
		return invalid("The audience of the token is neither a string nor an array of strings.")
	}
	if len(audience) > 0 && !anyOf(audience, aud) {
		return invalid("The token is for another audience.")
	}
	return nil
}

// checkBinding refuses tokens that only the holder of a key may use (RFC 9449 section 6, RFC 8705
// section 3): as a Bearer token a stolen one would pass.
func (c claims) checkBinding() error {
	cnf, _ := c.MapClaims["cnf"].(map[string]any)
	for _, method := range []string{"jkt", "x5t#S256"} {
		if _, bound := cnf[method]; bound {
			return invalid("The token is bound to a key and cannot be used as a Bearer token.")
		}
	}
	return nil
}

// subject is the claim sub, "" where there is none.
func (c claims) subject() (string, error) {
	v, present := c.MapClaims["sub"]
	sub, ok := v.(string)
	switch {
	case !present:
		return "", nil
	case !ok || sub == "" || len(sub) > maxSubject || strings.ContainsFunc(sub, control):
		return "", invalid("The subject of the token is not a short printable string.")
	}
	return sub, nil
}

func control(r rune) bool { return r < ' ' || r == 0x7f }

// strings reads a string or an array of strings; absent is none.
func (c claims) strings(name string) (list []string, ok bool) {
	switch v := c.MapClaims[name].(type) {
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
func (c claims) list(name string) []string {
	v := c.MapClaims[name]
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

// scopes are the words of the claims scope (RFC 9068 section 2.2.3) and scp.
func (c claims) scopes() []string {
	var all []string
	for _, s := range slices.Concat(c.list("scope"), c.list("scp")) {
		all = append(all, strings.Fields(s)...)
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
		if v {
			return "true", true
		}
		return "false", true
	}
	return "", false
}
