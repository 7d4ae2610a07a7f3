package jwtauth_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func TestValidTokensPass(t *testing.T) {
	g := protected(t)
	k := keys()
	for name, token := range map[string]string{
		"rs256":              sign(t, r1, good(nil), k.rsa),
		"es256":              sign(t, `{"alg":"ES256","kid":"e1"}`, good(nil), k.ec),
		"eddsa":              sign(t, `{"alg":"EdDSA","kid":"d1"}`, good(nil), k.ed),
		"ed25519":            sign(t, `{"alg":"Ed25519","kid":"d1"}`, good(nil), k.ed),
		"without-kid":        sign(t, `{"alg":"RS256"}`, good(nil), k.rsa),
		"at+jwt":             sign(t, `{"alg":"RS256","kid":"r1","typ":"application/AT+jwt"}`, good(nil), k.rsa),
		"audience-array":     sign(t, r1, good(claims{"aud": []string{"other", "api"}}), k.rsa),
		"fractional-dates":   sign(t, r1, good(claims{"exp": float64(time.Now().Unix()) + 600.5, "nbf": float64(time.Now().Unix()) - 0.25}), k.rsa),
		"expired-in-leeway":  sign(t, r1, good(claims{"exp": time.Now().Unix() - 10}), k.rsa),
		"future-in-leeway":   sign(t, r1, good(claims{"nbf": time.Now().Unix() + 10, "iat": time.Now().Unix() + 10}), k.rsa),
		"scope-array":        sign(t, r1, good(claims{"scope": []string{"read"}}), k.rsa),
		"scp":                sign(t, r1, good(claims{"scope": nil, "scp": "read"}), k.rsa),
		"ignored-header-jwk": sign(t, `{"alg":"RS256","kid":"r1","jku":"https://evil.example/","x5c":["AAAA"]}`, good(nil), k.rsa),
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // the second time from the cache
				if a := askWith(g, token); a.status != http.StatusOK || a.body != "user-1|user-1|" {
					t.Errorf("got %d %s", a.status, a.body)
				}
			}
		})
	}
	lower := httptest.NewRequest(http.MethodGet, "/", nil)
	lower.Header.Set("Authorization", "bEARER  "+sign(t, r1, good(nil), k.rsa))
	if a := ask(g, lower); a.status != http.StatusOK {
		t.Errorf("another case of the scheme: got %d", a.status)
	}
}

func TestAttacksAreRefused(t *testing.T) {
	g := protected(t)
	k := keys()
	publicDER, _ := x509.MarshalPKIXPublicKey(k.rsa.Public())
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER})
	valid := sign(t, r1, good(nil), k.rsa)
	parts := strings.Split(valid, ".")
	now := time.Now().Unix()
	with := func(changes claims) string { return sign(t, r1, good(changes), k.rsa) }
	raw := func(payload string) string { return sign(t, r1, payload, k.rsa) }
	headed := func(header string) string { return sign(t, header, good(nil), k.rsa) }
	embedded, _ := json.Marshal(jwk(t, "x", "", k.foreign.Public()))
	exp := fmt.Sprintf(`"exp":%d`, now+600)

	tokens := map[string]string{
		"alg-none":                   sign(t, `{"alg":"none"}`, good(nil), nil),
		"alg-none-kid":               sign(t, `{"alg":"none","kid":"r1"}`, good(nil), nil),
		"alg-None":                   sign(t, `{"alg":"None"}`, good(nil), nil),
		"alg-NONE":                   sign(t, `{"alg":"NONE"}`, good(nil), nil),
		"alg-nOnE":                   sign(t, `{"alg":"nOnE"}`, good(nil), nil),
		"alg-none-signed":            headed(`{"alg":"none"}`),
		"alg-empty":                  headed(`{"alg":""}`),
		"alg-missing":                headed(`{"kid":"r1"}`),
		"alg-number":                 headed(`{"alg":256}`),
		"alg-lower-case":             headed(`{"alg":"rs256","kid":"r1"}`),
		"alg-ES256K":                 headed(`{"alg":"ES256K","kid":"r1"}`),
		"alg-RS512-of-RS256-key":     signedBy(t, "RS512"),
		"alg-PS256-of-RS256-key":     signedBy(t, "PS256"),
		"alg-of-another-key":         headed(`{"alg":"ES256","kid":"r1"}`),
		"hs256-with-public-pem":      sign(t, `{"alg":"HS256","kid":"r1"}`, good(nil), publicPEM),
		"hs256-with-public-der":      sign(t, `{"alg":"HS256","kid":"r1"}`, good(nil), publicDER),
		"hs256-with-modulus":         sign(t, `{"alg":"HS256"}`, good(nil), k.rsa.N.Bytes()),
		"hs256-with-ed25519-key":     sign(t, `{"alg":"HS256","kid":"d1"}`, good(nil), []byte(k.ed.Public().(ed25519.PublicKey))),
		"hs256-with-empty-key":       sign(t, `{"alg":"HS256"}`, good(nil), []byte{}),
		"foreign-key":                sign(t, r1, good(nil), k.foreign),
		"foreign-key-without-kid":    sign(t, `{"alg":"RS256"}`, good(nil), k.foreign),
		"embedded-jwk":               sign(t, `{"alg":"RS256","jwk":`+string(embedded)+`}`, good(nil), k.foreign),
		"jku":                        sign(t, `{"alg":"RS256","kid":"x","jku":"http://127.0.0.1:1/jwks.json"}`, good(nil), k.foreign),
		"x5u":                        sign(t, `{"alg":"RS256","kid":"r1","x5u":"http://127.0.0.1:1/cert"}`, good(nil), k.foreign),
		"kid-unknown":                headed(`{"alg":"RS256","kid":"r2"}`),
		"kid-traversal":              sign(t, `{"alg":"HS256","kid":"../../../../dev/null"}`, good(nil), []byte{}),
		"kid-sql":                    sign(t, `{"alg":"HS256","kid":"x' UNION SELECT 'key'--"}`, good(nil), []byte("key")),
		"kid-url":                    headed(`{"alg":"RS256","kid":"http://127.0.0.1:1/k"}`),
		"kid-number":                 headed(`{"alg":"RS256","kid":1}`),
		"kid-null":                   headed(`{"alg":"RS256","kid":null}`),
		"typ-of-another-kind":        headed(`{"alg":"RS256","kid":"r1","typ":"dpop+jwt"}`),
		"typ-empty":                  headed(`{"alg":"RS256","kid":"r1","typ":""}`),
		"typ-number":                 headed(`{"alg":"RS256","kid":"r1","typ":1}`),
		"crit-unknown":               headed(`{"alg":"RS256","kid":"r1","crit":["exp"],"exp":1}`),
		"crit-b64":                   headed(`{"alg":"RS256","kid":"r1","crit":["b64"],"b64":true}`),
		"crit-empty":                 headed(`{"alg":"RS256","kid":"r1","crit":[]}`),
		"header-with-a-name-twice":   headed(`{"alg":"none","alg":"RS256","kid":"r1"}`),
		"header-name-twice-escaped":  headed(`{"alg":"RS256","kid":"r1","\u006bid":"r1"}`),
		"header-invalid-utf8":        headed("{\"alg\":\"RS256\",\"kid\":\"r1\",\"x\":\"\xff\"}"),
		"nested-duplicate-claim":     raw(`{"iss":"https://idp.example","aud":"api",` + exp + `,"x":{"a":1,"a":2}}`),
		"duplicate-claim-escaped":    raw(`{"iss":"https://idp.example","aud":"api",` + exp + `,"sub":"user-1","\u0073ub":"admin"}`),
		"header-not-an-object":       headed(`["RS256"]`),
		"header-null":                headed(`null`),
		"exp-missing":                with(claims{"exp": nil}),
		"exp-past":                   with(claims{"exp": now - 31}),
		"exp-negative":               with(claims{"exp": -1}),
		"exp-a-string":               with(claims{"exp": fmt.Sprint(now + 600)}),
		"exp-an-array":               with(claims{"exp": []int64{now + 600}}),
		"exp-true":                   with(claims{"exp": true}),
		"exp-null":                   raw(`{"iss":"https://idp.example","aud":"api","exp":null}`),
		"exp-huge":                   raw(`{"iss":"https://idp.example","aud":"api","exp":1e300}`),
		"exp-too-huge-for-a-float":   raw(`{"iss":"https://idp.example","aud":"api","exp":1e999}`),
		"exp-overflows-int64":        raw(`{"iss":"https://idp.example","aud":"api","exp":18446744073709551616}`),
		"exp-in-milliseconds":        with(claims{"exp": (now + 600) * 1000}),
		"exp-in-another-case":        raw(`{"iss":"https://idp.example","aud":"api","EXP":99999999999}`),
		"nbf-future":                 with(claims{"nbf": now + 60}),
		"nbf-a-string":               with(claims{"nbf": "0"}),
		"iat-future":                 with(claims{"iat": now + 60}),
		"iat-huge":                   raw(`{"iss":"https://idp.example","aud":"api",` + exp + `,"iat":-1e300}`),
		"iss-missing":                with(claims{"iss": nil}),
		"iss-with-a-slash":           with(claims{"iss": "https://idp.example/"}),
		"iss-in-another-case":        with(claims{"iss": "https://IDP.example"}),
		"iss-an-array":               with(claims{"iss": []string{"https://idp.example"}}),
		"aud-missing":                with(claims{"aud": nil}),
		"aud-of-another-api":         with(claims{"aud": "other"}),
		"aud-in-another-case":        with(claims{"aud": "API"}),
		"aud-array-without-ours":     with(claims{"aud": []string{"a", "b"}}),
		"aud-empty-array":            with(claims{"aud": []string{}}),
		"aud-array-of-mixed-types":   with(claims{"aud": []any{"api", 1}}),
		"aud-an-object":              with(claims{"aud": claims{"api": "api"}}),
		"sub-a-number":               with(claims{"sub": 1}),
		"sub-with-a-fraction":        with(claims{"sub": 1.5}),
		"sub-with-a-newline":         with(claims{"sub": "a\r\nX-Admin: 1"}),
		"sub-too-long":               with(claims{"sub": strings.Repeat("x", 1025)}),
		"claim-too-large-to-hand-on": with(claims{"roles": strings.Repeat("x", 8001)}),
		"dpop-bound":                 with(claims{"cnf": claims{"jkt": "x"}}),
		"certificate-bound":          with(claims{"cnf": claims{"x5t#S256": "x"}}),
		"bound-in-an-unknown-way":    with(claims{"cnf": claims{"kid": "x"}}),
		"bound-to-nothing":           with(claims{"cnf": claims{}}),
		"bound-by-a-string":          with(claims{"cnf": "x"}),
		"duplicate-claim":            raw(`{"iss":"https://idp.example","aud":"api",` + exp + `,"sub":"user-1","sub":"admin"}`),
		"claims-not-an-object":       raw(`["sub"]`),
		"claims-null":                raw(`null`),
		"claims-not-json":            raw(`{"sub"`),
		"claims-with-a-tail":         raw(`{"iss":"https://idp.example","aud":"api",` + exp + `}{}`),
		"claims-invalid-utf8":        raw("{\"iss\":\"https://idp.example\",\"aud\":\"api\"," + exp + ",\"sub\":\"a\xff\"}"),
		"claims-deeply-nested":       raw(strings.Repeat("[", 2500) + strings.Repeat("]", 2500)),
		"token-of-1-mib":             strings.Repeat("a", 1<<20),
		"token-of-8193-bytes":        strings.Repeat("a", 4000) + "." + strings.Repeat("a", 4000) + "." + strings.Repeat("a", 191),
		"signature-missing":          parts[0] + "." + parts[1] + ".",
		"signature-cut":              valid[:len(valid)-4],
		"signature-of-another":       parts[0] + "." + b64([]byte(good(claims{"sub": "admin"}))) + "." + parts[2],
		"two-segments":               parts[0] + "." + parts[1],
		"four-segments":              valid + "." + parts[2],
		"five-segments":              valid + ".a.b",
		"segments-reversed":          parts[2] + "." + parts[1] + "." + parts[0],
		"segments-swapped":           parts[1] + "." + parts[0] + "." + parts[2],
		"only-dots":                  "..",
		"padding":                    valid + "==",
		"standard-base64":            strings.ReplaceAll(valid, "_", "/") + "+",
		"json-serialization":         `{"payload":"` + parts[1] + `"}`,
		"quoted":                     `"` + valid + `"`,
		"invalid-utf8":               valid + "\xff",
		"nul":                        valid + "\x00",
		"not-base64url-length":       parts[0] + "." + parts[1] + "." + parts[2] + "aaa",
		"trailing-bits":              trailingBits(valid),
	}
	for name, token := range tokens {
		t.Run(name, func(t *testing.T) {
			a := askWith(g, token)
			if a.status != http.StatusUnauthorized {
				t.Fatalf("got %d, want 401", a.status)
			}
			if a.problemCode() != "invalid-token" {
				t.Errorf("got the problem %q", a.problemCode())
			}
			wellFormed(t, a.challenge, "invalid_token")
		})
	}
}

// signedBy is a token whose signature by the key r1 is right, by another algorithm than the key's.
func signedBy(t testing.TB, alg string) string {
	t.Helper()
	in := b64([]byte(`{"alg":"`+alg+`","kid":"r1"}`)) + "." + b64([]byte(good(nil)))
	sig, err := jwt.GetSigningMethod(alg).Sign(in, keys().rsa)
	if err != nil {
		t.Fatal(err)
	}
	return in + "." + b64(sig)
}

// trailingBits changes the bits of the last character that do not belong to the signature.
func trailingBits(token string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, token[len(token)-1])
	return token[:len(token)-1] + string(alphabet[last^1])
}

// wellFormed checks a challenge against RFC 6750 section 3.
func wellFormed(t *testing.T, challenge, code string) {
	t.Helper()
	if !strings.HasPrefix(challenge, `Bearer realm="gatehouse", error="`+code+`", error_description="`) || strings.Count(challenge, `"`)%2 != 0 {
		t.Errorf("got the challenge %q, want one with %s", challenge, code)
	}
	for _, c := range challenge {
		if c < ' ' || c > '~' || c == '\\' {
			t.Errorf("got %q in the challenge", c)
		}
	}
}
