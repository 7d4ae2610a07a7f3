package source

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

// remote is a source over a network, in fake time.
type remote struct {
	mu    sync.Mutex
	value string
	err   error
	hang  bool
	asked []time.Time
}

func (r *remote) Fetch(ctx context.Context) ([]secret.Version, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, time.Now())
	if r.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if r.err != nil {
		return nil, r.err
	}
	return []secret.Version{{Label: "v", Value: secret.NewValue([]byte(r.value))}}, nil
}

func (r *remote) set(value string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.value, r.err = value, err
}

// since is how often it was asked since the last time.
func (r *remote) since() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.asked)
	r.asked = nil
	return n
}

func (r *remote) open(t *testing.T, p *pool) *Handle {
	t.Helper()
	h, err := p.hold("x", "remote", nil, func() (*keeper, error) {
		return &keeper{kind: "vault", at: "Caddyfile:3", fetch: r, poll: 30 * time.Second, remote: true, refusal: "it is kept elsewhere"}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

func TestARemoteSourceIsPolled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, p := &remote{value: "one"}, newPool(t)
		h := r.open(t, p)
		if r.since() != 0 || len(values(h)) != 0 {
			t.Error("it is asked before the start")
		}
		if err := h.Start(t.Context()); err != nil || !slices.Equal(values(h), []string{"one"}) || r.since() != 1 {
			t.Fatalf("got %q, %v", values(h), err)
		}
		r.set("two", nil)
		<-time.After(30 * time.Second)
		synctest.Wait()
		if got := values(h); !slices.Equal(got, []string{"two"}) {
			t.Errorf("after a poll the values are %q", got)
		}
		r.since()
		<-time.After(10 * time.Minute)
		if n := r.since(); n < 20 || n > 26 {
			t.Errorf("in 10 minutes it is asked %d times", n)
		}

		r.set("", errors.New("the server is away"))
		<-time.After(time.Hour)
		synctest.Wait()
		s := h.Status()
		if !slices.Equal(values(h), []string{"two"}) || !strings.Contains(s.Error, "the server is away") || s.AgeSeconds < 3500 {
			t.Errorf("after an hour without the server: %q, %+v", values(h), s)
		}
		if n := r.since(); n > 160 {
			t.Errorf("in an hour without the server it is asked %d times", n)
		}
		r.set("three", nil)
		<-time.After(31 * time.Second)
		synctest.Wait()
		if got := values(h); !slices.Equal(got, []string{"three"}) || h.Status().Error != "" {
			t.Errorf("when the server is back the values are %q", got)
		}
		if _, err := h.Rotate(t.Context(), time.Hour, nil); err == nil || !strings.Contains(err.Error(), "not rotated from here: it is kept elsewhere") {
			t.Errorf("rotating gives %v", err)
		}
	})
}

func TestARemoteSourceThatFailsAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, p := &remote{err: errors.New("the server is away")}, newPool(t)
		p.linger = time.Minute
		h := r.open(t, p)
		if err := h.Start(t.Context()); err == nil || err.Error() != "secret x: the server is away, at Caddyfile:3" {
			t.Fatalf("got %v", err)
		}
		r.set("one", nil)
		if err := h.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.set("", errors.New("the server is away"))
		again := r.open(t, p) // as in a reload
		if err := again.Start(t.Context()); err != nil || !slices.Equal(values(again), []string{"one"}) {
			t.Errorf("a reload while the server is away: %q, %v", values(again), err)
		}
	})
}

func TestARemoteSourceThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, p := &remote{hang: true}, newPool(t)
		h := r.open(t, p)
		begin := time.Now()
		if err := h.Start(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != fetchTime {
			t.Errorf("got %v after %s", err, time.Since(begin))
		}
		begin = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := h.Refresh(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 100*time.Millisecond {
			t.Errorf("a refresh takes %s, %v", time.Since(begin), err)
		}
		<-time.After(fetchTime) // it goes on without who asked
	})
}

func TestARefreshIsOneForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, p := &remote{value: "one"}, newPool(t)
		h := r.open(t, p)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if err := h.Set().Refresh(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := r.since(); n != 1 {
			t.Errorf("100 at once ask %d times", n)
		}
		<-time.After(time.Second)
		if err := h.Set().Refresh(t.Context()); err != nil || r.since() != 1 {
			t.Errorf("a second later it is not asked, %v", err)
		}
	})
}
