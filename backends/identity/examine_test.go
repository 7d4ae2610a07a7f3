package identity_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/backends/identity"
	"github.com/gatehouse-proxy/gatehouse/backends/identity/identitytest"
	"github.com/gatehouse-proxy/gatehouse/integration/await"
	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
	"github.com/gatehouse-proxy/gatehouse/integration/redistest"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

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
