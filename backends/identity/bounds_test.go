package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

// openDB opens the database at url, or a new one on disk for "".
func openDB(t *testing.T, url string) *sqldb.DB {
	t.Helper()
	var db *sqldb.DB
	var err error
	if url == "" {
		db, err = sqldb.Open(t.Context(), t.TempDir())
	} else {
		db, err = sqldb.OpenPostgres(t.Context(), url)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if _, err = OpenUsers(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	return db
}

func count(t *testing.T, db *sqldb.DB, query string, args ...any) (n int) {
	t.Helper()
	if err := db.Read.QueryRowContext(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAttemptsInMemoryAreBounded(t *testing.T) {
	a := attempts{openDB(t, ""), [2]Attempts{{2, time.Hour}, {1_000_000, time.Hour}}, newUnderway()}
	addr, now := netip.MustParseAddr("192.0.2.1"), time.Now()
	begin := func(email string) (attempt, error) { return a.begin(t.Context(), email, addr, now) }
	one, err := begin("ada@example.com")
	if err != nil {
		t.Fatal(err)
	}
	two, err := begin("ada@example.com")
	if err != nil {
		t.Fatal(err)
	}
	if _, err = begin("ADA@example.com"); err == nil {
		t.Error("a third login is under way, want at most two")
	}
	if _, err = begin("eve@example.com"); err != nil {
		t.Errorf("another account: %v", err)
	}
	one.end() // neither has failed
	if _, err = begin("ada@example.com"); err != nil {
		t.Errorf("after the end of one: %v", err)
	}
	two.end()
	if n := len(a.mine.logins); n != 3 { // ada, eve, the address
		t.Errorf("got %d in memory, want 3", n)
	}
	for i := range blockedKept + 10 {
		a.mine.block(strconv.Itoa(i), block{now, now.Add(time.Hour)})
	}
	if n := len(a.mine.blocked); n > blockedKept {
		t.Errorf("got %d known to be blocked, want at most %d", n, blockedKept)
	}
	if _, err := a.mine.enter([2]string{"x", strconv.Itoa(blockedKept + 9)}, a.limits, now); err == nil {
		t.Error("the newest is forgotten")
	}
}

func TestStoredAttemptsAreBounded(t *testing.T) {
	t.Parallel()
	pgtest.Each(t, func(t *testing.T, url string) {
		a := attempts{openDB(t, url), [2]Attempts{}, newUnderway()}
		now := time.UnixMilli(1_000_000)
		for i, until := range []int64{999_999, 1_000_000, 1_000_001, 1_000_002, 1_000_003, 1_000_004} {
			if _, err := a.db.Write.ExecContext(t.Context(), `INSERT INTO identity_attempts (hash, failed, expires_at) VALUES ($1, 1, $2)`, strconv.Itoa(i), until); err != nil {
				t.Fatal(err)
			}
		}
		// Two have expired; then those go that expire first.
		for _, keep := range []int{100, 4, 3, 1} {
			if err := a.sweep(t.Context(), now, keep); err != nil {
				t.Fatal(err)
			}
			want := min(keep, 4)
			if n := count(t, a.db, `SELECT count(*) FROM identity_attempts`); n != want {
				t.Errorf("got %d rows, want %d", n, want)
			}
			if n := count(t, a.db, `SELECT count(*) FROM identity_attempts WHERE expires_at > $1`, 1_000_004-want); n != want {
				t.Errorf("got %d of the rows that expire last, want %d", n, want)
			}
		}
	})
}

func TestAFailureIsStoredWhenTheClientIsGone(t *testing.T) {
	t.Parallel()
	pgtest.Each(t, func(t *testing.T, url string) {
		a := attempts{openDB(t, url), [2]Attempts{{5, time.Hour}, {5, time.Hour}}, newUnderway()}
		ctx, cancel := context.WithCancel(t.Context())
		try, err := a.begin(ctx, "ada@example.com", netip.Addr{}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if err = try.fail(ctx, time.Now()); err != nil {
			t.Fatal(err)
		}
		if n := count(t, a.db, `SELECT count(*) FROM identity_attempts WHERE failed = 1`); n != 2 {
			t.Errorf("got %d rows, want those of the account and of the address", n)
		}
	})
}

func TestALoginAtTheBoundOfSessionsNeedsRoom(t *testing.T) {
	t.Parallel()
	u, err := OpenUsers(t.Context(), openDB(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	user, err := u.add(t.Context(), "ada@example.com", "x", "", "")
	if err != nil {
		t.Fatal(err)
	}
	c, l := credentials{User: user}, lives{time.Hour, time.Hour, 0}
	for range maxSessions {
		if _, _, err = u.start(t.Context(), c, l, func() error { t.Error("room is asked for where none is needed"); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	full := errors.New("no room")
	if _, _, err = u.start(t.Context(), c, l, func() error { return full }); !errors.Is(err, full) {
		t.Errorf("got %v, want %v", err, full)
	}
	_, revoked, err := u.start(t.Context(), c, l, func() error { return nil })
	if err != nil || len(revoked) != 1 {
		t.Errorf("got %v revoked (%v), want one", revoked, err)
	}
	if n := count(t, u.db, `SELECT count(*) FROM identity_sessions`); n != maxSessions {
		t.Errorf("got %d sessions, want %d", n, maxSessions)
	}
}

func TestRevocationsOfAnyOrderEndUpTheSame(t *testing.T) {
	first := newRevocation(KindSubject, "", "ada", 1000, 1)
	first.at = 1
	undone := first
	undone.undone, undone.at = true, 2
	again := newRevocation(KindSubject, "", "ada", 3000, 1)
	again.at = 3
	for _, c := range []struct {
		puts []Revocation
		want bool
	}{
		{[]Revocation{first}, true},
		{[]Revocation{first, undone}, false},
		{[]Revocation{undone, first}, false},
		{[]Revocation{first, undone, again}, true},
		{[]Revocation{again, undone, first}, true},
		{[]Revocation{undone, again, first, undone}, true},
	} {
		x := newIndex()
		for _, r := range c.puts {
			x.put(r)
		}
		if got := x.has(KindSubject, "i", "ada", 1000); got != c.want {
			t.Errorf("%+v: got %v, want %v", c.puts, got, c.want)
		}
		if got := x.live.Load() > 0; got != c.want {
			t.Errorf("%+v: got %d entries", c.puts, x.live.Load())
		}
		if x.expire(1); x.live.Load() != 0 || x.has(KindSubject, "", "ada", 0) {
			t.Error("an expired revocation is there")
		}
	}
}

func TestRoomForRevocationsIsBounded(t *testing.T) {
	v := &revocations{index: newIndex()}
	for n, want := range map[int64][2]bool{ // for an administrator, and for clients
		MaxRevocations*9/10 - 1: {true, true},
		MaxRevocations * 9 / 10: {true, false},
		MaxRevocations - 1:      {true, false},
		MaxRevocations:          {false, false},
	} {
		v.index.live.Store(n)
		if got := [2]bool{v.room() == nil, v.clientRoom() == nil}; got != want {
			t.Errorf("of %d: got %v, want %v", n, got, want)
		}
	}
}

func TestALogoutWithoutRoomEndsTheSession(t *testing.T) {
	t.Parallel()
	pgtest.Each(t, func(t *testing.T, url string) {
		raw, err := GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		users := &Users{openDB(t, url), time.Now}
		keys := secret.NewSet("signing", secret.Version{Label: "test", Value: secret.NewValue(raw)})
		s, err := New(Config{}, Deps{Users: users, Keys: keys, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		s.revoked.index.live.Store(clientRevocations)
		user, err := users.add(t.Context(), "ada@example.com", "x", "", "")
		if err != nil {
			t.Fatal(err)
		}
		begin := func() (refresh, access string) {
			g, _, err := users.start(t.Context(), credentials{User: user}, s.lives, s.revoked.clientRoom)
			if err != nil {
				t.Fatal(err)
			}
			signer, err := s.signing()
			if err != nil {
				t.Fatal(err)
			}
			access, err = signer.Mint(Claims{Subject: user.ID, Session: g.session, Issuer: DefaultIssuer, Audience: DefaultAudience, TTL: time.Hour}, g.issued)
			if err != nil {
				t.Fatal(err)
			}
			return g.refresh, access
		}
		post := func(want int, path, body, bearer string) {
			t.Helper()
			r := httptest.NewRequest("POST", path, strings.NewReader(body))
			r.Header.Set("Authorization", "Bearer "+bearer)
			w := httptest.NewRecorder()
			if s.ServeHTTP(w, r); w.Code != want {
				t.Errorf("%s: got %d %s, want %d", path, w.Code, w.Body, want)
			}
		}
		body := func(refresh string) string { return `{"refresh_token":"` + refresh + `"}` }
		for name, logout := range map[string]func(refresh, access string){
			"by-refresh-token": func(refresh, _ string) { post(507, "/logout", body(refresh), "") },
			"by-access-token":  func(_, access string) { post(507, "/logout", "", access) },
			"everywhere":       func(_, access string) { post(507, "/logout", `{"all":true}`, access) },
			"by-reuse": func(refresh, _ string) {
				post(200, "/refresh", body(refresh), "")
				post(401, "/refresh", body(refresh), "")
			},
		} {
			t.Run(name, func(t *testing.T) {
				refresh, access := begin()
				logout(refresh, access)
				post(401, "/refresh", body(refresh), "")
				if n := count(t, users.db, `SELECT (SELECT count(*) FROM identity_sessions) + (SELECT count(*) FROM identity_refresh) + (SELECT count(*) FROM identity_revocations)`); n != 0 {
					t.Errorf("got %d rows, want none", n)
				}
			})
		}
	})
}

func TestRevocationsInMemoryAreSmall(t *testing.T) {
	const n = 100_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	x := newIndex()
	for i := range n {
		x.put(newRevocation(KindToken, "", fmt.Sprint("token", i), 0, 1))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / n; each > 160 {
		t.Errorf("got %d bytes for each revocation, want at most 160", each)
	} else {
		t.Logf("%d bytes for each revocation", each)
	}
	runtime.KeepAlive(x)
}

func BenchmarkRevoked(b *testing.B) {
	for _, n := range []int{0, 1000, MaxRevocations} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := &Service{revoked: &revocations{index: newIndex()}}
			for i := range n {
				s.revoked.index.put(newRevocation(KindToken, "", fmt.Sprint("token", i), 0, 1))
			}
			b.ReportAllocs()
			for b.Loop() {
				s.Revoked("gatehouse", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "ses_abcdefghijklmnopqrstuvwxyz", "usr_abcdefghijklmnopqrstuvwxyz", 1)
			}
		})
	}
}
