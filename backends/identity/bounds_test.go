package identity

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
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
	v.index.live.Store(MaxRevocations - 1)
	if err := v.room(); err != nil {
		t.Errorf("below the bound: %v", err)
	}
	v.index.live.Store(MaxRevocations)
	if err := v.room(); err == nil {
		t.Error("at the bound: got no error")
	}
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
