package identity_test

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/identity"
	"github.com/gatehouse-proxy/gatehouse/integration/await"
	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
	"github.com/gatehouse-proxy/gatehouse/integration/redistest"
	"github.com/gatehouse-proxy/gatehouse/internal/redisconn"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

func TestRevocationsOverACluster(t *testing.T) {
	t.Parallel()
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

func TestRevocationsOutlastRedis(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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

func TestTokensAfterARevocationInTheSameSecond(t *testing.T) {
	t.Parallel()
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

func TestRevokedCostsNothing(t *testing.T) {
	f := start(t, identity.Config{}, nil, "")
	for i := range 100 {
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
