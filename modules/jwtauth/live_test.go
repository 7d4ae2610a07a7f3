package jwtauth

import (
	"context"
	"crypto/ed25519"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

// hs signs claims that are valid for an hour, with changes.
func hs(t testing.TB, key string, changes jwt.MapClaims) string {
	t.Helper()
	c := jwt.MapClaims{"sub": "user-1", "exp": time.Now().Add(time.Hour).Unix()}
	for name, v := range changes {
		c[name] = v
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString([]byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func version(label, value string) secret.Version {
	return secret.Version{Label: label, Value: secret.NewValue([]byte(value))}
}

const otherHS256 = "fedcba9876543210fedcba9876543210"

// wantCode checks what a verifier says: "" for a token that passes.
func wantCode(t *testing.T, v *verifier, token string, want problem.Code) {
	t.Helper()
	_, _, err := v.check(t.Context(), token, time.Now())
	var got problem.Code
	if err != nil {
		got = problem.From(err).Code
	}
	if got != want {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
}

func TestSecretsAreLive(t *testing.T) {
	set := secret.NewSet("jwt")
	var told atomic.Int32
	s, err := newSecretKeys(set, func(error) { told.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	v := testVerifier(Trusted{}, Policy{}, s)
	first, second := hs(t, keyHS256, nil), hs(t, otherHS256, nil)
	wantCode(t, v, first, problem.KeysUnavailable) // not read yet

	set.Replace([]secret.Version{version("one", keyHS256)})
	wantCode(t, v, first, "")
	wantCode(t, v, second, problem.InvalidToken)

	set.Replace([]secret.Version{version("two", otherHS256), version("one", keyHS256)})
	wantCode(t, v, first, "")
	wantCode(t, v, first, "") // from the cache
	wantCode(t, v, second, "")
	for _, got := range set.Versions() {
		if got.LastUsed().IsZero() {
			t.Errorf("the version %s was not marked as used", got.Label)
		}
	}

	set.Replace([]secret.Version{version("two", otherHS256)})
	wantCode(t, v, first, problem.InvalidToken) // though it was in the cache
	wantCode(t, v, second, "")

	set.Replace([]secret.Version{version("broken", "short"), version("two", otherHS256)})
	wantCode(t, v, second, "")
	set.Replace([]secret.Version{version("broken", "short")})
	wantCode(t, v, second, "") // the last good ones stay in force
	if told.Load() != 2 {
		t.Errorf("got %d reports of what cannot be used, want 2", told.Load())
	}
	set.Replace(nil)
	wantCode(t, v, second, problem.KeysUnavailable)

	if _, err = newSecretKeys(secret.NewSet("jwt", version("file:x", "short")), nil); err == nil || !strings.Contains(err.Error(), "file:x") {
		t.Errorf("a short secret at the start: got %v", err)
	}
}

func TestRetiredVersionsStopAtTheirTime(t *testing.T) {
	retires := version("old", keyHS256)
	retires.RetireAt = time.Now().Add(300 * time.Millisecond)
	s, err := newSecretKeys(secret.NewSet("jwt", version("new", otherHS256), retires), nil)
	if err != nil {
		t.Fatal(err)
	}
	v, token := testVerifier(Trusted{}, Policy{}, s), hs(t, keyHS256, nil)
	wantCode(t, v, token, "")
	<-time.After(time.Until(retires.RetireAt) + 5*time.Millisecond)
	wantCode(t, v, token, problem.InvalidToken)
}

func TestASecretEndsThoughItsSuccessorIsOfNoUse(t *testing.T) {
	one := version("one", keyHS256)
	set := secret.NewSet("jwt", one)
	s, err := newSecretKeys(set, nil)
	if err != nil {
		t.Fatal(err)
	}
	v, token := testVerifier(Trusted{}, Policy{}, s), hs(t, keyHS256, nil)
	wantCode(t, v, token, "")
	one.RetireAt = time.Now().Add(time.Second)
	set.Replace([]secret.Version{version("bad", "tooshort"), one})
	wantCode(t, v, token, "")
	if err = set.Fault(); err == nil || !strings.Contains(err.Error(), "the secret jwt (bad) cannot be used") {
		t.Errorf("got the fault %v", err)
	}
	<-time.After(time.Until(one.RetireAt) + 5*time.Millisecond)
	wantCode(t, v, token, problem.KeysUnavailable)
}

// fakeIdentity is an identity backend whose keys and revocations a test changes.
type fakeIdentity struct {
	keys       map[string]ed25519.PublicKey
	generation atomic.Uint64
	used       atomic.Pointer[string]
	revoke     atomic.Pointer[string]
	asked      [4]string
	issued     int64
}

func (f *fakeIdentity) TokenIssuer() string   { return "gatehouse" }
func (f *fakeIdentity) TokenAudience() string { return "api" }
func (f *fakeIdentity) VerificationKeys(yield func(string, string, any)) {
	for kid, k := range f.keys {
		yield(kid, "EdDSA", k)
	}
}
func (f *fakeIdentity) KeysGeneration() uint64          { return f.generation.Load() }
func (f *fakeIdentity) KeyUsed(kid string, _ time.Time) { f.used.Store(&kid) }
func (f *fakeIdentity) Revoked(issuer, jti, sid, sub string, issued int64) bool {
	f.asked, f.issued = [4]string{issuer, jti, sid, sub}, issued
	r := f.revoke.Load()
	return r != nil && jti == *r
}

func ed(t testing.TB, kid string, key ed25519.PrivateKey, changes jwt.MapClaims) string {
	t.Helper()
	c := jwt.MapClaims{"iss": "gatehouse", "aud": "api", "sub": "user-1", "exp": time.Now().Add(time.Hour).Unix()}
	for name, v := range changes {
		c[name] = v
	}
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, c)
	token.Header["kid"] = kid
	s, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestKeysOfTheIdentityBackendAreLive(t *testing.T) {
	public, private, _ := ed25519.GenerateKey(nil)
	public2, private2, _ := ed25519.GenerateKey(nil)
	f := &fakeIdentity{keys: map[string]ed25519.PublicKey{}}
	var down atomic.Bool
	down.Store(true)
	b := &bundled{get: func(context.Context) (tokenIssuer, error) {
		if down.Load() {
			return nil, errors.New("it is starting")
		}
		return f, nil
	}}
	v := testVerifier(Trusted{}, Policy{}, b)
	token, token2 := ed(t, "k1", private, nil), ed(t, "k2", private2, nil)
	wantCode(t, v, token, problem.KeysUnavailable)
	down.Store(false)
	wantCode(t, v, token, problem.KeysUnavailable) // it has no key yet
	f.keys["k1"] = public
	f.generation.Add(1)
	wantCode(t, v, token, "")
	if used := f.used.Load(); used == nil || *used != "k1" {
		t.Error("the backend was not told that its key verified a token")
	}
	wantCode(t, v, token2, problem.InvalidToken)
	f.keys = map[string]ed25519.PublicKey{"k2": public2}
	f.generation.Add(1)
	wantCode(t, v, token2, "")
	wantCode(t, v, token, problem.InvalidToken) // its key is retired, though the token was in the cache
	wantCode(t, v, ed(t, "k2", private2, jwt.MapClaims{"iss": "other"}), problem.InvalidToken)
	wantCode(t, v, ed(t, "k2", private2, jwt.MapClaims{"aud": "other"}), problem.InvalidToken)
}

func TestRevocationIsAskedForEachRequest(t *testing.T) {
	f := new(fakeIdentity)
	var gone error
	v := newVerifier(Policy{Require: []Rule{{Scope: []string{"never"}}}}, func(context.Context) (revoker, error) { return f, gone },
		newProvider(Trusted{Issuer: "https://a.example"}, single(t, "", []byte(keyHS256)), "test"))
	iat := time.Now().Add(-time.Minute).Unix()
	token := hs(t, keyHS256, jwt.MapClaims{"iss": "https://a.example", "jti": "j", "sid": "s", "iat": iat})
	wantCode(t, v, token, problem.InsufficientScope)
	if want := [4]string{"https://a.example", "j", "s", "user-1"}; f.asked != want || f.issued != iat*1000 {
		t.Errorf("got the question %q at %d, want %q at %d", f.asked, f.issued, want, iat*1000)
	}
	j := "j"
	f.revoke.Store(&j)
	_, o, err := v.check(t.Context(), token, time.Now())
	if e := problem.From(err); e.Code != problem.InvalidToken || e.Detail != "The token was revoked." || o != revoked {
		t.Errorf("got %v, want that it was revoked", err)
	}
	gone = &problem.Error{Code: problem.Unavailable}
	wantCode(t, v, token, problem.Unavailable)
	f.revoke.Store(nil)
	gone = nil
	wantCode(t, v, token, problem.InsufficientScope)
}

func TestIssuersHaveTheirOwnKeys(t *testing.T) {
	keyC := strings.Repeat("c", 32)
	v := newVerifier(Policy{}, func(context.Context) (revoker, error) { return nothingRevoked{}, nil },
		newProvider(Trusted{Issuer: "https://a.example/"}, single(t, "", []byte(keyHS256)), "a"),
		newProvider(Trusted{Issuer: "https://b.example", Audience: []string{"api", "web"}}, single(t, "", []byte(otherHS256)), "b"),
		newProvider(Trusted{}, single(t, "", []byte(keyC)), "c"))
	for name, c := range map[string]struct {
		key    string
		claims jwt.MapClaims
		code   problem.Code
	}{
		"a":                     {keyHS256, jwt.MapClaims{"iss": "https://a.example/"}, ""},
		"a-without-its-slash":   {keyHS256, jwt.MapClaims{"iss": "https://a.example"}, problem.InvalidToken},
		"b":                     {otherHS256, jwt.MapClaims{"iss": "https://b.example", "aud": "web"}, ""},
		"b-audience-array":      {otherHS256, jwt.MapClaims{"iss": "https://b.example", "aud": []string{"x", "api"}}, ""},
		"b-without-an-audience": {otherHS256, jwt.MapClaims{"iss": "https://b.example"}, problem.InvalidToken},
		"a-by-the-key-of-b":     {otherHS256, jwt.MapClaims{"iss": "https://a.example/"}, problem.InvalidToken},
		"b-by-the-key-of-a":     {keyHS256, jwt.MapClaims{"iss": "https://b.example", "aud": "api"}, problem.InvalidToken},
		"a-by-the-other-key":    {keyC, jwt.MapClaims{"iss": "https://a.example/"}, problem.InvalidToken},
		"without-iss":           {keyC, nil, ""},
		"another-iss":           {keyC, jwt.MapClaims{"iss": "https://c.example"}, ""},
		"another-iss-by-a":      {keyHS256, jwt.MapClaims{"iss": "https://c.example"}, problem.InvalidToken},
	} {
		t.Run(name, func(t *testing.T) {
			token := hs(t, c.key, c.claims)
			wantCode(t, v, token, c.code)
			wantCode(t, v, token, c.code) // from the cache
		})
	}
}

func TestAlgorithmsAreThoseOfTheKeyAndOfTheDirective(t *testing.T) {
	public, private, _ := ed25519.GenerateKey(nil)
	for algs, ok := range map[string]bool{"": true, "EdDSA": true, "Ed25519": true, "RS256 EdDSA": true, "ES256": false, "HS256": false} {
		v := testVerifier(Trusted{Algorithms: strings.Fields(algs)}, Policy{}, single(t, "k", public))
		want := problem.Code("")
		if !ok {
			want = problem.InvalidToken
		}
		wantCode(t, v, ed(t, "k", private, nil), want)
	}
}

func TestStepUp(t *testing.T) {
	v := testVerifier(Trusted{}, Policy{Require: []Rule{{ACR: []string{"gold", "platinum"}}, {MaxAge: unit.Duration(5 * time.Minute)}, {Claim: "realm_access.roles", Values: []string{"admin"}}}},
		single(t, "", []byte(keyHS256)))
	now := time.Now()
	roles := map[string]any{"roles": []string{"admin"}}
	all := jwt.MapClaims{"acr": "gold", "auth_time": now.Unix() - 60, "realm_access": roles}
	with := func(name string, value any) string {
		c := jwt.MapClaims{}
		for k, v := range all {
			c[k] = v
		}
		c[name] = value
		return hs(t, keyHS256, c)
	}
	for name, c := range map[string]struct {
		token string
		code  problem.Code
	}{
		"all-hold":        {with("x", 1), ""},
		"weaker":          {with("acr", "silver"), problem.InsufficientLogin},
		"no-acr":          {with("acr", nil), problem.InsufficientLogin},
		"too-long-ago":    {with("auth_time", now.Unix()-5*60-31), problem.InsufficientLogin},
		"in-the-leeway":   {with("auth_time", now.Unix()-5*60-20), ""},
		"no-auth_time":    {with("auth_time", nil), problem.InsufficientLogin},
		"no-role":         {with("realm_access", 1), problem.InsufficientScope},
		"literal-dots":    {with("realm_access.roles", "admin"), ""},
		"literal-is-more": {with("realm_access.roles", "user"), problem.InsufficientScope},
	} {
		t.Run(name, func(t *testing.T) { wantCode(t, v, c.token, c.code) })
	}
	token := with("x", 2)
	if _, _, err := v.check(t.Context(), token, now); err != nil {
		t.Fatal(err)
	}
	_, _, err := v.check(t.Context(), token, now.Add(5*time.Minute)) // the login grows old in the cache
	if e := problem.From(err); e.Code != problem.InsufficientLogin ||
		!strings.HasSuffix(e.Header.Get("Www-Authenticate"), `error="insufficient_user_authentication", error_description="A stronger or a more recent login is required here.", acr_values="gold platinum", max_age="300"`) {
		t.Errorf("got %v with %q", err, e.Header)
	}
}

func TestRequiredType(t *testing.T) {
	v := testVerifier(Trusted{}, Policy{Type: "at+jwt"}, single(t, "", []byte(keyHS256)))
	for typ, ok := range map[any]bool{"at+jwt": true, "application/at+JWT": true, "JWT": false, nil: false} {
		token := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"exp": time.Now().Add(time.Hour).Unix()})
		delete(token.Header, "typ")
		if typ != nil {
			token.Header["typ"] = typ
		}
		s, err := token.SignedString([]byte(keyHS256))
		if err != nil {
			t.Fatal(err)
		}
		want := problem.Code("")
		if !ok {
			want = problem.InvalidToken
		}
		wantCode(t, v, s, want)
	}
}
