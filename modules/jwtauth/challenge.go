package jwtauth

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// challenge is the value of WWW-Authenticate (RFC 6750 section 3). code, description and scope are
// left out where they are empty.
func challenge(code, description, scope string) http.Header {
	var b strings.Builder
	b.WriteString(`Bearer realm="gatehouse"`)
	for _, p := range [][2]string{{"error", code}, {"error_description", description}, {"scope", scope}} {
		if p[1] != "" {
			b.WriteString(", " + p[0] + `="` + quotable(p[1]) + `"`)
		}
	}
	return http.Header{"Www-Authenticate": {b.String()}}
}

// quotable drops what error_description must not hold: anything but %x20-21 / %x23-5B / %x5D-7E.
func quotable(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			return -1
		}
		return c
	}, s)
}

// invalid refuses a token. The sentence is sent to the client and must not quote the token.
func invalid(sentence string) *problem.Error {
	e := problem.New(problem.InvalidToken, "%s", sentence)
	e.Header = challenge("invalid_token", sentence, "")
	return e
}

// missing asks for a token. Without credentials there is no error attribute (RFC 6750 section 3.1).
func missing() *problem.Error {
	e := problem.New(problem.MissingToken, "Send an access token in the header Authorization: Bearer.")
	e.Header = challenge("", "", "")
	return e
}

// malformed refuses a request whose Authorization is not one Bearer token.
func malformed(sentence string) *problem.Error {
	e := problem.New(problem.InvalidRequest, "%s", sentence)
	e.Header = challenge("invalid_request", sentence, "")
	return e
}

// insufficient refuses a valid token that a rule does not allow. scopes are all that are asked for.
func insufficient(scopes []string) *problem.Error {
	scope := strings.Join(scopes, " ")
	sentence := "The token does not have what is required here."
	e := problem.New(problem.InsufficientScope, "%s", sentence)
	if scope != "" {
		e.Extra = map[string]any{"scope": scope}
	}
	e.Header = challenge("insufficient_scope", sentence, scope)
	return e
}

// unavailable says that there are no keys to verify with, which is not the token's fault.
func unavailable(retry time.Duration, cause error) error {
	if errors.Is(cause, context.Canceled) {
		return cause
	}
	return &problem.Error{
		Code: problem.KeysUnavailable, Detail: "The keys that verify access tokens cannot be had right now, try again later.",
		RetryAfter: max(retry, time.Second), Cause: cause,
	}
}

// bearer is the token in Authorization, "" where no Bearer token is sent. Nothing else is looked at:
// not the query, not the body, not a cookie.
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

// preflight says whether r is a CORS preflight, which a browser sends without credentials.
func preflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" && r.Header.Get("Origin") != ""
}
