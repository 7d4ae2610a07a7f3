// Package identitytest is the examiner of the identity backend: it judges any server of its HTTP API
// by HTTP alone.
package identitytest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience bounds the wait for a revocation to hold.
const patience = time.Second

const password = "correct horse battery"

// Options say what the server examined has besides the routes for everybody.
type Options struct {
	// Admin is where the admin API is: the gateway's admin endpoint, such as
	// http://127.0.0.1:2019/gatehouse/backends/identity, or the base itself with AdminToken. Required.
	Admin string
	// AdminToken is a version of the admin secret. Default: none is sent.
	AdminToken string
	// Protected is a URL that the gateway answers with 2xx to a valid access token, and with 401 to a revoked
	// one. Default: that revocations hold is judged by the tokens' own logout alone.
	Protected string
	// Issuer is the iss of the tokens. Default: gatehouse.
	Issuer string
}

type exam struct {
	Options
	base   string
	client *http.Client
	run    string
	n      int
	mu     sync.Mutex
}

// Examine judges the API at base, a URL without a slash at its end. It makes users of its own and removes
// them. Limits of attempts must be the default ones.
func Examine(t *testing.T, base string, client *http.Client, o Options) {
	e := &exam{Options: o, base: strings.TrimSuffix(base, "/"), client: client, run: fmt.Sprint("examine-", time.Now().UnixNano(), "-")}
	e.Admin = strings.TrimSuffix(e.Admin, "/")
	if e.Issuer == "" {
		e.Issuer = "gatehouse"
	}
	t.Run("login", e.login)
	t.Run("rotation", e.rotation)
	t.Run("reuse-ends-the-session", e.reuse)
	t.Run("one-refresh-wins", e.oneWins)
	t.Run("logout", e.logout)
	t.Run("logout-everywhere", e.logoutAll)
	t.Run("attempts-are-limited", e.attempts)
	t.Run("user-life", e.userLife)
	t.Run("changes-revoke", e.changes)
	t.Run("revocations", e.revocations)
	t.Run("discovery", e.discovery)
	t.Run("admin-is-hidden", e.hidden)
	t.Run("bad-requests", e.badRequests)
}

type response struct {
	status int
	header http.Header
	body   []byte
}

type tokens struct {
	Token            string
	TokenType        string `json:"token_type"`
	ExpiresIn        int64  `json:"expires_in"`
	RefreshToken     string `json:"refresh_token"`
	RefreshExpiresIn int64  `json:"refresh_expires_in"`
}

type user struct {
	ID, Email, Role, Scope string
	Disabled               bool
}

// claims are those of an access token, unverified.
type claims struct {
	Iss, Sub, Aud, JTI, SID, Role, Scope string
	Iat, Exp                             int64
	AuthTime                             int64 `json:"auth_time"`
}

func claimsOf(t testing.TB, token string) (c claims) {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("got a token of %d parts", len(parts))
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (e *exam) send(t testing.TB, method, url, body, bearer string) response {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := e.client.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response{resp.StatusCode, resp.Header, b}
}

// want sends a request whose answer must have the status, and for one of failure be a problem.
func (e *exam) want(t testing.TB, status int, method, path, body, bearer string) response {
	t.Helper()
	return check(t, status, method+" "+path, e.send(t, method, e.base+path, body, bearer))
}

func (e *exam) admin(t testing.TB, status int, method, path, body string) response {
	t.Helper()
	return check(t, status, method+" "+path, e.send(t, method, e.Admin+path, body, e.AdminToken))
}

func check(t testing.TB, status int, what string, r response) response {
	t.Helper()
	if r.status != status {
		t.Fatalf("%s: got %d %s, want %d", what, r.status, r.body, status)
	}
	if status >= 400 {
		var doc struct {
			Type, Title string
			Status      int
		}
		if err := json.Unmarshal(r.body, &doc); err != nil || r.header.Get("Content-Type") != "application/problem+json" || doc.Status != status || doc.Title == "" {
			t.Errorf("%s: got %s, want a problem", what, r.body)
		}
	}
	return r
}

func into[T any](t testing.TB, r response) (v T) {
	t.Helper()
	if err := json.Unmarshal(r.body, &v); err != nil {
		t.Fatalf("reading %s: %v", r.body, err)
	}
	return v
}

func object(members ...string) string {
	m := map[string]string{}
	for i := 0; i < len(members); i += 2 {
		m[members[i]] = members[i+1]
	}
	b, _ := json.Marshal(m) //nolint:errchkjson // strings always encode
	return string(b)
}

// newUser makes a user, who is removed when the test ends.
func (e *exam) newUser(t testing.TB) user {
	t.Helper()
	e.mu.Lock()
	e.n++
	email := fmt.Sprintf("%s%d@example.com", e.run, e.n)
	e.mu.Unlock()
	u := into[user](t, e.admin(t, 201, "POST", "/users", object("email", email, "password", password, "role", "clerk", "scope", "a b")))
	t.Cleanup(func() { e.send(t, "DELETE", e.Admin+"/users/"+u.ID, "", e.AdminToken) })
	return u
}

func (e *exam) in(t testing.TB, u user) tokens {
	t.Helper()
	return into[tokens](t, e.want(t, 200, "POST", "/login", object("email", u.Email, "password", password), ""))
}

func (e *exam) refresh(t testing.TB, status int, token string) tokens {
	t.Helper()
	r := e.want(t, status, "POST", "/refresh", object("refresh_token", token), "")
	if status != 200 {
		return tokens{}
	}
	return into[tokens](t, r)
}

// holds waits until the protected URL answers a token with the status.
func (e *exam) holds(t testing.TB, status int, token string) {
	t.Helper()
	if e.Protected == "" {
		return
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		r := e.send(t, "GET", e.Protected, "", token)
		if r.status/100 == status/100 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the protected URL still answers %d after %s, want %d", r.status, patience, status)
		}
	}
}

func (e *exam) login(t *testing.T) {
	u := e.newUser(t)
	r := e.want(t, 200, "POST", "/login", object("email", strings.ToUpper(u.Email), "password", password), "")
	if got := r.header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("got Cache-Control %q, want no-store", got)
	}
	got := into[tokens](t, r)
	if got.TokenType != "Bearer" || got.ExpiresIn < 1 || got.RefreshToken == "" || got.RefreshExpiresIn < 1 {
		t.Errorf("got %+v", got)
	}
	c := claimsOf(t, got.Token)
	if c.Iss != e.Issuer || c.Sub != u.ID || c.Aud == "" || c.JTI == "" || c.SID == "" || c.Role != "clerk" || c.Scope != "a b" ||
		c.Exp-c.Iat != got.ExpiresIn || c.AuthTime == 0 {
		t.Errorf("got the claims %+v", c)
	}
	e.holds(t, 200, got.Token)
	wrong := e.want(t, 401, "POST", "/login", object("email", u.Email, "password", "wrong horse"), "")
	if wrong.header.Get("WWW-Authenticate") == "" {
		t.Error("the 401 has no challenge")
	}
}

func (e *exam) rotation(t *testing.T) {
	u := e.newUser(t)
	one := e.in(t, u)
	two := e.refresh(t, 200, one.RefreshToken)
	three := e.refresh(t, 200, two.RefreshToken)
	a, b := claimsOf(t, one.Token), claimsOf(t, three.Token)
	if a.SID != b.SID || a.JTI == b.JTI || a.AuthTime != b.AuthTime || b.Sub != u.ID || two.RefreshToken == three.RefreshToken {
		t.Errorf("got %+v and then %+v", a, b)
	}
	e.holds(t, 200, three.Token)
	e.refresh(t, 401, "rt_unknown")
}

func (e *exam) reuse(t *testing.T) {
	u := e.newUser(t)
	other := e.in(t, u)
	one := e.in(t, u)
	two := e.refresh(t, 200, one.RefreshToken)
	e.refresh(t, 401, one.RefreshToken)
	e.refresh(t, 401, two.RefreshToken)
	e.holds(t, 401, one.Token)
	e.holds(t, 401, two.Token)
	e.refresh(t, 200, other.RefreshToken) // another session goes on
	e.holds(t, 200, other.Token)
}

func (e *exam) oneWins(t *testing.T) {
	one := e.in(t, e.newUser(t))
	const clients = 20
	got := make(chan response, clients)
	for range clients {
		go func() { got <- e.send(t, "POST", e.base+"/refresh", object("refresh_token", one.RefreshToken), "") }()
	}
	wins := 0
	for range clients {
		switch r := <-got; r.status {
		case 200:
			wins++
		case 401:
		default:
			t.Errorf("got %d %s", r.status, r.body)
		}
	}
	if wins != 1 {
		t.Errorf("%d of %d clients were given tokens for one refresh token, want 1", wins, clients)
	}
}

func (e *exam) logout(t *testing.T) {
	u := e.newUser(t)
	for name, with := range map[string]func(got tokens) (body, bearer string){
		"refresh-token": func(got tokens) (string, string) { return object("refresh_token", got.RefreshToken), "" },
		"access-token":  func(got tokens) (string, string) { return "", got.Token },
		"both":          func(got tokens) (string, string) { return object("refresh_token", got.RefreshToken), got.Token },
	} {
		t.Run(name, func(t *testing.T) {
			got, other := e.in(t, u), e.in(t, u)
			body, bearer := with(got)
			for range 2 { // again is the same
				e.want(t, 204, "POST", "/logout", body, bearer)
			}
			e.refresh(t, 401, got.RefreshToken)
			e.holds(t, 401, got.Token)
			e.holds(t, 200, other.Token)
		})
	}
	e.want(t, 204, "POST", "/logout", object("refresh_token", "rt_unknown"), "")
	e.want(t, 204, "POST", "/logout", "", "a.b.c")
	e.want(t, 400, "POST", "/logout", "", "")
}

func (e *exam) logoutAll(t *testing.T) {
	u := e.newUser(t)
	one, two := e.in(t, u), e.in(t, u)
	e.want(t, 401, "POST", "/logout", `{"all":true}`, "a.b.c")
	e.want(t, 204, "POST", "/logout", `{"all":true}`, one.Token)
	for _, gone := range []tokens{one, two} {
		e.refresh(t, 401, gone.RefreshToken)
		e.holds(t, 401, gone.Token)
	}
	e.holds(t, 200, e.in(t, u).Token) // at once
}

func (e *exam) attempts(t *testing.T) {
	u := e.newUser(t)
	for _, email := range []string{u.Email, "nobody-" + u.Email} {
		for range 10 {
			e.want(t, 401, "POST", "/login", object("email", email, "password", "wrong horse"), "")
		}
		r := e.want(t, 429, "POST", "/login", object("email", email, "password", password), "")
		if r.header.Get("Retry-After") == "" {
			t.Errorf("%s: the 429 has no Retry-After", email)
		}
	}
}

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
	e.holds(t, 200, e.refresh(t, 200, two.RefreshToken).Token)

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
		"too-long":          object("jti", strings.Repeat("a", 256)),
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
