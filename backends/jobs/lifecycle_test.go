package jobs_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/jobs"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

func get(h http.Handler, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, newRequest(http.MethodGet, path, nil))
	return w
}

// post enqueues a job and returns its id.
func post(t *testing.T, h http.Handler, body string) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, newRequest(http.MethodPost, "/jobs", strings.NewReader(body)))
	var r jobs.Receipt
	if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil || w.Code != http.StatusAccepted {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	return r.ID
}

func view(t *testing.T, h http.Handler, id string) (v jobs.View) {
	t.Helper()
	w := get(h, "/jobs/"+id)
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil || w.Code != http.StatusOK {
		t.Fatalf("job %s: got %d %s", id, w.Code, w.Body)
	}
	return v
}

// reach waits until the job is in the state.
func reach(t *testing.T, h http.Handler, id, state string) (v jobs.View) {
	t.Helper()
	until(t, "job "+id+" is "+state, func() bool {
		v = view(t, h, id)
		return v.State == state
	})
	return v
}

// target counts pushes by body and takes them all, each after it was let.
type target struct {
	*httptest.Server
	mu   sync.Mutex
	seen map[string]int
	let  chan struct{} // closed from the start unless made otherwise
}

func newTarget(t *testing.T, held bool) *target {
	g := &target{seen: map[string]int{}, let: make(chan struct{})}
	if !held {
		close(g.let)
	}
	g.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		g.mu.Lock()
		g.seen[string(b)]++
		g.mu.Unlock()
		select {
		case <-g.let:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(g.Close)
	return g
}

func (g *target) count(body string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.seen[body]
}

func (g *target) config() jobs.Config {
	return jobs.Config{Queues: map[string]jobs.Queue{"q": {Target: g.URL, Timeout: 0, Attempts: 1}}}
}

func TestReloadNeitherLosesNorRepeats(t *testing.T) {
	dir, g := t.TempDir(), newTarget(t, false)
	oldHost, old := open(t, dir, g.config())
	_, young := open(t, dir, g.config())
	const n = 120
	var ids []string
	for i := range n {
		s := []*jobs.Service{old, young}[i%2]
		if i == n/2 {
			// The old one goes while work is under way; requests that it still has are served.
			go func() { _ = oldHost.Close() }()
		}
		ids = append(ids, post(t, s, fmt.Sprintf(`{"queue":"q","payload":%d}`, i)))
	}
	for _, id := range ids {
		if v := reach(t, young, id, "completed"); v.Attempt != 1 {
			t.Errorf("got %+v", v)
		}
	}
	for i := range n {
		if got := g.count(fmt.Sprint(i)); got != 1 {
			t.Errorf("job %d was pushed %d times", i, got)
		}
	}
}

func TestSecondServiceLeavesRunningJobsAlone(t *testing.T) {
	dir, g := t.TempDir(), newTarget(t, true)
	_, first := open(t, dir, g.config())
	id := post(t, first, `{"queue":"q","payload":"held"}`)
	until(t, "the push arrived", func() bool { return g.count(`"held"`) == 1 })
	_, second := open(t, dir, g.config())
	other := post(t, second, `{"queue":"q","payload":"other"}`)
	until(t, "the second service works", func() bool { return g.count(`"other"`) == 1 })
	if v := view(t, second, id); v.State != "running" || v.Attempt != 1 {
		t.Errorf("got %+v, want it to run on", v)
	}
	close(g.let)
	reach(t, second, id, "completed")
	reach(t, second, other, "completed")
	if n := g.count(`"held"`); n != 1 {
		t.Errorf("pushed %d times", n)
	}
}

func TestStopDrains(t *testing.T) {
	dir, g := t.TempDir(), newTarget(t, true)
	h, s := open(t, dir, g.config())
	id := post(t, s, `{"queue":"q","payload":"held"}`)
	until(t, "the push arrived", func() bool { return g.count(`"held"`) == 1 })
	closed := make(chan error, 1)
	go func() { closed <- h.Close() }()
	select {
	case err := <-closed:
		t.Fatalf("closed with a job under way: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	close(g.let)
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	_, s = open(t, dir, g.config())
	if v := view(t, s, id); v.State != "completed" || v.Attempt != 1 || g.count(`"held"`) != 1 {
		t.Errorf("got %+v after %d pushes, want one push and completed", v, g.count(`"held"`))
	}
}

// detached is a service that nobody runs, on a host that has it not open.
func detached(t *testing.T, h *service.Host, c jobs.Config, stop time.Duration) *jobs.Service {
	t.Helper()
	if err := jobs.Prepare(t.Context(), h.DB, h.Log); err != nil {
		t.Fatal(err)
	}
	key := secret.NewSet("k", secret.Version{Value: secret.NewValue([]byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))})
	s, err := jobs.New(c, jobs.Deps{DB: h.DB, SigningKey: key, StopTime: stop})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStopCancelsWhatWillNotEnd(t *testing.T) {
	g := newTarget(t, true)
	h := newHost(t, t.TempDir(), jobs.Config{})
	s := detached(t, h, g.config(), 100*time.Millisecond)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	push := post(t, s, `{"queue":"q","payload":"held"}`)
	s.Handle("stubborn", func(ctx context.Context, _ []byte) error {
		<-ctx.Done()
		return fmt.Errorf("some error of its own")
	})
	call := enqueue(t, h, s, "stubborn", `{}`)
	until(t, "both run", func() bool { return view(t, s, call).State == "running" && g.count(`"held"`) == 1 })
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{push, call} {
		if v := view(t, s, id); v.State != "queued" || v.Attempt != 0 || len(v.Errors) != 0 {
			t.Errorf("got %+v, want it queued with its attempt given back", v)
		}
	}
}

func TestServesBeforeAndAfterRun(t *testing.T) {
	g := newTarget(t, false)
	h := newHost(t, t.TempDir(), jobs.Config{})
	s := detached(t, h, g.config(), 0)
	before := post(t, s, `{"queue":"q","payload":"before"}`)
	if v := view(t, s, before); v.State != "queued" {
		t.Errorf("got %+v", v)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	reach(t, s, before, "completed")
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	after := post(t, s, `{"queue":"q","payload":"after"}`)
	if v := view(t, s, after); v.State != "queued" || g.count(`"after"`) != 0 {
		t.Errorf("got %+v", v)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOrphansRunAgain(t *testing.T) {
	dir, g := t.TempDir(), newTarget(t, false)
	h := newHost(t, dir, jobs.Config{})
	s := detached(t, h, g.config(), 0)
	last := post(t, s, `{"queue":"q","payload":"last","attempts":1}`)
	cancelled := post(t, s, `{"queue":"q","payload":"cancelled"}`)
	// What a process leaves that dies with both at work, the second one asked to stop, while it leads.
	for _, statement := range []string{
		`UPDATE river_job SET state = 'running', attempt = 1, attempted_at = datetime('now', 'subsec')`,
		`UPDATE river_job SET metadata = jsonb_set(metadata, '$.cancel_attempted_at', '2026-01-01T00:00:00Z') WHERE id = ` + cancelled,
		`INSERT INTO river_leader (elected_at, expires_at, leader_id, name) VALUES (datetime('now'), datetime('now', '1 hour'), 'dead', 'default')`,
	} {
		if _, err := h.DB.Write.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	_, s = open(t, dir, g.config())
	if v := reach(t, s, last, "completed"); v.Attempt != 1 || v.MaxAttempts != 1 {
		t.Errorf("got %+v, want the last attempt to be run again", v)
	}
	if v := view(t, s, cancelled); v.State != "cancelled" || g.count(`"cancelled"`) != 0 {
		t.Errorf("got %+v, want it cancelled", v)
	}
	// The dead leader's lease holds nobody up: what is due beyond the scheduler's reach still runs.
	start := time.Now()
	reach(t, s, post(t, s, `{"queue":"q","payload":"later","delay":"7s"}`), "completed")
	if took := time.Since(start); took > 12*time.Second {
		t.Errorf("a job due in 7s took %s", took)
	}
}

// lines collects log records.
type lines struct {
	slog.Handler
	mu  *sync.Mutex
	got *[]string
}

func (l lines) Enabled(context.Context, slog.Level) bool { return true }
func (l lines) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l lines) WithGroup(string) slog.Handler            { return l }
func (l lines) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	*l.got = append(*l.got, r.Level.String()+" "+r.Message)
	return nil
}

func TestLogIsQuiet(t *testing.T) {
	g := newTarget(t, false)
	var got []string
	var mu sync.Mutex
	h, err := service.NewHost(t.Context(), service.Settings{DataDir: t.TempDir()}, slog.New(lines{slog.DiscardHandler, &mu, &got}),
		func(string) (service.Opener, error) { return g.config(), nil })
	if err != nil {
		t.Fatal(err)
	}
	if err = h.Open(t.Context(), "jobs"); err != nil {
		t.Fatal(err)
	}
	s := h.Service("jobs")
	reach(t, s, post(t, s, `{"queue":"q","payload":1}`), "completed")
	reach(t, s, post(t, s, `{"queue":"q","payload":1,"target":"`+g.URL+`","delay":"300ms"}`), "completed")
	if err = h.Close(); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(got) != 0 {
		t.Errorf("got %v, want nothing logged when all is well", got)
	}
}

func TestTargetIsCheckedAgainBeforeThePush(t *testing.T) {
	dir, g := t.TempDir(), newTarget(t, false)
	h := newHost(t, dir, jobs.Config{})
	s := detached(t, h, g.config(), 0)
	id := post(t, s, `{"queue":"q","payload":1,"target":"`+g.URL+`/own"}`)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	_, s = open(t, dir, jobs.Config{Queues: map[string]jobs.Queue{"q": {}}})
	if v := reach(t, s, id, "dead"); !strings.Contains(v.Errors[0].Message, "not allowed") || g.count("1") != 0 {
		t.Errorf("got %+v, want no push to a host that is no longer allowed", v)
	}
}
