package jwtauth_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"

	_ "github.com/gatehouse-proxy/gatehouse/modules/backend"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
	_ "github.com/gatehouse-proxy/gatehouse/modules/jwtauth"
)

var b64 = base64.RawURLEncoding.EncodeToString

// The issuer's keys of these tests.
var keys = sync.OnceValue(func() (k struct {
	rsa, foreign *rsa.PrivateKey
	ec           *ecdsa.PrivateKey
	ed           ed25519.PrivateKey
}) {
	k.rsa, _ = rsa.GenerateKey(rand.Reader, 2048)
	k.foreign, _ = rsa.GenerateKey(rand.Reader, 2048)
	k.ec, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, k.ed, _ = ed25519.GenerateKey(rand.Reader)
	return k
})

func jwk(t testing.TB, kid, alg string, public any) map[string]any {
	t.Helper()
	k, err := jwkset.NewJWKFromKey(public, jwkset.JWKOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(k.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]any{}
	if err = json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	delete(m, "alg")
	m["kid"] = kid
	if alg != "" {
		m["alg"] = alg
	}
	return m
}

func jwks(t testing.TB, members ...map[string]any) []byte {
	t.Helper()
	b, err := json.Marshal(map[string]any{"keys": members})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func publicSet(t testing.TB) []byte {
	k := keys()
	return jwks(t, jwk(t, "r1", "", k.rsa.Public()), jwk(t, "e1", "ES256", k.ec.Public()), jwk(t, "d1", "", k.ed.Public()))
}

func keyFile(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// sign makes the compact form of header and payload as they are, signed by key.
func sign(t testing.TB, header, payload string, key any) string {
	t.Helper()
	in := b64([]byte(header)) + "." + b64([]byte(payload))
	sum := sha256.Sum256([]byte(in))
	var sig []byte
	var err error
	switch k := key.(type) {
	case []byte:
		mac := hmac.New(sha256.New, k)
		mac.Write([]byte(in))
		sig = mac.Sum(nil)
	case *rsa.PrivateKey:
		sig, err = rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, sum[:])
	case *ecdsa.PrivateKey:
		r, s, e := ecdsa.Sign(rand.Reader, k, sum[:])
		err = e
		sig = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	case ed25519.PrivateKey:
		sig = ed25519.Sign(k, []byte(in))
	case nil:
	default:
		t.Fatalf("no way to sign with %T", key)
	}
	if err != nil {
		t.Fatal(err)
	}
	return in + "." + b64(sig)
}

type claims map[string]any

// good are claims that pass, with changes; a nil value deletes.
func good(changes claims) string {
	c := claims{"iss": "https://idp.example", "aud": "api", "sub": "user-1", "exp": time.Now().Add(time.Hour).Unix(), "scope": "read write"}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	b, _ := json.Marshal(c)
	return string(b)
}

const r1 = `{"alg":"RS256","typ":"JWT","kid":"r1"}`

// echo answers with what the app behind would see.
const echo = `respond "{http.auth.user.id}|{http.request.header.X-User-Id}|{http.request.header.X-Roles}"`

func gateway(t testing.TB, options string) *modtest.Gateway {
	t.Helper()
	return start(t, fmt.Sprintf(":80 {\n\tjwt_auth {\n%s\n\t}\n\t%s\n}\n", options, echo))
}

// start serves sites with a data directory of the test's own.
func start(t testing.TB, sites string) *modtest.Gateway {
	t.Helper()
	return modtest.Start(t, "{\n\tgatehouse {\n\t\tdata_dir @@data@@\n\t}\n}\n"+sites)
}

func protected(t testing.TB) *modtest.Gateway {
	return gateway(t, `jwks file `+keyFile(t, publicSet(t))+`
		issuer https://idp.example
		audience api
		require scope read
		claim_header sub X-User-Id
		claim_header roles X-Roles`)
}

type answer struct {
	status          int
	challenge, body string
	header          http.Header
}

func ask(g *modtest.Gateway, r *http.Request) answer {
	resp := g.Do(r)
	b, _ := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header.Get("Www-Authenticate"), string(b), resp.Header}
}

func askWith(g *modtest.Gateway, token string) answer {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	return ask(g, r)
}

// problemCode is the last part of the problem's type.
func (a answer) problemCode() string {
	var doc struct{ Type string }
	_ = json.Unmarshal([]byte(a.body), &doc)
	return doc.Type[strings.LastIndexByte(doc.Type, '/')+1:]
}
