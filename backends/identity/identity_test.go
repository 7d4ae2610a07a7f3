package identity_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/alexedwards/argon2id"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-proxy/gatehouse/backends/identity"
	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

func TestLoginGivesATokenThatThePublishedKeyVerifies(t *testing.T) {
	t.Parallel()
	pgtest.Each(t, testLoginGivesATokenThatThePublishedKeyVerifies)
}

func testLoginGivesATokenThatThePublishedKeyVerifies(t *testing.T, url string) {
	f := start(t, identity.Config{Issuer: "https://id.example", Audience: "shop", TTL: unit.Duration(time.Hour)}, nil, url)
	u := f.mustAdd(t, "Ada@example.com", "correct horse", "admin", "orders:read orders:write")
	if !regexp.MustCompile(`^usr_[a-z2-7]{26}$`).MatchString(u.ID) {
		t.Errorf("got the user id %q", u.ID)
	}
	resp := f.login("ADA@example.com", "correct horse") // the address's case does not matter
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("got %d, Cache-Control %q", resp.StatusCode, resp.Header.Get("Cache-Control"))
	}
	answer := body(t, resp)
	if answer["token_type"] != "Bearer" || answer["expires_in"] != 3600.0 {
		t.Errorf("got token_type %v, expires_in %v", answer["token_type"], answer["expires_in"])
	}

	w := httptest.NewRecorder()
	f.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/.well-known/jwks.json", nil))
	if got := w.Header().Get("Cache-Control"); got != "public, max-age=300" {
		t.Errorf("got Cache-Control %q", got)
	}
	var set jwkset.JWKSMarshal
	if err := json.Unmarshal(w.Body.Bytes(), &set); err != nil || len(set.Keys) != 1 {
		t.Fatalf("got the key set %s (%v)", w.Body, err)
	}
	if set.Keys[0].D != "" || set.Keys[0].USE != jwkset.UseSig {
		t.Errorf("got a private member or a wrong use in %s", w.Body)
	}
	claims := jwt.MapClaims{}
	token, err := jwt.NewParser(jwt.WithIssuer("https://id.example"), jwt.WithAudience("shop"), jwt.WithExpirationRequired(), jwt.WithIssuedAt()).
		ParseWithClaims(answer["token"].(string), claims, func(tok *jwt.Token) (any, error) {
			if tok.Header["kid"] != set.Keys[0].KID || tok.Header["typ"] != "JWT" {
				t.Errorf("got the header %v, want kid %s", tok.Header, set.Keys[0].KID)
			}
			x, err := base64.RawURLEncoding.DecodeString(set.Keys[0].X)
			return ed25519.PublicKey(x), err
		})
	if err != nil || !token.Valid {
		t.Fatal(err)
	}
	if claims["sub"] != u.ID || claims["role"] != "admin" || claims["scope"] != "orders:read orders:write" || claims["jti"] == "" {
		t.Errorf("got the claims %v", claims)
	}
}

func TestBadCredentialsHaveOneAnswer(t *testing.T) { pgtest.Each(t, testBadCredentialsHaveOneAnswer) }

func testBadCredentialsHaveOneAnswer(t *testing.T, url string) {
	f := startAtCost(t, identity.Config{}, identity.Deps{}, open(t, url, t.TempDir()))
	f.mustAdd(t, "ada@example.com", "correct horse", "", "")
	f.mustAdd(t, "off@example.com", "correct horse", "", "")
	if err := f.users.Disable(t.Context(), "OFF@example.com"); err != nil {
		t.Fatal(err)
	}
	hash := time.Hour // the quickest of some: noise only adds to it
	for range 5 {
		begin := time.Now()
		if _, err := identity.HashPassword("x"); err != nil {
			t.Fatal(err)
		}
		hash = min(hash, time.Since(begin))
	}
	answers := map[string]map[string]any{}
	took := map[string]time.Duration{}
	for name, c := range map[string][2]string{
		"wrong-password":         {"ada@example.com", "wrong horse"},
		"unknown-user":           {"eve@example.com", "correct horse"},
		"disabled-user":          {"off@example.com", "correct horse"},
		"sql-in-the-address":     {"' OR 1=1 --", "correct horse"},
		"control-character":      {"ada@example.com\x00", "correct horse"},
		"password-in-other-case": {"ada@example.com", "Correct horse"},
	} {
		begin := time.Now()
		resp := f.login(c[0], c[1])
		took[name] = time.Since(begin)
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: got %d, want 401", name, resp.StatusCode)
		}
		answers[name] = body(t, resp)
		delete(answers[name], "instance")
	}
	for name, a := range answers {
		if diff := cmp.Diff(answers["wrong-password"], a); diff != "" {
			t.Errorf("%s answers differently from a wrong password:\n%s", name, diff)
		}
		if took[name] < hash/2 {
			t.Errorf("%s took %s, less than one hash of %s: the time tells it apart", name, took[name], hash)
		}
	}
}

func TestLoginRefusesHostileBodies(t *testing.T) {
	t.Parallel()
	pgtest.Each(t, testLoginRefusesHostileBodies)
}

func testLoginRefusesHostileBodies(t *testing.T, url string) {
	f := start(t, identity.Config{}, nil, url)
	for name, c := range map[string]struct {
		body string
		want int
	}{
		"empty":             {"", 400},
		"not-json":          {"email=a&password=b", 400},
		"array":             {"[]", 400},
		"unknown-member":    {`{"email":"a@b.c","password":"x","admin":true}`, 400},
		"password-a-number": {`{"email":"a@b.c","password":1}`, 400},
		"no-password":       {`{"email":"a@b.c"}`, 400},
		"two-values":        {`{"email":"a@b.c","password":"x"}{}`, 400},
		"invalid-utf8":      {"{\"email\":\"a\xff@b.c\",\"password\":\"x\"}", 401},
		"long-password":     {`{"email":"a@b.c","password":"` + strings.Repeat("x", 1025) + `"}`, 400},
		"over-4-kib":        {`{"email":"a@b.c","password":"` + strings.Repeat("x", 4096) + `"}`, 413},
	} {
		t.Run(name, func(t *testing.T) {
			resp := f.post("/login", c.body)
			if resp.StatusCode != c.want || resp.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("got %d %s, want %d", resp.StatusCode, resp.Header.Get("Content-Type"), c.want)
			}
		})
	}
}

func TestManyLoginsAreBounded(t *testing.T) {
	many := identity.Attempts{N: 1000, Per: time.Minute}
	f := startAtCost(t, identity.Config{Attempts: many, IPAttempts: many}, identity.Deps{}, open(t, "", t.TempDir()))
	const logins = 200
	codes := make(chan *http.Response, logins)
	for range logins {
		go func() { codes <- f.login("eve@example.com", "some password") }()
	}
	got := map[int]int{}
	for range logins {
		resp := <-codes
		got[resp.StatusCode]++
		if resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "1" {
			t.Errorf("got Retry-After %q, want 1", resp.Header.Get("Retry-After"))
		}
	}
	if got[503] == 0 || got[401] == 0 || got[401]+got[503] != logins {
		t.Errorf("got %v, want only 401 and 503, and some of each", got)
	}
}

func TestLoginRehashesOutdatedParameters(t *testing.T) {
	t.Parallel()
	pgtest.Each(t, testLoginRehashesOutdatedParameters)
}

func testLoginRehashesOutdatedParameters(t *testing.T, url string) {
	f := startAtCost(t, identity.Config{}, identity.Deps{}, open(t, url, t.TempDir()))
	u := f.mustAdd(t, "ada@example.com", "correct horse", "", "")
	old, err := argon2id.CreateHash("correct horse", &argon2id.Params{Memory: 1 << 10, Iterations: 1, Parallelism: 1, SaltLength: 16, KeyLength: 32})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = f.db.Write.Exec(`UPDATE identity_users SET password_hash = $1 WHERE id = $2`, old, u.ID); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if resp := f.login("ada@example.com", "correct horse"); resp.StatusCode != http.StatusOK {
			t.Fatalf("got %d, want 200", resp.StatusCode)
		}
	}
	var hash string
	if err = f.db.Read.QueryRow(`SELECT password_hash FROM identity_users`).Scan(&hash); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("got the hash parameters %q", hash[:40])
	}
}

func TestUsers(t *testing.T) {
	t.Parallel()
	pgtest.Each(t, testUsers)
}

func testUsers(t *testing.T, url string) {
	f := start(t, identity.Config{}, nil, url)
	ctx := t.Context()
	f.mustAdd(t, "bob@example.com", "12345678", "", "")
	f.mustAdd(t, "Ada@example.com", "12345678", "admin", "a b")
	if _, err := f.users.Add(ctx, "BOB@Example.com", "12345678", "", ""); !errors.Is(err, identity.ErrUserExists) {
		t.Errorf("got %v, want ErrUserExists for another case", err)
	}
	for name, c := range map[string][4]string{
		"no-at":               {"bob", "12345678", "", ""},
		"name-and-address":    {"Bob <bob@x.com>", "12345678", "", ""},
		"newline":             {"b\nob@x.com", "12345678", "", ""},
		"short-password":      {"c@x.com", "1234567", "", ""},
		"long-password":       {"c@x.com", strings.Repeat("x", 1025), "", ""},
		"invalid-utf8":        {"c@x.com", "1234567\xff8", "", ""},
		"role-with-a-space":   {"c@x.com", "12345678", "a b", ""},
		"scope-with-a-quote":  {"c@x.com", "12345678", "", `a"b`},
		"scope-double-spaced": {"c@x.com", "12345678", "", "a  b"},
	} {
		if _, err := f.users.Add(ctx, c[0], c[1], c[2], c[3]); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	if err := f.users.SetPassword(ctx, "nobody@example.com", "12345678"); !errors.Is(err, identity.ErrNoUser) {
		t.Errorf("got %v, want ErrNoUser", err)
	}
	if err := f.users.SetPassword(ctx, "bob@example.com", "another one"); err != nil {
		t.Fatal(err)
	}
	if resp := f.login("bob@example.com", "12345678"); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("the old password: got %d, want 401", resp.StatusCode)
	}
	if resp := f.login("bob@example.com", "another one"); resp.StatusCode != http.StatusOK {
		t.Errorf("the new password: got %d, want 200", resp.StatusCode)
	}
	if err := f.users.Disable(ctx, "bob@example.com"); err != nil {
		t.Fatal(err)
	}
	list, err := f.users.List(ctx)
	if err != nil || len(list) != 2 {
		t.Fatalf("got %v (%v)", list, err)
	}
	if list[0].Email != "Ada@example.com" || !list[1].Disabled || list[0].CreatedAt.Location() != time.UTC {
		t.Errorf("got %+v", list)
	}
	if err := f.Check(ctx); err != nil {
		t.Errorf("Check: %v", err)
	}
}

func TestConfigIsValidated(t *testing.T) {
	if err := (identity.Config{}).Validate(); err != nil {
		t.Errorf("the zero value: %v", err)
	}
	for _, ttl := range []time.Duration{time.Millisecond, 367 * 24 * time.Hour} {
		if err := (identity.Config{TTL: unit.Duration(ttl)}).Validate(); err == nil {
			t.Errorf("ttl %s: got no error", ttl)
		}
		if err := (identity.Config{RefreshTTL: unit.Duration(ttl)}).Validate(); err == nil {
			t.Errorf("refresh_ttl %s: got no error", ttl)
		}
	}
	if err := (identity.Config{RefreshGrace: unit.Duration(time.Hour)}).Validate(); err == nil {
		t.Error("refresh_grace 1h: got no error")
	}
	if err := (identity.Config{IPAttempts: identity.Attempts{N: 1, Per: time.Millisecond}}).Validate(); err == nil || !strings.Contains(err.Error(), "ip_attempts") {
		t.Errorf("ip_attempts 1/1ms: got %v", err)
	}
}

func FuzzLogin(f *testing.F) {
	for _, seed := range []string{"", "{}", `{"email":"a@b.c"}`, `{"email":"\ud800","password":""}`, `{"email":1}`, "\xff", `{"email":"a@b.c","password":""} x`} {
		f.Add(seed)
	}
	many := identity.Attempts{N: 1_000_000, Per: time.Second}
	fx := start(f, identity.Config{Attempts: many, IPAttempts: many}, nil, "")
	f.Fuzz(func(t *testing.T, in string) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		w := httptest.NewRecorder()
		fx.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/login", strings.NewReader(in)).WithContext(ctx))
		switch w.Code {
		case 400, 401, 413, 503:
		default:
			t.Errorf("got %d", w.Code)
		}
	})
}
