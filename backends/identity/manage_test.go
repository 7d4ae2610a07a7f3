package identity_test

import (
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/identity"
	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

func TestAdminNeedsTheSecret(t *testing.T) {
	f := startOn(t, identity.Config{}, identity.Deps{Admin: adminSet()}, open(t, "", t.TempDir()))
	for token, want := range map[string]int{adminToken: 200, newAdminToken: 200, "": 404, adminToken + "x": 404, "Bearer " + adminToken: 404} {
		r := httptest.NewRequest("GET", "/users", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		if f.ServeHTTP(w, r); w.Code != want {
			t.Errorf("%q: got %d, want %d", token, w.Code, want)
		}
	}
}

func TestAShortAdminSecretIsRefused(t *testing.T) {
	raw, _ := identity.GenerateKey()
	users, err := identity.OpenUsers(t.Context(), open(t, "", t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	try := func(admin *secret.Set) error {
		_, err := identity.New(identity.Config{}, identity.Deps{Users: users, Keys: keySet(raw), Admin: admin, Log: slog.New(slog.DiscardHandler)})
		return err
	}
	if err := try(keySet([]byte("0123456789abcdef"), []byte("0123456789abcde"))); err == nil || !strings.Contains(err.Error(), "15 bytes, it must have at least 16") {
		t.Errorf("got %v", err)
	}
	admin := keySet([]byte("0123456789abcdef"))
	if err := try(admin); err != nil {
		t.Error(err)
	}
	// One that becomes short while the process runs opens nothing.
	f := startOn(t, identity.Config{}, identity.Deps{Admin: admin}, open(t, "", t.TempDir()))
	admin.Replace([]secret.Version{{Label: "new", Value: secret.NewValue([]byte("x"))}})
	r := httptest.NewRequest("GET", "/users", nil)
	r.Header.Set("Authorization", "Bearer x")
	if got := f.do(r).StatusCode; got != 404 {
		t.Errorf("with a short secret: got %d, want 404", got)
	}
}

func TestWrongAdminSecretsAreLimited(t *testing.T) {
	t.Parallel()
	pgtest.Each(t, func(t *testing.T, url string) {
		c := newClock()
		limits := identity.Config{IPAttempts: identity.Attempts{N: 3, Per: time.Minute}}
		f := startOn(t, limits, identity.Deps{Admin: adminSet(), Now: c.Now}, open(t, url, t.TempDir()))
		f.mustAdd(t, "ada@example.com", "correct horse", "", "")
		ask := func(want int, from, path, token string) {
			t.Helper()
			r := httptest.NewRequest("GET", path, nil)
			r.Header.Set(service.ClientIPHeader, from)
			if token != "" {
				r.Header.Set("Authorization", "Bearer "+token)
			}
			resp := f.do(r)
			if resp.StatusCode != want {
				t.Errorf("from %s with %q: got %d, want %d", from, token, resp.StatusCode, want)
			}
			if want == 429 && resp.Header.Get("Retry-After") != "60" {
				t.Errorf("got Retry-After %q, want 60", resp.Header.Get("Retry-After"))
			}
		}
		for range 3 {
			ask(404, "192.0.2.1", "/users", "")          // no guess
			ask(404, "192.0.2.1", "/something", "wrong") // not looked at there
			ask(200, "192.0.2.1", "/users", adminToken)  // forgets none
			ask(404, "192.0.2.1", "/users", "wrong")
		}
		ask(429, "192.0.2.1", "/users", "wrong")
		ask(429, "192.0.2.1", "/revocations", adminToken)
		ask(404, "192.0.2.1", "/users", "")
		ask(200, "192.0.2.2", "/users", adminToken)
		f.loginFrom(t, 200, "192.0.2.1", "ada@example.com", "correct horse")
		f.admin(t, "GET", "/users", "", 200) // the gateway's own endpoint asks for no secret
		c.forward(time.Minute)
		ask(200, "192.0.2.1", "/users", adminToken)
	})
}

func TestUsersOfBeforeGetTheNewTables(t *testing.T) {
	t.Parallel()
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
