package jobstest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// unlike is a name that no other run has used.
func unlike(name string) string { return fmt.Sprintf("%s-%d", name, time.Now().UnixNano()) }

func (e *examiner) drain(t *testing.T) {
	waiting := e.put(t, nil)
	var q struct {
		Draining, Paused bool
		Pull             bool
		Counts           map[string]int
		OldestWaitingAge string `json:"oldest_waiting_age"`
	}
	e.want(t, http.StatusOK, http.MethodPost, "/queues/"+e.o.Pull+"/drain", "", &q)
	if !q.Draining {
		t.Errorf("got %+v, want it draining", q)
	}
	a := e.do(t, http.MethodPost, "/jobs", fmt.Sprintf(`{"queue":%q,"payload":1}`, e.o.Pull))
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
		t.Errorf("got %d %s, want 503 with Retry-After", a.status, a.body)
	}
	e.want(t, http.StatusOK, http.MethodGet, "/queues/"+e.o.Pull, "", &q)
	if !q.Draining || !q.Pull || q.Counts["queued"] != 1 || q.OldestWaitingAge == "" {
		t.Errorf("got %+v, want one job left", q)
	}
	e.act(t, http.StatusOK, waiting.ID, "complete", e.leaseOne(t, waiting.ID, "30s").Fence, "") // what is there runs
	e.want(t, http.StatusOK, http.MethodPost, "/queues/"+e.o.Pull+"/resume", "", &q)
	if q.Draining {
		t.Errorf("got %+v, want new jobs to be taken", q)
	}
	r := e.put(t, nil)
	e.want(t, http.StatusOK, http.MethodDelete, "/jobs/"+r.ID, "", nil)
}

// waitingCaps fills a queue that takes 3 waiting jobs, 2 of each key.
func (e *examiner) waitingCaps(t *testing.T) {
	empty := func() {
		e.want(t, http.StatusOK, http.MethodPost, "/jobs/cancel", fmt.Sprintf(`{"queue":%q}`, e.o.Full), nil)
		<-time.After(1100 * time.Millisecond) // the count is believed for a second
	}
	empty()
	defer empty()
	post := func(key string) answer {
		body := fmt.Sprintf(`{"queue":%q,"payload":1}`, e.o.Full)
		if key != "" {
			body = fmt.Sprintf(`{"queue":%q,"payload":1,"key":%q,"delay":"1h"}`, e.o.Full, key)
		}
		return e.do(t, http.MethodPost, "/jobs", body)
	}
	for i, c := range []struct {
		key    string
		status int
	}{{"a", 202}, {"a", 202}, {"a", 429}, {"b", 202}, {"b", 429}, {"", 429}} {
		a := post(c.key)
		if a.status != c.status {
			t.Fatalf("job %d of key %q: got %d %s, want %d", i, c.key, a.status, a.body, c.status)
		}
		if a.status == 429 && (a.header.Get("Retry-After") == "" || !strings.Contains(string(a.body), "quota-exceeded")) {
			t.Errorf("got %v %s, want quota-exceeded with Retry-After", a.header, a.body)
		}
	}
	empty()
	two := fmt.Sprintf(`{"queue":%q,"payload":1}`, e.o.Full)
	e.refused(t, 429, http.MethodPost, "/jobs/batch", `{"jobs":[`+strings.Repeat(two+",", 3)+two+`]}`)
	e.want(t, http.StatusAccepted, http.MethodPost, "/jobs/batch", `{"jobs":[`+two+","+two+","+two+`]}`, nil)
}

func (e *examiner) batch(t *testing.T) {
	var list []map[string]any
	for i := range 100 {
		list = append(list, map[string]any{"queue": e.o.Queue, "target": e.sink.url + "/batch", "payload": i})
	}
	list[7]["unique_key"] = unlike("batch")
	list[9] = map[string]any{"queue": e.o.Queue, "target": e.sink.url + "/batch", "payload": 7, "unique_key": list[7]["unique_key"]}
	list[11]["delay"] = "1h"
	body, err := json.Marshal(map[string]any{"jobs": list})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Items []receipt `json:"items"`
	}
	e.want(t, http.StatusAccepted, http.MethodPost, "/jobs/batch", string(body), &got)
	if len(got.Items) != 100 || !got.Items[9].Duplicate || got.Items[9].ID != got.Items[7].ID || got.Items[11].State != "scheduled" {
		t.Fatalf("got %+v", got)
	}
	e.pushed(t, "/batch", 98)
	e.want(t, http.StatusOK, http.MethodDelete, "/jobs/"+got.Items[11].ID, "", nil)
}

func (e *examiner) batchRefused(t *testing.T) {
	good := fmt.Sprintf(`{"queue":%q,"target":%q,"payload":1}`, e.o.Queue, e.sink.url+"/none")
	for name, c := range map[string]struct {
		status int
		body   string
		index  string
	}{
		"empty":        {422, `{"jobs":[]}`, ""},
		"absent":       {422, `{}`, ""},
		"too-many":     {422, `{"jobs":[` + strings.Repeat(good+",", 1000) + good + `]}`, ""},
		"not-a-list":   {400, `{"jobs":{}}`, ""},
		"not-a-job":    {400, `{"jobs":[` + good + `,[]]}`, "1"},
		"unknown-word": {400, `{"jobs":[` + good + `,{"tags":[]}]}`, "1"},
		"no-payload":   {422, `{"jobs":[` + good + `,` + good + `,{"queue":"` + e.o.Queue + `"}]}`, "2"},
	} {
		t.Run(name, func(t *testing.T) {
			a := e.do(t, http.MethodPost, "/jobs/batch", c.body)
			if a.status != c.status || c.index != "" && (!strings.Contains(string(a.body), `"index":`+c.index) || !strings.Contains(string(a.body), "jobs["+c.index+"]: ")) {
				t.Errorf("got %d %s, want %d about job %s", a.status, a.body, c.status, c.index)
			}
		})
	}
	if n := len(e.sink.got("/none")); n != 0 {
		t.Errorf("%d jobs of refused batches were pushed", n)
	}
}

func (e *examiner) idempotencyKey(t *testing.T) {
	key := unlike("payment")
	body := fmt.Sprintf(`{"queue":%q,"target":%q,"payload":{"n":1}}`, e.o.Queue, e.sink.url+"/idempotent")
	first := e.do(t, http.MethodPost, "/jobs", body, "Idempotency-Key", key)
	if first.status != http.StatusAccepted || first.header.Get("Idempotency-Replayed") != "" {
		t.Fatalf("got %d %v %s", first.status, first.header, first.body)
	}
	var r receipt
	if err := json.Unmarshal(first.body, &r); err != nil {
		t.Fatal(err)
	}
	e.reach(t, r.ID, "completed")
	again := e.do(t, http.MethodPost, "/jobs", body, "Idempotency-Key", key)
	if again.status != http.StatusAccepted || string(again.body) != string(first.body) || again.header.Get("Idempotency-Replayed") != "true" ||
		again.header.Get("Location") != first.header.Get("Location") {
		t.Errorf("got %d %v %s, want %s again", again.status, again.header, again.body, first.body)
	}
	other := e.do(t, http.MethodPost, "/jobs", strings.Replace(body, "1", "2", 1), "Idempotency-Key", key)
	if other.status != http.StatusUnprocessableEntity {
		t.Errorf("got %d %s, want 422 for another body", other.status, other.body)
	}
	if n := len(e.sink.got("/idempotent")); n != 1 {
		t.Errorf("got %d pushes, want 1", n)
	}
	batch := `{"jobs":[` + body + `,` + body + `]}`
	one := e.do(t, http.MethodPost, "/jobs/batch", batch, "Idempotency-Key", key)
	two := e.do(t, http.MethodPost, "/jobs/batch", batch, "Idempotency-Key", key)
	if one.status != http.StatusAccepted || string(one.body) != string(two.body) || two.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("got %d %s and then %d %s, want one batch", one.status, one.body, two.status, two.body)
	}
	for name, bad := range map[string]string{"empty": "", "long": strings.Repeat("k", 256)} {
		if a := e.do(t, http.MethodPost, "/jobs", body, "Idempotency-Key", bad); a.status != http.StatusBadRequest {
			t.Errorf("%s: got %d %s, want 400", name, a.status, a.body)
		}
	}
}

func (e *examiner) uniqueScope(t *testing.T) {
	key := unlike("everywhere")
	all := map[string]any{"unique_key": key, "unique_scope": "all", "unique_ttl": "0s"}
	first := e.put(t, all)
	here := e.enqueue(t, "/scope", all)
	if !here.Duplicate || here.ID != first.ID {
		t.Errorf("got %+v, want the job %s of the other queue", here, first.ID)
	}
	if apart := e.enqueue(t, "/scope", map[string]any{"unique_key": key}); apart.Duplicate {
		t.Errorf("got %+v, want a key of the queue to be apart", apart)
	}
	e.act(t, http.StatusOK, first.ID, "complete", e.leaseOne(t, first.ID, "30s").Fence, "")
	if next := e.enqueue(t, "/scope", all); next.Duplicate {
		t.Errorf("got %+v, want the key to be free once the job is completed", next)
	}
	short := map[string]any{"unique_key": unlike("short"), "unique_ttl": "1s"}
	first = e.enqueue(t, "/scope", short)
	e.reach(t, first.ID, "completed")
	if again := e.enqueue(t, "/scope", short); again.ID != first.ID {
		t.Errorf("got %+v, want the completed job", again)
	}
	<-time.After(1200 * time.Millisecond)
	if again := e.enqueue(t, "/scope", short); again.ID == first.ID {
		t.Errorf("got %+v, want a new job after a second", again)
	}
}

func (e *examiner) callback(t *testing.T) {
	told := func(path string, n int) map[string]any {
		t.Helper()
		p := e.pushed(t, path, n)[n-1]
		e.signed(t, p)
		var body map[string]any
		if err := json.Unmarshal(p.body, &body); err != nil {
			t.Fatalf("%s: %v", p.body, err)
		}
		return body
	}
	to := func(path string) map[string]any { return map[string]any{"callback": e.sink.url + path} }
	done := e.enqueue(t, "/quick", to("/told/completed"))
	if b := told("/told/completed", 1); b["id"] != done.ID || b["state"] != "completed" || b["queue"] != e.o.Queue || b["attempt"] != 1.0 || b["error"] != nil {
		t.Errorf("got %v", b)
	}
	e.sink.answer("/refuses", status(http.StatusGone, 0))
	dead := e.enqueue(t, "/refuses", to("/told/dead"))
	if b := told("/told/dead", 1); b["id"] != dead.ID || b["state"] != "dead" || b["error"] == nil {
		t.Errorf("got %v", b)
	}
	e.want(t, http.StatusAccepted, http.MethodPost, "/jobs/"+dead.ID+"/retry", "", nil)
	told("/told/dead", 2) // its next end is told as well
	pulled := e.put(t, to("/told/result"))
	e.act(t, http.StatusOK, pulled.ID, "complete", e.leaseOne(t, pulled.ID, "30s").Fence, `,"result":[1,2]`)
	if b := told("/told/result", 1); b["id"] != pulled.ID || fmt.Sprint(b["result"]) != "[1 2]" {
		t.Errorf("got %v", b)
	}
	cancelled := e.put(t, map[string]any{"callback": e.sink.url + "/told/cancelled", "delay": "1h"})
	e.want(t, http.StatusOK, http.MethodDelete, "/jobs/"+cancelled.ID, "", nil)
	if b := told("/told/cancelled", 1); b["state"] != "cancelled" {
		t.Errorf("got %v", b)
	}
	if j := e.get(t, done.ID); j.Callback != e.sink.url+"/told/completed" {
		t.Errorf("got %+v, want its callback shown", j)
	}
	if n := len(e.sink.got("/told/completed")); n != 1 {
		t.Errorf("told %d times, want once", n)
	}
}

func (e *examiner) resultAndMaxAge(t *testing.T) {
	e.sink.answer("/answers", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, `{"id":"o_1"}`) })
	j := e.reach(t, e.enqueue(t, "/answers", map[string]any{"key": "acme"}).ID, "completed")
	if string(j.Result) != `{"id":"o_1"}` || j.Key != "acme" {
		t.Errorf("got %+v, want the target's answer as its result", j)
	}
	e.sink.answer("/old", status(http.StatusInternalServerError, 0))
	j = e.reach(t, e.enqueue(t, "/old", map[string]any{"max_age": "300ms", "attempts": 1000, "backoff": "fixed 100ms"}).ID, "dead")
	if j.Attempt > 10 || j.MaxAge != "300ms" || j.LastStatus != 500 {
		t.Errorf("got %+v, want it dead of age", j)
	}
}
