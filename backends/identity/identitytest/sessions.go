package identitytest

import (
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

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
	const limit, window = 10, 15 * 60
	u := e.newUser(t)
	for _, email := range []string{u.Email, "nobody-" + u.Email} {
		for range limit {
			e.want(t, 401, "POST", "/login", object("email", email, "password", "wrong horse"), "")
		}
		for range 2 {
			r := e.want(t, 429, "POST", "/login", object("email", email, "password", password), "")
			if after, err := strconv.Atoi(r.header.Get("Retry-After")); err != nil || after < 1 || after > window {
				t.Errorf("%s: got Retry-After %q, want 1 to %d", email, r.header.Get("Retry-After"), window)
			}
		}
	}
	// A new password lets its owner in again, soon on all instances.
	e.admin(t, 200, "PATCH", "/users/"+u.ID, object("password", "another horse"))
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(2 * patience); ; <-tick.C {
		r := e.send(t, "POST", e.base+"/login", object("email", u.Email, "password", "another horse"), "")
		if r.status == 200 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after a new password: got %d %s, want 200", r.status, r.body)
		}
	}
}

// sessions looks at what a login beyond the most sessions ends: the one that was refreshed longest ago.
func (e *exam) sessions(t *testing.T) {
	const most, atOnce = 100, 4
	u := e.newUser(t)
	first, oldest := e.in(t, u), e.in(t, u)
	first = e.refresh(t, 200, first.RefreshToken)
	var logins sync.WaitGroup
	turns := make(chan int)
	for range atOnce {
		logins.Go(func() {
			for range turns {
				r := e.send(t, "POST", e.base+"/login", object("email", u.Email, "password", password), "")
				for ; r.status == 503; <-time.After(time.Second) { // a machine that is slow at hashing
					r = e.send(t, "POST", e.base+"/login", object("email", u.Email, "password", password), "")
				}
				if r.status != 200 {
					t.Errorf("login: got %d %s", r.status, r.body)
				}
			}
		})
	}
	for i := range most - 1 {
		turns <- i
	}
	close(turns)
	logins.Wait()

	got := map[string]bool{}
	for cursor := ""; ; {
		p := into[struct {
			Items      []struct{ ID string }
			NextCursor string `json:"next_cursor"`
		}](t, e.admin(t, 200, "GET", "/users/"+u.ID+"/sessions?limit=60&cursor="+cursor, ""))
		for _, s := range p.Items {
			got[s.ID] = true
		}
		if cursor = p.NextCursor; cursor == "" {
			break
		}
	}
	if len(got) != most || got[claimsOf(t, oldest.Token).SID] || !got[claimsOf(t, first.Token).SID] {
		t.Errorf("got %d sessions, want %d, with that of the first login and without that of the second", len(got), most)
	}
	e.refresh(t, 401, oldest.RefreshToken)
	e.holds(t, 401, oldest.Token)
	e.holds(t, 200, first.Token)
	e.refresh(t, 200, first.RefreshToken)
}
