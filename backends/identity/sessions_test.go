package identity_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/gatehouse-proxy/gatehouse/backends/identity"
	"github.com/gatehouse-proxy/gatehouse/backends/identity/identitytest"
	"github.com/gatehouse-proxy/gatehouse/integration/await"
	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
	"github.com/gatehouse-proxy/gatehouse/integration/redistest"
	"github.com/gatehouse-proxy/gatehouse/internal/redisconn"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const adminToken = "the admin's own token"

type accessClaims struct {
	jwt.RegisteredClaims
	Session string `json:"sid"`
}

// parse verifies a token by the service's keys.
func (f fixture) parse(token string) (c accessClaims, err error) {
	_, err = jwt.NewParser(jwt.WithLeeway(5*time.Second), jwt.WithIssuedAt()).ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		var found any
		f.VerificationKeys(func(kid, _ string, key any) {
			if kid == t.Header["kid"] {
				found = key
			}
		})
		return found, nil
	})
	return c, err
}

// accepts says whether the token is valid and not revoked.
func (f fixture) accepts(token string) bool {
	c, err := f.parse(token)
	return err == nil && !f.Revoked(c.Issuer, c.ID, c.Session, c.Subject, c.IssuedAt.UnixMilli())
}

// running runs the service until the test ends.
func (f fixture) running(t testing.TB) fixture {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = f.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return f
}

// serve serves the API with /protected beside it.
func (f fixture) serve(t testing.TB) string {
	mux := http.NewServeMux()
	mux.Handle("/", f)
	mux.HandleFunc("/protected", func(w http.ResponseWriter, r *http.Request) {
		if !f.accepts(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")) {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL
}

func (f fixture) admin(t testing.TB, method, path, body string, want int) map[string]any {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	f.ServeHTTP(w, r.WithContext(service.AsAdmin(r.Context())))
	if w.Code != want {
		t.Fatalf("%s %s %s: got %d %s, want %d", method, path, body, w.Code, w.Body, want)
	}
	m := map[string]any{}
	_ = json.Unmarshal(w.Body.Bytes(), &m)
	return m
}

type tokens struct {
	Token   string
	Refresh string `json:"refresh_token"`
}

func (f fixture) mustLogin(t testing.TB, email, password string) (got tokens) {
	t.Helper()
	resp := f.login(email, password)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("login: got %d %v", resp.StatusCode, body(t, resp))
	}
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	return got
}

func (f fixture) refresh(t testing.TB, token string, want int) (got tokens) {
	t.Helper()
	resp := f.post("/refresh", `{"refresh_token":"`+token+`"}`)
	if resp.StatusCode != want {
		t.Fatalf("refresh: got %d %v, want %d", resp.StatusCode, body(t, resp), want)
	}
	_ = json.NewDecoder(resp.Body).Decode(&got)
	return got
}

func adminSet() *secret.Set {
	return secret.NewSet("admin", secret.Version{Label: "new", Value: secret.NewValue([]byte("another"))},
		secret.Version{Label: "old", Value: secret.NewValue([]byte(adminToken))})
}

func TestExamine(t *testing.T) {
	pgtest.Each(t, func(t *testing.T, url string) {
		const issuer = "https://id.example/"
		f := startOn(t, identity.Config{Issuer: issuer}, identity.Deps{Admin: adminSet()}, open(t, url, t.TempDir())).running(t)
		base := f.serve(t)
		identitytest.Examine(t, base, http.DefaultClient, identitytest.Options{Admin: base, AdminToken: adminToken, Protected: base + "/protected", Issuer: issuer})
	})
}

// TestExamineTogether judges two instances on one database: what one revokes the other refuses.
func TestExamineTogether(t *testing.T) {
	pgtest.Each(t, func(t *testing.T, url string) {
		dir := t.TempDir()
		raw, _ := identity.GenerateKey()
		one := startOn(t, identity.Config{}, identity.Deps{Admin: adminSet(), Keys: keySet(raw)}, open(t, url, dir)).running(t)
		two := startOn(t, identity.Config{}, identity.Deps{Keys: keySet(raw)}, open(t, url, dir)).running(t)
		base := one.serve(t)
		identitytest.Examine(t, base, http.DefaultClient, identitytest.Options{Admin: base, AdminToken: adminToken, Protected: two.serve(t) + "/protected"})
	})
}

// TestExamineOverRedis judges two instances that share Redis alone.
func TestExamineOverRedis(t *testing.T) {
	server := redistest.Start(t)
	raw, _ := identity.GenerateKey()
	one := startOn(t, identity.Config{}, identity.Deps{Admin: adminSet(), Keys: keySet(raw), Redis: redisTo(t, server)}, open(t, "", t.TempDir())).running(t)
	two := startOn(t, identity.Config{}, identity.Deps{Keys: keySet(raw), Redis: redisTo(t, server)}, open(t, "", t.TempDir())).running(t)
	base := one.serve(t)
	await.For(t, "the first look into redis", func() error {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("POST", "/revocations", strings.NewReader(`{"jti":"first"}`))
		if one.ServeHTTP(w, r.WithContext(service.AsAdmin(r.Context()))); w.Code != 201 {
			return fmt.Errorf("got %d %s", w.Code, w.Body)
		}
		return nil
	})
	identitytest.Examine(t, base, http.DefaultClient, identitytest.Options{Admin: base, AdminToken: adminToken, Protected: two.serve(t) + "/protected"})
}

func TestRevocationsOverACluster(t *testing.T) {
	urls := redistest.StartCluster(t).URLs()
	instance := func() fixture {
		conn, err := redisconn.New(redisconn.Config{Addresses: urls}, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		return startOn(t, identity.Config{}, identity.Deps{Redis: conn}, open(t, "", t.TempDir())).running(t)
	}
	one, two := instance(), instance()
	await.For(t, "the revocation", func() error {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("POST", "/revocations", strings.NewReader(`{"jti":"a"}`))
		if one.ServeHTTP(w, r.WithContext(service.AsAdmin(r.Context()))); w.Code != 201 {
			return fmt.Errorf("got %d %s", w.Code, w.Body)
		}
		return nil
	})
	await.For(t, "the other instance", func() error {
		if !two.Revoked("", "a", "", "", 0) {
			return fmt.Errorf("it is not revoked there")
		}
		return nil
	})
}

func redisTo(t testing.TB, server *redistest.Server) *redisconn.Conn {
	t.Helper()
	conn, err := redisconn.New(redisconn.Config{Addresses: []string{server.URL()}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

func TestRevocationsOutlastRedis(t *testing.T) {
	server := redistest.Start(t)
	one := startOn(t, identity.Config{}, identity.Deps{Redis: redisTo(t, server)}, open(t, "", t.TempDir())).running(t)
	two := startOn(t, identity.Config{}, identity.Deps{Redis: redisTo(t, server)}, open(t, "", t.TempDir())).running(t)
	revoked := func(f fixture, jti string) func() error {
		return func() error {
			if !f.Revoked("", jti, "", "", 0) {
				return fmt.Errorf("%s is not revoked", jti)
			}
			return nil
		}
	}
	await.For(t, "the first look into redis", func() error {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("POST", "/revocations", strings.NewReader(`{"jti":"a"}`))
		if one.ServeHTTP(w, r.WithContext(service.AsAdmin(r.Context()))); w.Code != 201 {
			return fmt.Errorf("got %d %s", w.Code, w.Body)
		}
		return nil
	})
	await.For(t, "the other instance", revoked(two, "a"))

	server.Kill()
	m := one.admin(t, "POST", "/revocations", `{"jti":"b"}`, 503)
	if detail, _ := m["detail"].(string); !strings.Contains(detail, "holds on this instance") {
		t.Errorf("got %v", m)
	}
	if err := revoked(one, "b")(); err != nil {
		t.Errorf("while redis is away: %v", err)
	}
	server.Restart() // with nothing in it
	await.For(t, "the other instance after redis is back", revoked(two, "b"))

	three := startOn(t, identity.Config{}, identity.Deps{Redis: redisTo(t, server)}, open(t, "", t.TempDir())).running(t)
	await.For(t, "a new instance", revoked(three, "a"))
	await.For(t, "a new instance", revoked(three, "b"))
	three.admin(t, "POST", "/revocations", `{"jti":"c"}`, 201)
	await.For(t, "the first instance", revoked(one, "c"))

	// What Redis evicts is written anew.
	if err := server.Client().Del(t.Context(), "gatehouse:{identity:revocations}").Err(); err != nil {
		t.Fatal(err)
	}
	four := startOn(t, identity.Config{}, identity.Deps{Redis: redisTo(t, server)}, open(t, "", t.TempDir())).running(t)
	for _, jti := range []string{"a", "b", "c"} {
		await.For(t, "a new instance after an eviction", revoked(four, jti))
	}

	list := one.admin(t, "GET", "/revocations", "", 200)["items"].([]any)
	for _, item := range list {
		one.admin(t, "DELETE", "/revocations/"+item.(map[string]any)["id"].(string), "", 204)
	}
	await.For(t, "the end of the revocations elsewhere", func() error {
		if two.Revoked("", "a", "", "", 0) || two.Revoked("", "b", "", "", 0) {
			return fmt.Errorf("they hold still")
		}
		return nil
	})
}

func TestRevocationsSurviveARestart(t *testing.T) {
	pgtest.Each(t, func(t *testing.T, url string) {
		dir := t.TempDir()
		raw, _ := identity.GenerateKey()
		one := startOn(t, identity.Config{}, identity.Deps{Keys: keySet(raw)}, open(t, url, dir))
		one.mustAdd(t, "ada@example.com", "correct horse", "", "")
		got := one.mustLogin(t, "ada@example.com", "correct horse")
		kept := one.mustLogin(t, "ada@example.com", "correct horse")
		if resp := one.post("/logout", `{"refresh_token":"`+got.Refresh+`"}`); resp.StatusCode != 204 {
			t.Fatalf("logout: got %d", resp.StatusCode)
		}
		// What was answered is on disk: another process sees it without this one's help.
		two := startOn(t, identity.Config{}, identity.Deps{Keys: keySet(raw)}, open(t, url, dir)).running(t)
		await.For(t, "the revocation", func() error {
			if two.accepts(got.Token) {
				return fmt.Errorf("the token is accepted")
			}
			return nil
		})
		if !two.accepts(kept.Token) {
			t.Error("a token that was not revoked is refused")
		}
		two.refresh(t, kept.Refresh, 200)
	})
}

func TestRefreshTokensAreNotStored(t *testing.T) {
	f := start(t, identity.Config{}, nil, "")
	f.mustAdd(t, "ada@example.com", "correct horse", "", "")
	got := f.mustLogin(t, "ada@example.com", "correct horse")
	if raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(got.Refresh, "rt_")); err != nil || len(raw) != 32 {
		t.Errorf("got a refresh token of %d bytes (%v), want 32", len(raw), err)
	}
	var hash string
	if err := f.db.Read.QueryRow(`SELECT hash FROM identity_refresh`).Scan(&hash); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(got.Refresh))
	if want := base64.RawURLEncoding.EncodeToString(sum[:]); hash != want {
		t.Errorf("got %q in the database, want the hash", hash)
	}
}

// clock is one that stands still until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Now().Truncate(time.Second)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func TestRefreshTokensExpire(t *testing.T) {
	pgtest.Each(t, func(t *testing.T, url string) {
		c := newClock()
		f := startOn(t, identity.Config{RefreshTTL: unit.Duration(time.Hour)}, identity.Deps{Now: c.Now}, open(t, url, t.TempDir()))
		f.mustAdd(t, "ada@example.com", "correct horse", "", "")
		got := f.mustLogin(t, "ada@example.com", "correct horse")
		for range 3 { // each begins anew
			c.forward(59 * time.Minute)
			got = f.refresh(t, got.Refresh, 200)
		}
		c.forward(time.Hour)
		f.refresh(t, got.Refresh, 401)
		f.running(t)
		await.For(t, "the sweep", func() error {
			var n int
			err := f.db.Read.QueryRow(`SELECT (SELECT count(*) FROM identity_refresh) + (SELECT count(*) FROM identity_sessions)`).Scan(&n)
			if err == nil && n > 0 {
				err = fmt.Errorf("%d rows are left", n)
			}
			return err
		})
	})
}

func TestRefreshGrace(t *testing.T) {
	pgtest.Each(t, func(t *testing.T, url string) {
		c := newClock()
		f := startOn(t, identity.Config{RefreshGrace: unit.Duration(10 * time.Second)}, identity.Deps{Now: c.Now}, open(t, url, t.TempDir()))
		f.mustAdd(t, "ada@example.com", "correct horse", "", "")
		one := f.mustLogin(t, "ada@example.com", "correct horse")
		f.refresh(t, one.Refresh, 200) // whose answer is lost
		c.forward(10 * time.Second)
		two := f.refresh(t, one.Refresh, 200)
		f.refresh(t, two.Refresh, 200)
		c.forward(time.Millisecond)
		f.refresh(t, one.Refresh, 401)
		f.refresh(t, two.Refresh, 401)
		if f.accepts(two.Token) {
			t.Error("the session's access token is accepted after a reuse")
		}
	})
}

func TestTokensAfterARevocationInTheSameSecond(t *testing.T) {
	pgtest.Each(t, func(t *testing.T, url string) {
		c := newClock()
		f := startOn(t, identity.Config{}, identity.Deps{Now: c.Now}, open(t, url, t.TempDir()))
		u := f.mustAdd(t, "ada@example.com", "correct horse", "", "")
		var old []string
		for _, act := range []func(){
			func() { f.admin(t, "DELETE", "/users/"+u.ID+"/sessions", "", 204) },
			func() { f.admin(t, "POST", "/revocations", `{"sub":"`+u.ID+`"}`, 201) },
			func() { f.admin(t, "PATCH", "/users/"+u.ID, `{"role":"boss"}`, 200) },
		} {
			old = append(old, f.mustLogin(t, "ada@example.com", "correct horse").Token)
			act()
			for _, token := range old {
				if c, _ := f.parse(token); !f.Revoked(c.Issuer, c.ID, c.Session, c.Subject, c.IssuedAt.UnixMilli()) {
					t.Error("a token from before the revocation holds")
				}
			}
			now := f.mustLogin(t, "ada@example.com", "correct horse").Token
			if c, _ := f.parse(now); f.Revoked(c.Issuer, c.ID, c.Session, c.Subject, c.IssuedAt.UnixMilli()) {
				t.Error("a token from after the revocation is revoked")
			}
			old = append(old, now)
		}
	})
}

func TestAttemptsAreLimited(t *testing.T) {
	c := newClock()
	three := identity.Attempts{N: 3, Per: time.Minute}
	f := startOn(t, identity.Config{Attempts: three, IPAttempts: identity.Attempts{N: 6, Per: time.Minute}}, identity.Deps{Now: c.Now}, open(t, "", t.TempDir()))
	f.mustAdd(t, "ada@example.com", "correct horse", "", "")
	from := func(ip, email, password string) *http.Response {
		b, _ := json.Marshal(map[string]string{"email": email, "password": password})
		r := httptest.NewRequest("POST", "/login", bytes.NewReader(b))
		if strings.HasPrefix(ip, "peer ") {
			r.RemoteAddr = strings.TrimPrefix(ip, "peer ")
		} else {
			r.Header.Set(service.ClientIPHeader, ip)
		}
		w := httptest.NewRecorder()
		f.ServeHTTP(w, r)
		return w.Result()
	}
	want := func(code int, ip, email, password string) *http.Response {
		t.Helper()
		r := from(ip, email, password)
		if r.StatusCode != code {
			t.Fatalf("from %s to %s: got %d, want %d", ip, email, r.StatusCode, code)
		}
		return r
	}
	// A success clears the account's failures.
	for range 2 {
		want(401, "192.0.2.1", "ada@example.com", "wrong")
	}
	want(200, "192.0.2.1", "ADA@example.com", "correct horse")
	for i := range 3 {
		want(401, fmt.Sprint("192.0.2.1", i), "Ada@example.com", "wrong")
	}
	c.forward(12 * time.Second)
	begin := time.Now()
	for _, email := range []string{"ada@example.com", "ADA@EXAMPLE.com"} {
		if got := want(429, "192.0.2.99", email, "correct horse").Header.Get("Retry-After"); got != "48" {
			t.Errorf("got Retry-After %q, want 48", got)
		}
	}
	if took := time.Since(begin); took > 15*time.Millisecond {
		t.Logf("refusing two logins took %s", took)
	}
	c.forward(48 * time.Second)
	want(200, "192.0.2.99", "ada@example.com", "correct horse") // what Retry-After said is true

	// An address fails with many accounts; a /64 of IPv6 is one.
	for _, of := range [][2]string{{"198.51.100.1", "::ffff:198.51.100.1"}, {"2001:db8::1", "2001:db8::ffff:2"}, {"peer [2001:db8:1::1]:80", "peer [2001:db8:1::2]:8080"}} {
		for i := range 6 {
			want(401, of[i%2], fmt.Sprintf("nobody-%s-%d@example.com", of[0], i), "wrong")
		}
		want(429, of[1], "ada@example.com", "correct horse")
	}
	want(200, "2001:db8:0:1::1", "ada@example.com", "correct horse")
}

func TestAttemptsAreRead(t *testing.T) {
	for in, want := range map[string]identity.Attempts{
		"10/15m": {N: 10, Per: 15 * time.Minute},
		"1/1s":   {N: 1, Per: time.Second},
		"5/1d":   {N: 5, Per: 24 * time.Hour},
	} {
		got, err := identity.ParseAttempts(in)
		if err != nil || got != want {
			t.Errorf("%s: got %v, %v", in, got, err)
		}
		b, _ := json.Marshal(got)
		var back identity.Attempts
		if err = json.Unmarshal(b, &back); err != nil || back != want {
			t.Errorf("%s: got %s, and from it %v, %v", in, b, back, err)
		}
	}
	for _, in := range []string{"", "10", "0/1m", "-1/1m", "x/1m", "10/", "10/soon", "10/1ms", "10/25h", "9999999/1m"} {
		if got, err := identity.ParseAttempts(in); err == nil {
			t.Errorf("%q: got %v, want an error", in, got)
		}
	}
}

func TestKeysRotateWhileItRuns(t *testing.T) {
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

	gen = f.KeysGeneration()
	set.Replace([]secret.Version{{Label: "broken", Value: secret.NewValue([]byte("short"))}, two})
	for range 3 {
		if f.KeysGeneration() != gen || len(kids()) != 2 || !f.accepts(second) {
			t.Error("a broken version takes the good ones out of force")
		}
	}
	if n := strings.Count(log.String(), "the last good ones stay in force"); n != 1 || strings.Contains(log.String(), "short") && strings.Contains(log.String(), "value=short") {
		t.Errorf("got %d lines in the log, want 1: %s", n, log.String())
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

func TestRevokedCostsNothing(t *testing.T) {
	f := start(t, identity.Config{}, nil, "")
	for i := range 1000 {
		f.admin(t, "POST", "/revocations", fmt.Sprintf(`{"jti":"token-%d","issuer":"i"}`, i), 201)
	}
	f.admin(t, "POST", "/revocations", `{"sub":"ada","issuer":"i"}`, 201)
	if !f.Revoked("i", "token-1", "", "", 0) || f.Revoked("j", "token-1", "", "", 0) || f.Revoked("i", "token-1x", "", "", 0) {
		t.Error("the issuer of a revocation is not minded")
	}
	now := time.Now().UnixMilli()
	if !f.Revoked("i", "x", "y", "ada", now-1000) || f.Revoked("i", "x", "y", "ada", now+1000) {
		t.Error("the time of a revocation is not minded")
	}
	if n := testing.AllocsPerRun(100, func() { f.Revoked("i", "some-jti", "some-sid", "some-sub", now) }); n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}

func TestAdminNeedsTheSecret(t *testing.T) {
	f := startOn(t, identity.Config{}, identity.Deps{Admin: adminSet()}, open(t, "", t.TempDir()))
	for token, want := range map[string]int{adminToken: 200, "another": 200, "": 404, adminToken + "x": 404, "Bearer " + adminToken: 404} {
		r := httptest.NewRequest("GET", "/users", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		if f.ServeHTTP(w, r); w.Code != want {
			t.Errorf("%q: got %d, want %d", token, w.Code, want)
		}
	}
}

// TestMintedTokensCanBeRevoked is of tokens without a session, which a command made.
func TestMintedTokensCanBeRevoked(t *testing.T) {
	raw, _ := identity.GenerateKey()
	f := start(t, identity.Config{}, keySet(raw), "")
	signer, err := identity.NewSigner(keySet(raw))
	if err != nil {
		t.Fatal(err)
	}
	mint := func() string {
		token, err := signer.Mint(identity.Claims{Subject: "ada", Issuer: "gatehouse", Audience: "api", TTL: time.Hour}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	logout := func(token, body string) int {
		r := httptest.NewRequest("POST", "/logout", strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		f.ServeHTTP(w, r)
		return w.Code
	}
	one, two, three := mint(), mint(), mint()
	if got := logout(one, ""); got != 204 || f.accepts(one) || !f.accepts(two) {
		t.Errorf("got %d, and the wrong tokens hold", got)
	}
	if got := logout(one, `{"all":true}`); got != 401 || !f.accepts(two) {
		t.Errorf("with a revoked token: got %d, want 401", got)
	}
	if got := logout(two, `{"all":true}`); got != 204 || f.accepts(three) {
		t.Errorf("got %d, and the third token holds", got)
	}
	tampered := three[:len(three)-4] + "AAAA"
	if got := logout(tampered, ""); got != 204 {
		t.Errorf("with an unknown token: got %d, want 204", got)
	}
}

func TestUsersOfBeforeGetTheNewTables(t *testing.T) {
	pgtest.Each(t, func(t *testing.T, url string) {
		f := start(t, identity.Config{}, nil, url)
		if _, err := f.db.Write.Exec(`INSERT INTO identity_users (id, email, email_key, password_hash, created_at) VALUES ('usr_a', 'a@b.c', 'a@b.c', 'x', 0)`); err != nil {
			t.Fatal(err)
		}
		if list, err := f.users.List(t.Context()); err != nil || len(list) != 1 {
			t.Errorf("got %v, %v", list, err)
		}
	})
}

func FuzzRefreshAndLogout(f *testing.F) {
	for _, seed := range []string{"", "{}", `{"refresh_token":""}`, `{"refresh_token":"rt_"}`, `{"refresh_token":"\u0000"}`, `{"all":true}`, `{"refresh_token":"a","all":true}`, "[]", "\xff", `{"refresh_token":1}`} {
		f.Add(seed, "")
		f.Add(seed, "a.b.c")
	}
	f.Add("", "eyJhbGciOiJub25lIn0.e30.")
	fx := start(f, identity.Config{}, nil, "")
	f.Fuzz(func(t *testing.T, in, bearer string) {
		for _, path := range []string{"/refresh", "/logout"} {
			w := httptest.NewRecorder()
			r := httptest.NewRequest("POST", path, strings.NewReader(in))
			r.Header.Set("Authorization", "Bearer "+bearer)
			fx.ServeHTTP(w, r)
			switch w.Code {
			case 400, 401, 413:
			case 204:
				if path == "/refresh" {
					t.Errorf("%s: got 204", path)
				}
			default:
				t.Errorf("%s: got %d %s", path, w.Code, w.Body)
			}
		}
	})
}
