package locks_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/locks"
	"github.com/gatehouse-proxy/gatehouse/backends/locks/lockstest"
	"github.com/gatehouse-proxy/gatehouse/integration/await"
	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
)

// instances are stores of two processes on one PostgreSQL.
func instances(t *testing.T, url string) []*locks.SQLStore {
	t.Helper()
	return []*locks.SQLStore{locks.NewSQLStore(openHost(t, t.TempDir(), url).DB), locks.NewSQLStore(openHost(t, t.TempDir(), url).DB)}
}

func TestExamineInstancesOnPostgres(t *testing.T) {
	stores := instances(t, pgtest.Start(t, pgtest.Fast).URL)
	lockstest.Examine(t, serve(t, stores[0]), http.DefaultClient, serve(t, stores[1]))
}

// TestInstancesHaveOneWinner takes the same lock, which is free, held or run out, from two instances,
// while a third prunes it.
func TestInstancesHaveOneWinner(t *testing.T) {
	stores := instances(t, pgtest.Start(t, pgtest.Fast).URL)
	last := int64(0)
	for round := range 30 {
		now := start.Add(time.Duration(round) * time.Minute)
		var wg sync.WaitGroup
		errs, got := make([]error, 20), make([]locks.Lock, 20)
		for i := range errs {
			wg.Go(func() { got[i], errs[i] = stores[i%2].Acquire(t.Context(), "n", fmt.Sprint(i), now, time.Minute) })
		}
		wg.Go(func() {
			if err := stores[0].Prune(t.Context(), now); err != nil {
				t.Error(err)
			}
		})
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
		if held, err := stores[1].Get(t.Context(), "n", now); err != nil || held != got[won] {
			t.Errorf("round %d: the lock is %+v (%v), want %+v", round, held, err, got[won])
		}
		if got[won].Fence <= last {
			t.Errorf("round %d: got fence %d after %d", round, got[won].Fence, last)
		}
		last = got[won].Fence
	}
}

// TestFencesOutliveTheServer kills PostgreSQL while locks are acquired: none that was given out is
// forgotten, and no fence comes twice.
func TestFencesOutliveTheServer(t *testing.T) {
	s := pgtest.Start(t)
	db := openHost(t, t.TempDir(), s.URL).DB
	store := locks.NewSQLStore(db)
	seen := map[int64]string{}
	last := int64(0)
	for round := range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		enough, killed := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(killed)
			<-enough
			s.Kill()
		}()
		for i := 0; ; i++ {
			name := fmt.Sprint("n", round, "-", i)
			l, err := store.Acquire(ctx, name, "o", start, time.Hour)
			if err != nil {
				if i <= 20 {
					close(enough)
					t.Errorf("only %d locks: %v", i, err)
				}
				break
			}
			if seen[l.Fence] != "" || l.Fence <= last {
				t.Errorf("got fence %d after %d", l.Fence, last)
			}
			seen[l.Fence], last = name, l.Fence
			if i == 20 {
				close(enough)
			}
		}
		<-killed
		s.Restart()
		await.For(t, "the connections from before the kill are found out", func() error {
			_, read := store.List(t.Context(), 0, 1, start)
			_, write := db.Write.ExecContext(t.Context(), "SELECT 1")
			return errors.Join(read, write)
		})
		for fence, name := range seen {
			if l, err := store.Get(t.Context(), name, start); err != nil || l.Fence != fence {
				t.Fatalf("lock %s has fence %d (%v), want %d", name, l.Fence, err, fence)
			}
		}
	}
}
