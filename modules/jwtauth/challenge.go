package jwtauth

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// param is one parameter of a challenge; an empty one is left out.
type param struct{ name, value string }

// challenge is the value of WWW-Authenticate (RFC 6750 section 3).
func challenge(params ...param) http.Header {
	var b strings.Builder
	b.WriteString(`Bearer realm="gatehouse"`)
	for _, p := range params {
		if p.value != "" {
			b.WriteString(", " + p.name + `="` + quotable(p.value) + `"`)
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

// deny is a refusal with a challenge that names the error.
func deny(o outcome, code problem.Code, name, sentence string, more ...param) denial {
	e := problem.New(code, "%s", sentence)
	e.Header = challenge(append([]param{{"error", name}, {"error_description", sentence}}, more...)...)
	return denial{e, o}
}

// invalid refuses a token. The sentence is sent to the client and must not quote the token.
func invalid(o outcome, sentence string) denial {
	return deny(o, problem.InvalidToken, "invalid_token", sentence)
}

// missing asks for a token. Without credentials there is no error attribute (RFC 6750 section 3.1).
func missing(where string) denial {
	e := problem.New(problem.MissingToken, "Send an access token in %s.", where)
	e.Header = challenge()
	return denial{e, missingToken}
}

// malformed refuses a request that does not carry one token in the right form.
func malformed(sentence string) denial {
	return deny(invalidRequest, problem.InvalidRequest, "invalid_request", sentence)
}

// insufficient refuses a valid token that a rule does not allow. scopes are all that are asked for.
func insufficient(scopes []string) denial {
	scope := strings.Join(scopes, " ")
	d := deny(insufficientScope, problem.InsufficientScope, "insufficient_scope", "The token does not have what is required here.", param{"scope", scope})
	if scope != "" {
		d.problem.Extra = map[string]any{"scope": scope}
	}
	return d
}

// stepUp asks for another or a newer login (RFC 9470 section 3).
func stepUp(p *Policy) denial {
	acr, age := p.stepUp()
	return deny(insufficientAuthentication, problem.InsufficientLogin, "insufficient_user_authentication",
		"A stronger or a more recent login is required here.", param{"acr_values", acr}, param{"max_age", age})
}

// unavailable says that there are no keys to verify with, which is not the token's fault.
func unavailable(retry time.Duration, cause error) error {
	if errors.Is(cause, context.Canceled) {
		return cause
	}
	return denial{&problem.Error{
		Code: problem.KeysUnavailable, Detail: "The keys that verify access tokens cannot be had right now, try again later.",
		RetryAfter: max(retry, time.Second), Cause: cause,
	}, keysUnavailable}
}

// pointing is a refusal that tells clients where the metadata of this API are (RFC 9728 section 5.1).
func (h *Handler) pointing(err error) error {
	d, ok := err.(denial) //nolint:errorlint // what admit returns is never wrapped
	if !ok || h.ResourceMetadata == "" {
		return err
	}
	if values := d.problem.Header["Www-Authenticate"]; len(values) == 1 {
		d.problem.Header["Www-Authenticate"] = []string{values[0] + `, resource_metadata="` + h.ResourceMetadata + `"`}
	}
	return d
}

// preflight says whether r is a CORS preflight, which a browser sends without credentials.
func preflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" && r.Header.Get("Origin") != ""
}
