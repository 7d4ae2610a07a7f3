package jobs

import (
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// Whatever is posted, it is an order within its bounds or an error that says what to do.
func FuzzRequest(f *testing.F) {
	s := still(f, Config{Queues: map[string]Queue{"q": {Target: "http://127.0.0.1:1/"}, "pull": {Pull: true}}, Allow: []string{"127.0.0.1"}})
	for _, body := range []string{
		`{"queue":"q","payload":{}}`, `{"queue":"pull","payload":null,"key":"acme","priority":4}`, `{"payload":1,"target":"http://127.0.0.1/"}`,
		`{"queue":"q","payload":1,"unique_key":"k","unique_scope":"all","unique_ttl":"0s"}`, `{"queue":"q","payload":1,"unique_ttl":"1h"}`,
		`{"queue":"q","payload":1,"max_age":"24h","callback":"http://127.0.0.1:9/told","timeout":"24h","attempts":1000}`,
		`{"queue":"q","payload":1,"delay":"87600h"}`, `{"queue":"q","payload":1,"run_at":"0000-01-01T00:00:00Z"}`,
		`{"queue":"q","payload":1,"backoff":"schedule 1s 2s 3s"}`, `{"queue":"q","payload":1,"backoff":"exponential 1h"}`,
		`{"queue":"q","payload":"\ud800","key":"\u0000"}`, `{"queue":"q","payload":1,"key":"` + "\xff" + `"}`, `{"queue":"\u202e","payload":1}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		w := send(s, http.MethodPost, "/jobs/batch", `{"jobs":[`+string(body)+`]}`)
		if w.Code >= 500 || w.Code < 202 {
			t.Fatalf("%q: got %d %s", body, w.Code, w.Body)
		}
		var q request
		if json.Unmarshal(body, &q) != nil {
			return
		}
		now := time.Now()
		o, err := s.check(&q, now)
		if err != nil {
			if e := problem.From(err); e.Code.Status() >= 500 || e.Detail == "" {
				t.Fatalf("%q: got %v", body, err)
			}
			return
		}
		if o.opts.MaxAttempts < 1 || o.opts.MaxAttempts > maxAttempts || len(o.args.Key) > maxKey || len(o.args.UniqueKey) > maxKey ||
			o.opts.ScheduledAt.After(now.Add(maxAhead)) || len(o.args.Body) > maxPayload || o.queue == internalQueue {
			t.Fatalf("%q: got %+v", body, o)
		}
		if hasControl(o.args.Key) || hasControl(o.args.UniqueKey) {
			t.Fatalf("%q: a key with control characters", body)
		}
	})
}

// Two requests at once with one Idempotency-Key make one job, and get one answer.
func TestIdempotencyKeyRace(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true}}})
	const n = 16
	var wg sync.WaitGroup
	answers := make([]string, n)
	for i := range n {
		wg.Go(func() {
			w := send(s, http.MethodPost, "/jobs", `{"queue":"q","payload":1}`, "Idempotency-Key", "k")
			answers[i] = fmt.Sprint(w.Code, w.Body)
		})
	}
	wg.Wait()
	for _, a := range answers {
		if a != answers[0] || !strings.HasPrefix(a, "202") {
			t.Errorf("got %s and %s", answers[0], a)
		}
	}
	if got := s.number(t, "SELECT count(*) FROM river_job"); got != 1 {
		t.Errorf("got %d jobs, want 1", got)
	}
}

// Two instances on one database make one job of one key, unique or of a request.
func TestTwoInstancesMakeOneJob(t *testing.T) {
	c := Config{Queues: map[string]Queue{"q": {Pull: true}}}
	one := still(t, c)
	key := secret.NewSet("k", secret.Version{Value: secret.NewValue([]byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))})
	other, err := New(c, Deps{DB: one.db, SigningKey: key})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	for name, request := range map[string]struct {
		body   string
		header []string
	}{
		"idempotency-key": {`{"queue":"q","payload":1}`, []string{"Idempotency-Key", "k"}},
		"unique-key":      {`{"queue":"q","payload":1,"unique_key":"k"}`, nil},
		"both":            {`{"queue":"q","payload":1,"unique_key":"k2"}`, []string{"Idempotency-Key", "k2"}},
	} {
		t.Run(name, func(t *testing.T) {
			one.exec(t, "DELETE FROM river_job")
			var wg sync.WaitGroup
			for i := range 20 {
				wg.Go(func() {
					if w := send([]*Service{one, other}[i%2], http.MethodPost, "/jobs", request.body, request.header...); w.Code != http.StatusAccepted {
						t.Errorf("got %d %s", w.Code, w.Body)
					}
				})
			}
			wg.Wait()
			if n := one.number(t, "SELECT count(*) FROM river_job"); n != 1 {
				t.Errorf("got %d jobs, want 1", n)
			}
		})
	}
}

func (s *Service) number(t *testing.T, query string) (n int) {
	t.Helper()
	if err := s.db.Read.QueryRow(query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestIdempotencyKeysOfOthersAreApart(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true}}})
	ids := map[string]bool{}
	enqueue := func(body string, header ...string) *Receipt {
		t.Helper()
		w := send(s, http.MethodPost, "/jobs", body, append(header, "Idempotency-Key", "k")...)
		r := new(Receipt)
		if err := json.Unmarshal(w.Body.Bytes(), r); err != nil || w.Code != http.StatusAccepted {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
		ids[r.ID] = true
		return r
	}
	enqueue(`{"queue":"q","payload":1}`)
	enqueue(`{"queue":"q","payload":1}`, service.SubjectHeader, "bob")
	enqueue(`{"queue":"q","payload":2}`, service.SubjectHeader, "carol")
	enqueue(`{"queue":"q","payload":2}`, service.SubjectHeader, "carol")
	if len(ids) != 3 {
		t.Errorf("got jobs %v, want one of each subject", ids)
	}
	// A day later the key is free, also for another body, and then the row goes.
	s.exec(t, "UPDATE jobs_idempotency SET created_at = created_at - $1", (25 * time.Hour).Milliseconds())
	enqueue(`{"queue":"q","payload":3}`)
	if len(ids) != 4 {
		t.Errorf("got jobs %v, want a new one after a day", ids)
	}
	if err := s.sweepAnswers(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if n := s.number(t, "SELECT count(*) FROM jobs_idempotency"); n != 1 {
		t.Errorf("got %d answers kept, want the new one", n)
	}
}

// What was answered is answered again although the queue is full or drained by now.
func TestReplayPassesCapsAndDrains(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true, Waiting: 1}}})
	first := send(s, http.MethodPost, "/jobs", `{"queue":"q","payload":1}`, "Idempotency-Key", "k")
	send(s, http.MethodPost, "/queues/q/drain", "")
	again := send(s, http.MethodPost, "/jobs", `{"queue":"q","payload":1}`, "Idempotency-Key", "k")
	if again.Code != http.StatusAccepted || again.Body.String() != first.Body.String() {
		t.Errorf("got %d %s, want %s again", again.Code, again.Body, first.Body)
	}
}

// A burst of requests gets as many jobs past a cap as it says.
func TestWaitingCapHoldsInABurst(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true, Waiting: 10}}})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				w := send(s, http.MethodPost, "/jobs", `{"queue":"q","payload":1}`)
				if w.Code != http.StatusAccepted && w.Code != http.StatusTooManyRequests {
					t.Errorf("got %d %s", w.Code, w.Body)
				}
			}
		})
	}
	wg.Wait()
	if n := s.number(t, "SELECT count(*) FROM river_job"); n != 10 {
		t.Errorf("got %d jobs past a cap of 10", n)
	}
}

// incompressible is a text of n bytes.
func incompressible(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return base64.RawStdEncoding.EncodeToString(b)[:n]
}

// One owner's jobs have their bytes, whoever makes them, and another owner's are not refused.
func TestOwnerBytes(t *testing.T) {
	s := still(t, Config{OwnerBytes: 1 << 20, Queues: map[string]Queue{"q": {Pull: true}}})
	ann := []string{service.RankHeader, "", service.SubjectHeader, "ann"}
	big := `{"queue":"q","payload":"` + incompressible(100<<10) + `"}` // PostgreSQL counts what it stores
	var id string
	made := 0
	for range 20 {
		w := send(s, http.MethodPost, "/jobs", big, ann...)
		if w.Code == http.StatusTooManyRequests {
			if w.Header().Get("Retry-After") == "" {
				t.Errorf("got %s without Retry-After", w.Body)
			}
			break
		}
		var got Receipt
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusAccepted {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
		id = got.ID
		made++
	}
	if made < 8 || made > 10 {
		t.Errorf("%d jobs of 100 KiB fit into 1 MiB", made)
	}
	for name, c := range map[string]struct {
		header []string
		body   string
		want   int
	}{
		"in her name":  {nil, `{"owner":"ann",` + big[1:], http.StatusTooManyRequests},
		"another user": {[]string{service.RankHeader, "", service.SubjectHeader, "bob"}, big, http.StatusAccepted},
		"nobody's":     {nil, big, http.StatusAccepted},
	} {
		if w := send(s, http.MethodPost, "/jobs", c.body, c.header...); w.Code != c.want {
			t.Errorf("%s: got %d %s, want %d", name, w.Code, w.Body, c.want)
		}
	}
	if w := send(s, http.MethodPut, "/jobs/"+id, `{"payload":"`+incompressible(200<<10)+`"}`, ann...); w.Code != http.StatusTooManyRequests {
		t.Errorf("another payload: got %d %s", w.Code, w.Body)
	}
}

func TestBells(t *testing.T) {
	b := newBells()
	one, other := b.wait("a"), b.wait("b")
	b.ring("a")
	<-one
	select {
	case <-other:
		t.Error("the bell of another queue rang")
	default:
	}
	b.stop()
	<-other
	<-b.wait("c")
	b.ring("c")
	b.stop()
}

// finish ends all jobs of the queue q.
func (s *Service) finish(t *testing.T, state string) {
	t.Helper()
	s.exec(t, "UPDATE river_job SET state = '"+state+"', finalized_at = "+s.q.now+" WHERE queue = 'q'")
}

// Each end is told once, whoever looks, and the job is kept until then.
func TestCallbacksAreToldOnce(t *testing.T) {
	none := 0
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true, Keep: Keep{Completed: &none}}}, Allow: []string{"127.0.0.1"}})
	const n = 250
	for range n / 50 {
		jobs := strings.Repeat(`{"queue":"q","payload":1,"key":"acme","callback":"http://127.0.0.1:1/told"},`, 50)
		if w := send(s, http.MethodPost, "/jobs/batch", `{"jobs":[`+strings.TrimSuffix(jobs, ",")+`]}`); w.Code != http.StatusAccepted {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
	}
	post(t, s, `{"queue":"q","payload":"nobody is told of this one"}`)
	if err := s.callBack(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.number(t, "SELECT count(*) FROM river_job WHERE queue = 'internal'"); got != 0 {
		t.Errorf("%d callbacks of jobs that have not ended", got)
	}
	s.finish(t, "completed")
	if err := s.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.number(t, "SELECT count(*) FROM river_job WHERE queue = 'q'"); got != n {
		t.Errorf("got %d jobs kept, want those whose callback is not told", got)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := s.callBack(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := s.number(t, "SELECT count(*) FROM river_job WHERE queue = 'internal-callbacks'"); got != n {
		t.Errorf("got %d callbacks, want %d", got, n)
	}
	if err := s.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.number(t, "SELECT count(*) FROM river_job WHERE queue = 'q'"); got != 0 {
		t.Errorf("got %d jobs kept after their callbacks were told", got)
	}
}

// However many ended jobs are kept, those with a callback to be told are found by an index.
func TestCallbackIndex(t *testing.T) {
	s := still(t, Config{})
	explain := s.q.pick("EXPLAIN QUERY PLAN ", "EXPLAIN ")
	if s.q.pg {
		s.exec(t, "INSERT INTO river_job (kind, queue, state, max_attempts, args, finalized_at) SELECT 'push', 'q', 'completed', 1, '{}', now() FROM generate_series(1, 20000)")
		s.exec(t, "ANALYZE river_job")
	}
	rows, err := s.db.Read.Query(explain + "SELECT j.id FROM river_job j WHERE " + callbackDue + " ORDER BY j.id LIMIT 100")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var plan strings.Builder
	for rows.Next() {
		columns, _ := rows.Columns()
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(sql.NullString)
		}
		if err = rows.Scan(values...); err != nil {
			t.Fatal(err)
		}
		plan.WriteString(values[len(values)-1].(*sql.NullString).String + "\n")
	}
	if rows.Err() != nil || !strings.Contains(plan.String(), "jobs_callbacks_due") {
		t.Errorf("got the plan %s, %v, want the index", plan.String(), rows.Err())
	}
}

// A job that was taken, but whose lease a crash kept from being stored, goes back with its attempt.
func TestStrayJobsGoBack(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true}}})
	r := post(t, s, `{"queue":"q","payload":1}`)
	rows, err := s.take(t.Context(), "q", 1, pullOwner+"w")
	if err != nil || len(rows) != 1 {
		t.Fatalf("got %v, %v", rows, err)
	}
	state := func() (string, int) {
		t.Helper()
		v, err := s.job(t.Context(), parseID(r.ID))
		if err != nil {
			t.Fatal(err)
		}
		return v.State, v.Attempt
	}
	if err = s.tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, _ := state(); got != stateRunning {
		t.Errorf("got %s, want it left alone while its lease may come yet", got)
	}
	s.exec(t, "UPDATE river_job SET attempted_at = "+s.q.ago("$1"), time.Minute.Milliseconds())
	if err = s.tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, attempt := state(); got != stateQueued || attempt != 0 {
		t.Errorf("got %s at attempt %d, want it queued with its attempt given back", got, attempt)
	}
	leases, err := s.lease(t.Context(), "q", 1, time.Minute, 0, "w")
	if err != nil || len(leases) != 1 {
		t.Fatalf("got %v, %v", leases, err)
	}
	s.giveBack(t.Context(), leases)
	if got, attempt := state(); got != stateQueued || attempt != 0 || s.number(t, "SELECT count(*) FROM jobs_leases") != 0 {
		t.Errorf("got %s at attempt %d, want it given back", got, attempt)
	}
}

// A lapsed lease is ended once, whoever looks, and the last attempt's end is the job's.
func TestReapersAreHarmless(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true, Attempts: 1, Concurrency: 100}}})
	for range 60 {
		post(t, s, `{"queue":"q","payload":1}`)
	}
	leases, err := s.lease(t.Context(), "q", 100, time.Second, 0, "w")
	if err != nil || len(leases) != 60 {
		t.Fatalf("got %d leases, %v", len(leases), err)
	}
	s.exec(t, "UPDATE jobs_leases SET expires_at = 1")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := s.reap(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	views, err := s.list(t.Context(), &filter{State: stateDead}, 1<<62, 1000)
	if err != nil || len(views) != 60 {
		t.Fatalf("got %d dead jobs, %v", len(views), err)
	}
	for _, v := range views {
		full, err := s.job(t.Context(), parseID(v.ID))
		if err != nil || len(full.Errors) != 1 || full.Errors[0].Message != leaseEnded {
			t.Fatalf("got %+v, %v, want the lapse once", full, err)
		}
	}
}
