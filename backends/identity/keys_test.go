package identity_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/gatehouse-proxy/gatehouse/backends/identity"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

func TestSigningKeys(t *testing.T) {
	t.Parallel()
	ec, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ec384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	public, _ := x509.MarshalPKIXPublicKey(ec.Public())
	for name, c := range map[string]struct {
		key       []byte
		alg       string // "" if the key must be refused
		published int
	}{
		"ec-p256":      {pkcs8(t, ec), "ES256", 1},
		"rsa-2048":     {pkcs8(t, rsaKey), "RS256", 1},
		"raw-32-bytes": {[]byte(strings.Repeat("k", 32)), "HS256", 0},
		"raw-31-bytes": {[]byte(strings.Repeat("k", 31)), "", 0},
		"ec-p384":      {pkcs8(t, ec384), "", 0},
		"public-key":   {pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), "", 0},
		"torn-pem":     {[]byte("-----BEGIN PRIVATE KEY-----\nAAAA"), "", 0},
		"empty":        {nil, "", 0},
		"public-der":   {[]byte(base64.StdEncoding.EncodeToString(public)), "", 0},
		"public-twice": {[]byte(base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))), "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			signer, err := identity.NewSigner(keySet(c.key))
			if c.alg == "" {
				if err == nil {
					t.Fatal("got no error")
				}
				if len(c.key) > 0 && strings.Contains(err.Error(), string(c.key)) {
					t.Errorf("the error shows the key")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			token, err := signer.Mint(identity.Claims{Subject: "s", Issuer: "i", Audience: "a", TTL: time.Minute}, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			f := start(t, identity.Config{}, keySet(c.key), "")
			f.VerificationKeys(func(kid, alg string, key any) {
				if _, err = jwt.NewParser(jwt.WithValidMethods([]string{c.alg})).Parse(token, func(tok *jwt.Token) (any, error) {
					if tok.Header["kid"] != kid || alg != c.alg {
						t.Errorf("got kid %v and alg %s, want %s and %s", tok.Header["kid"], alg, kid, c.alg)
					}
					return key, nil
				}); err != nil {
					t.Error(err)
				}
			})
			w := httptest.NewRecorder()
			f.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/.well-known/jwks.json", nil))
			b, _ := io.ReadAll(w.Result().Body)
			if got := strings.Count(string(b), `"kty"`); got != c.published || !strings.HasPrefix(string(b), `{"keys":[`) {
				t.Errorf("got %d keys published in %s, want %d", got, b, c.published)
			}
		})
	}
}

// The key and its thumbprint are RFC 8037 appendix A.
func TestKeyIDIsTheThumbprint(t *testing.T) {
	seed, _ := base64.RawURLEncoding.DecodeString("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")
	f := start(t, identity.Config{}, keySet(pkcs8(t, ed25519.NewKeyFromSeed(seed))), "")
	f.VerificationKeys(func(kid, alg string, _ any) {
		if want := "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"; kid != want || alg != "EdDSA" {
			t.Errorf("got kid %s, alg %s, want %s, EdDSA", kid, alg, want)
		}
	})
}

func TestMintRefusesClaims(t *testing.T) {
	raw, _ := identity.GenerateKey()
	signer, err := identity.NewSigner(keySet(raw))
	if err != nil {
		t.Fatal(err)
	}
	good := identity.Claims{Subject: "s", Issuer: "i", Audience: "a", TTL: time.Minute}
	for name, change := range map[string]func(*identity.Claims){
		"no-subject":            func(c *identity.Claims) { c.Subject = "" },
		"newline-in-subject":    func(c *identity.Claims) { c.Subject = "a\nb" },
		"no-audience":           func(c *identity.Claims) { c.Audience = "" },
		"no-ttl":                func(c *identity.Claims) { c.TTL = 0 },
		"endless":               func(c *identity.Claims) { c.TTL = 400 * 24 * time.Hour },
		"role-with-a-backslash": func(c *identity.Claims) { c.Role = `\` },
	} {
		c := good
		change(&c)
		if _, err := signer.Mint(c, time.Now()); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func TestKeysRotateWhileItRuns(t *testing.T) {
	t.Parallel()
	raw := func() secret.Value {
		b, err := identity.GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		return secret.NewValue(b)
	}
	one, two := secret.Version{Label: "one", Value: raw()}, secret.Version{Label: "two", Value: raw(), ActiveFrom: time.Now().Add(time.Hour)}
	set := secret.NewSet("signing", one)
	var log bytes.Buffer
	f := startOn(t, identity.Config{}, identity.Deps{Keys: set, Log: slog.New(slog.NewTextHandler(&log, nil))}, open(t, "", t.TempDir()))
	f.mustAdd(t, "ada@example.com", "correct horse", "", "")
	published := func() int {
		w := httptest.NewRecorder()
		f.ServeHTTP(w, httptest.NewRequest("GET", "/.well-known/jwks.json", nil))
		return strings.Count(w.Body.String(), `"kid"`)
	}
	kids := func() (kids []string) {
		f.VerificationKeys(func(kid, _ string, _ any) { kids = append(kids, kid) })
		return kids
	}
	first, gen, before := f.mustLogin(t, "ada@example.com", "correct horse").Token, f.KeysGeneration(), kids()
	if f.KeysGeneration() != gen {
		t.Error("the generation changes by itself")
	}

	set.Replace([]secret.Version{two, one}) // two is yet to come
	if published() != 2 || len(kids()) != 1 {
		t.Errorf("got %d keys published and %d in force, want 2 and 1", published(), len(kids()))
	}
	two.ActiveFrom = time.Time{}
	set.Replace([]secret.Version{two, one})
	if f.KeysGeneration() == gen || len(kids()) != 2 || !f.accepts(first) {
		t.Error("the keys did not become two")
	}
	second := f.mustLogin(t, "ada@example.com", "correct horse").Token
	if header, _, _ := strings.Cut(second, "."); strings.HasPrefix(first, header+".") {
		t.Error("the newest key does not sign")
	}

	set.Replace([]secret.Version{{Label: "broken", Value: secret.NewValue([]byte("short"))}, two})
	gen = f.KeysGeneration()
	for range 3 {
		if f.KeysGeneration() != gen || len(kids()) != 1 || !f.accepts(second) || f.accepts(first) {
			t.Error("beside a broken version it is not the good one alone that is in force")
		}
	}
	if n := strings.Count(log.String(), "the signing key"); n == 0 || strings.Count(log.String(), "\n") != 1 || strings.Contains(log.String(), "value=short") {
		t.Errorf("got this in the log, want one line: %s", log.String())
	}

	set.Replace([]secret.Version{two})
	if f.accepts(first) || !f.accepts(second) {
		t.Error("a key that is gone verifies, or its successor does not")
	}
	if f.KeyUsed(before[0], time.Now()); !set.Versions()[0].LastUsed().After(time.Time{}) {
		t.Error("the use of the key that signed is not seen")
	}
	set.Replace(nil)
	if resp := f.login("ada@example.com", "correct horse"); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("without a key: got %d, want 503", resp.StatusCode)
	}
	if f.accepts(second) || published() != 0 {
		t.Error("retired keys verify")
	}
	set.Replace([]secret.Version{one})
	f.mustLogin(t, "ada@example.com", "correct horse")
}

func TestKeyUseIsSeen(t *testing.T) {
	a, _ := identity.GenerateKey()
	b, _ := identity.GenerateKey()
	set := keySet(a, b)
	f := start(t, identity.Config{}, set, "")
	n := 0
	f.VerificationKeys(func(kid, _ string, _ any) {
		now := time.Now().Add(time.Duration(n) * time.Hour)
		f.KeyUsed(kid, now)
		if got := set.Versions()[n].LastUsed(); got.Sub(now).Abs() > time.Second {
			t.Errorf("version %d: got %s, want %s", n, got, now)
		}
		n++
	})
	f.KeyUsed("unknown", time.Now())
}

// TestAKeyEndsThoughItsSuccessorIsOfNoUse is about {v1 until then, a broken one}: v1 ends then.
func TestAKeyEndsThoughItsSuccessorIsOfNoUse(t *testing.T) {
	t.Parallel()
	raw, _ := identity.GenerateKey()
	one := secret.Version{Label: "one", Value: secret.NewValue(raw)}
	set := secret.NewSet("signing", one)
	f := startOn(t, identity.Config{}, identity.Deps{Keys: set, Log: slog.New(slog.DiscardHandler)}, open(t, "", t.TempDir()))
	f.mustAdd(t, "ada@example.com", "correct horse", "", "")
	token := f.mustLogin(t, "ada@example.com", "correct horse").Token
	one.RetireAt = time.Now().Add(2 * time.Second)
	set.Replace([]secret.Version{{Label: "bad", Value: secret.NewValue([]byte("tooshort"))}, one})
	if !f.accepts(token) || set.Fault() == nil || !strings.Contains(set.Fault().Error(), "(bad)") {
		t.Errorf("before the end: it is in force: %v, the fault is %v", f.accepts(token), set.Fault())
	}
	<-time.After(time.Until(one.RetireAt) + 5*time.Millisecond)
	if resp := f.login("ada@example.com", "correct horse"); resp.StatusCode != 503 || f.accepts(token) {
		t.Errorf("after the end: got %d, want 503; the token passes: %v", resp.StatusCode, f.accepts(token))
	}
}
