package locks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// oneLock is a store of one lock in memory, that counts how often it is asked.
type oneLock struct {
	Store
	mu    sync.Mutex
	lock  Lock
	owner string
	asked int
	fail  error
}

func (o *oneLock) Acquire(_ context.Context, name, owner string, now time.Time, ttl time.Duration) (Lock, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked++
	switch {
	case o.fail != nil:
		return Lock{}, o.fail
	case now.Before(o.lock.ExpiresAt):
		return o.lock, ErrHeld
	}
	o.lock, o.owner = Lock{name, o.lock.Fence + 1, now.Add(ttl)}, owner
	return o.lock, nil
}

func (o *oneLock) Release(_ context.Context, _, owner string, now time.Time) (Lock, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case !now.Before(o.lock.ExpiresAt):
		return Lock{}, ErrNotHeld
	case owner != o.owner:
		return o.lock, ErrHeld
	}
	o.lock.ExpiresAt = now
	return o.lock, nil
}

func (o *oneLock) times() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.asked
}

func (o *oneLock) Prune(context.Context, time.Time) error { return nil }

// bench is a service over a oneLock, in a bubble of synctest.
func bench(t *testing.T) (*Service, *oneLock) {
	t.Helper()
	o := &oneLock{}
	s, err := New(Config{}, Deps{Store: o})
	if err != nil {
		t.Fatal(err)
	}
	return s, o
}

func post(ctx context.Context, s *Service, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodPost, "/locks/n", strings.NewReader(body)))
	return w
}

func hold(t *testing.T, s *Service, ttl string) (release func()) {
	t.Helper()
	w := post(t.Context(), s, `{"ttl":"`+ttl+`"}`)
	if w.Code != http.StatusOK {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	return func() {
		d := httptest.NewRecorder()
		s.ServeHTTP(d, httptest.NewRequest(http.MethodDelete, "/locks/n?token="+token(w), nil))
		if d.Code != http.StatusNoContent {
			t.Errorf("releasing: got %d %s", d.Code, d.Body)
		}
	}
}

func token(w *httptest.ResponseRecorder) string {
	var l ownedView
	_ = json.Unmarshal(w.Body.Bytes(), &l)
	return l.Token
}

func TestWhoWaitsFirstIsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, o := bench(t)
		release := hold(t, s, "1h")
		var mu sync.Mutex
		var order []int
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				w := post(t.Context(), s, `{"ttl":"1h","wait":"30s"}`)
				if w.Code != http.StatusOK {
					t.Errorf("%d: got %d %s", i, w.Code, w.Body)
					return
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				s.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodDelete, "/locks/n?token="+token(w), nil))
			})
			synctest.Wait()
		}
		began, asked := time.Now(), o.times()
		release()
		wg.Wait()
		if took := time.Since(began); took != 0 {
			t.Errorf("50 turns took %s, as if somebody had polled", took)
		}
		if !slices.IsSorted(order) || len(order) != 50 {
			t.Errorf("got the order %v", order)
		}
		if n := o.times() - asked; n > 100 {
			t.Errorf("the store was asked %d times for 50 turns", n)
		}
	})
}

func TestManyWhoWaitAskAsOneDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, o := bench(t)
		hold(t, s, "1h")
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				if w := post(t.Context(), s, `{"wait":"20s"}`); w.Code != http.StatusConflict {
					t.Errorf("got %d %s", w.Code, w.Body)
				}
			})
		}
		synctest.Wait()
		<-time.After(19 * time.Second)
		// Half a second apart at most, a quarter at least, and faster for the first moment.
		if n := o.times(); n < 19*2 || n > 19*4+10 {
			t.Errorf("the store was asked %d times in 19 s", n)
		}
		wg.Wait()
		if s.waiters.total != 0 || len(s.waiters.lines) != 0 {
			t.Errorf("%d still wait", s.waiters.total)
		}
	})
}

func TestAnotherInstancesReleaseIsSeenSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, o := bench(t)
		hold(t, s, "1h")
		got := make(chan int, 1)
		go func() { got <- post(t.Context(), s, `{"wait":"30s"}`).Code }()
		<-time.After(10 * time.Second)
		o.mu.Lock()
		o.lock.ExpiresAt = time.Now() // it is released elsewhere
		o.mu.Unlock()
		freed := time.Now()
		if code := <-got; code != http.StatusOK || time.Since(freed) > pollMost {
			t.Errorf("got %d after %s", code, time.Since(freed))
		}
	})
}

func TestTheEndOfALockIsSeenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := bench(t)
		hold(t, s, "7s")
		began := time.Now()
		w := post(t.Context(), s, `{"wait":"30s"}`)
		if took := time.Since(began); w.Code != http.StatusOK || took < 7*time.Second || took > 7*time.Second+2*time.Millisecond {
			t.Errorf("got %d after %s, want it after 7 s", w.Code, took)
		}
	})
}

func TestWaitersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := bench(t)
		hold(t, s, "1h")
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range maxWaitersOfOne {
			wg.Go(func() {
				if w := post(ctx, s, `{"wait":"30s"}`); w.Code != 499 {
					t.Errorf("got %d %s for one who left", w.Code, w.Body)
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		if w := post(t.Context(), s, `{"wait":"30s"}`); w.Code != http.StatusConflict || time.Since(began) != 0 {
			t.Errorf("got %d after %s for one too many", w.Code, time.Since(began))
		}
		cancel()
		wg.Wait()
		all := newWaiters()
		for i := range maxWaiters {
			if all.join(fmt.Sprint(i)) == nil {
				t.Fatalf("%d is one too many", i)
			}
		}
		if all.join("another") != nil {
			t.Error("there is no bound in all")
		}
	})
}

func TestOneWhoLeavesMakesRoomForTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, o := bench(t)
		release := hold(t, s, "1h")
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan int, 2)
		go func() { got <- post(ctx, s, `{"wait":"30s"}`).Code }()
		synctest.Wait()
		go func() { got <- post(t.Context(), s, `{"wait":"30s"}`).Code }()
		synctest.Wait()
		cancel()
		if code := <-got; code != 499 {
			t.Errorf("got %d", code)
		}
		began := time.Now()
		release()
		if code := <-got; code != http.StatusOK || time.Since(began) != 0 {
			t.Errorf("got %d after %s", code, time.Since(began))
		}
		if o.lock.Fence != 2 {
			t.Errorf("got fence %d, as if the lock had gone to the one who left", o.lock.Fence)
		}
	})
}

// lateAnswer acquires, and the one who asked is gone by then.
type lateAnswer struct {
	*oneLock
	leave func()
}

func (l *lateAnswer) Acquire(ctx context.Context, name, owner string, now time.Time, ttl time.Duration) (Lock, error) {
	defer l.leave()
	return l.oneLock.Acquire(ctx, name, owner, now, ttl)
}

func TestALockForOneWhoLeftIsReleased(t *testing.T) {
	s, o := bench(t)
	ctx, cancel := context.WithCancel(t.Context())
	s.store = &lateAnswer{o, cancel}
	if w := post(ctx, s, ""); w.Code != 499 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if o.lock.Fence != 1 || time.Now().Before(o.lock.ExpiresAt) {
		t.Errorf("got %+v, want the lock acquired and released", o.lock)
	}
}

func TestAStopEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, o := bench(t)
		hold(t, s, "1h")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		got := make(chan *httptest.ResponseRecorder, 1)
		go func() { got <- post(t.Context(), s, `{"wait":"30s"}`) }()
		synctest.Wait()
		cancel()
		if w := <-got; w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("got %d %s", w.Code, w.Body)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		o.fail = errors.New("disk full")
		if w := post(t.Context(), s, `{"wait":"30s"}`); w.Code != http.StatusInternalServerError {
			t.Errorf("got %d %s from a store that is broken", w.Code, w.Body)
		}
	})
}
