package locks_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/locks"
	"github.com/gatehouse-proxy/gatehouse/backends/locks/lockstest"
	"github.com/gatehouse-proxy/gatehouse/integration/await"
	"github.com/gatehouse-proxy/gatehouse/integration/redistest"
	"github.com/gatehouse-proxy/gatehouse/internal/redisconn"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

func redisStore(t testing.TB, c redisconn.Config) *locks.RedisStore {
	t.Helper()
	conn, err := redisconn.New(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return locks.NewRedisStore(conn)
}

func serve(t testing.TB, store locks.Store) string {
	t.Helper()
	s, err := locks.New(locks.Config{}, locks.Deps{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	return srv.URL
}

// examineTogether judges two instances over one Redis.
func examineTogether(t *testing.T, c redisconn.Config) {
	lockstest.Examine(t, serve(t, redisStore(t, c)), http.DefaultClient, serve(t, redisStore(t, c)))
}

func TestExamineOnRedis(t *testing.T) {
	t.Parallel()
	examineTogether(t, redisconn.Config{Addresses: []string{redistest.Start(t).URL()}})
}

func TestExamineOnARedisCluster(t *testing.T) {
	t.Parallel()
	examineTogether(t, redisconn.Config{Addresses: redistest.StartCluster(t).URLs()})
}

func TestRedisStoreHasOneWinner(t *testing.T) {
	c := redisconn.Config{Addresses: []string{redistest.Start(t).URL()}}
	stores := []*locks.RedisStore{redisStore(t, c), redisStore(t, c)}
	last := int64(0)
	for round := range 20 {
		var wg sync.WaitGroup
		errs := make([]error, 50)
		got := make([]locks.Lock, 50)
		for i := range errs {
			wg.Go(func() {
				got[i], errs[i] = stores[i%2].Acquire(t.Context(), "n", fmt.Sprintf("%064x", i), start, time.Minute)
			})
		}
		wg.Wait()
		won := -1
		for i, err := range errs {
			switch {
			case err == nil && won >= 0:
				t.Errorf("round %d: two winners", round)
			case err == nil:
				won = i
			case !errors.Is(err, locks.ErrHeld):
				t.Error(err)
			}
		}
		if won < 0 {
			t.Fatalf("round %d: no winner", round)
		}
		if got[won].Fence <= last {
			t.Errorf("round %d: got fence %d after %d", round, got[won].Fence, last)
		}
		last = got[won].Fence
		if _, err := stores[1].Release(t.Context(), "n", fmt.Sprintf("%064x", won), start); err != nil {
			t.Error(err)
		}
	}
}

func TestRedisStorePrunes(t *testing.T) {
	server := redistest.Start(t)
	s := redisStore(t, redisconn.Config{Addresses: []string{server.URL()}})
	ctx := t.Context()
	for i := range 50 {
		if _, err := s.Acquire(ctx, fmt.Sprint("short", i), "0a", start, 100*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	long, err := s.Acquire(ctx, "long", "0a", start, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	await.For(t, "the short locks to end", func() error {
		if l, err := s.List(ctx, 0, 100, start); err != nil || len(l) != 1 || l[0] != long {
			return fmt.Errorf("got %v (%w), want the long one", l, err)
		}
		return nil
	})
	names := func() (n int64) {
		t.Helper()
		for i := range 16 {
			held, err := server.Client().HLen(ctx, fmt.Sprintf("gatehouse:locks:{%02d}", i)).Result()
			ordered, err2 := server.Client().ZCard(ctx, fmt.Sprintf("gatehouse:locks:{%02d}:order", i)).Result()
			if err != nil || err2 != nil || held != ordered {
				t.Fatalf("shard %d holds %d names and orders %d (%v, %v)", i, held, ordered, err, err2)
			}
			n += held
		}
		return n
	}
	if n := names(); n != 51 {
		t.Errorf("got %d names before pruning, want 51", n)
	}
	if err := s.Prune(ctx, start); err != nil {
		t.Fatal(err)
	}
	if n := names(); n != 1 {
		t.Errorf("got %d names after pruning, want 1", n)
	}
	if got, err := s.Get(ctx, "long", start); err != nil || got != long {
		t.Errorf("got %v (%v), want %v", got, err, long)
	}
	if l, err := s.Acquire(ctx, "short0", "0a", start, time.Minute); err != nil || l.Fence <= long.Fence {
		t.Errorf("got fence %d (%v), want more than %d", l.Fence, err, long.Fence)
	}
}

// TestRedisListGoesOnInPages lists more than one step looks at, with ended locks between.
func TestRedisListGoesOnInPages(t *testing.T) {
	server := redistest.Start(t)
	s := redisStore(t, redisconn.Config{Addresses: []string{server.URL()}})
	want := map[string]bool{}
	for i := range 600 {
		ttl := time.Hour
		name := fmt.Sprint("n", i)
		if i%3 == 0 {
			ttl = time.Millisecond
		} else {
			want[name] = true
		}
		if _, err := s.Acquire(t.Context(), name, "0a", start, ttl); err != nil {
			t.Fatal(err)
		}
	}
	<-time.After(5 * time.Millisecond)
	got := map[string]bool{}
	for after, pages := int64(0), 0; ; pages++ {
		page, err := s.List(t.Context(), after, 7, start)
		if err != nil || pages > 100 {
			t.Fatalf("page %d: %v", pages, err)
		}
		for _, l := range page {
			if l.Fence <= after || got[l.Name] || !want[l.Name] {
				t.Fatalf("got %v after %d", l, after)
			}
			after, got[l.Name] = l.Fence, true
		}
		if len(page) < 7 {
			break
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %d locks, want %d", len(got), len(want))
	}
}

// TestFenceDoesNotGoBackWithoutItsRedis kills a Redis that keeps nothing on disk: the lock is lost, as
// documented, and the fence grows all the same.
func TestFenceDoesNotGoBackWithoutItsRedis(t *testing.T) {
	server := redistest.Start(t)
	s := redisStore(t, redisconn.Config{Addresses: []string{server.URL()}})
	last := int64(0)
	for round := range 3 {
		var l locks.Lock
		await.For(t, "the lock", func() (err error) {
			l, err = s.Acquire(t.Context(), "n", "0a", start, time.Hour)
			return err
		})
		if l.Fence <= last {
			t.Errorf("round %d: got fence %d after %d", round, l.Fence, last)
		}
		last = l.Fence
		server.Kill()
		server.Restart()
	}
}

// TestFenceDoesNotGoBackWithTheClock has a last fence that is ahead of the clock.
func TestFenceDoesNotGoBackWithTheClock(t *testing.T) {
	server := redistest.Start(t)
	s := redisStore(t, redisconn.Config{Addresses: []string{server.URL()}})
	const ahead = int64(1) << 52
	for i := range 16 {
		if err := server.Client().Set(t.Context(), fmt.Sprintf("gatehouse:locks:{%02d}:fence", i), ahead, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		l, err := s.Acquire(t.Context(), "n", "0a", start, time.Hour)
		if err != nil || l.Fence != ahead+int64(i)+1 {
			t.Fatalf("got fence %d (%v), want %d", l.Fence, err, ahead+int64(i)+1)
		}
		if _, err = s.Release(t.Context(), "n", "0a", start); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRedisThatIsAwayIsNotALockThatIsHeld(t *testing.T) {
	server := redistest.Start(t)
	conn, err := redisconn.New(redisconn.Config{Addresses: []string{server.URL()}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	s, err := locks.New(locks.Config{}, locks.Deps{Store: locks.NewRedisStore(conn)})
	if err != nil {
		t.Fatal(err)
	}
	if err = s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	for _, away := range []struct {
		name         string
		lose, regain func()
	}{
		{"killed", server.Kill, server.Restart},
		{"stopped", server.Stop, server.Cont},
	} {
		t.Run(away.name, func(t *testing.T) {
			away.lose()
			for _, body := range []string{"", `{"wait":"20s"}`} {
				began := time.Now()
				w := httptest.NewRecorder()
				s.ServeHTTP(w, httptest.NewRequest("POST", "/locks/n", strings.NewReader(body)))
				if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
					t.Errorf("got %d %s, want 503 with Retry-After", w.Code, w.Body)
				}
				if took := time.Since(began); took > 3*time.Second {
					t.Errorf("the answer took %s", took)
				}
			}
			if s.Check(t.Context()) == nil {
				t.Error("it is said to be healthy")
			}
			away.regain()
			// Nobody knows of a lock that was taken while the answer was lost, so it must not stay.
			await.For(t, "the lock", func() error {
				w := httptest.NewRecorder()
				s.ServeHTTP(w, httptest.NewRequest("POST", "/locks/"+away.name, nil))
				if w.Code != http.StatusOK {
					return fmt.Errorf("got %d %s", w.Code, w.Body)
				}
				return nil
			})
		})
	}
}

// TestALostAnswerIsAskedForAgain has answers come too late for a while: a step that was done and is asked
// for again does the same as once.
func TestALostAnswerIsAskedForAgain(t *testing.T) {
	proxy := redistest.SlowProxy(t, redistest.Start(t).Addr)
	s := redisStore(t, redisconn.Config{Addresses: []string{proxy.URL()}})
	ctx := t.Context()
	if _, err := s.Get(ctx, "n", start); !errors.Is(err, locks.ErrNotHeld) { // the script is known there now
		t.Fatal(err)
	}
	late := func() {
		proxy.SetDelay(400 * time.Millisecond)
		time.AfterFunc(150*time.Millisecond, func() { proxy.SetDelay(0) })
	}
	late()
	l, err := s.Acquire(ctx, "n", "0a", start, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if other, err := s.Acquire(ctx, "n", "0a", start, time.Minute); !errors.Is(err, locks.ErrHeld) || other != l {
		t.Errorf("got %v (%v), want ErrHeld and %v", other, err, l)
	}
	late()
	if _, err = s.Release(ctx, "n", "0a", start); err != nil {
		t.Error(err)
	}
	if _, err = s.Release(ctx, "n", "0a", start); !errors.Is(err, locks.ErrNotHeld) {
		t.Errorf("got %v for a second release", err)
	}
}

func TestRedisKeepsNoToken(t *testing.T) {
	server := redistest.Start(t)
	s, err := locks.New(locks.Config{}, locks.Deps{Store: redisStore(t, redisconn.Config{Addresses: []string{server.URL()}})})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("POST", "/locks/n", nil))
	_, token, _ := strings.Cut(w.Body.String(), `"token":"`)
	token, _, _ = strings.Cut(token, `"`)
	keys, err := server.Client().Keys(t.Context(), "*").Result()
	if err != nil || len(keys) != 3 {
		t.Errorf("got the keys %v (%v), want three", keys, err)
	}
	for i := range 16 {
		all, err := server.Client().HGetAll(t.Context(), fmt.Sprintf("gatehouse:locks:{%02d}", i)).Result()
		if err != nil || len(token) != 32 || strings.Contains(fmt.Sprint(all), token) {
			t.Errorf("got %v (%v), which must not hold the token %q", all, err, token)
		}
	}
}

// TestStoreRedisOfAHost opens the backend as the wiring does.
func TestStoreRedisOfAHost(t *testing.T) {
	open := func(s service.Settings) error {
		s.DataDir = t.TempDir()
		h, err := service.NewHost(t.Context(), s, nil, func(string) (service.Opener, error) { return locks.Config{Store: locks.StoreRedis}, nil })
		if err != nil {
			return err
		}
		err = h.Open(context.Background(), "locks")
		if err == nil {
			w := httptest.NewRecorder()
			h.Service("locks").ServeHTTP(w, httptest.NewRequest("POST", "/locks/n", nil))
			if w.Code != http.StatusOK {
				err = fmt.Errorf("got %d %s", w.Code, w.Body)
			}
		}
		return errors.Join(err, h.Close())
	}
	server := redistest.Start(t)
	if err := open(service.Settings{Redis: &redisconn.Config{Addresses: []string{server.URL()}}}); err != nil {
		t.Error(err)
	}
	if n, err := server.Client().Exists(t.Context(), "gatehouse:locks:{00}:fence").Result(); err != nil {
		t.Error(n, err)
	}
	if err := open(service.Settings{}); err == nil || !strings.Contains(err.Error(), "no Redis is configured") {
		t.Errorf("got %v without a Redis", err)
	}
	if err := (locks.Config{Store: "memory"}).Validate(); err == nil {
		t.Error("a store that does not exist is accepted")
	}
}
