package jobs

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

// as are the headers of some callers.
var as = map[string][]string{
	"nobody":   nil,
	"ann":      {service.SubjectHeader, "ann"},
	"bob":      {service.SubjectHeader, "bob"},
	"app":      {service.ScopeHeader, "jobs:write", service.SubjectHeader, "service:app"},
	"operator": {service.RoleHeader, "admin", service.SubjectHeader, "root"},
	"route":    {service.RankHeader, service.RankService},
}

// ask sends a request of the caller and returns the status and the body.
func ask(s *Service, caller, method, path, body string, header ...string) (int, string) {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for _, h := range [][]string{as[caller], header} {
		for i := 0; i < len(h); i += 2 {
			r.Header.Set(h[i], h[i+1])
		}
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func owned(t *testing.T) *Service {
	t.Helper()
	db, err := sqldb.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return ownedOn(t, db)
}

func ownedOn(t *testing.T, db *sqldb.DB) *Service {
	t.Helper()
	off := false
	c := Config{Allow: []string{"127.0.0.1:9"}, UI: true, Queues: map[string]Queue{
		"q":      {Target: "http://127.0.0.1:9/q"},
		"hidden": {Target: "http://127.0.0.1:9/hidden", Public: &off},
		"fed":    {Target: "http://127.0.0.1:9/fed"},
		"own":    {UserTargets: true},
		"pull":   {Pull: true},
	}}
	if err := Prepare(t.Context(), db, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	key, err := newSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(c, Deps{DB: db, SigningKey: secret.NewSet("k", secret.Version{Value: secret.NewValue(key)})})
	if err != nil {
		t.Fatal(err)
	}
	if err = s.registerQueues(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.QueueTarget("fed") // as webhook_verify asks
	return s
}

// enqueued is the id of a job that the caller enqueues.
func enqueued(t *testing.T, s *Service, caller, body string) string {
	t.Helper()
	status, answer := ask(s, caller, http.MethodPost, "/jobs", body)
	var r Receipt
	if err := json.Unmarshal([]byte(answer), &r); err != nil || status != http.StatusAccepted {
		t.Fatalf("%s: got %d %s", caller, status, answer)
	}
	return r.ID
}

func TestForeignJobsAreNotThere(t *testing.T) {
	s := owned(t)
	id := enqueued(t, s, "ann", `{"queue":"q","delay":"1h","payload":1}`)
	for _, call := range []struct{ method, path, body string }{
		{"GET", "/jobs/ID", ""}, {"PUT", "/jobs/ID", `{"payload":2}`}, {"POST", "/jobs/ID/retry", ""}, {"DELETE", "/jobs/ID", ""},
	} {
		path := strings.Replace(call.path, "ID", id, 1)
		foreign, what := ask(s, "bob", call.method, path, call.body)
		unknown, why := ask(s, "bob", call.method, strings.Replace(call.path, "ID", "999999", 1), call.body)
		if foreign != http.StatusNotFound || unknown != http.StatusNotFound || detail(what, id) != detail(why, "999999") {
			t.Errorf("%s %s: got %d %s, and %d %s for one that is not there", call.method, call.path, foreign, what, unknown, why)
		}
		if status, answer := ask(s, "nobody", call.method, path, call.body); status != http.StatusUnauthorized {
			t.Errorf("nobody: %s %s: got %d %s", call.method, call.path, status, answer)
		}
	}
	for _, caller := range []string{"ann", "app", "operator", "route"} {
		if status, answer := ask(s, caller, "GET", "/jobs/"+id, ""); status != http.StatusOK || !strings.Contains(answer, `"owner":"ann"`) {
			t.Errorf("%s: got %d %s", caller, status, answer)
		}
	}
	if status, answer := ask(s, "ann", "DELETE", "/jobs/"+id, ""); status != http.StatusOK {
		t.Errorf("got %d %s", status, answer)
	}
}

// detail is the sentence of a problem, with ID in the place of the id.
func detail(body, id string) string {
	var p struct{ Detail string }
	_ = json.Unmarshal([]byte(body), &p)
	return strings.ReplaceAll(p.Detail, " "+id+",", " ID,")
}

func TestListsAndBulkChangesAreTheCallersOwn(t *testing.T) {
	s := owned(t)
	ann, bob := enqueued(t, s, "ann", `{"queue":"q","delay":"1h","payload":1}`), enqueued(t, s, "bob", `{"queue":"q","delay":"1h","payload":1}`)
	none := enqueued(t, s, "route", `{"queue":"q","delay":"1h","payload":1}`)
	sees := func(caller, path string, want ...string) {
		t.Helper()
		_, answer := ask(s, caller, "GET", path, "")
		var page struct{ Items []View }
		if err := json.Unmarshal([]byte(answer), &page); err != nil {
			t.Fatalf("%s: %s", caller, answer)
		}
		var got []string
		for _, v := range page.Items {
			got = append(got, v.ID)
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: %s got %v, want %v", caller, path, got, want)
		}
	}
	sees("ann", "/jobs", ann)
	sees("ann", "/jobs?owner=bob", ann)
	sees("app", "/jobs", none, bob, ann)
	sees("operator", "/jobs?owner=bob", bob)
	if status, answer := ask(s, "ann", "POST", "/jobs/cancel", `{"queue":"q","owner":"bob"}`); status != http.StatusOK || !strings.Contains(answer, `"count":1`) {
		t.Errorf("got %d %s, want the one of the caller's own", status, answer)
	}
	sees("app", "/jobs?state=scheduled", none, bob)
	if status, answer := ask(s, "ann", "POST", "/jobs/retry", `{"state":"scheduled","queue":"q"}`); status != http.StatusOK || !strings.Contains(answer, `"count":0`) {
		t.Errorf("got %d %s", status, answer)
	}
	if status, answer := ask(s, "ann", "GET", "/jobs/groups?state=scheduled", ""); status != http.StatusOK || !strings.Contains(answer, `"looked":0`) {
		t.Errorf("got %d %s", status, answer)
	}
}

func TestKeysAreTheOwners(t *testing.T) {
	s := owned(t)
	const body = `{"queue":"q","unique_key":"k","delay":"1h","payload":1}`
	ann, bob := enqueued(t, s, "ann", body), enqueued(t, s, "bob", body)
	if ann == bob || enqueued(t, s, "ann", body) != ann {
		t.Error("a unique key is not the owner's")
	}
	if got := enqueued(t, s, "app", `{"queue":"q","unique_key":"k","delay":"1h","payload":1,"owner":"ann"}`); got != ann {
		t.Errorf("the app gets %s for ann's key, want %s", got, ann)
	}
	keyed := func(caller string) string {
		status, answer := ask(s, caller, "POST", "/jobs", `{"queue":"q","delay":"1h","payload":1}`, "Idempotency-Key", "i")
		if status != http.StatusAccepted {
			t.Fatalf("got %d %s", status, answer)
		}
		return answer
	}
	if a := keyed("ann"); a == keyed("bob") || a == keyed("app") || a != keyed("ann") {
		t.Error("an Idempotency-Key is not the owner's")
	}
}

// TestWhoMayDoWhat is what each caller is answered, for what depends on no resource.
func TestWhoMayDoWhat(t *testing.T) {
	s := owned(t)
	for name, tt := range map[string]struct {
		method, path, body         string
		nobody, ann, app, operator int
	}{
		"enqueue":              {"POST", "/jobs", `{"queue":"q","delay":"1h","payload":1}`, 401, 202, 202, 202},
		"enqueue-own":          {"POST", "/jobs", `{"queue":"q","delay":"1h","payload":1,"owner":"ann"}`, 401, 202, 202, 202},
		"enqueue-for-another":  {"POST", "/jobs", `{"queue":"q","delay":"1h","payload":1,"owner":"bob"}`, 401, 403, 202, 202},
		"enqueue-hidden":       {"POST", "/jobs", `{"queue":"hidden","delay":"1h","payload":1}`, 401, 422, 202, 202},
		"enqueue-fed":          {"POST", "/jobs", `{"queue":"fed","delay":"1h","payload":1}`, 401, 422, 202, 202},
		"enqueue-internal":     {"POST", "/jobs", `{"queue":"internal","delay":"1h","payload":1}`, 401, 422, 422, 422},
		"enqueue-batch":        {"POST", "/jobs/batch", `{"jobs":[{"queue":"hidden","delay":"1h","payload":1}]}`, 401, 422, 202, 202},
		"target":               {"POST", "/jobs", `{"queue":"q","delay":"1h","payload":1,"target":"http://127.0.0.1:9/x"}`, 401, 403, 202, 202},
		"target-on-default":    {"POST", "/jobs", `{"delay":"1h","payload":1}`, 401, 403, 422, 422},
		"target-where-allowed": {"POST", "/jobs", `{"queue":"own","delay":"1h","payload":1,"target":"http://127.0.0.1:9/x"}`, 401, 202, 202, 202},
		"target-elsewhere":     {"POST", "/jobs", `{"queue":"own","delay":"1h","payload":1,"target":"http://127.0.0.1:8/x"}`, 401, 422, 422, 422},
		"callback":             {"POST", "/jobs", `{"queue":"q","delay":"1h","payload":1,"callback":"http://127.0.0.1:9/x"}`, 401, 403, 202, 202},
		"key-of-another":       {"POST", "/jobs", `{"queue":"q","delay":"1h","payload":1,"key":"bob"}`, 401, 403, 202, 202},
		"own-key":              {"POST", "/jobs", `{"queue":"q","delay":"1h","payload":1,"key":"ann"}`, 401, 202, 202, 202},
		"list":                 {"GET", "/jobs", "", 401, 200, 200, 200},
		"queues":               {"GET", "/queues", "", 401, 403, 200, 200},
		"queue":                {"GET", "/queues/q", "", 401, 403, 200, 200},
		"lease":                {"POST", "/queues/pull/lease", `{}`, 401, 403, 200, 200},
		"heartbeat":            {"POST", "/jobs/999999999/heartbeat", `{"fence":1}`, 401, 403, 404, 404},
		"complete":             {"POST", "/jobs/999999999/complete", `{"fence":1}`, 401, 403, 404, 404},
		"fail":                 {"POST", "/jobs/999999999/fail", `{"fence":1,"error":"x"}`, 401, 403, 404, 404},
		"pause":                {"POST", "/queues/q/pause", "", 401, 403, 403, 200},
		"resume":               {"POST", "/queues/q/resume", "", 401, 403, 403, 200},
		"drain":                {"POST", "/queues/hidden/drain", "", 401, 403, 403, 200},
		"ui":                   {"GET", "/jobs/ui/", "", 401, 403, 403, 200},
		"schedules":            {"GET", "/schedules", "", 401, 200, 200, 200},
		"schedule-hidden":      {"PUT", "/schedules/h", `{"cron":"0 0 1 1 *","queue":"hidden"}`, 401, 422, 201, 200},
		"schedule-target":      {"PUT", "/schedules/t", `{"cron":"0 0 1 1 *","queue":"q","target":"http://127.0.0.1:9/x"}`, 401, 403, 201, 200},
	} {
		t.Run(name, func(t *testing.T) {
			for caller, want := range map[string]int{"nobody": tt.nobody, "ann": tt.ann} {
				if status, answer := ask(s, caller, tt.method, tt.path, tt.body); status != want {
					t.Errorf("%s: got %d %s, want %d", caller, status, answer, want)
				}
			}
			if status, answer := ask(s, "app", tt.method, tt.path, tt.body); status != tt.app {
				t.Errorf("app: got %d %s, want %d", status, answer, tt.app)
			}
			if status, answer := ask(s, "operator", tt.method, tt.path, tt.body); status != tt.operator {
				t.Errorf("operator: got %d %s, want %d", status, answer, tt.operator)
			}
		})
		if name == "drain" {
			if status, answer := ask(s, "operator", "POST", "/queues/hidden/resume", ""); status != 200 {
				t.Fatalf("got %d %s", status, answer)
			}
		}
	}
}

func TestSchedulesAreTheOwners(t *testing.T) {
	s := owned(t)
	const body = `{"cron":"0 0 1 1 *","queue":"q"}`
	for _, caller := range []string{"ann", "bob", "app"} {
		if status, answer := ask(s, caller, "PUT", "/schedules/s", body); status != http.StatusCreated {
			t.Fatalf("%s: got %d %s, want one of the caller's own", caller, status, answer)
		}
	}
	if status, answer := ask(s, "ann", "DELETE", "/schedules/s", ""); status != http.StatusNoContent {
		t.Fatalf("got %d %s", status, answer)
	}
	for _, call := range [][2]string{{"GET", "/schedules/s"}, {"DELETE", "/schedules/s"}, {"POST", "/schedules/s/run"}, {"POST", "/schedules/s/pause"}, {"POST", "/schedules/s/resume"}} {
		if status, answer := ask(s, "ann", call[0], call[1], ""); status != http.StatusNotFound {
			t.Errorf("%v: got %d %s, want 404 although others have one", call, status, answer)
		}
		if status, answer := ask(s, "ann", call[0], call[1]+"?owner=bob", ""); status != http.StatusForbidden {
			t.Errorf("%v of bob: got %d %s, want 403", call, status, answer)
		}
	}
	if _, answer := ask(s, "bob", "GET", "/schedules", ""); strings.Count(answer, `"name":"s"`) != 1 || !strings.Contains(answer, `"owner":"bob"`) {
		t.Errorf("got %s", answer)
	}
	if _, answer := ask(s, "operator", "GET", "/schedules", ""); strings.Count(answer, `"name":"s"`) != 2 {
		t.Errorf("got %s", answer)
	}
	status, answer := ask(s, "operator", "POST", "/schedules/s/run?owner=bob", "")
	var made Receipt
	if err := json.Unmarshal([]byte(answer), &made); err != nil || status != http.StatusAccepted {
		t.Fatalf("got %d %s", status, answer)
	}
	if status, answer = ask(s, "bob", "GET", "/jobs/"+made.ID, ""); status != http.StatusOK || !strings.Contains(answer, `"schedule":"s"`) {
		t.Errorf("got %d %s, want bob's job", status, answer)
	}
}

// TestSchedulesOfUsersAreDelivered: the target learns the name as its owner wrote it.
func TestSchedulesOfUsersAreDelivered(t *testing.T) {
	seen := make(chan string, 10)
	target := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen <- r.Header.Get("Gatehouse-Schedule")
	}))
	defer target.Close()
	s := still(t, Config{Queues: map[string]Queue{"q": {Target: target.URL}}})
	working(t, s)
	if status, answer := ask(s, "bob", "PUT", "/schedules/mine", `{"cron":"0 0 1 1 *","queue":"q","payload":1}`); status != http.StatusCreated {
		t.Fatalf("got %d %s", status, answer)
	}
	status, answer := ask(s, "bob", "POST", "/schedules/mine/run", "")
	var made Receipt
	if err := json.Unmarshal([]byte(answer), &made); err != nil || status != http.StatusAccepted {
		t.Fatalf("got %d %s", status, answer)
	}
	reached(t, s, made.ID, stateCompleted)
	if got := <-seen; got != "mine" {
		t.Errorf("got the schedule %q, want mine", got)
	}
}

// TestWhatCannotBeSentIsNoFailureOfTheTarget: the job dies at once, and the breaker does not hear of it.
func TestWhatCannotBeSentIsNoFailureOfTheTarget(t *testing.T) {
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer target.Close()
	s := still(t, Config{Queues: map[string]Queue{"q": {Target: target.URL, Breaker: Breaker{Trip: 1}}}})
	working(t, s)
	for range 3 {
		o := order{queue: "q", args: pushArgs{Body: []byte("1"), Header: http.Header{"X-Broken": {"a\x1fb"}}}}
		o.opts.Queue, o.opts.MaxAttempts = "q", 5
		made, err := s.insert(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		v := reached(t, s, strconv.FormatInt(made.id, 10), stateDead)
		if v.Attempt != 1 {
			t.Errorf("got %d attempts, want 1", v.Attempt)
		}
	}
	reached(t, s, post(t, s, `{"queue":"q","payload":1}`).ID, stateCompleted)
}

// TestUsersTakeTurns: a user's jobs have the user's key, unless they name it, and nobody else's.
func TestUsersTakeTurns(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true}}})
	long := strings.Repeat("x", 300)
	for caller, want := range map[string]string{"bob": "bob", long: ownKey(long), "operator": ""} {
		header := as[caller]
		if caller == long {
			header = []string{service.SubjectHeader, long}
		}
		status, answer := ask(s, caller, "POST", "/jobs", `{"queue":"q","payload":1}`, header...)
		var made Receipt
		if err := json.Unmarshal([]byte(answer), &made); err != nil || status != http.StatusAccepted {
			t.Fatalf("got %d %s", status, answer)
		}
		var v View
		if _, answer = ask(s, "operator", "GET", "/jobs/"+made.ID, ""); json.Unmarshal([]byte(answer), &v) != nil || v.Key != want {
			t.Errorf("%.10s: got the key %q, want %q", caller, v.Key, want)
		}
	}
	if status, answer := ask(s, "bob", "POST", "/jobs", `{"queue":"q","payload":1,"key":"ann"}`); status != http.StatusForbidden {
		t.Errorf("got %d %s, want 403", status, answer)
	}
}
