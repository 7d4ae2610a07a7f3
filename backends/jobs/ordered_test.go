package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"
)

// takeIDs starts up to n jobs of the queue q and returns their ids.
func takeIDs(t *testing.T, s *Service, n int) (ids []int64) {
	t.Helper()
	rows, err := s.take(t.Context(), "q", n, pullOwner+"w")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		ids = append(ids, row.ID)
	}
	slices.Sort(ids)
	return ids
}

func postKey(t *testing.T, s *Service, key, members string) int64 {
	t.Helper()
	if key != "" {
		members += fmt.Sprintf(`,"key":%q`, key)
	}
	return parseID(post(t, s, `{"queue":"q","payload":1`+members+`}`).ID)
}

func TestOrderedKeysWait(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true, Ordered: true}}})
	wants := func(what string, want ...int64) {
		t.Helper()
		slices.Sort(want)
		if got := takeIDs(t, s, 100); !slices.Equal(got, want) {
			t.Errorf("%s: started %v, want %v", what, got, want)
		}
	}
	set := func(id int64, state string) { s.exec(t, "UPDATE river_job SET "+state+" WHERE id = $1", id) }
	a1, b1 := postKey(t, s, "a", `,"priority":4`), postKey(t, s, "b", "")
	a2, a3 := postKey(t, s, "a", `,"priority":1`), postKey(t, s, "a", "")
	n1, n2 := postKey(t, s, "", ""), postKey(t, s, "", "")
	late := postKey(t, s, "c", `,"delay":"1h"`)
	c1 := postKey(t, s, "c", "")
	wants("the first of each key, whatever its priority, and all without a key", a1, b1, n1, n2, c1)
	wants("while they run")
	set(a1, "state = 'retryable', scheduled_at = "+s.q.pick("datetime('now', '+1 hour')", "now() + interval '1 hour'"))
	set(b1, "state = 'available', attempt = 0, metadata = "+s.q.jsonb(`'{"key":"b","snoozes":1}'`)+", scheduled_at = "+s.q.pick("datetime('now', '+3 seconds')", "now() + interval '3 seconds'"))
	set(c1, "state = 'completed', finalized_at = "+s.q.now)
	b2 := postKey(t, s, "b", "")
	wants("while the first wait for a retry, or are postponed")
	set(a1, "state = 'available', scheduled_at = "+s.q.now)
	set(b1, "scheduled_at = "+s.q.now)
	wants("the retry goes first, though it is due the shortest", a1, b1)
	set(a1, "state = 'discarded', finalized_at = "+s.q.now)
	set(b1, "state = 'cancelled', finalized_at = "+s.q.now)
	wants("after a dead and a cancelled one", a2, b2)
	set(a2, "state = 'completed', finalized_at = "+s.q.now)
	wants("after a completed one", a3)
	set(late, "state = 'available', scheduled_at = "+s.q.now)
	wants("the one with a delay, when it is due", late)
}

// TestOrderedQueueRuns: a target that fails now and then sees the jobs of each key in their order.
func TestOrderedQueueRuns(t *testing.T) {
	var mu sync.Mutex
	seen, tries := map[string][]int{}, map[string]int{}
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var p struct {
			Key string
			N   int
		}
		_ = json.NewDecoder(r.Body).Decode(&p)
		mu.Lock()
		defer mu.Unlock()
		if id := fmt.Sprint(p.Key, p.N); p.N%3 == 1 && tries[id] == 0 {
			tries[id]++
			w.WriteHeader(http.StatusConflict)
			return
		}
		seen[p.Key] = append(seen[p.Key], p.N)
	}))
	defer target.Close()
	s := still(t, Config{Queues: map[string]Queue{"q": {Target: target.URL, Ordered: true, Backoff: Backoff{Fixed: true, Base: 20 * time.Millisecond}}}})
	const keys, each = 4, 6
	for n := range each {
		for k := range keys {
			post(t, s, fmt.Sprintf(`{"queue":"q","key":"k%d","priority":%d,"payload":{"key":"k%d","n":%d}}`, k, 1+(n+k)%4, k, n))
		}
	}
	working(t, s)
	for deadline := time.Now().Add(time.Minute); ; <-time.After(20 * time.Millisecond) {
		if len(unfinished(t, s)) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("still unfinished: %v", unfinished(t, s))
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for k := range keys {
		if got, want := seen[fmt.Sprint("k", k)], []int{0, 1, 2, 3, 4, 5}; !slices.Equal(got, want) {
			t.Errorf("k%d: got %v, want %v", k, got, want)
		}
	}
}

// working runs s until the test ends.
func working(t *testing.T, s *Service) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var run sync.WaitGroup
	run.Go(func() { _ = s.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		run.Wait()
	})
}
