package identitytest

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func (e *exam) userLife(t *testing.T) {
	u := e.newUser(t)
	e.admin(t, 409, "POST", "/users", object("email", strings.ToUpper(u.Email), "password", password))
	e.admin(t, 400, "POST", "/users", object("email", "x", "password", password))
	e.admin(t, 400, "POST", "/users", object("email", "x@example.com", "password", "short"))
	if got := into[user](t, e.admin(t, 200, "GET", "/users/"+u.ID, "")); got != u {
		t.Errorf("got %+v, want %+v", got, u)
	}
	type page struct {
		Items      []user
		NextCursor string `json:"next_cursor"`
	}
	if got := into[page](t, e.admin(t, 200, "GET", "/users?email="+u.Email, "")); len(got.Items) != 1 || got.Items[0] != u {
		t.Errorf("got %+v by the address", got)
	}
	e.newUser(t)
	seen := map[string]bool{}
	for cursor := ""; ; {
		p := into[page](t, e.admin(t, 200, "GET", "/users?limit=1&cursor="+cursor, ""))
		for _, u := range p.Items {
			if seen[u.ID] {
				t.Fatalf("%s is listed twice", u.ID)
			}
			seen[u.ID] = true
		}
		if cursor = p.NextCursor; cursor == "" {
			break
		}
	}
	if !seen[u.ID] {
		t.Error("the user is not listed")
	}
	first := e.in(t, u)
	sessions := into[struct{ Items []struct{ ID string } }](t, e.admin(t, 200, "GET", "/users/"+u.ID+"/sessions", ""))
	if len(sessions.Items) != 1 || sessions.Items[0].ID != claimsOf(t, first.Token).SID {
		t.Errorf("got the sessions %+v", sessions)
	}
	e.admin(t, 204, "DELETE", "/users/"+u.ID+"/sessions", "")
	e.refresh(t, 401, first.RefreshToken)
	e.holds(t, 401, first.Token)
	again := e.in(t, u)
	e.holds(t, 200, again.Token)
	e.admin(t, 204, "DELETE", "/users/"+u.ID, "")
	e.holds(t, 401, again.Token)
	e.refresh(t, 401, again.RefreshToken)
	e.want(t, 401, "POST", "/login", object("email", u.Email, "password", password), "")
	for _, method := range []string{"GET", "DELETE"} {
		e.admin(t, 404, method, "/users/"+u.ID, "")
		e.admin(t, 404, method, "/users/"+u.ID+"/sessions", "")
	}
	e.admin(t, 404, "PATCH", "/users/"+u.ID, `{"disabled":true}`)
}

func (e *exam) changes(t *testing.T) {
	u := e.newUser(t)
	path := "/users/" + u.ID
	got := e.in(t, u)

	changed := into[user](t, e.admin(t, 200, "PATCH", path, object("role", "boss")))
	if changed.Role != "boss" || changed.Scope != u.Scope {
		t.Errorf("got %+v", changed)
	}
	e.holds(t, 401, got.Token)
	next := e.refresh(t, 200, got.RefreshToken) // the session goes on, with what now holds
	if c := claimsOf(t, next.Token); c.Role != "boss" {
		t.Errorf("got the claims %+v", c)
	}
	e.holds(t, 200, next.Token)

	e.admin(t, 200, "PATCH", path, `{"disabled":true}`)
	e.holds(t, 401, next.Token)
	e.refresh(t, 401, next.RefreshToken)
	e.want(t, 401, "POST", "/login", object("email", u.Email, "password", password), "")
	e.admin(t, 200, "PATCH", path, `{"disabled":false}`)
	got = e.in(t, u)
	e.holds(t, 200, got.Token)

	e.admin(t, 200, "PATCH", path, object("password", "another horse"))
	e.holds(t, 401, got.Token)
	e.refresh(t, 401, got.RefreshToken)
	e.want(t, 401, "POST", "/login", object("email", u.Email, "password", password), "")
	e.want(t, 200, "POST", "/login", object("email", u.Email, "password", "another horse"), "")
	e.admin(t, 400, "PATCH", path, `{}`)
	e.admin(t, 400, "PATCH", path, object("role", "two words"))
	e.admin(t, 400, "PATCH", path, object("email", "new@example.com"))
}

func (e *exam) revocations(t *testing.T) {
	u := e.newUser(t)
	one, two := e.in(t, u), e.in(t, u)
	type revocation struct {
		ID, JTI, SID, Sub string
		ExpiresAt         time.Time `json:"expires_at"`
	}
	byToken := into[revocation](t, e.admin(t, 201, "POST", "/revocations", object("jti", claimsOf(t, one.Token).JTI)))
	e.holds(t, 401, one.Token)
	e.holds(t, 200, two.Token)
	e.admin(t, 204, "DELETE", "/revocations/"+byToken.ID, "")
	e.holds(t, 200, one.Token)
	e.admin(t, 404, "DELETE", "/revocations/"+byToken.ID, "")

	e.admin(t, 201, "POST", "/revocations", object("sid", claimsOf(t, one.Token).SID))
	e.holds(t, 401, one.Token)
	e.refresh(t, 401, one.RefreshToken)
	e.holds(t, 200, two.Token)

	bySub := into[revocation](t, e.admin(t, 201, "POST", "/revocations", object("sub", u.ID)))
	if bySub.Sub != u.ID || time.Until(bySub.ExpiresAt) < 24*time.Hour {
		t.Errorf("got %+v", bySub)
	}
	e.holds(t, 401, two.Token)
	e.refresh(t, 401, two.RefreshToken)
	later := e.in(t, u)
	e.holds(t, 200, later.Token)
	e.admin(t, 201, "POST", "/revocations", object("sub", u.ID, "issuer", "https://another.example"))
	e.admin(t, 201, "POST", "/revocations", object("sub", u.ID, "issued_before", time.Now().Add(-time.Hour).Format(time.RFC3339)))
	e.holds(t, 200, e.refresh(t, 200, later.RefreshToken).Token)
	e.admin(t, 201, "POST", "/revocations", object("sub", u.ID, "issuer", e.Issuer))
	e.refresh(t, 401, later.RefreshToken)

	// What a gateway may let in can be revoked.
	for _, sub := range []string{strings.Repeat("a", 1024), "a\u00a0b", strings.Repeat("\"", 1024)} {
		e.admin(t, 201, "POST", "/revocations", object("sub", sub, "issuer", e.Issuer))
	}

	found := false
	for cursor := ""; ; {
		p := into[struct {
			Items      []revocation
			NextCursor string `json:"next_cursor"`
		}](t, e.admin(t, 200, "GET", "/revocations?limit=2&cursor="+cursor, ""))
		for _, r := range p.Items {
			found = found || r.ID == bySub.ID
			if r.ID == byToken.ID {
				t.Error("a revocation that was taken back is listed")
			}
		}
		if cursor = p.NextCursor; cursor == "" {
			break
		}
	}
	if !found {
		t.Error("the revocation is not listed")
	}
	for name, body := range map[string]string{
		"nothing":           `{}`,
		"two":               object("jti", "a", "sub", "b"),
		"before-of-a-token": object("jti", "a", "issued_before", "2020-01-01T00:00:00Z"),
		"before-ahead":      object("sub", "a", "issued_before", "2200-01-01T00:00:00Z"),
		"expired":           object("jti", "a", "expires_at", "2020-01-01T00:00:00Z"),
		"too-long":          object("jti", strings.Repeat("a", 1025)),
		"control-character": object("jti", "a\nb"),
	} {
		t.Run(name, func(t *testing.T) { e.admin(t, 400, "POST", "/revocations", body) })
	}
	e.admin(t, 400, "GET", "/revocations?cursor=x", "")
}

func (e *exam) discovery(t *testing.T) {
	var set struct {
		Keys []map[string]any
	}
	r := e.want(t, 200, "GET", "/.well-known/jwks.json", "", "")
	if err := json.Unmarshal(r.body, &set); err != nil {
		t.Fatal(err)
	}
	for _, k := range set.Keys {
		if k["kid"] == nil || k["alg"] == nil || k["d"] != nil || k["k"] != nil {
			t.Error("a published key lacks its kid or alg, or is a private one")
		}
	}
	for _, path := range []string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"} {
		if !strings.Contains(e.Issuer, "://") {
			if r := e.want(t, 404, "GET", path, "", ""); !strings.Contains(string(r.body), "issuer") {
				t.Errorf("got %s, want the remedy", r.body)
			}
			continue
		}
		m := into[map[string]any](t, e.want(t, 200, "GET", path, "", ""))
		if m["issuer"] != e.Issuer || m["jwks_uri"] != strings.TrimSuffix(e.Issuer, "/")+"/.well-known/jwks.json" || m["authorization_endpoint"] != nil {
			t.Errorf("got %v", m)
		}
	}
}

func (e *exam) hidden(t *testing.T) {
	u := e.newUser(t)
	token := e.in(t, u).Token
	for _, bearer := range []string{"", "wrong", token} {
		for _, at := range [][2]string{{"GET", "/users"}, {"POST", "/users"}, {"GET", "/users/" + u.ID}, {"PUT", "/users"}, {"DELETE", "/users/" + u.ID + "/sessions"}, {"GET", "/revocations"}} {
			r := e.want(t, 404, at[0], at[1], "", bearer)
			if !strings.Contains(string(r.body), "There is nothing at") {
				t.Errorf("%s %s: got %s, want the answer of an unknown path", at[0], at[1], r.body)
			}
		}
	}
}

func (e *exam) badRequests(t *testing.T) {
	for _, path := range []string{"/login", "/refresh"} {
		for _, body := range []string{"", "[]", "{}", `{"x":1}`, `{"refresh_token":1}`, `{"refresh_token":""}`, `{"email":"a"}`} {
			e.want(t, 400, "POST", path, body, "")
		}
		e.want(t, 413, "POST", path, `{"email":"`+strings.Repeat("a", 5000)+`"}`, "")
		e.want(t, 405, "GET", path, "", "")
	}
	e.want(t, 400, "POST", "/logout", `{"everywhere":true}`, "")
	e.want(t, 400, "POST", "/logout", "[]", "")
}
