package jobs_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/jobs"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

// numbers are what the host measures, by metric and queue.
func numbers(h *service.Host) map[string]float64 {
	all := map[string]float64{}
	h.Measure(func(s service.Sample) { all[s.Name+" "+s.Value] = s.Number })
	return all
}

// told are the events of a host.
type told struct {
	mu  sync.Mutex
	all []string
}

func (e *told) see(name string, data map[string]any) {
	b, err := json.Marshal(data)
	if err != nil {
		b = []byte(err.Error())
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, name+" "+string(b))
}

func (e *told) sorted() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Sorted(slices.Values(e.all))
}

// answering is a target that answers with a status that may change.
func answering(t *testing.T, status int) (url string, now *atomic.Int64) {
	now = new(atomic.Int64)
	now.Store(int64(status))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(int(now.Load()))
	}))
	t.Cleanup(srv.Close)
	return srv.URL, now
}

// A dead letter, however it died, is an event and a number.
func TestDeathsAreTold(t *testing.T) {
	url, _ := answering(t, http.StatusUnprocessableEntity)
	h := newHost(t, t.TempDir(), jobs.Config{Queues: map[string]jobs.Queue{"refused": {Target: url}, "leased": {Pull: true, Attempts: 1}, "fine": {Pull: true}}})
	var events told
	h.Events = events.see
	if err := h.Open(t.Context(), "jobs"); err != nil {
		t.Fatal(err)
	}
	s := h.Service("jobs")
	refused := post(t, s, `{"queue":"refused","payload":1}`)
	reach(t, s, refused, "dead")
	leased := post(t, s, `{"queue":"leased","payload":1}`)
	cancelled := post(t, s, `{"queue":"fine","payload":1}`)
	var page struct{ Items []jobs.Lease }
	send(t, s, http.StatusOK, http.MethodPost, "/queues/leased/lease", `{"wait":"10s"}`, &page)
	if len(page.Items) != 1 {
		t.Fatalf("got %+v, want a lease", page)
	}
	send(t, s, http.StatusOK, http.MethodPost, "/jobs/"+leased+"/fail", fmt.Sprintf(`{"fence":%d,"error":"no\naccount"}`, page.Items[0].Fence), nil)
	send(t, s, http.StatusOK, http.MethodDelete, "/jobs/"+cancelled, "", nil)
	want := []string{
		`job_died {"attempt":1,"error":"Unprocessable Entity","id":"` + refused + `","queue":"refused"}`,
		`job_died {"attempt":1,"error":"no account","id":"` + leased + `","queue":"leased"}`,
	}
	until(t, "both deaths are told", func() bool { return len(events.sorted()) >= len(want) })
	if got := events.sorted(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	got := numbers(h)
	for queue, want := range map[string]float64{"refused": 1, "leased": 1, "fine": 0} {
		if n := got["gatehouse_jobs_dead_total "+queue]; n != want {
			t.Errorf("%s: %v died, want %v", queue, n, want)
		}
	}
}

// What keeps a job from running is said of it, of its queue, and in the numbers.
func TestWaitingFor(t *testing.T) {
	url, status := answering(t, http.StatusInternalServerError)
	held := newTarget(t, true)
	defer close(held.let) // before the service is drained
	hour := jobs.Breaker{Trip: 1, Pause: unit.Duration(time.Hour), MaxPause: unit.Duration(time.Hour)}
	c := jobs.Config{Queues: map[string]jobs.Queue{
		"fails": {Target: url + "/a?token=secret", Breaker: hour, Attempts: 1},
		"away":  {Target: "http://127.0.0.1:1/b", Breaker: hour},
		"full":  {Target: held.URL, Concurrency: 1},
		"paced": {Target: held.URL, Rate: jobs.Rate{N: 1, Per: time.Hour, Burst: 1}},
		"keyed": {Target: held.URL, KeyConcurrency: 1},
		"pull":  {Pull: true},
		"stops": {Target: held.URL},
	}}
	h, s := open(t, t.TempDir(), c)
	waitsFor := func(id, want string) {
		t.Helper()
		last := "none"
		for deadline := time.Now().Add(time.Minute); !strings.HasPrefix(last, want); <-time.After(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the job %s waits for %q, want %q", id, last, want)
			}
			last = view(t, s, id).WaitingFor
		}
	}
	reach(t, s, post(t, s, `{"queue":"fails","payload":1}`), "dead")
	fails := post(t, s, `{"queue":"fails","payload":2}`)
	waitsFor(fails, "breaker "+url+"/a, failing, next probe 2")
	post(t, s, `{"queue":"away","payload":1}`)
	waitsFor(post(t, s, `{"queue":"away","payload":2}`), "breaker http://127.0.0.1:1/b, unreachable, next probe 2")
	running := map[string]string{}
	for _, queue := range []string{"full", "paced", "keyed"} {
		running[queue] = post(t, s, fmt.Sprintf(`{"queue":%q,"payload":1,"key":"k"}`, queue))
		reach(t, s, running[queue], "running")
	}
	full := post(t, s, `{"queue":"full","payload":1}`)
	waitsFor(full, "concurrency 1, all are running")
	waitsFor(post(t, s, `{"queue":"paced","payload":1}`), "rate 1/1h0m0s, next start 2")
	waitsFor(post(t, s, `{"queue":"keyed","payload":1,"key":"k"}`), "key_concurrency 1, all are running")
	waitsFor(post(t, s, `{"queue":"pull","payload":1}`), "a worker to lease it")
	send(t, s, http.StatusOK, http.MethodPost, "/queues/stops/pause", "", nil)
	waitsFor(post(t, s, `{"queue":"stops","payload":1}`), "the queue to be resumed, it is paused")
	for _, id := range []string{running["full"], post(t, s, `{"queue":"stops","payload":1,"delay":"1h"}`)} {
		if v := view(t, s, id); v.WaitingFor != "" {
			t.Errorf("got %+v, which waits for nothing", v)
		}
	}
	if list := get(s, "/jobs?queue=full").Body.String(); !strings.Contains(list, full) || strings.Contains(list, "waiting_for") {
		t.Errorf("got %s, want a list without reasons", list)
	}

	var page struct{ Items []jobs.QueueView }
	send(t, s, http.StatusOK, http.MethodGet, "/queues", "", &page)
	for _, q := range page.Items {
		want := map[string]jobs.BreakerView{"fails": {Target: url + "/a", Cause: "failing"}, "away": {Target: "http://127.0.0.1:1/b", Cause: "unreachable"}}[q.Name]
		if len(q.Breakers) == 0 && want.Target == "" {
			continue
		}
		if len(q.Breakers) != 1 || q.Breakers[0].Target != want.Target || q.Breakers[0].Cause != want.Cause || time.Until(q.Breakers[0].NextProbe) < 50*time.Minute {
			t.Errorf("%s: got %+v, want %+v", q.Name, q.Breakers, want)
		}
	}
	got := numbers(h)
	for name, want := range map[string]float64{
		"gatehouse_jobs_breaker_open fails": 1, "gatehouse_jobs_breaker_open away": 1, "gatehouse_jobs_breaker_open full": 0,
		"gatehouse_jobs_breaker_trips_total fails": 1, "gatehouse_jobs_breaker_trips_total away": 1,
	} {
		if n, ok := got[name]; n != want || !ok {
			t.Errorf("%s is %v, want %v", name, n, want)
		}
	}

	// An operator who has mended the target need not wait for the probe.
	status.Store(http.StatusOK)
	var reset jobs.BreakerReset
	send(t, s, http.StatusOK, http.MethodPost, "/queues/fails/breaker/reset", `{"target":"`+url+`/other"}`, &reset)
	if v := view(t, s, fails); reset.Reset != 0 || v.State != "queued" {
		t.Errorf("the reset of another target: got %+v, %+v", reset, v)
	}
	send(t, s, http.StatusOK, http.MethodPost, "/queues/fails/breaker/reset", "", &reset)
	reach(t, s, fails, "completed")
	if n := numbers(h)["gatehouse_jobs_breaker_open fails"]; reset.Reset != 1 || n != 0 {
		t.Errorf("got %+v, and %v targets are held back", reset, n)
	}
}

// While the process goes on, each queue has its own time to end what runs of a configuration that goes.
func TestDrainOfAQueue(t *testing.T) {
	dir := t.TempDir()
	let := make(chan struct{})
	var mu sync.Mutex
	pushes := map[string][]string{} // what each push says of itself, by queue
	sink := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		queue := r.Header.Get("Gatehouse-Job-Queue")
		pushes[queue] = append(pushes[queue], r.Header.Get("Gatehouse-Job-Attempt")+r.Header.Get("Gatehouse-Job-Redelivered"))
		again := len(pushes[queue]) > 1
		mu.Unlock()
		if again {
			return
		}
		select {
		case <-let:
		case <-r.Context().Done():
		}
	}))
	defer sink.Close()
	of := func(queue string) []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(pushes[queue])
	}
	c := jobs.Config{Queues: map[string]jobs.Queue{
		"short": {Target: sink.URL, Drain: unit.Duration(100 * time.Millisecond), Attempts: 1},
		"long":  {Target: sink.URL, Drain: unit.Duration(10 * time.Minute), Attempts: 1},
	}, Drain: unit.Duration(time.Second)}
	oldHost, old := open(t, dir, c)
	ids := map[string]string{}
	for queue := range c.Queues {
		ids[queue] = post(t, old, fmt.Sprintf(`{"queue":%q,"payload":1}`, queue))
		until(t, queue+" is pushed", func() bool { return len(of(queue)) == 1 })
	}
	_, young := open(t, dir, c)
	closed := make(chan error, 1)
	go func() { closed <- oldHost.Close() }()

	if v := reach(t, young, ids["short"], "completed"); v.Attempt != 1 || v.Postponed != 0 || len(v.Errors) != 0 {
		t.Errorf("got %+v, want the run that was cut off to count as nothing", v)
	}
	if got := of("short"); !slices.Equal(got, []string{"1", "1true"}) {
		t.Errorf("got the pushes %q, want a second one that says so", got)
	}
	select {
	case err := <-closed:
		t.Fatalf("it closed with a job under way that has ten minutes: %v", err)
	default:
	}
	if v := view(t, young, ids["long"]); v.State != "running" {
		t.Errorf("got %+v", v)
	}
	close(let)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	reach(t, young, ids["long"], "completed")
	if got := of("long"); !slices.Equal(got, []string{"1"}) {
		t.Errorf("got the pushes %q, want one", got)
	}
}
