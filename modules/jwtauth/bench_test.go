package jwtauth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/zap"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/refuse"
)

var benchMethods = []string{"HS256", "RS256", "ES256", "EdDSA"}

// benchToken is a handler with a key of that algorithm, and a token with the claims that access
// tokens usually have.
func benchToken(b testing.TB, alg string) (*Handler, string) {
	b.Helper()
	var signing any
	switch alg {
	case "HS256":
		signing = []byte(keyHS256)
	case "RS256":
		signing, _ = rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		signing, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "EdDSA":
		_, signing, _ = ed25519.GenerateKey(rand.Reader)
	}
	t := jwt.NewWithClaims(jwt.GetSigningMethod(alg), jwt.MapClaims{
		"iss": "https://issuer.example", "sub": "user-0001", "aud": []string{"bench"}, "jti": "0123456789abcdef",
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
		"scope": "orders:read orders:write", "tenant": "acme", "roles": []string{"reader", "writer"},
	})
	t.Header["kid"] = "k1"
	token, err := t.SignedString(signing)
	if err != nil {
		b.Fatal(err)
	}
	trusted := Trusted{Issuer: "https://issuer.example", Audience: []string{"bench"}}
	p := Policy{
		Require:      []Rule{{Scope: []string{"orders:read"}}},
		ClaimHeaders: []ClaimHeader{{"sub", "X-User-Id"}},
	}
	h := &Handler{Policy: p, refuse: refuse.New(zap.NewNop())}
	s := single(b, "k1", signing)
	s.set.counted("bench")
	h.verifier = testVerifier(trusted, p, s)
	return h, token
}

func benchServe(b *testing.B, h *Handler, token string, before func()) {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/orders", nil)
	passed := 0
	next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
		passed++
		return nil
	})
	repl := caddy.NewReplacer()
	r = caddyhttp.PrepareRequest(r, repl, w, nil)
	r.Header.Set("Authorization", "Bearer "+token)
	providers := *repl // Map appends to it: each request begins anew
	served := 0
	b.ReportAllocs()
	for b.Loop() {
		*repl = providers
		before()
		if err := h.ServeHTTP(w, r, next); err != nil {
			b.Fatal(err)
		}
		served++
	}
	if passed != served {
		b.Fatalf("%d of %d requests passed", passed, served)
	}
}

func BenchmarkServeHTTPCached(b *testing.B) {
	for _, alg := range benchMethods {
		b.Run(alg, func(b *testing.B) {
			h, token := benchToken(b, alg)
			benchServe(b, h, token, func() {})
		})
	}
}

func BenchmarkServeHTTPUncached(b *testing.B) {
	for _, alg := range benchMethods {
		b.Run(alg, func(b *testing.B) {
			h, token := benchToken(b, alg)
			benchServe(b, h, token, func() { h.verifier.owner = owners.Add(1) })
		})
	}
}

// BenchmarkVerify compares our whole decision about a token that is not in the cache with what the JWT
// library alone takes to parse and verify it.
func BenchmarkVerify(b *testing.B) {
	for _, alg := range benchMethods {
		h, token := benchToken(b, alg)
		b.Run(alg+"/ours", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := h.verifier.verify(b.Context(), token, time.Now()); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(alg+"/golang-jwt", func(b *testing.B) {
			set := h.verifier.providers[0].source.current(time.Now())
			parser := jwt.NewParser(jwt.WithValidMethods([]string{alg}), jwt.WithIssuer("https://issuer.example"), jwt.WithAudience("bench"))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := parser.ParseWithClaims(token, jwt.MapClaims{}, func(*jwt.Token) (any, error) { return set.keys[0].key, nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A verified token must not cost a request more than a few hundred nanoseconds; allocations are
// what can be held to a number on any machine.
func TestCachedTokenAllocatesLittle(t *testing.T) {
	h, token := benchToken(t, "HS256")
	next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	w := httptest.NewRecorder()
	repl := caddy.NewReplacer()
	r := caddyhttp.PrepareRequest(httptest.NewRequest(http.MethodGet, "/", nil), repl, w, nil)
	r.Header.Set("Authorization", "Bearer "+token)
	fresh := *repl
	got := testing.AllocsPerRun(200, func() {
		*repl = fresh
		if err := h.ServeHTTP(w, r, next); err != nil {
			t.Fatal(err)
		}
	})
	// The user, the values of the claim headers, the closure of the placeholders, and the replacer's list of providers.
	if got > 4 {
		t.Errorf("got %v allocations for a cached token, want at most 4", got)
	}
}
