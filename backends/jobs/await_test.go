package jobs

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestWaitForAJob(t *testing.T) {
	release := make(chan struct{})
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		<-release
		_, _ = fmt.Fprint(w, `{"answer":42}`)
	}))
	defer target.Close()
	s := still(t, Config{Queues: map[string]Queue{"q": {Target: target.URL}}})
	working(t, s)
	if w := send(s, "POST", "/jobs?wait=50ms", `{"queue":"q","payload":1}`); w.Code != 202 {
		t.Fatalf("got %d %s, want 202 at the end of the wait", w.Code, w.Body)
	}
	id := post(t, s, `{"queue":"q","payload":1}`).ID
	if w := send(s, "GET", "/jobs/"+id+"?wait=50ms", ""); w.Code != 200 || strings.Contains(w.Body.String(), "answer") {
		t.Errorf("got %d %s, want the job as it is", w.Code, w.Body)
	}
	answers := make(chan *httptest.ResponseRecorder, 10)
	for range 5 {
		go func() { answers <- send(s, "GET", "/jobs/"+id+"?wait=30s", "") }()
		go func() { answers <- send(s, "POST", "/jobs?wait=30s", `{"queue":"q","payload":1}`) }()
	}
	for deadline := time.Now().Add(time.Minute); len(s.awaiting.ids()) < 6; <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody waits")
		}
	}
	begin := time.Now()
	close(release)
	for range 10 {
		if w := <-answers; w.Code != 200 || !strings.Contains(w.Body.String(), `"result":{"answer":42}`) || w.Header().Get("Etag") == "" {
			t.Errorf("got %d %s, want the completed job", w.Code, w.Body)
		}
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	if a := s.awaiting; a.all != 0 || len(a.jobs) != 0 {
		t.Errorf("still counted: %+v", a)
	}
	for path, want := range map[string]int{"/jobs/" + id + "?wait=2m": 422, "/jobs/" + id + "?wait=soon": 422, "/jobs/999999?wait=1s": 404} {
		if w := send(s, "GET", path, ""); w.Code != want {
			t.Errorf("%s: got %d, want %d", path, w.Code, want)
		}
	}
}

// TestWaitSeesWhatOthersEnd: the end of a job that this instance does not run comes by the poll.
func TestWaitSeesWhatOthersEnd(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true}}})
	id := post(t, s, `{"queue":"q","payload":1}`).ID
	done := make(chan *httptest.ResponseRecorder)
	go func() { done <- send(s, "GET", "/jobs/"+id+"?wait=50s", "") }()
	for len(s.awaiting.ids()) == 0 {
		<-time.After(time.Millisecond)
	}
	s.exec(t, "UPDATE river_job SET state = 'completed', finalized_at = "+s.q.now)
	if w := <-done; !strings.Contains(w.Body.String(), `"completed"`) {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

func TestWaitIsBounded(t *testing.T) {
	a := newAwaiting()
	for range maxAwaiting {
		if _, err := a.enter(1); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.enter(2); err == nil || !strings.Contains(err.Error(), "Too many") {
		t.Errorf("got %v, want that there are too many", err)
	}
	a.leave(1)
	if _, err := a.enter(2); err != nil {
		t.Errorf("got %v after one has left", err)
	}
}

func TestPayloadCap(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true, MaxPayload: 1 << 20}, "small": {Pull: true, MaxPayload: 100}, "plain": {Pull: true}}})
	text := func(n int) string { return `"` + strings.Repeat("x", n-2) + `"` }
	id := post(t, s, `{"queue":"small","payload":1}`).ID
	for _, tc := range []struct {
		queue string
		n     int
		want  int
	}{{"q", 1 << 20, 202}, {"q", 1<<20 + 1, 413}, {"q", 2 << 20, 413}, {"small", 100, 202}, {"small", 101, 413}, {"plain", 256 << 10, 202}, {"plain", 256<<10 + 1, 413}} {
		if w := send(s, "POST", "/jobs", `{"queue":"`+tc.queue+`","payload":`+text(tc.n)+`}`); w.Code != tc.want {
			t.Errorf("%s, %d bytes: got %d %.200s, want %d", tc.queue, tc.n, w.Code, w.Body, tc.want)
		}
	}
	if w := send(s, "PUT", "/jobs/"+id, `{"payload":`+text(101)+`}`); w.Code != 413 {
		t.Errorf("an edit: got %d %.200s, want 413", w.Code, w.Body)
	}
	if w := send(s, "POST", "/jobs/"+id+"/retry", `{"payload":`+text(101)+`}`); w.Code != 413 {
		t.Errorf("a retry: got %d %.200s, want 413", w.Code, w.Body)
	}
	if w := send(s, "PUT", "/schedules/s", `{"queue":"small","cron":"@daily","payload":`+text(101)+`}`); w.Code != 422 {
		t.Errorf("a schedule: got %d %.200s, want 422", w.Code, w.Body)
	}
}
