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
	t.Run("sessions-are-bounded", e.sessions)
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
