package webhookverify

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"database/sql"

	"github.com/gatehouse-proxy/gatehouse/internal/signature"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

// app is the target of the queue: it keeps what is pushed to it.
type app struct {
	*httptest.Server
	mu     sync.Mutex
	pushes []push
}

type push struct {
	header http.Header
	body   string
}

func newApp(t *testing.T) *app {
	t.Helper()
	a := new(app)
	a.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.pushes = append(a.pushes, push{r.Header.Clone(), string(b)})
	}))
	t.Cleanup(a.Close)
	return a
}

func (a *app) received() []push {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]push(nil), a.pushes...)
}

func (a *app) queue(name string) string {
	return "backend jobs {\n\t\t\tqueue " + name + " {\n\t\t\t\ttarget " + a.URL + "/tasks\n\t\t\t}\n\t\t}"
}

// eventually waits until ok, at most 10 s.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 10s for %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

type answer struct {
	ID        string `json:"id"`
	Duplicate *bool  `json:"duplicate"`
}

func take(t *testing.T, resp *http.Response) answer {
	t.Helper()
	var a answer
	b, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("got %d %s, want 200", resp.StatusCode, b)
	}
	if err := json.Unmarshal(b, &a); err != nil || a.Duplicate == nil {
		t.Fatalf("got %s, want id and duplicate (%v)", b, err)
	}
	return a
}

// jobs counts the jobs that were ever enqueued, past the app's eyes.
func jobs(t *testing.T, g *modtest.Gateway) (n int) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(g.Dir, sqldb.File))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err = db.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM river_job WHERE kind = 'push'").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestIngest(t *testing.T) {
	const body = `{"name":"Zoë ☃","n":1.0,"id":"evt_1"}` + "\n"
	a := newApp(t)
	g := start(t, signature.Stripe, "ingest", a.queue("webhooks"), "")
	own := secretOf[signature.Stripe]

	r := signed(t, signature.Stripe, "", body, time.Now(), own)
	for name, value := range map[string]string{
		"X-User-Id": "admin", "X-Forwarded-For": "192.0.2.1", "Content-Type": "application/json; charset=utf-8", "User-Agent": "Stripe/1.0",
		"Authorization": "Bearer x", "Cookie": "a=b", "Connection": "X-Hop", "X-Hop": "dropped", "Gatehouse-Subject": "root",
		"Webhook-Signature": "v1,AAAA", "Proxy-Authorization": "x", "Te": "trailers",
	} {
		r.Header.Set(name, value)
	}
	if got := take(t, g.Do(r)); got.ID != "evt_1" || *got.Duplicate {
		t.Errorf("got %+v, want evt_1, no duplicate", got)
	}
	eventually(t, "the push", func() bool { return len(a.received()) == 1 })
	p := a.received()[0]
	if p.body != body {
		t.Errorf("got body %q, want %q", p.body, body)
	}
	for name, want := range map[string]string{
		"X-User-Id": "", "X-Forwarded-For": "", "Content-Type": "application/json; charset=utf-8", "User-Agent": "Stripe/1.0",
		"Stripe-Signature": r.Header.Get("Stripe-Signature"),
		"Authorization":    "", "Cookie": "", "X-Hop": "", "Gatehouse-Subject": "", "Proxy-Authorization": "", "Te": "",
	} {
		if got := p.header.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if p.header.Get("Webhook-Signature") == "v1,AAAA" {
		t.Error("a signature that nobody verified was passed on")
	}

	again := take(t, g.Do(signed(t, signature.Stripe, "", body, time.Now(), own)))
	if again.ID != "evt_1" || !*again.Duplicate {
		t.Errorf("again: got %+v, want a duplicate of evt_1", again)
	}
	if got := jobs(t, g); got != 1 {
		t.Errorf("got %d jobs, want 1", got)
	}
}

func TestIngestOnceUnderConcurrency(t *testing.T) {
	a := newApp(t)
	g := start(t, signature.Standard, "ingest", a.queue("webhooks"), "")
	const parallel = 50
	requests := make([]*http.Request, parallel)
	for i := range requests {
		requests[i] = signed(t, signature.Standard, "msg_1", `{"n":1}`, time.Now(), standardSecret)
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		fresh int
		bad   []int
	)
	for _, r := range requests {
		wg.Go(func() {
			resp := g.Do(r)
			var got answer
			err := json.NewDecoder(resp.Body).Decode(&got)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil || resp.StatusCode != http.StatusOK:
				bad = append(bad, resp.StatusCode)
			case !*got.Duplicate:
				fresh++
			}
		})
	}
	wg.Wait()
	if len(bad) > 0 {
		t.Errorf("got statuses %v, want 200 each", bad)
	}
	if fresh != 1 {
		t.Errorf("%d requests were told to be the first, want 1", fresh)
	}
	if got := jobs(t, g); got != 1 {
		t.Errorf("got %d jobs, want 1", got)
	}
}

func TestIngestTellsEventsApart(t *testing.T) {
	a := newApp(t)
	g := start(t, signature.GitHub, "ingest in", a.queue("in"), "guard {\n\t\tpaths pass\n\t}")
	own := secretOf[signature.GitHub]
	send := func(target, id, body string) bool {
		t.Helper()
		r := signed(t, signature.GitHub, "", body, time.Now(), own)
		r.URL.Path = target
		if id != "" {
			r.Header.Set("X-GitHub-Delivery", id)
		}
		return *take(t, g.Do(r)).Duplicate
	}
	steps := []struct {
		name, path, id, body string
		duplicate            bool
	}{
		{"first", "/hooks", "a", "1", false},
		{"redelivery", "/hooks", "a", "1", true},
		{"other-id", "/hooks", "b", "1", false},
		{"other-path", "/other", "a", "1", false},
		{"same-path-in-capitals", "/HOOKS", "a", "1", true},
		{"same-path-with-slashes", "//hooks/", "a", "1", true},
		{"no-id", "/hooks", "", "2", false},
		{"no-id-same-body", "/hooks", "", "2", true},
		{"no-id-other-body", "/hooks", "", "3", false},
		{"unprintable-id-counts-as-none", "/hooks", "\x01", "3", true},
		{"endless-id-counts-as-none", "/hooks", strings.Repeat("x", 5000), "3", true},
	}
	for _, s := range steps {
		if got := send(s.path, s.id, s.body); got != s.duplicate {
			t.Errorf("%s: got duplicate %v, want %v", s.name, got, s.duplicate)
		}
	}
	eventually(t, "the pushes", func() bool { return len(a.received()) == 5 })
}

func TestIngestSurvivesRestart(t *testing.T) {
	a := newApp(t)
	g := start(t, signature.Standard, "ingest", a.queue("webhooks"), "")
	take(t, g.Do(signed(t, signature.Standard, "msg_1", "{}", time.Now(), standardSecret)))
	eventually(t, "the push", func() bool { return len(a.received()) == 1 })
	g.Stop()
	g2, err := modtest.StartIn(t, g.Dir, "{\n\tgatehouse {\n\t\tdata_dir @@data@@\n\t\tsecret one file @@data@@/one\n\t\t"+a.queue("webhooks")+
		"\n\t}\n}\n:80 {\n\twebhook_verify standard {\n\t\tsecret one\n\t\tingest\n\t}\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	if got := take(t, g2.Do(signed(t, signature.Standard, "msg_1", "{}", time.Now(), standardSecret))); !*got.Duplicate {
		t.Error("an event was taken in again after a restart")
	}
}

func TestIngestNeverTakesForged(t *testing.T) {
	a := newApp(t)
	g := start(t, signature.Standard, "ingest", a.queue("webhooks"), "")
	for name, r := range map[string]*http.Request{
		"forged": signed(t, signature.Standard, "msg_1", "{}", time.Now(), "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"),
		"old":    signed(t, signature.Standard, "msg_1", "{}", time.Now().Add(-time.Hour), standardSecret),
		"future": signed(t, signature.Standard, "msg_1", "{}", time.Now().Add(time.Hour), standardSecret),
	} {
		if got := g.Do(r).StatusCode; got != http.StatusUnauthorized {
			t.Errorf("%s: got %d, want 401", name, got)
		}
	}
	// A forged event must not use up the genuine one's id.
	if got := take(t, g.Do(signed(t, signature.Standard, "msg_1", "{}", time.Now(), standardSecret))); *got.Duplicate {
		t.Error("a forged event made the genuine one a duplicate")
	}
	if got := jobs(t, g); got != 1 {
		t.Errorf("got %d jobs, want 1", got)
	}
}

func TestIngestWithoutTargetDoesNotStart(t *testing.T) {
	for name, global := range map[string]string{"no-queue": "", "no-target": "backend jobs {\n\t\t\tqueue webhooks\n\t\t}"} {
		t.Run(name, func(t *testing.T) {
			_, err := tryStart(t, signature.Standard, "ingest", global, "")
			if err == nil || !strings.Contains(err.Error(), "queue webhooks { target URL }") {
				t.Errorf("got %v, want an error that says how to give the queue a target", err)
			}
		})
	}
}

// TestIngestWithBrokenDatabaseIs503: the sender must come again, and nothing is half kept.
func TestIngestWithBrokenDatabaseIs503(t *testing.T) {
	a := newApp(t)
	g := start(t, signature.Standard, "ingest", a.queue("webhooks"), "")
	db, err := sql.Open("sqlite", filepath.Join(g.Dir, sqldb.File))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	rename := func(from, to string) {
		t.Helper()
		eventually(t, "the renaming of "+from, func() bool {
			_, err := db.ExecContext(t.Context(), "ALTER TABLE "+from+" RENAME TO "+to)
			return err == nil
		})
	}
	rename("river_job", "river_job_gone")
	resp := g.Do(signed(t, signature.Standard, "msg_1", "{}", time.Now(), standardSecret))
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Fatalf("got %d, Retry-After %q, want 503 with one", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
	rename("river_job_gone", "river_job")
	if got := take(t, g.Do(signed(t, signature.Standard, "msg_1", "{}", time.Now(), standardSecret))); *got.Duplicate {
		t.Error("the event was kept although its job was not")
	}
}
