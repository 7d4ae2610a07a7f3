package identity_test

import (
	"net/http/httptest"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/backends/identity"
	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
)

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
