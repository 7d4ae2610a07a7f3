package webhooks

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/tally"
	"github.com/gatehouse-proxy/gatehouse/backends/webhooks/webhookstest"
	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

// newService is a service on SQLite, or on the PostgreSQL at url.
func newService(t *testing.T, c Config, url ...string) (*Service, *queue) {
	t.Helper()
	db, err := sqldb.Open(t.Context(), t.TempDir())
	if len(url) > 0 && url[0] != "" {
		db, err = sqldb.OpenPostgres(t.Context(), url[0])
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err = migrate(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	q := newQueue(t, db)
	s, err := New(c, Deps{DB: db, Jobs: q, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, q
}

func loopback() Config { return Config{AllowPrivate: []string{"127.0.0.0/8"}} }

// asOperator is h for a caller who may use the API.
func asOperator(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set(service.RankHeader, service.RankOperator)
		h.ServeHTTP(w, r)
	})
}

func TestWhoMay(t *testing.T) {
	s, _ := newService(t, loopback(), "")
	for name, c := range map[string]struct {
		header, value string
		own, received int
	}{
		"nobody":   {"X-Other", "x", http.StatusUnauthorized, http.StatusUnauthorized},
		"user":     {service.SubjectHeader, "ann", http.StatusOK, http.StatusForbidden},
		"service":  {service.ScopeHeader, "webhooks:write", http.StatusOK, http.StatusOK},
		"operator": {service.RoleHeader, "admin", http.StatusOK, http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			for path, want := range map[string]int{"/endpoints": c.own, "/deliveries": c.own, "/received": c.received} {
				r, w := httptest.NewRequest(http.MethodGet, path, nil), httptest.NewRecorder()
				r.Header.Set(c.header, c.value)
				if s.ServeHTTP(w, r); w.Code != want {
					t.Errorf("%s: got %d %s, want %d", path, w.Code, w.Body, want)
				}
			}
		})
	}
}

// asked are requests to a service, and what it answers.
type asked struct {
	t *testing.T
	s *Service
}

// as sends a request for a user; "" is an operator.
func (a asked) as(who, method, target, body string, want int) map[string]any {
	a.t.Helper()
	r, w := httptest.NewRequest(method, target, strings.NewReader(body)), httptest.NewRecorder()
	if who == "" {
		r.Header.Set(service.RankHeader, service.RankOperator)
	} else {
		r.Header.Set(service.SubjectHeader, who)
	}
	a.s.ServeHTTP(w, r)
	if w.Code != want {
		a.t.Errorf("%s %s %s as %q: got %d %s, want %d", method, target, body, who, w.Code, w.Body, want)
	}
	var got map[string]any
	if w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			a.t.Errorf("%s %s: %v in %s", method, target, err, w.Body)
		}
	}
	return got
}

// ids are the ids of a list.
func (a asked) ids(who, target string) (all []string) {
	a.t.Helper()
	items, _ := a.as(who, http.MethodGet, target, "", 200)["items"].([]any)
	for _, item := range items {
		all = append(all, item.(map[string]any)["id"].(string))
	}
	return all
}

// until waits for the state of a delivery.
func (a asked) until(who, delivery, state string) {
	a.t.Helper()
	var got map[string]any
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); <-time.After(20 * time.Millisecond) {
		if got = a.as(who, http.MethodGet, "/deliveries/"+delivery, "", 200); got["state"] == state {
			return
		}
	}
	a.t.Errorf("got %v, want it %s", got, state)
}

// TestOwnerBytes: an owner's events have their bytes, whoever sends them, with their deliveries, and another
// owner's are not refused.
func TestOwnerBytes(t *testing.T) { pgtest.Each(t, testOwnerBytes) }

func testOwnerBytes(t *testing.T, url string) {
	s, _ := newService(t, Config{OwnerBytes: minOwnerBytes}, url)
	s.jobs = idleJobs{s.jobs}
	a := asked{t, s}
	event := func(id string) string {
		return `{"id":"` + id + `","type":"a","payload":"` + strings.Repeat("x", 200<<10) + `"}`
	}
	for i := range 5 {
		a.as("ann", "POST", "/events", event(strconv.Itoa(i)), 202)
		a.as("ann", "POST", "/events", event("0"), 202) // which is there already, and takes no bytes
	}
	counted := func() int {
		n, err := s.bytesOf(t.Context(), "ann")
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := counted(); n < 5*(201<<10) || n > minOwnerBytes {
		t.Errorf("5 events of 200 KiB have %d bytes", n)
	}
	// What is known in memory and what is counted anew agree.
	for _, tallies := range []*tally.Tallies[string]{s.tallies, tally.New[string]()} {
		s.tallies = tallies
		if got := a.as("ann", "POST", "/events", event("more"), 429); !strings.Contains(got["detail"].(string), "1.0 MiB") {
			t.Errorf("got %v, want the bound", got)
		}
		a.as("", "POST", "/events", `{"owner":"ann",`+event("more")[1:], 429)
		a.as("bob", "POST", "/events", event("more"), 202)
		a.as("", "POST", "/events", event("more"), 202)
	}

	for range 40 {
		a.as("cem", "POST", "/endpoints", `{"url":"https://hooks.example.com/in"}`, 201)
	}
	sent, small := 0, (*httptest.ResponseRecorder)(nil)
	for ; sent < 100 && (small == nil || small.Code == 202); sent++ {
		small = httptest.NewRecorder()
		r := httptest.NewRequest("POST", "/events", strings.NewReader(`{"type":"a","payload":1}`))
		r.Header.Set(service.SubjectHeader, "cem")
		s.ServeHTTP(small, r)
	}
	if small.Code != 429 || small.Header().Get("Retry-After") == "" || sent > 1+minOwnerBytes/rowBytes/40 {
		t.Errorf("got %d %s after %d events of 40 deliveries each", small.Code, small.Body, sent)
	}

	if n, err := s.bytesOf(t.Context(), "cem"); err != nil || n < (sent-1)*41*rowBytes {
		t.Errorf("%d events of 40 deliveries each have %d bytes, %v", sent-1, n, err)
	}

	// There is room again when the old ones are gone.
	if err := s.sweep(t.Context(), time.Now().Add(retention+time.Hour)); err != nil {
		t.Fatal(err)
	}
	s.tallies = tally.New[string]()
	if n := counted(); n != 0 {
		t.Errorf("after the sweep there are %d bytes", n)
	}
	a.as("ann", "POST", "/events", event("more"), 202)
}

// TestBeforeOwners: what an instance from before there were owners stored, and stores beside us, is nobody's.
func TestBeforeOwners(t *testing.T) { pgtest.Each(t, testBeforeOwners) }

func testBeforeOwners(t *testing.T, url string) {
	db, err := sqldb.Open(t.Context(), t.TempDir())
	if url != "" {
		db, err = sqldb.OpenPostgres(t.Context(), url)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	first := fstest.MapFS{}
	for _, name := range []string{"00001_tables.sql", "postgres/00001_tables.sql"} {
		b, err := migrations.ReadFile("migrations/" + name)
		if err != nil {
			t.Fatal(err)
		}
		first[name] = &fstest.MapFile{Data: b}
	}
	if err = db.Migrate(t.Context(), "webhooks", first); err != nil {
		t.Fatal(err)
	}
	stored := func(id string) { // as that instance does
		for _, statement := range []string{
			`INSERT INTO webhooks_endpoints (id, url, types, description, secret, state, created_at, updated_at) VALUES ($1, 'https://hooks.example.com/in', '[]', '', '', 'disabled', 1, 1)`,
			`INSERT INTO webhooks_events (id, type, body, created_at) VALUES ($1, 'a', '{"data":1}', 1)`,
			`INSERT INTO webhooks_deliveries (id, event_id, endpoint_id, state, created_at) VALUES ($1, $1, $1, 'delivered', 1)`,
		} {
			if _, err := db.Write.ExecContext(t.Context(), statement, id); err != nil {
				t.Fatal(err)
			}
		}
	}
	stored("before")
	if err = migrate(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	stored("beside")
	s, err := New(Config{}, Deps{DB: db, Jobs: newQueue(t, db), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	a := asked{t, s}
	for _, id := range []string{"before", "beside"} {
		for _, path := range []string{"/endpoints/", "/deliveries/"} {
			a.as("ann", "GET", path+id, "", 404)
			if got := a.as("", "GET", path+id, "", 200); got["owner"] != nil {
				t.Errorf("got %v, want it nobody's", got)
			}
		}
		event := `{"id":"` + id + `","type":"a","payload":1}`
		if got := a.as("", "POST", "/events", event, 202); got["duplicate"] != true {
			t.Errorf("%s: got %v, want a duplicate", id, got)
		}
		if got := a.as("ann", "POST", "/events", event, 202); got["duplicate"] != nil {
			t.Errorf("%s: got %v, want an event of her own", id, got)
		}
	}
	if got := a.ids("ann", "/deliveries"); len(got) != 0 {
		t.Errorf("she sees %v", got)
	}
}

// TestUsersPlaces: what allow_private opens is open to nobody's endpoints, and to users' with user_private,
// when they are made and when they are sent to.
func TestUsersPlaces(t *testing.T) {
	sink := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer sink.Close()
	hook := `{"url":"` + sink.URL + `/in"}`
	for name, c := range map[string]struct {
		user bool
		want int
	}{"off": {false, 400}, "on": {true, 201}} {
		t.Run(name, func(t *testing.T) {
			config := loopback()
			config.UserPrivate = c.user
			s, _ := newService(t, config, "")
			a := asked{t, s}
			a.as("", "POST", "/endpoints", hook, 201)
			a.as("ann", "POST", "/endpoints", hook, c.want)
			a.as("", "POST", "/endpoints", `{"owner":"ann",`+hook[1:], c.want)

			// A name that turns into a private address: nothing judges it before it is dialled, and the
			// connection that an endpoint of nobody's left open there is not used.
			made := a.as("ann", "POST", "/endpoints", `{"url":"https://hooks.example.com/in"}`, 201)
			if c.want == 400 {
				a.as("ann", "PUT", "/endpoints/"+made["id"].(string), hook, 400)
				a.as("", "PUT", "/endpoints/"+made["id"].(string), hook, 400)
			}
			if _, err := s.db.Write.ExecContext(t.Context(), "UPDATE webhooks_endpoints SET url = $1 WHERE id = $2", sink.URL+"/in", made["id"]); err != nil {
				t.Fatal(err)
			}
			for _, who := range []string{"", "ann"} {
				wanted := delivered
				if who != "" && !c.user {
					wanted = failed
				}
				sent := a.as(who, "POST", "/events", `{"type":"order.created","payload":1}`, 202)
				if sent["deliveries"] == 0.0 {
					t.Fatalf("got %v, want a delivery", sent)
				}
				for _, id := range a.ids(who, "/deliveries") {
					a.until(who, id, wanted)
				}
			}
		})
	}
}

func TestExamine(t *testing.T) { pgtest.Each(t, testExamine) }

func testExamine(t *testing.T, url string) {
	config := loopback()
	config.UserPrivate = true
	s, _ := newService(t, config, url)
	front, users := httptest.NewServer(asOperator(s)), httptest.NewServer(s)
	defer front.Close()
	defer users.Close()
	webhookstest.Examine(t, front.URL, front.Client(), webhookstest.Users{
		Base: users.URL,
		As:   func(r *http.Request, user string) { r.Header.Set(service.SubjectHeader, user) },
	})
}

func TestConfigIsValidated(t *testing.T) {
	for name, c := range map[string]Config{
		"address":    {AllowPrivate: []string{"10.0.0.1"}},
		"words":      {AllowPrivate: []string{"private"}},
		"mapped":     {AllowPrivate: []string{"::ffff:10.0.0.0/104"}},
		"long-pause": {Timeout: 1 << 60},
		"no-event":   {OwnerBytes: 100 << 10},
		"negative":   {OwnerBytes: -1},
		"one-owner":  {Authority: service.Authority{Owner: "acme"}},
	} {
		if err := c.Validate(); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	if err := (Config{}).Validate(); err != nil {
		t.Errorf("zero value: %v", err)
	}
}

func TestCheck(t *testing.T) { pgtest.Each(t, testCheck) }

func testCheck(t *testing.T, url string) {
	s, _ := newService(t, Config{}, url)
	if err := s.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context()); err == nil {
		t.Error("got no error although the database is closed")
	}
}

func TestReceiveOnce(t *testing.T) { pgtest.Each(t, testReceiveOnce) }

func testReceiveOnce(t *testing.T, url string) {
	s, q := newService(t, Config{}, url)
	e := Received{
		Scheme: "stripe", Endpoint: "/in", Queue: "in", EventID: "evt_1",
		Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte("{\"n\":1.0}\n"),
	}
	const parallel = 50
	var fresh, failures int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			duplicate, err := s.Receive(t.Context(), e)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				failures++
			case !duplicate:
				fresh++
			}
		})
	}
	wg.Wait()
	if fresh != 1 || failures != 0 {
		t.Errorf("got %d first ones and %d failures, want 1 and 0", fresh, failures)
	}
	bodies, headers := q.pushes(t)
	if len(bodies) != 1 || bodies[0] != string(e.Body) || headers[0].Get("Content-Type") != "application/json" {
		t.Errorf("got %q with %v, want one push of the event's bytes", bodies, headers)
	}
	for name, other := range map[string]Received{
		"scheme":   {Scheme: "github", Endpoint: "/in", Queue: "in", EventID: "evt_1"},
		"endpoint": {Scheme: "stripe", Endpoint: "/in2", Queue: "in", EventID: "evt_1"},
		"id":       {Scheme: "stripe", Endpoint: "/in", Queue: "in", EventID: "evt_2"},
	} {
		if duplicate, err := s.Receive(t.Context(), other); err != nil || duplicate {
			t.Errorf("another %s: got %v, %v, want a new event", name, duplicate, err)
		}
	}
	w := httptest.NewRecorder()
	asOperator(s).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/received?limit=3", nil))
	if got := w.Body.String(); strings.Count(got, `"event_id"`) != 3 || !strings.Contains(got, `"next_cursor"`) || !strings.Contains(got, `"job_id":"push"`) {
		t.Errorf("got %s, want three events, their jobs and a cursor", got)
	}
}

func TestReceiveWithoutTarget(t *testing.T) { pgtest.Each(t, testReceiveWithoutTarget) }

func testReceiveWithoutTarget(t *testing.T, url string) {
	s, q := newService(t, Config{}, url)
	_, err := s.Receive(t.Context(), Received{Scheme: "stripe", Endpoint: "/in", Queue: "absent", EventID: "evt_1"})
	e, ok := errors.AsType[*problem.Error](err)
	if !ok || e.Code != problem.Unavailable || e.RetryAfter == 0 || !strings.Contains(e.Detail, "absent") {
		t.Errorf("got %v, want unavailable with the queue's name", err)
	}
	if bodies, _ := q.pushes(t); len(bodies) != 0 {
		t.Errorf("got %d pushes, want none", len(bodies))
	}
}

// TestNothingIsSentWithoutItsCommit: a failing enqueue takes the event back as well.
func TestNothingIsSentWithoutItsCommit(t *testing.T) {
	pgtest.Each(t, testNothingIsSentWithoutItsCommit)
}

func testNothingIsSentWithoutItsCommit(t *testing.T, url string) {
	s, _ := newService(t, loopback(), url)
	post(t, s, "/endpoints", `{"url":"http://127.0.0.1:9/"}`, http.StatusCreated)
	s.jobs = failingJobs{s.jobs}
	post(t, s, "/events", `{"type":"a","payload":1,"id":"e1"}`, http.StatusInternalServerError)
	if _, err := s.Receive(t.Context(), Received{Scheme: "stripe", Endpoint: "/in", Queue: "in", EventID: "evt_1"}); err == nil {
		t.Error("got no error although the job was not enqueued")
	}
	for _, table := range []string{"webhooks_events", "webhooks_deliveries", "webhooks_received"} {
		if n := count(t, s, table); n != 0 {
			t.Errorf("%s: got %d rows, want none", table, n)
		}
	}
}

type failingJobs struct{ Jobs }

func (failingJobs) EnqueueKeyedTx(context.Context, *sql.Tx, string, string, []byte) (string, error) {
	return "", errors.New("no")
}

func (failingJobs) EnqueuePushTx(context.Context, *sql.Tx, string, []byte, http.Header) (string, error) {
	return "", errors.New("no")
}

func post(t *testing.T, s *Service, path, body string, want int) string {
	t.Helper()
	w := httptest.NewRecorder()
	asOperator(s).ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader(body)))
	if w.Code != want {
		t.Fatalf("POST %s: got %d %s, want %d", path, w.Code, w.Body, want)
	}
	return w.Body.String()
}

func count(t *testing.T, s *Service, from string) (n int) {
	t.Helper()
	if err := s.db.Read.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM "+from).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSweep(t *testing.T) { pgtest.Each(t, testSweep) }

func testSweep(t *testing.T, url string) {
	s, _ := newService(t, loopback(), url)
	now := time.Now()
	at := func(age time.Duration) int64 { return now.Add(-age).UnixMilli() }
	const day = 24 * time.Hour
	for _, row := range []struct {
		event, state             string
		created, attempted, next int64
	}{
		{"old", delivered, at(31 * day), at(31 * day), 0},
		{"young", delivered, at(29 * day), at(29 * day), 0},
		{"silent", retrying, at(2 * day), at(7 * time.Hour), 0},
		{"paused", retrying, at(2 * day), at(7 * time.Hour), at(-time.Hour)},
		{"busy", retrying, at(2 * day), at(5 * time.Hour), 0},
	} {
		_, err := s.db.Write.ExecContext(t.Context(), "INSERT INTO webhooks_events (id, type, body, created_at) VALUES ($1, 'a', '{}', $2)", row.event, row.created)
		if err == nil {
			_, err = s.db.Write.ExecContext(t.Context(), `INSERT INTO webhooks_deliveries (id, event_id, endpoint_id, state, created_at, last_attempt_at, next_at)
				VALUES ($1, $2, 'ep', $3, $4, $5, $6)`, row.event, row.event, row.state, row.created, row.attempted, row.next)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range sweepRows + 10 {
		_, err := s.db.Write.ExecContext(t.Context(), `INSERT INTO webhooks_received (scheme, endpoint, queue, event_id, job_id, size, received_at)
			VALUES ('a', 'b', 'c', $1, '', 0, $2)`, strconv.Itoa(i), at(31*day))
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // two of them at once do no harm either
		if err := s.sweep(t.Context(), now); err != nil {
			t.Fatal(err)
		}
	}
	if got := count(t, s, "webhooks_received"); got != 0 {
		t.Errorf("got %d received events, want none", got)
	}
	if got := count(t, s, "webhooks_events"); got != 4 {
		t.Errorf("got %d events, want 4", got)
	}
	for id, want := range map[string]string{"young": delivered, "silent": failed, "paused": retrying, "busy": retrying} {
		d, err := s.delivery(t.Context(), id)
		if err != nil || d.State != want {
			t.Errorf("%s: got %s, %v, want %s", id, d.State, err, want)
		}
	}
	if _, err := s.delivery(t.Context(), "old"); err == nil {
		t.Error("a delivery of 31 days is still there")
	}
}

func TestRunEndsWithItsContext(t *testing.T) { pgtest.Each(t, testRunEndsWithItsContext) }

func testRunEndsWithItsContext(t *testing.T, url string) {
	s, _ := newService(t, Config{}, url)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Run did not return")
	}
}
