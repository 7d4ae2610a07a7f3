package jobs

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// TestBehindPgBouncer: without LISTEN, and with another connection for each transaction, all is done; what
// one instance is asked for another hears within seconds.
func TestBehindPgBouncer(t *testing.T) {
	t.Parallel()
	url := pgtest.Start(t, pgtest.Fast).Bouncer()
	slow, begun := hanging(t)
	fast := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer fast.Close()
	instance := func() *Service {
		t.Helper()
		h, err := service.NewHost(t.Context(), service.Settings{DataDir: t.TempDir(), Database: url}, nil,
			func(string) (service.Opener, error) { return nil, errors.New("none") })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = h.Close() })
		s, err := Config{Queues: map[string]Queue{"slow": {Target: slow}, "q": {Target: fast.URL}, "pull": {Pull: true}}}.Open(t.Context(), h)
		if err != nil {
			t.Fatal(err)
		}
		return s.(*Service)
	}
	asked, works := instance(), instance()
	if !works.db.Pooled() {
		t.Fatal("the pooler is not seen")
	}
	working(t, works)
	for range 50 {
		reached(t, asked, post(t, asked, `{"queue":"q","payload":1}`).ID, stateCompleted)
	}
	if w := send(asked, "POST", "/jobs?wait=10s", `{"queue":"q","payload":1}`); w.Code != 200 {
		t.Errorf("got %d %s, want to hear of the end", w.Code, w.Body)
	}

	id := post(t, asked, `{"queue":"slow","payload":1}`).ID
	<-begun
	if w := send(asked, "DELETE", "/jobs/"+id, ""); w.Code != 202 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	endsIn(t, asked, id, 5*time.Second, stateCancelled)

	if w := send(asked, "POST", "/queues/q/pause", ""); w.Code != 200 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	id = post(t, works, `{"queue":"q","payload":1}`).ID
	<-time.After(2*controlEvery + time.Second)
	if v, err := asked.job(t.Context(), parseID(id)); err != nil || v.State != stateQueued {
		t.Errorf("got %+v, %v, want the job of a paused queue to wait", v, err)
	}
	if w := send(asked, "POST", "/queues/q/resume", ""); w.Code != 200 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	endsIn(t, asked, id, 5*time.Second, stateCompleted)

	got := make(chan int)
	go func() {
		leases, _ := works.lease(context.WithoutCancel(t.Context()), "pull", 1, time.Minute, 20*time.Second, "w")
		got <- len(leases)
	}()
	post(t, asked, `{"queue":"pull","payload":1}`)
	if n := <-got; n != 1 {
		t.Errorf("leased %d jobs", n)
	}
}
