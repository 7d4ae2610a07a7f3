package jwtauth

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

func edMember(kid string, public ed25519.PublicKey) string {
	return fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","kid":%q,"x":%q}`, kid, base64.RawURLEncoding.EncodeToString(public))
}

// The server of the keys goes away for longer than keys may be stale, under load.
func TestOutage(t *testing.T) {
	public, private, _ := ed25519.GenerateKey(nil)
	i := newIDP(t, answering(setOf(edMember("k1", public))))
	r, c := testRemote(t, i.URL)
	r.stale = time.Hour
	v := testVerifier(Trusted{}, Policy{}, r)
	long := jwt.MapClaims{"exp": c.now().Add(1000 * time.Hour).Unix()}
	ask := func(token string) problem.Code {
		if _, _, err := v.check(t.Context(), token, c.now()); err != nil {
			return problem.From(err).Code
		}
		return ""
	}
	tokens := make([]string, 100)
	for n := range tokens {
		long["jti"] = fmt.Sprint(n)
		tokens[n] = ed(t, "k1", private, long)
	}
	if got := ask(tokens[0]); got != "" {
		t.Fatalf("got %s", got)
	}
	i.answers(failing)
	end := c.now().Add(refreshEvery + time.Hour)
	for step := 0; c.now().Before(end.Add(-time.Second)); step++ {
		for n := range 10 {
			if got := ask(tokens[(step*10+n)%len(tokens)]); got != "" {
				t.Fatalf("%s before the end: got %s", end.Sub(c.now()), got)
			}
		}
		settled(t, r)
		c.pass(time.Second)
	}
	// 70 minutes: at most one fetch in 10 min while the keys are fresh, then with pauses from 27 s to 10 min.
	if hits := i.hits.Load(); hits > 20 {
		t.Errorf("got %d fetches in 70 minutes", hits)
	}
	c.pass(2 * time.Second)
	_, _, err := v.check(t.Context(), tokens[0], c.now())
	if e := problem.From(err); err == nil || e.Code != problem.KeysUnavailable || e.RetryAfter < time.Second {
		t.Errorf("after the end: got %v, want keys-unavailable with Retry-After", err)
	}
	settled(t, r)
	before := i.hits.Load()
	for range 1000 { // a second at a high rate
		ask(tokens[0])
	}
	if hits := i.hits.Load() - before; hits > 1 {
		t.Errorf("after the end: got %d fetches at one time", hits)
	}
	i.answers(answering(setOf(edMember("k1", public))))
	c.pass(firstRetryMost)
	if got := ask(tokens[0]); got != "" {
		t.Errorf("once it is up: got %s", got)
	}
}

func TestRandomKidsCauseFewFetches(t *testing.T) {
	public, private, _ := ed25519.GenerateKey(nil)
	i := newIDP(t, answering(setOf(edMember("k1", public))))
	r, c := testRemote(t, i.URL)
	v := testVerifier(Trusted{}, Policy{}, r)
	claims := jwt.MapClaims{"exp": c.now().Add(time.Hour).Unix()}
	token := ed(t, "k1", private, claims)
	if _, _, err := v.check(t.Context(), token, c.now()); err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(token, ".")
	for n := range 10_000 {
		header := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"alg":"EdDSA","kid":"random-%d"}`, n))
		_, o, err := v.check(t.Context(), header+"."+rest, c.pass(6*time.Millisecond)) // a minute in all
		if err == nil || o != unknownKey && o != keysUnavailable {
			t.Fatalf("got %v, want an unknown key, or that it cannot be known", err)
		}
		settled(t, r)
	}
	if got := i.hits.Load(); got > 1+refetches+6 {
		t.Errorf("got %d fetches in 60 seconds, want at most %d with the first", got, 1+refetches+6)
	}
}

func TestKeysSurviveARestart(t *testing.T) {
	public, private, _ := ed25519.GenerateKey(nil)
	i := newIDP(t, answering(setOf(edMember("k1", public))))
	dir, c := t.TempDir(), &clock{t: time.Now()}
	begin := func() view { // a new process
		r := testView(t, place{url: i.URL}, c)
		r.dir.Store(&dir)
		return r
	}
	load := func(r view) error {
		_, err := r.load(t.Context(), c.now())
		settled(t, r)
		return err
	}
	if err := load(begin()); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "jwks", "*"))
	if len(files) != 1 || len(filepath.Base(files[0])) != 64+len(".json") {
		t.Fatalf("got the files %v", files)
	}
	if info, err := os.Stat(files[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got the mode %v (%v)", info.Mode(), err)
	}
	i.answers(failing)
	if err := load(begin()); err != nil || i.hits.Load() != 1 {
		t.Errorf("while the keys are fresh: got %v after %d fetches, want no further one", err, i.hits.Load())
	}
	c.pass(refreshEvery + time.Minute)
	r := begin()
	if err := load(r); err != nil || i.hits.Load() != 2 {
		t.Errorf("while they are stale: got %v after %d fetches, want the keys and one more", err, i.hits.Load())
	}
	v := testVerifier(Trusted{}, Policy{}, r)
	if _, _, err := v.check(t.Context(), ed(t, "k1", private, nil), c.now()); err != nil {
		t.Errorf("a token of a kept key: got %v", err)
	}
	c.pass(defaultStale)
	if err := load(begin()); err == nil {
		t.Error("the kept keys serve on after their end")
	}
	c.pass(-defaultStale)
	for name, content := range map[string]string{"torn": `{"url"`, "empty": "", "another-url": `{"url":"http://127.0.0.1:1/"}`} {
		if err := os.WriteFile(files[0], []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := load(begin()); err == nil {
			t.Errorf("%s: got keys", name)
		}
	}
}

// issuerServer answers as an issuer with metadata at one path and keys.
func issuerServer(t *testing.T, path string, change func(map[string]any)) *idp {
	public, _, _ := ed25519.GenerateKey(nil)
	i := newIDP(t, nil)
	i.answers(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case path:
			doc := map[string]any{"issuer": i.URL + "/tenant", "jwks_uri": i.URL + "/keys"}
			change(doc)
			_ = json.NewEncoder(w).Encode(doc)
		case "/keys":
			_, _ = w.Write([]byte(setOf(edMember("k1", public))))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	return i
}

func TestDiscovery(t *testing.T) {
	const oidc, oauth = "/tenant/.well-known/openid-configuration", "/.well-known/oauth-authorization-server/tenant"
	for name, c := range map[string]struct {
		path   string
		change func(map[string]any)
		ok     bool
	}{
		"openid-connect":  {oidc, func(map[string]any) {}, true},
		"rfc8414":         {oauth, func(map[string]any) {}, true},
		"another-issuer":  {oidc, func(doc map[string]any) { doc["issuer"] = "https://evil.example" }, false},
		"slash-too-many":  {oidc, func(doc map[string]any) { doc["issuer"] = doc["issuer"].(string) + "/" }, false},
		"no-issuer":       {oidc, func(doc map[string]any) { delete(doc, "issuer") }, false},
		"no-keys":         {oidc, func(doc map[string]any) { delete(doc, "jwks_uri") }, false},
		"keys-by-http":    {oidc, func(doc map[string]any) { doc["jwks_uri"] = "http://keys.example/jwks" }, false},
		"keys-from-files": {oidc, func(doc map[string]any) { doc["jwks_uri"] = "file:///etc/passwd" }, false},
		"too-large":       {oidc, func(doc map[string]any) { doc["x"] = strings.Repeat("x", maxJWKS) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			i := issuerServer(t, c.path, c.change)
			clock := &clock{t: time.Now()}
			r := testView(t, place{url: i.URL + "/tenant", discover: true}, clock)
			set, err := r.load(t.Context(), clock.now())
			if (err == nil) != c.ok || c.ok && len(set.keys) != 1 {
				t.Errorf("got %v, want ok %v", err, c.ok)
			}
		})
	}
}

func FuzzMetadata(f *testing.F) {
	for _, seed := range []string{
		`{"issuer":"https://a.example","jwks_uri":"https://a.example/keys"}`, `{"issuer":"https://a.example","issuer":"https://b.example"}`,
		`{"issuer":"https://a.example","jwks_uri":"http://10.0.0.1/"}`, `{"jwks_uri":1}`, "null", "[]", "\xff", `{"issuer":"https:\/\/a.example","jwks_uri":"https://[::1"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		at, err := keysURL(body, "https://a.example", false)
		if err == nil && !strings.HasPrefix(strings.ToLower(at), "https://") && checkURL("jwks", at, false) != nil {
			t.Errorf("got keys at %q", at)
		}
	})
}

func TestRefusedIsNotTheEndOfTheClient(t *testing.T) {
	if err := unavailable(0, context.Canceled); problem.From(err).Code != problem.ClientClosedRequest {
		t.Errorf("got %v", err)
	}
}
