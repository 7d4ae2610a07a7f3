package locks_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/backends/locks"
	"github.com/gatehouse-proxy/gatehouse/backends/locks/lockstest"
	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

// victimDir makes the test binary a process that acquires locks there until it is killed.
const victimDir = "LOCKS_TEST_VICTIM_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimDir); dir != "" {
		victim(dir)
	}
	os.Exit(m.Run())
}

func openHost(t testing.TB, dir, url string) *service.Host {
	t.Helper()
	h, err := newHost(dir, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func newHost(dir, url string) (*service.Host, error) {
	h, err := service.NewHost(context.Background(), service.Settings{DataDir: dir, Database: url}, nil, func(string) (service.Opener, error) { return locks.Config{}, nil })
	if err != nil {
		return nil, err
	}
	return h, h.Open(context.Background(), "locks")
}

func TestExamine(t *testing.T) { pgtest.Each(t, testExamine) }

func testExamine(t *testing.T, url string) {
	srv := httptest.NewServer(openHost(t, t.TempDir(), url).Service("locks"))
	t.Cleanup(srv.Close)
	lockstest.Examine(t, srv.URL, srv.Client())
}

var start = time.UnixMilli(1_800_000_000_000).UTC()

func TestStoreWalksTime(t *testing.T) { pgtest.Each(t, testStoreWalksTime) }

func testStoreWalksTime(t *testing.T, url string) {
	s := locks.NewSQLStore(openHost(t, t.TempDir(), url).DB)
	ctx := t.Context()
	fence := int64(0)
	for i, step := range []struct {
		at    time.Duration
		do    string
		owner string
		ttl   time.Duration
		want  error
		until time.Duration // of the lock that comes back, if one does
	}{
		{0, "get", "", 0, locks.ErrNotHeld, 0},
		{0, "renew", "a", time.Second, locks.ErrNotHeld, 0},
		{0, "release", "a", 0, locks.ErrNotHeld, 0},
		{0, "acquire", "a", 10 * time.Second, nil, 10 * time.Second},
		{0, "acquire", "a", time.Second, locks.ErrHeld, 10 * time.Second},
		{9999 * time.Millisecond, "acquire", "b", time.Second, locks.ErrHeld, 10 * time.Second},
		{9999 * time.Millisecond, "renew", "b", time.Second, locks.ErrHeld, 10 * time.Second},
		{9999 * time.Millisecond, "release", "b", 0, locks.ErrHeld, 10 * time.Second},
		{9999 * time.Millisecond, "renew", "a", 10 * time.Second, nil, 19999 * time.Millisecond},
		{10 * time.Second, "acquire", "b", time.Second, locks.ErrHeld, 19999 * time.Millisecond},
		{19999 * time.Millisecond, "get", "", 0, locks.ErrNotHeld, 0},
		{19999 * time.Millisecond, "renew", "a", time.Second, locks.ErrNotHeld, 0},
		{19999 * time.Millisecond, "release", "a", 0, locks.ErrNotHeld, 0},
		{19999 * time.Millisecond, "acquire", "b", time.Second, nil, 20999 * time.Millisecond},
		{20 * time.Second, "release", "a", 0, locks.ErrHeld, 20999 * time.Millisecond},
		{20 * time.Second, "release", "b", 0, nil, 20999 * time.Millisecond},
		{20 * time.Second, "release", "b", 0, locks.ErrNotHeld, 0},
		{20 * time.Second, "acquire", "c", time.Second, nil, 21 * time.Second},
	} {
		now := start.Add(step.at)
		var l locks.Lock
		var err error
		switch step.do {
		case "get":
			l, err = s.Get(ctx, "n", now)
		case "acquire":
			l, err = s.Acquire(ctx, "n", step.owner, now, step.ttl)
			if err == nil && l.Fence <= fence {
				t.Errorf("step %d: got fence %d after %d", i, l.Fence, fence)
			}
			fence = l.Fence
		case "renew":
			l, err = s.Renew(ctx, "n", step.owner, now, step.ttl)
		case "release":
			l, err = s.Release(ctx, "n", step.owner, now)
		}
		if !errors.Is(err, step.want) {
			t.Errorf("step %d: %s: got %v, want %v", i, step.do, err, step.want)
		}
		if step.until != 0 && !l.ExpiresAt.Equal(start.Add(step.until)) {
			t.Errorf("step %d: %s: got a lock until %s, want %s", i, step.do, l.ExpiresAt.Sub(start), step.until)
		}
	}
}

func TestPruneKeepsHeldLocksAndTheFence(t *testing.T) {
	pgtest.Each(t, testPruneKeepsHeldLocksAndTheFence)
}

func testPruneKeepsHeldLocksAndTheFence(t *testing.T, url string) {
	h := openHost(t, t.TempDir(), url)
	s := locks.NewSQLStore(h.DB)
	ctx := t.Context()
	for i := range 20 {
		if _, err := s.Acquire(ctx, fmt.Sprint("short", i), "o", start, time.Second); err != nil {
			t.Fatal(err)
		}
	}
	long, err := s.Acquire(ctx, "long", "o", start, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err = s.Prune(ctx, start.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	var rows int
	if err = h.DB.Read.QueryRow(`SELECT count(*) FROM locks_locks`).Scan(&rows); err != nil || rows != 1 {
		t.Errorf("got %d rows (%v), want the one that is held", rows, err)
	}
	if err = s.Prune(ctx, start.Add(2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if l, err := s.Acquire(ctx, "short0", "o", start.Add(3*time.Hour), time.Second); err != nil || l.Fence <= long.Fence {
		t.Errorf("got fence %d (%v) with all rows gone, want more than %d", l.Fence, err, long.Fence)
	}
}

func TestStoreHasOneWinner(t *testing.T) { pgtest.Each(t, testStoreHasOneWinner) }

func testStoreHasOneWinner(t *testing.T, url string) {
	s := locks.NewSQLStore(openHost(t, t.TempDir(), url).DB)
	for round := range 5 {
		var wg sync.WaitGroup
		errs := make([]error, 50)
		now := start.Add(time.Duration(round) * time.Minute)
		for i := range errs {
			wg.Go(func() { _, errs[i] = s.Acquire(t.Context(), "n", fmt.Sprint(i), now, time.Minute) })
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else if !errors.Is(err, locks.ErrHeld) {
				t.Error(err)
			}
		}
		if won != 1 {
			t.Errorf("round %d: got %d winners", round, won)
		}
	}
}

func TestBrokenStoreIsNotALockThatIsHeld(t *testing.T) {
	pgtest.Each(t, testBrokenStoreIsNotALockThatIsHeld)
}

func testBrokenStoreIsNotALockThatIsHeld(t *testing.T, url string) {
	h := openHost(t, t.TempDir(), url)
	if _, err := h.DB.Write.Exec(`ALTER TABLE locks_locks RENAME TO locks_away`); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.Service("locks").ServeHTTP(w, httptest.NewRequest("POST", "/locks/n", nil))
	if w.Code != 500 {
		t.Errorf("got %d from a store that is broken, want 500", w.Code)
	}
	if err := h.Service("locks").Check(t.Context()); err == nil {
		t.Error("a store that is broken is said to be healthy")
	}
}

func TestTokenIsNotStored(t *testing.T) { pgtest.Each(t, testTokenIsNotStored) }

func testTokenIsNotStored(t *testing.T, url string) {
	h := openHost(t, t.TempDir(), url)
	w := httptest.NewRecorder()
	h.Service("locks").ServeHTTP(w, httptest.NewRequest("POST", "/locks/n", nil))
	var stored string
	if err := h.DB.Read.QueryRow(`SELECT token FROM locks_locks`).Scan(&stored); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(w.Body.String(), stored) {
		t.Error("the table holds the token that proves ownership")
	}
}

func TestMaxTTL(t *testing.T) {
	h := openHost(t, t.TempDir(), "")
	s, err := locks.New(locks.Config{MaxTTL: unit.Duration(10 * time.Second)}, locks.Deps{Store: locks.NewSQLStore(h.DB), Now: func() time.Time { return start }})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, body string
		want       int
		has        string
	}{
		{"longer", `{"ttl":"11s"}`, 400, "100ms to 10s"},
		{"at-most", `{"ttl":"10s"}`, 200, `"expires_at":"2027-01-15T08:00:10Z"`},
		{"default", ``, 200, `"expires_at":"2027-01-15T08:00:10Z"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			s.ServeHTTP(w, httptest.NewRequest("POST", "/locks/"+tt.name, strings.NewReader(tt.body)))
			if w.Code != tt.want || !strings.Contains(w.Body.String(), tt.has) {
				t.Errorf("got %d %s, want %d with %s", w.Code, w.Body, tt.want, tt.has)
			}
		})
	}
	for _, d := range []time.Duration{time.Millisecond, 25 * time.Hour} {
		if err := (locks.Config{MaxTTL: unit.Duration(d)}).Validate(); err == nil {
			t.Errorf("max_ttl %s is accepted", d)
		}
	}
}

// pruned counts the calls of Prune.
type pruned struct {
	locks.Store
	at []time.Time
}

func (p *pruned) Prune(_ context.Context, now time.Time) error {
	p.at = append(p.at, now)
	return errors.New("disk full") // which must not end the loop
}

func TestRunPrunesUntilItIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pruned{}
		s, err := locks.New(locks.Config{}, locks.Deps{Store: p})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 150*time.Second)
		defer cancel()
		if err = s.Run(ctx); err != nil {
			t.Error(err)
		}
		if len(p.at) != 3 || p.at[2].Sub(p.at[0]) != 2*time.Minute {
			t.Errorf("got pruning at %v, want it at the start and every minute", p.at)
		}
	})
}

func TestRestartKeepsLocksAndFences(t *testing.T) { pgtest.Each(t, testRestartKeepsLocksAndFences) }

func testRestartKeepsLocksAndFences(t *testing.T, url string) {
	dir := t.TempDir()
	h := openHost(t, dir, url)
	l, err := locks.NewSQLStore(h.DB).Acquire(t.Context(), "n", "o", start, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err = h.Close(); err != nil {
		t.Fatal(err)
	}
	s := locks.NewSQLStore(openHost(t, dir, url).DB)
	if got, err := s.Get(t.Context(), "n", start); err != nil || got != l {
		t.Errorf("got %+v (%v) after the restart, want %+v", got, err, l)
	}
	if next, err := s.Acquire(t.Context(), "n", "p", start.Add(time.Minute), time.Minute); err != nil || next.Fence <= l.Fence {
		t.Errorf("got fence %d (%v) after the restart, want more than %d", next.Fence, err, l.Fence)
	}
}

// victim acquires locks and prints each fence once it has it.
func victim(dir string) {
	h, err := newHost(dir, "")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s := locks.NewSQLStore(h.DB)
	for i := 0; ; i++ {
		l, err := s.Acquire(context.Background(), fmt.Sprint(os.Getpid(), "-", i), "o", start, time.Minute)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		_, _ = fmt.Fprintln(os.Stdout, l.Fence)
	}
}

func TestFenceDoesNotGoBackAfterKill(t *testing.T) {
	dir := t.TempDir()
	last := int64(0)
	for round := range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = append(os.Environ(), victimDir+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err = cmd.Start(); err != nil {
			t.Fatal(err)
		}
		scan := bufio.NewScanner(out)
		for n := 0; scan.Scan(); n++ {
			fence, err := strconv.ParseInt(scan.Text(), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			if fence <= last {
				t.Errorf("round %d: got fence %d after %d", round, fence, last)
			}
			last = fence
			if n == 20 {
				if err = cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait()
	}
	if last < 60 {
		t.Fatalf("the victims came to fence %d only", last)
	}
	l, err := locks.NewSQLStore(openHost(t, dir, "").DB).Acquire(t.Context(), "after", "o", start, time.Minute)
	if err != nil || l.Fence <= last {
		t.Errorf("got fence %d (%v), want more than %d", l.Fence, err, last)
	}
}

func FuzzValidName(f *testing.F) {
	for _, s := range []string{"orders/42", "", "a\x00", "\xff", "日本", "\u200b", "\u0085", strings.Repeat("n", 257)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if locks.ValidName(s) && (s == "" || len(s) > 256 || !utf8.ValidString(s) || strings.ContainsAny(s, "\x00\x07\n\r\t\x1b\x7f\u0085\u2028\ufeff")) {
			t.Fatalf("%q must not be a name", s)
		}
	})
}

// FuzzRequest sends any body to a service of its own: no answer may be a fault of ours, and what is
// refused must not take the lock.
func FuzzRequest(f *testing.F) {
	h := openHost(f, f.TempDir(), "")
	s := h.Service("locks")
	f.Add("POST", []byte(`{"ttl":"1s"}`))
	f.Add("POST", []byte(`{"ttl":"1e9d","ttl":null}`))
	f.Add("PUT", []byte(`{"token":"x","ttl":"99999999h"}`))
	f.Add("DELETE", []byte(`{"token":"\ud800"}`))
	f.Fuzz(func(t *testing.T, method string, body []byte) {
		if method != "POST" && method != "PUT" {
			method = "DELETE"
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(method, "/locks/fuzz", strings.NewReader(string(body))))
		if w.Code >= 500 {
			t.Fatalf("%s %q: got %d %s", method, body, w.Code, w.Body)
		}
		done, err := h.DB.Write.Exec(`DELETE FROM locks_locks`)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := done.RowsAffected(); err != nil || (n == 1) != (w.Code == http.StatusOK) {
			t.Fatalf("%s %q: got %d and %d locks (%v)", method, body, w.Code, n, err)
		}
	})
}
