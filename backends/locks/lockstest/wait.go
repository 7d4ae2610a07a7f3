package lockstest

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// later sends a request in the background and gives its answer with the time that it took.
func (e *exam) later(ctx context.Context, base, path, body string) <-chan timed {
	answer := make(chan timed, 1)
	go func() {
		began := time.Now()
		r, err := e.sendTo(ctx, base, "POST", path, body)
		answer <- timed{r, err, time.Since(began)}
	}()
	return answer
}

type timed struct {
	response
	err  error
	took time.Duration
}

// waitForRelease has an instance wait for what another holds.
func (e *exam) waitForRelease(t *testing.T) {
	path := e.path("release")
	if l := e.want(t, 200, "POST", path+"-free", `{"wait":"20s"}`).lock(t); l.Fence == 0 {
		t.Errorf("got %+v without a need to wait", l)
	}
	first := e.want(t, 200, "POST", path, `{"ttl":"60s"}`).lock(t)
	waits := e.later(t.Context(), e.all[len(e.all)-1], path, `{"ttl":"60s","wait":"20s"}`)
	<-time.After(300 * time.Millisecond)
	select {
	case got := <-waits:
		t.Fatalf("got %d %s (%v) while another holds the lock", got.status, got.body, got.err)
	default:
	}
	e.want(t, 204, "DELETE", path, withToken(first.Token))
	freed := time.Now()
	got := <-waits
	if got.err != nil || got.status != http.StatusOK {
		t.Fatalf("got %d %s (%v) after the release", got.status, got.body, got.err)
	}
	if took := time.Since(freed); took > 3*time.Second {
		t.Errorf("who waits learned of the release %s later", took)
	}
	second := got.lock(t)
	if second.Fence <= first.Fence {
		t.Errorf("got fence %d after %d", second.Fence, first.Fence)
	}
	e.want(t, 204, "DELETE", path, withToken(second.Token))
}

func (e *exam) waitForExpiry(t *testing.T) {
	path := e.path("ends")
	first := e.want(t, 200, "POST", path, `{"ttl":"400ms"}`).lock(t)
	second := e.want(t, 200, "POST", path, `{"ttl":"60s","wait":"20s"}`).lock(t)
	if second.Fence <= first.Fence || second.ExpiresAt.Add(-60*time.Second).Before(first.ExpiresAt) {
		t.Errorf("got %+v after %+v", second, first)
	}
	e.want(t, 204, "DELETE", path, withToken(second.Token))
}

func (e *exam) waitInVain(t *testing.T) {
	path := e.path("vain")
	l := e.want(t, 200, "POST", path, `{"ttl":"60s"}`).lock(t)
	began := time.Now()
	r := e.problem(t, 409, "lock-held", "POST", path, `{"wait":"500ms"}`)
	if took := time.Since(began); took < 500*time.Millisecond || took > patience {
		t.Errorf("a wait of 500ms took %s", took)
	}
	if other := r.lock(t); !other.ExpiresAt.Equal(l.ExpiresAt) || r.header.Get("Retry-After") == "" {
		t.Errorf("got %s and Retry-After %q, want the end of the lock, %s", r.body, r.header.Get("Retry-After"), l.ExpiresAt)
	}
	e.want(t, 204, "DELETE", path, withToken(l.Token))
}

// waitLeft has one leave that waits: the lock must not go to it.
func (e *exam) waitLeft(t *testing.T) {
	path := e.path("left")
	first := e.want(t, 200, "POST", path, `{"ttl":"60s"}`).lock(t)
	ctx, cancel := context.WithCancel(t.Context())
	waits := e.later(ctx, e.base, path, `{"ttl":"60s","wait":"20s"}`)
	<-time.After(300 * time.Millisecond)
	cancel()
	if got := <-waits; got.err == nil {
		t.Fatalf("got %d %s", got.status, got.body)
	}
	<-time.After(300 * time.Millisecond) // the server sees it now
	e.want(t, 204, "DELETE", path, withToken(first.Token))
	<-time.After(300 * time.Millisecond)
	if l := e.want(t, 200, "GET", path, "").lock(t); l.Held {
		t.Error("the lock went to one who had left")
	}
}

// waitInTurn has 40 wait for one lock, that each gives back at once.
func (e *exam) waitInTurn(t *testing.T) {
	const many = 40
	path := e.path("turn")
	var inside, turns atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for i := range many {
		wg.Go(func() {
			base := e.all[i%len(e.all)]
			r, err := e.sendTo(t.Context(), base, "POST", path, `{"ttl":"60s","wait":"30s"}`)
			var l lock
			if err != nil || r.status != http.StatusOK || json.Unmarshal(r.body, &l) != nil {
				t.Errorf("waiting: got %d %s (%v)", r.status, r.body, err)
				return
			}
			if n := inside.Add(1); n != 1 {
				t.Errorf("%d owners at once", n)
			}
			turns.Add(1)
			inside.Add(-1)
			if r, err = e.sendTo(t.Context(), base, "DELETE", path, withToken(l.Token)); err != nil || r.status != http.StatusNoContent {
				t.Errorf("releasing: got %d %s (%v)", r.status, r.body, err)
			}
		})
	}
	wg.Wait()
	if turns.Load() != many {
		t.Errorf("got %d turns, want %d", turns.Load(), many)
	}
	t.Logf("%d turns took %s", many, time.Since(began).Round(time.Millisecond))
}
