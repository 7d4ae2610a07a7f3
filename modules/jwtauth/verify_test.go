package jwtauth

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

func unb64(s string) []byte {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// nothingRevoked is an identity backend that took no token back.
type nothingRevoked struct{}

func (nothingRevoked) Revoked(string, string, string, string, int64) bool { return false }

func testVerifier(trusted Trusted, p Policy, s source) *verifier {
	return newVerifier(p, func(context.Context) (revoker, error) { return nothingRevoked{}, nil }, newProvider(trusted, s, "test"))
}

func single(t testing.TB, id string, raw any) fixed {
	t.Helper()
	k, err := newKey(id, "", raw)
	if err != nil {
		t.Fatal(err)
	}
	return fixed{&keySet{keys: []key{k}}}
}

// Tokens of RFC 7515 appendix A.1, and of our own with the key of RFC 8037 appendix A.
const (
	tokenA1 = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	keyA1   = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"

	payloadP     = "eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlLyIsInN1YiI6InVzZXItMTIzIiwiYXVkIjpbImh0dHBzOi8vYXBpLmV4YW1wbGUvIl0sImV4cCI6MTc2NzIyOTIwMCwibmJmIjoxNzY3MjI1NjAwLCJpYXQiOjE3NjcyMjU2MDAsImp0aSI6Imp0aS0xIiwiY2xpZW50X2lkIjoiYzEiLCJzY29wZSI6InJlYWQgd3JpdGUifQ"
	tokenHS256   = "eyJhbGciOiJIUzI1NiIsInR5cCI6ImF0K2p3dCIsImtpZCI6ImhzMSJ9." + payloadP + ".Tpdn4vBWgI-x_UReTMDabP8LwACrlUzIkhgnVc2pGW8"
	tokenEd25519 = "eyJhbGciOiJFZDI1NTE5IiwidHlwIjoiYXQrand0Iiwia2lkIjoiZWQxIn0." + payloadP + ".sFCeUVK25KrOG9KPaouG-ucliupu0Rd3U4gO9ObBh9uTLSnesj-6l9tcV5i6H_alLDAkLYygeW9Wk3rqmWAkCA"
	tokenNone    = "eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0." + payloadP + "."
	publicEd     = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
	keyHS256     = "0123456789abcdef0123456789abcdef"
)

func TestVectors(t *testing.T) {
	trusted := Trusted{Issuer: "https://issuer.example/", Audience: []string{"https://api.example/"}}
	policy := Policy{Require: []Rule{{Scope: []string{"read", "write"}}}}
	inP := time.Unix(1767225600+60, 0)
	hs, ed := single(t, "", []byte(keyHS256)), single(t, "ed1", ed25519.PublicKey(unb64(publicEd)))
	for name, c := range map[string]struct {
		trusted Trusted
		policy  Policy
		keys    source
		token   string
		now     time.Time
		want    string // the subject
		code    problem.Code
	}{
		"rfc7515-a1":         {Trusted{Issuer: "joe"}, Policy{}, single(t, "", unb64(keyA1)), tokenA1, time.Unix(1300819380-1, 0), "", ""},
		"rfc7515-a1-expired": {Trusted{Issuer: "joe"}, Policy{}, single(t, "", unb64(keyA1)), tokenA1, time.Unix(1300819380+30, 0), "", problem.InvalidToken},
		"hs256":              {trusted, policy, hs, tokenHS256, inP, "user-123", ""},
		"ed25519":            {trusted, policy, ed, tokenEd25519, inP, "user-123", ""},
		"none":               {trusted, policy, ed, tokenNone, inP, "", problem.InvalidToken},
		"none-with-hs256":    {trusted, policy, hs, tokenNone, inP, "", problem.InvalidToken},
		"last-moment":        {trusted, policy, hs, tokenHS256, time.Unix(1767229200+29, 999e6), "user-123", ""},
		"expired":            {trusted, policy, hs, tokenHS256, time.Unix(1767229200+30, 0), "", problem.InvalidToken},
		"first-moment":       {trusted, policy, hs, tokenHS256, time.Unix(1767225600-30, 0), "user-123", ""},
		"too-early":          {trusted, policy, hs, tokenHS256, time.Unix(1767225600-31, 0), "", problem.InvalidToken},
		"another-key":        {trusted, policy, single(t, "", []byte(keyHS256[1:]+"0")), tokenHS256, inP, "", problem.InvalidToken},
		"another-kind":       {trusted, policy, ed, tokenHS256, inP, "", problem.InvalidToken},
		"scope-missing":      {Trusted{}, Policy{Require: []Rule{{Scope: []string{"admin"}}}}, hs, tokenHS256, inP, "", problem.InsufficientScope},
	} {
		t.Run(name, func(t *testing.T) {
			id, _, err := testVerifier(c.trusted, c.policy, c.keys).check(t.Context(), c.token, c.now)
			if c.code != "" {
				if err == nil || problem.From(err).Code != c.code {
					t.Errorf("got %v, want %s", err, c.code)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if id.subject != c.want {
				t.Errorf("got the subject %q, want %q", id.subject, c.want)
			}
		})
	}
}

func TestCacheForgets(t *testing.T) {
	now := time.Unix(1767225600, 0)
	s := &switching{}
	s.set = single(t, "", []byte(keyHS256)).set
	v := testVerifier(Trusted{}, Policy{}, s)
	first, _, err := v.check(t.Context(), tokenHS256, now)
	if err != nil {
		t.Fatal(err)
	}
	if again, _, err := v.check(t.Context(), tokenHS256, now); err != nil || again != first {
		t.Errorf("got a new identity (%v), want the one in the cache", err)
	}
	if other, _, err := testVerifier(Trusted{}, Policy{}, s).check(t.Context(), tokenHS256, now); err != nil || other == first {
		t.Errorf("another directive got the identity of this one (%v)", err)
	}
	if strict := testVerifier(Trusted{Issuer: "other"}, Policy{}, s); strict != nil {
		if _, _, err := strict.check(t.Context(), tokenHS256, now); err == nil {
			t.Error("another policy let the cached token pass")
		}
	}
	if _, _, err := v.check(t.Context(), tokenHS256, time.Unix(1767229200+30, 0)); err == nil {
		t.Error("the token outlived exp and leeway in the cache")
	}
	if _, _, err = v.check(t.Context(), tokenHS256, now); err != nil {
		t.Fatal(err)
	}
	s.set = single(t, "", []byte(strings.Repeat("n", 32))).set
	if _, _, err = v.check(t.Context(), tokenHS256, now); err == nil {
		t.Error("the token outlived its key in the cache")
	}
}

// switching is a source whose set a test replaces.
type switching struct{ set *keySet }

func (s *switching) current(time.Time) *keySet                        { return s.set }
func (s *switching) load(context.Context, time.Time) (*keySet, error) { return s.set, nil }
func (s *switching) newer(context.Context, time.Time, *keySet, doubt) (*keySet, error) {
	return s.set, nil
}
func (s *switching) fetched() time.Time { return time.Time{} }

func TestHeaderValue(t *testing.T) {
	for name, c := range map[string]struct {
		json, want string
	}{
		"plain":          {`"user-1"`, "user-1"},
		"inner-space":    {`"Ada Lovelace"`, "Ada Lovelace"},
		"outer-spaces":   {`" a "`, "%20a%20"},
		"newline":        {`"a\r\nX-Admin: 1"`, "a%0D%0AX-Admin: 1"},
		"percent":        {`"100%0A"`, "100%250A"},
		"umlaut":         {`"Jürgen"`, "J%C3%BCrgen"},
		"delete":         {`"\u007f"`, "%7F"},
		"big-number":     {`12345678901234567890`, "12345678901234567890"},
		"boolean":        {`true`, "true"},
		"array":          {`["a","b,c",1,false]`, "a,b%2Cc,1,false"},
		"empty-array":    {`[]`, ""},
		"object":         {`{"a":1}`, "eyJhIjoxfQ"},
		"nested-array":   {`[["a"]]`, "W1siYSJdXQ"},
		"array-of-nulls": {`[null]`, "W251bGxd"},
	} {
		var cl claims
		if err := cl.UnmarshalJSON([]byte(`{"c":` + c.json + `}`)); err != nil {
			t.Fatal(err)
		}
		fields, err := claimHeaders{{"c", "X-C"}}.fields(&cl, "", false)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, fields[0].value); diff != "" {
			t.Errorf("%s differs (-want +got):\n%s", name, diff)
		}
	}
	var null claims
	_ = null.UnmarshalJSON([]byte(`{"c":null}`))
	if fields, err := (claimHeaders{{"c", "X-C"}, {"d", "X-D"}}).fields(&null, "", false); err != nil || len(fields) != 0 {
		t.Errorf("null and absent: got %v (%v), want no header", fields, err)
	}
}

// TestNamesAreTextsOrNumbers: what a revocation names is read in one way, by who verifies and by who explains.
func TestNamesAreTextsOrNumbers(t *testing.T) {
	for raw, want := range map[string]string{`"a"`: "a", `4711`: "4711", `null`: "", `[1]`: "", `{}`: ""} {
		var c claims
		if err := c.UnmarshalJSON([]byte(`{"jti":` + raw + `}`)); err != nil {
			t.Fatal(err)
		}
		if got := c.id("jti"); got != want {
			t.Errorf("%s: got %q, want %q", raw, got, want)
		}
	}
}

// BenchmarkFindByAlgorithms is a look-up of a key that names no algorithm, which must not judge the key anew.
func BenchmarkFindByAlgorithms(b *testing.B) {
	raw, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	k, err := newKey("a", "", &raw.PublicKey)
	if err != nil {
		b.Fatal(err)
	}
	set := (&keySet{keys: []key{k}}).counted("bench")
	for b.Loop() {
		if fit, _ := set.find("a", "PS256", []string{"PS256", "RS512"}); len(fit) != 1 {
			b.Fatal(fit)
		}
	}
}

func FuzzHeaderValue(f *testing.F) {
	for _, seed := range []string{"", "a", " % ", "a,b\x00\u0085é"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		out := percentEncode(in, true)
		for i := range len(out) {
			if out[i] < ' ' || out[i] > '~' || out[i] == ',' {
				t.Errorf("got the byte %#x", out[i])
			}
		}
		if strings.TrimSpace(out) != out {
			t.Error("a space at the end would be lost")
		}
		if back, err := url.PathUnescape(out); err != nil || back != in {
			t.Errorf("it does not decode to what it was: %v", err)
		}
	})
}

// FuzzToken: whatever passes is signed by our key, as computed here without the library.
func FuzzToken(f *testing.F) {
	secret := []byte(keyHS256)
	sign := func(in string) string {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(in))
		return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	enc := base64.RawURLEncoding.EncodeToString
	for _, seed := range []string{tokenHS256, tokenEd25519, tokenNone, tokenA1, "", "..", "a.b.c", tokenHS256 + "=", strings.ToUpper(tokenHS256)} {
		f.Add(seed, "", "")
	}
	for _, header := range []string{`{"alg":"HS256"}`, `{"alg":"none"}`, `{"alg":"HS256","crit":["x"]}`, `{"alg":"HS256","kid":7}`, `null`, `{"alg":"HS256","alg":"none"}`, `{"alg":"HS256","\u0061lg":"HS256"}`, `{"alg":"HS256","typ":"at+jwt","x":[{"a":1}]}`} {
		f.Add("", header, `{"exp":1767229200,"sub":"a"}`)
	}
	f.Add("", `{"alg":"HS256"}`, `{"exp":1e400,"aud":[{}],"cnf":{"jkt":1},"scope":[1]}`)
	v := testVerifier(Trusted{}, Policy{ClaimHeaders: []ClaimHeader{{"sub", "X-Sub"}, {"x", "X-X"}}}, single(f, "", secret))
	now := time.Unix(1767225660, 0)
	f.Fuzz(func(t *testing.T, token, header, payload string) {
		if header != "" || payload != "" { // reach behind the signature
			in := enc([]byte(header)) + "." + enc([]byte(payload))
			token = in + "." + sign(in)
		}
		id, _, err := v.check(t.Context(), token, now)
		if err != nil {
			if p := problem.From(err); p.Code != problem.InvalidToken {
				t.Fatalf("got %s, want invalid-token", p.Code)
			}
			return
		}
		dot := strings.LastIndexByte(token, '.')
		if sign(token[:dot]) != token[dot+1:] {
			t.Fatal("a token passed that our key did not sign")
		}
		if !bytes.Contains([]byte(token[:dot]), []byte(".")) || id.until <= now.UnixMilli() {
			t.Fatal("a token passed that has no claims or has expired")
		}
		for _, fd := range id.fields {
			if strings.ContainsAny(fd.value, "\r\n\x00") {
				t.Fatalf("the header %s holds a control character", fd.name)
			}
		}
		(&user{identity: id, token: token}).placeholder("http.auth.user.x")
	})
}
