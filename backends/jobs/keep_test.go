package jobs

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// still is a service that is not run, on tables of its own.
func still(t testing.TB, c Config) *Service { return stillOn(t, t.TempDir(), c) }

// stillOn is still on a directory that another one may be on.
func stillOn(t testing.TB, dir string, c Config) *Service {
	t.Helper()
	h, err := service.NewHost(t.Context(), SettingsOn(t, dir), nil,
		func(string) (service.Opener, error) { return nil, errors.New("none") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	s, err := c.Open(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	return s.(*Service)
}

func post(t testing.TB, s *Service, body string) (r Receipt) {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, newRequest(http.MethodPost, "/jobs", strings.NewReader(body)))
	if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil || w.Code != http.StatusAccepted {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	return r
}

func (s *Service) exec(t testing.TB, statement string, args ...any) {
	t.Helper()
	if _, err := s.db.Write.ExecContext(t.Context(), statement, args...); err != nil {
		t.Fatal(err)
	}
}

func TestKeep(t *testing.T) {
	completed, failed := 2, 0
	s := still(t, Config{Queues: map[string]Queue{
		"few":  {Target: "http://127.0.0.1:1/", Keep: Keep{Completed: &completed, Failed: &failed}},
		"many": {Target: "http://127.0.0.1:1/"},
	}})
	finish := func(queue, state, key, when string) string {
		body := fmt.Sprintf(`{"queue":%q,"payload":1}`, queue)
		if key != "" {
			body = fmt.Sprintf(`{"queue":%q,"payload":1,"unique_key":%q}`, queue, key)
		}
		id := post(t, s, body).ID
		if state != "available" {
			s.exec(t, "UPDATE river_job SET state = ?, finalized_at = datetime('now', 'subsec', ?) WHERE id = ?", state, when, id)
		}
		return id
	}
	kept, gone := map[string]string{}, map[string]string{}
	gone["old completed"] = finish("few", "completed", "", "-3 minutes")
	kept["newest completed"] = finish("few", "completed", "", "-1 minutes")
	kept["second completed"] = finish("few", "completed", "", "-2 minutes")
	kept["remembered key"] = finish("few", "completed", "k1", "-23 hours")
	gone["forgotten key"] = finish("few", "completed", "k2", "-25 hours")
	gone["dead"] = finish("few", "discarded", "k3", "-1 minutes")
	gone["cancelled"] = finish("few", "cancelled", "", "-1 minutes")
	kept["waiting"] = finish("few", "available", "", "")
	kept["other queue"] = finish("many", "completed", "", "-1 days")
	for range 2 {
		if err := s.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for what, id := range kept {
		if _, err := s.job(t.Context(), parseID(id)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, id := range gone {
		if v, err := s.job(t.Context(), parseID(id)); err == nil {
			t.Errorf("%s is still there: %+v", what, v)
		}
	}
	var keys string
	if err := s.db.Read.QueryRow("SELECT group_concat(unique_key) FROM jobs_keys").Scan(&keys); err != nil || keys != "k1" {
		t.Errorf("got keys %q, %v, want k1 alone", keys, err)
	}
}

func TestKeepDeletesInBatches(t *testing.T) {
	none := 0
	s := still(t, Config{Queues: map[string]Queue{"q": {Keep: Keep{Completed: &none}}}})
	s.exec(t, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
		INSERT INTO river_job (kind, queue, state, finalized_at) SELECT 'push', 'q', 'completed', datetime('now', 'subsec') FROM n`, 2*sweepBatch+7)
	if err := s.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := s.db.Read.QueryRow("SELECT count(*) FROM river_job").Scan(&n); err != nil || n != 0 {
		t.Errorf("got %d left, %v", n, err)
	}
}

func TestUniqueKey(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"a": {Target: "http://127.0.0.1:1/"}, "b": {Target: "http://127.0.0.1:1/"}}})
	const body = `{"queue":"a","payload":1,"unique_key":"k"}`
	first := post(t, s, body)
	for name, c := range map[string]struct {
		state, finished string
		duplicate       bool
	}{
		"running":               {"running", "", true},
		"retryable":             {"retryable", "", true},
		"completed-now":         {"completed", "-1 minutes", true},
		"completed-a-day-ago":   {"completed", "-25 hours", false},
		"dead":                  {"discarded", "-1 minutes", false},
		"cancelled":             {"cancelled", "-1 minutes", false},
		"deleted":               {"", "", false},
		"available-as-at-first": {"available", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			s.exec(t, "DELETE FROM jobs_keys")
			s.exec(t, "DELETE FROM river_job")
			first = post(t, s, body)
			switch {
			case c.state == "":
				s.exec(t, "DELETE FROM river_job")
			case c.finished == "":
				s.exec(t, "UPDATE river_job SET state = ?", c.state)
			default:
				s.exec(t, "UPDATE river_job SET state = ?, finalized_at = datetime('now', 'subsec', ?)", c.state, c.finished)
			}
			r := post(t, s, body)
			if r.Duplicate != c.duplicate || (r.ID == first.ID) != c.duplicate {
				t.Errorf("got %+v after %+v, want duplicate %v", r, first, c.duplicate)
			}
		})
	}
	if r := post(t, s, `{"queue":"b","payload":1,"unique_key":"k"}`); r.Duplicate {
		t.Errorf("got %+v, want keys of two queues to be apart", r)
	}
}

// Two requests at once with one key make one job.
func TestUniqueKeyRace(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"a": {Target: "http://127.0.0.1:1/"}}})
	ids := make(chan string)
	for range 16 {
		go func() { ids <- post(t, s, `{"queue":"a","payload":1,"unique_key":"k"}`).ID }()
	}
	first := <-ids
	for range 15 {
		if id := <-ids; id != first {
			t.Errorf("got %s and %s", first, id)
		}
	}
}

func TestUnconfiguredQueueIsShown(t *testing.T) {
	s := still(t, Config{})
	s.exec(t, `INSERT INTO river_job (kind, queue) VALUES ('push', 'removed')`)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, newRequest(http.MethodGet, "/queues", nil))
	if !strings.Contains(w.Body.String(), `{"name":"removed","concurrency":0,`) {
		t.Errorf("got %s", w.Body)
	}
}

func TestCheckFails(t *testing.T) {
	s := still(t, Config{})
	if err := s.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.exec(t, "ALTER TABLE river_job RENAME TO lost")
	if err := s.Check(t.Context()); err == nil || errors.Is(err, sql.ErrNoRows) {
		t.Errorf("got %v, want an error when the table is gone", err)
	}
	s.exec(t, "ALTER TABLE lost RENAME TO river_job")
}

// Whatever a client posts, it is never a fault of ours.
func FuzzPostJob(f *testing.F) {
	s := still(f, Config{Queues: map[string]Queue{"q": {Target: "http://127.0.0.1:1/"}}, Allow: []string{"127.0.0.1"}})
	for _, body := range []string{
		`{"queue":"q","payload":{}}`, `{"queue":"q","payload":"` + "\xff" + `"}`, `{"queue":"q\u0000","payload":1}`, `null`, ``, `[1]`,
		`{"queue":"q","payload":1,"delay":"3s","unique_key":"\ud800","priority":2,"attempts":3,"backoff":"fixed 1s","timeout":"1s"}`,
		`{"queue":"q","payload":1,"run_at":"0000-01-01T00:00:00Z"}`, `{"payload":1,"target":"http://127.0.0.1/%zz"}`,
		`{"queue":"q","queue":"q","payload":1,"payload":2}`, `{"queue":"q","payload":-0.0e-999}`,
	} {
		f.Add([]byte(body), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	}
	f.Fuzz(func(t *testing.T, body []byte, trace string) {
		r := newRequest(http.MethodPost, "/jobs", strings.NewReader(string(body)))
		r.Header["Traceparent"] = []string{trace}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code >= 500 || w.Code < 202 || w.Code > 202 && w.Code < 400 {
			t.Fatalf("%q: got %d %s", body, w.Code, w.Body)
		}
		if w.Code == http.StatusAccepted {
			var receipt Receipt
			if err := json.Unmarshal(w.Body.Bytes(), &receipt); err != nil {
				t.Fatal(err)
			}
			get := httptest.NewRecorder()
			if s.ServeHTTP(get, newRequest(http.MethodGet, "/jobs/"+receipt.ID, nil)); get.Code != http.StatusOK {
				t.Fatalf("%q: got %d %s", body, get.Code, get.Body)
			}
		}
	})
}

func FuzzQueries(f *testing.F) {
	s := still(f, Config{})
	f.Add("1", "queue=a&state=dead&limit=5&cursor=9")
	f.Add("%00", "cursor=9223372036854775808&limit=-1")
	f.Add("-1", "state=%27%20OR%201=1--")
	f.Fuzz(func(t *testing.T, id, query string) {
		for _, path := range []string{"/jobs/x", "/jobs"} {
			r := newRequest(http.MethodGet, path, nil)
			r.URL.RawQuery = query
			if path == "/jobs/x" {
				r.URL.Path += id
			}
			w := httptest.NewRecorder()
			if s.ServeHTTP(w, r); w.Code >= 500 {
				t.Fatalf("%q %q: got %d %s", id, query, w.Code, w.Body)
			}
		}
	})
}

// Dead letters do not go without a word.
func TestDeletedDeadLettersAreTold(t *testing.T) {
	one := 1
	s := still(t, Config{Queues: map[string]Queue{"q": {Target: "http://127.0.0.1:1/", Keep: Keep{Completed: new(0), Failed: &one}}}})
	var ids []string
	for range 3 {
		ids = append(ids, post(t, s, `{"queue":"q","payload":1}`).ID)
	}
	s.finish(t, "discarded")
	post(t, s, `{"queue":"q","payload":1}`)
	s.exec(t, "UPDATE river_job SET state = 'completed', finalized_at = "+s.q.now+" WHERE state = 'available'")
	if err := s.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-s.events:
		want := event{"dead_jobs_deleted", map[string]any{"queue": "q", "jobs": 2, "first": ids[0], "last": ids[1]}}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	default:
		t.Error("nothing was told")
	}
	if n := len(s.events); n != 0 {
		t.Errorf("%d more events, want none of completed jobs", n)
	}
}
