package jobstest

import (
	"encoding/json"
	"net/http"
	"testing"
)

// ordered looks at an ordered queue: the next job of a key waits while the one before is retried.
func (e *examiner) ordered(t *testing.T) {
	e.sink.answer("/ordered/first", status(http.StatusTooManyRequests, 1, "Retry-After", "1"))
	members := map[string]any{"queue": e.o.Ordered, "key": "ordered"}
	first := e.enqueue(t, "/ordered/first", members)
	e.pushed(t, "/ordered/first", 1)
	second := e.enqueue(t, "/ordered/second", members)
	other := e.enqueue(t, "/ordered/other", map[string]any{"queue": e.o.Ordered, "key": "other"})
	plain := e.enqueue(t, "/ordered/plain", map[string]any{"queue": e.o.Ordered})
	for _, r := range []receipt{other, plain, first, second} {
		e.reach(t, r.ID, "completed")
	}
	retried, next := e.sink.got("/ordered/first"), e.sink.got("/ordered/second")
	if len(retried) != 2 || len(next) != 1 {
		t.Fatalf("got %d and %d pushes, want 2 and 1", len(retried), len(next))
	}
	if !next[0].at.After(retried[1].at) {
		t.Errorf("the second job started at %s, before the retry of the first at %s", next[0].at, retried[1].at)
	}
	for _, path := range []string{"/ordered/other", "/ordered/plain"} {
		if at := e.sink.got(path)[0].at; at.After(retried[1].at) {
			t.Errorf("%s waited for the retry of another key", path)
		}
	}
}

// onDuplicate looks at replace and debounce of a unique job that waits.
func (e *examiner) onDuplicate(t *testing.T) {
	members := func(payload int, more ...any) map[string]any {
		m := map[string]any{"unique_key": "on-duplicate", "payload": payload, "on_duplicate": "replace", "delay": "1h"}
		for i := 0; i+1 < len(more); i += 2 {
			m[more[i].(string)] = more[i+1]
		}
		return m
	}
	first := e.enqueue(t, "/duplicate", members(1))
	if again := e.enqueue(t, "/duplicate", members(2)); again.ID != first.ID || !again.Duplicate || !again.Replaced {
		t.Errorf("got %+v, want the job %s replaced", again, first.ID)
	}
	if j := e.get(t, first.ID); string(j.Payload) != "2" || j.State != "scheduled" {
		t.Errorf("got %+v, want the second payload", j)
	}
	if kept := e.enqueue(t, "/duplicate", members(3, "on_duplicate", "keep")); kept.ID != first.ID || kept.Replaced {
		t.Errorf("got %+v, want the job kept", kept)
	}
	last := e.enqueue(t, "/duplicate", members(4, "on_duplicate", "debounce 500ms", "delay", ""))
	if last.ID != first.ID || last.State != "scheduled" {
		t.Errorf("got %+v, want the job to be due soon", last)
	}
	j := e.reach(t, first.ID, "completed")
	pushes := e.sink.got("/duplicate")
	if len(pushes) != 1 || string(pushes[0].body) != "4" || j.FinishedAt.Sub(j.RunAt) < 0 {
		t.Errorf("got %d pushes and %+v, want one of the last payload", len(pushes), j)
	}
	if fresh := e.enqueue(t, "/duplicate", members(5)); fresh.ID == first.ID || fresh.Duplicate {
		t.Errorf("got %+v, want a job of its own", fresh)
	} else {
		e.want(t, http.StatusOK, http.MethodDelete, "/jobs/"+fresh.ID, "", nil)
	}
	a := e.do(t, http.MethodPost, "/jobs", `{"queue":"`+e.o.Queue+`","target":"`+e.sink.url+`","payload":1,"on_duplicate":"replace"}`)
	if a.status != http.StatusUnprocessableEntity {
		t.Errorf("on_duplicate without a unique_key: got %d %s", a.status, a.body)
	}
}

// waitForTheEnd looks at ?wait.
func (e *examiner) waitForTheEnd(t *testing.T) {
	e.sink.answer("/awaited", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"n":1}`)) })
	body := `{"queue":"` + e.o.Queue + `","target":"` + e.sink.url + `/awaited","payload":1}`
	var j job
	e.want(t, http.StatusOK, http.MethodPost, "/jobs?wait=15s", body, &j)
	if j.State != "completed" || string(j.Result) != `{"n":1}` {
		t.Errorf("got %+v, want the completed job", j)
	}
	later := e.enqueue(t, "/awaited", map[string]any{"delay": "700ms"})
	a := e.do(t, http.MethodGet, "/jobs/"+later.ID+"?wait=100ms", "")
	if err := json.Unmarshal(a.body, &j); err != nil || a.status != http.StatusOK || j.State != "scheduled" {
		t.Errorf("got %d %s at the end of a short wait", a.status, a.body)
	}
	e.want(t, http.StatusOK, http.MethodGet, "/jobs/"+later.ID+"?wait=15s", "", &j)
	if j.State != "completed" {
		t.Errorf("got %+v, want the completed job", j)
	}
	e.want(t, http.StatusUnprocessableEntity, http.MethodGet, "/jobs/"+later.ID+"?wait=1h", "", nil)
}
