package identity_test

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/identity"
	"github.com/gatehouse-proxy/gatehouse/integration/await"
	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

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

func TestRefreshTokensExpire(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
	pgtest.Each(t, func(t *testing.T, url string) {
		c := newClock()
		f := startOn(t, identity.Config{RefreshGrace: unit.Duration(10 * time.Second)}, identity.Deps{Now: c.Now}, open(t, url, t.TempDir()))
		f.mustAdd(t, "ada@example.com", "correct horse", "", "")
		one := f.mustLogin(t, "ada@example.com", "correct horse")
		lost := f.refresh(t, one.Refresh, 200) // whose answer is lost
		c.forward(10 * time.Second)
		two := f.refresh(t, one.Refresh, 200)
		if two.Refresh != lost.Refresh || two.Token == lost.Token {
			t.Error("want the same refresh token again, and another access token")
		}
		f.refresh(t, two.Refresh, 200)
		c.forward(time.Millisecond)
		f.refresh(t, one.Refresh, 401)
		f.refresh(t, two.Refresh, 401)
		if f.accepts(two.Token) {
			t.Error("the session's access token is accepted after a reuse")
		}
	})
}

// TestRefreshGraceForksNoSession is of two who both have a refresh token, and use it within the grace.
func TestRefreshGraceForksNoSession(t *testing.T) {
	t.Parallel()
	pgtest.Each(t, func(t *testing.T, url string) {
		c := newClock()
		f := startOn(t, identity.Config{RefreshGrace: unit.Duration(time.Minute)}, identity.Deps{Now: c.Now}, open(t, url, t.TempDir()))
		f.mustAdd(t, "ada@example.com", "correct horse", "", "")
		for name, late := range map[string]func(first, a tokens) string{
			"the-one-before": func(_, a tokens) string { return a.Refresh },
			"the-first":      func(first, _ tokens) string { return first.Refresh },
		} {
			t.Run(name, func(t *testing.T) {
				other := f.mustLogin(t, "ada@example.com", "correct horse")
				first := f.mustLogin(t, "ada@example.com", "correct horse")
				a, b := f.refresh(t, first.Refresh, 200), f.refresh(t, first.Refresh, 200)
				c.forward(time.Second)
				f.refresh(t, a.Refresh, 200) // its answer was lost
				next := f.refresh(t, a.Refresh, 200)
				next = f.refresh(t, next.Refresh, 200)
				f.refresh(t, late(first, a), 401)
				f.refresh(t, next.Refresh, 401)
				for _, gone := range []tokens{a, b, next} {
					if f.accepts(gone.Token) {
						t.Error("an access token of the session is accepted")
					}
				}
				f.refresh(t, other.Refresh, 200)
			})
		}
	})
}

// TestTwoTabs refresh with the same token, at two instances, and go on with what they got.
func TestTwoTabs(t *testing.T) {
	t.Parallel()
	pgtest.Each(t, func(t *testing.T, url string) {
		c, dir := newClock(), t.TempDir()
		raw, _ := identity.GenerateKey()
		config := identity.Config{RefreshGrace: unit.Duration(30 * time.Second)}
		tabs := []fixture{
			startOn(t, config, identity.Deps{Now: c.Now, Keys: keySet(raw)}, open(t, url, dir)),
			startOn(t, config, identity.Deps{Now: c.Now, Keys: keySet(raw)}, open(t, url, dir)),
		}
		tabs[0].mustAdd(t, "ada@example.com", "correct horse", "", "")
		one := tabs[0].mustLogin(t, "ada@example.com", "correct horse")
		first, stolen := one, one
		for round := range 5 {
			got := make([]tokens, 5)
			var all sync.WaitGroup
			for i := range got {
				all.Go(func() { got[i] = tabs[i%2].refresh(t, one.Refresh, 200) })
			}
			all.Wait()
			for i := range got {
				// Later rounds lie in the future, where no token is accepted.
				if got[i].Refresh != got[0].Refresh || round == 0 && !tabs[0].accepts(got[i].Token) {
					t.Fatalf("round %d: the tabs got different refresh tokens, or an access token that is not accepted", round)
				}
			}
			stolen, one = one, got[0]
			c.forward(10 * time.Second) // the other tab is late
			if again := tabs[1].refresh(t, stolen.Refresh, 200); again.Refresh != one.Refresh {
				t.Fatalf("round %d: the late tab got another refresh token", round)
			}
			c.forward(time.Hour)
		}
		tabs[0].refresh(t, stolen.Refresh, 401) // after the grace
		tabs[0].refresh(t, one.Refresh, 401)
		if tabs[0].accepts(first.Token) {
			t.Error("the session goes on after a stolen token was used")
		}
	})
}

func TestSessionsAreBounded(t *testing.T) {
	t.Parallel()
	pgtest.Each(t, func(t *testing.T, url string) {
		c, dir := newClock(), t.TempDir()
		raw, _ := identity.GenerateKey()
		one := startOn(t, identity.Config{}, identity.Deps{Now: c.Now, Keys: keySet(raw)}, open(t, url, dir))
		two := startOn(t, identity.Config{}, identity.Deps{Now: c.Now, Keys: keySet(raw)}, open(t, url, dir))
		u := one.mustAdd(t, "ada@example.com", "correct horse", "", "")
		seed := func(n int, name string) {
			t.Helper()
			for i := range n {
				ms := c.Now().Add(time.Duration(i-n) * time.Second).UnixMilli()
				id := fmt.Sprintf("ses_0%s%03d", name, i) // no other has a 0
				_, err := one.db.Write.Exec(`INSERT INTO identity_sessions (id, user_id, auth_time, created_at, refreshed_at, expires_at, access_exp, generation)
					VALUES ($1, $2, 0, $3, $3, $4, $5, 1)`, id, u.ID, ms, ms+3600_000, ms/1000+3600)
				if err == nil {
					_, err = one.db.Write.Exec(`INSERT INTO identity_refresh (hash, session_id, generation, expires_at, used_at) VALUES ($1, $2, 1, $3, 0)`, "of "+id, id, ms+3600_000)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		count := func(query string, want int) {
			t.Helper()
			var n int
			if err := one.db.Read.QueryRow(query).Scan(&n); err != nil || n != want {
				t.Errorf("%s: got %d (%v), want %d", query, n, err, want)
			}
		}
		seed(98, "a")
		codes := make(chan int, 12)
		for i := range cap(codes) {
			f := []fixture{one, two}[i%2]
			go func() { codes <- f.login("ada@example.com", "correct horse").StatusCode }()
		}
		for range cap(codes) {
			if code := <-codes; code != 200 {
				t.Errorf("got %d, want 200", code)
			}
		}
		count(`SELECT count(*) FROM identity_sessions`, 100)
		count(`SELECT count(*) FROM identity_refresh`, 100)
		count(`SELECT count(*) FROM identity_sessions WHERE id LIKE 'ses_0a%'`, 88)
		count(`SELECT count(*) FROM identity_sessions WHERE id LIKE 'ses_0a00%'`, 0) // those refreshed longest ago
		count(`SELECT count(*) FROM identity_revocations WHERE kind = 'sid' AND value LIKE 'ses_0a00%'`, 10)

		// More of them, from before there was a bound, end with some logins.
		seed(40, "b")
		for _, want := range []int{121, 102, 100, 100} {
			one.mustLogin(t, "ada@example.com", "correct horse")
			count(`SELECT count(*) FROM identity_sessions`, want)
		}
		count(`SELECT count(*) FROM identity_sessions WHERE id LIKE 'ses_0a%'`, 44)
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
