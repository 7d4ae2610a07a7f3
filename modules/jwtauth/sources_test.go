package jwtauth_test

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/identity"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

// keyServer serves a JWK set on loopback; a status other than 200 is a failure.
type keyServer struct {
	*httptest.Server
	hits   atomic.Int32
	status atomic.Int32
	set    atomic.Pointer[[]byte]
}

func newKeyServer(t *testing.T, set []byte) *keyServer {
	s := new(keyServer)
	s.status.Store(http.StatusOK)
	s.set.Store(&set)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.hits.Add(1)
		w.WriteHeader(int(s.status.Load()))
		_, _ = w.Write(*s.set.Load())
	}))
	t.Cleanup(s.Close)
	return s
}

func TestKeyServerDownIsNotTheTokensFault(t *testing.T) {
	s := newKeyServer(t, publicSet(t))
	s.status.Store(http.StatusBadGateway)
	g := gateway(t, "jwks "+s.URL)
	if s.hits.Load() != 0 {
		t.Error("the keys were fetched before a request needed them")
	}
	token := sign(t, r1, good(nil), keys().rsa)
	a := askWith(g, token)
	if a.status != http.StatusServiceUnavailable || a.problemCode() != "keys-unavailable" || a.header.Get("Retry-After") == "" || a.challenge != "" {
		t.Errorf("got %d %s, Retry-After %q, challenge %q", a.status, a.problemCode(), a.header.Get("Retry-After"), a.challenge)
	}
	if a := askWith(g, "nonsense"); a.status != http.StatusUnauthorized {
		t.Errorf("what is no token at all: got %d, want 401", a.status)
	}
	s.status.Store(http.StatusOK)
	eventually(t, func() bool { return askWith(g, token).status == http.StatusOK })
	s.Close()
	if a := askWith(g, sign(t, r1, good(claims{"sub": "user-2"}), keys().rsa)); a.status != http.StatusOK {
		t.Errorf("with the keys at hand and the server gone: got %d, want 200", a.status)
	}
}

func eventually(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !done(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen in 15 s")
		}
	}
}

func TestKeysOutliveAReload(t *testing.T) {
	s := newKeyServer(t, publicSet(t))
	token := sign(t, r1, good(nil), keys().rsa)
	first := gateway(t, "jwks "+s.URL)
	if a := askWith(first, token); a.status != http.StatusOK {
		t.Fatalf("got %d", a.status)
	}
	second := gateway(t, "jwks "+s.URL+"\n\t\taudience api")
	first.Stop()
	s.status.Store(http.StatusInternalServerError)
	if a := askWith(second, token); a.status != http.StatusOK {
		t.Errorf("after a reload: got %d, want 200", a.status)
	}
	for range 50 { // a flood of unknown keys
		if a := askWith(second, sign(t, `{"alg":"RS256","kid":"unknown"}`, good(nil), keys().rsa)); a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
			t.Fatalf("an unknown key while the server fails: got %d, want 503 with Retry-After", a.status)
		}
	}
	if got := s.hits.Load(); got > 6 {
		t.Errorf("got %d fetches, want 6 at most", got)
	}
}

func TestSecrets(t *testing.T) {
	k := keys()
	spki, _ := x509.MarshalPKIXPublicKey(k.ec.Public())
	pkcs8, _ := x509.MarshalPKCS8PrivateKey(k.ed)
	hmacKey := []byte("0123456789abcdef0123456789abcdef")
	for name, c := range map[string]struct {
		secret, header string
		key            any
	}{
		"hs256":       {string(hmacKey) + "\n", `{"alg":"HS256","kid":"any"}`, hmacKey},
		"public-pem":  {string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})), `{"alg":"ES256"}`, k.ec},
		"private-pem": {string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})), `{"alg":"Ed25519"}`, k.ed},
	} {
		t.Run(name, func(t *testing.T) {
			g := modtest.Start(t, "{\n\tgatehouse {\n\t\tdata_dir @@data@@\n\t\tsecret jwt file "+keyFile(t, []byte(c.secret))+"\n\t}\n}\n:80 {\n\tjwt_auth {\n\t\tsecret jwt\n\t}\n\t"+echo+"\n}\n")
			if a := askWith(g, sign(t, c.header, good(nil), c.key)); a.status != http.StatusOK {
				t.Errorf("got %d, want 200", a.status)
			}
			if a := askWith(g, sign(t, r1, good(nil), k.rsa)); a.status != http.StatusUnauthorized {
				t.Errorf("a token of another key: got %d, want 401", a.status)
			}
		})
	}
}

func TestUnusableKeysAreRefusedAtTheStart(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing.json")
	for name, c := range map[string]struct{ secret, options, want string }{
		"short-secret":   {"short", "secret jwt", "at least 32 bytes"},
		"unknown-secret": {"0123456789abcdef0123456789abcdef", "secret jtw", "jwt"},
		"no-file":        {"x", "jwks file " + missing, "cannot be read"},
		"symmetric-key":  {"x", "key `{\"kty\":\"oct\",\"k\":\"0123456789\"}`", "secret NAME"},
		"empty-set":      {"x", "jwks file " + keyFile(t, []byte(`{"keys":[]}`)), "can verify tokens"},
	} {
		t.Run(name, func(t *testing.T) {
			g, err := modtest.TryStart(t, "{\n\tgatehouse {\n\t\tdata_dir @@data@@\n\t\tsecret jwt file "+keyFile(t, []byte(c.secret))+"\n\t}\n}\n:80 {\n\tjwt_auth {\n\t\t"+c.options+"\n\t}\n}\n")
			if err == nil {
				g.Stop()
				t.Fatal("got no error")
			}
			if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "0123456789") {
				t.Errorf("got %v, want %q and no secret", err, c.want)
			}
		})
	}
}

const bundled = `{
	gatehouse {
		data_dir @@data@@
		backend identity {
			issuer https://id.example
			audience shop
		}
	}
}
:80 {
	handle /login {
		backend identity
	}
	handle {
		jwt_auth {
			claim_header sub X-User-Id
		}
		` + echo + `
	}
}
`

func TestBareDirectiveAcceptsTokensOfTheIdentityBackend(t *testing.T) {
	g := modtest.Start(t, bundled)
	db, err := sqldb.Open(t.Context(), g.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	users, err := identity.OpenUsers(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	user, err := users.Add(t.Context(), "ada@example.com", "correct horse", "admin", "read")
	if err != nil {
		t.Fatal(err)
	}
	login := ask(g, httptest.NewRequest(http.MethodPost, "/login", strings.NewReader(`{"email":"ada@example.com","password":"correct horse"}`)))
	var got struct{ Token string }
	if err = json.Unmarshal([]byte(login.body), &got); err != nil || login.status != http.StatusOK {
		t.Fatalf("login: got %d (%v)", login.status, err)
	}
	if a := askWith(g, got.Token); a.status != http.StatusOK || a.body != user.ID+"|"+user.ID+"|" {
		t.Errorf("got %d %q", a.status, a.body)
	}

	// Tokens that the same key signed for another audience or as another issuer.
	set, err := service.GeneratedKey(g.Dir, identity.KeyName, identity.GenerateKey)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := identity.NewSigner(set)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		issuer, audience string
		status           int
	}{
		"ours":             {"https://id.example", "shop", 200},
		"another-issuer":   {"gatehouse", "shop", 401},
		"another-audience": {"https://id.example", "api", 401},
	} {
		token, err := signer.Mint(identity.Claims{Subject: "ada", Issuer: c.issuer, Audience: c.audience, TTL: time.Minute}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if a := askWith(g, token); a.status != c.status {
			t.Errorf("%s: got %d, want %d", name, a.status, c.status)
		}
	}
	if a := askWith(g, sign(t, r1, good(claims{"iss": "https://id.example", "aud": "shop"}), keys().rsa)); a.status != http.StatusUnauthorized {
		t.Errorf("a foreign token: got %d, want 401", a.status)
	}
}

func TestTokensSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	set, err := service.GeneratedKey(dir, identity.KeyName, identity.GenerateKey) // as `gatehouse token mint` does before the first start
	if err != nil {
		t.Fatal(err)
	}
	signer, err := identity.NewSigner(set)
	if err != nil {
		t.Fatal(err)
	}
	token, err := signer.Mint(identity.Claims{Subject: "ada", Issuer: "https://id.example", Audience: "shop", TTL: time.Minute}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		g, err := modtest.StartIn(t, dir, bundled)
		if err != nil {
			t.Fatal(err)
		}
		if a := askWith(g, token); a.status != http.StatusOK {
			t.Errorf("got %d, want 200", a.status)
		}
		g.Stop()
	}
}

func TestLogsHoldNoToken(t *testing.T) {
	down := newKeyServer(t, nil)
	down.status.Store(http.StatusInternalServerError)
	g := modtest.Start(t, fmt.Sprintf(`{
		gatehouse {
			data_dir @@data@@
		}
		log {
			output file @@data@@/log
			level DEBUG
		}
	}
	:80 {
		log
		handle /down {
			jwt_auth {
				jwks %s
			}
		}
		handle {
			jwt_auth {
				jwks file %s
				require scope read
			}
			%s
		}
	}`, down.URL, keyFile(t, publicSet(t)), echo))
	tokens := []string{
		sign(t, r1, good(nil), keys().rsa), sign(t, r1, good(claims{"scope": nil}), keys().rsa), sign(t, r1, good(nil), keys().foreign),
		sign(t, `{"alg":"none"}`, good(nil), nil), sign(t, r1, `{"sub"`, keys().rsa), strings.Repeat("secret", 10),
	}
	for _, token := range tokens {
		for _, path := range []string{"/", "/down"} {
			r := httptest.NewRequest(http.MethodGet, path, nil)
			r.Header.Set("Authorization", "Bearer "+token)
			g.Do(r)
		}
	}
	log, err := os.ReadFile(filepath.Join(g.Dir, "log"))
	if err != nil || !bytes.Contains(log, []byte("keys-unavailable")) || !bytes.Contains(log, []byte("fetching keys failed")) {
		t.Fatalf("the log holds no refusal, so that this test shows nothing (%v)", err)
	}
	for i, token := range tokens {
		for _, part := range strings.Split(token, ".") {
			if len(part) >= 20 && bytes.Contains(log, []byte(part[:20])) {
				t.Errorf("the log holds a part of token %d", i)
			}
		}
	}
}

func TestRefusalsGoToTheSitesErrorRoute(t *testing.T) {
	g := start(t, `:80 {
		jwt_auth {
			jwks file `+keyFile(t, publicSet(t))+`
		}
		handle_errors {
			respond "own page {err.status_code}"
		}
	}`)
	a := askWith(g, "nonsense")
	if a.status != http.StatusUnauthorized || a.body != "own page 401" {
		t.Errorf("got %d %q", a.status, a.body)
	}
	wellFormed(t, a.challenge, "invalid_token")
}
