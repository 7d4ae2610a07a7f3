package jobstest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// lease is one item of the answer to POST /queues/{queue}/lease.
type lease struct {
	ID          string          `json:"id"`
	Queue       string          `json:"queue"`
	Key         string          `json:"key"`
	Payload     json.RawMessage `json:"payload"`
	Attempt     int             `json:"attempt"`
	MaxAttempts int             `json:"max_attempts"`
	Fence       int64           `json:"fence"`
	ExpiresAt   time.Time       `json:"expires_at"`
}

// put enqueues a job for pull workers.
func (e *examiner) put(t *testing.T, more map[string]any) receipt {
	t.Helper()
	members := map[string]any{"queue": e.o.Pull, "payload": map[string]any{"n": 1}}
	for name, v := range more {
		members[name] = v
	}
	body, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	var r receipt
	e.want(t, http.StatusAccepted, http.MethodPost, "/jobs", string(body), &r)
	return r
}

// lease takes jobs; body is that of the request.
func (e *examiner) lease(t *testing.T, body string) []lease {
	t.Helper()
	var page struct {
		Items []lease `json:"items"`
	}
	e.want(t, http.StatusOK, http.MethodPost, "/queues/"+e.o.Pull+"/lease", body, &page)
	return page.Items
}

// leaseOne waits for one job.
func (e *examiner) leaseOne(t *testing.T, id, visibility string) lease {
	t.Helper()
	items := e.lease(t, fmt.Sprintf(`{"wait":"10s","visibility":%q,"worker":"examiner"}`, visibility))
	if len(items) != 1 || items[0].ID != id || items[0].Fence < 1 {
		t.Fatalf("got %+v, want job %s on lease", items, id)
	}
	return items[0]
}

// act says something of a leased job.
func (e *examiner) act(t *testing.T, status int, id, verb string, fence int64, more string) answer {
	t.Helper()
	path, body := "/jobs/"+id+"/"+verb, fmt.Sprintf(`{"fence":%d%s}`, fence, more)
	if status >= 400 {
		e.refused(t, status, http.MethodPost, path, body)
		return answer{}
	}
	return e.want(t, status, http.MethodPost, path, body, nil)
}

// lost checks that a word under that fence is refused as one on a lease that is over.
func (e *examiner) lost(t *testing.T, id, verb string, fence int64, more string) {
	t.Helper()
	a := e.do(t, http.MethodPost, "/jobs/"+id+"/"+verb, fmt.Sprintf(`{"fence":%d%s}`, fence, more))
	if a.status != http.StatusConflict || !strings.Contains(string(a.body), "/lease-lost") {
		t.Errorf("%s: got %d %s, want 409 lease-lost", verb, a.status, a.body)
	}
}

func (e *examiner) leaseComplete(t *testing.T) {
	first := e.put(t, map[string]any{"key": "acme", "payload": json.RawMessage(`{ "b": 1.0e2 }`)})
	l := e.leaseOne(t, first.ID, "30s")
	if string(l.Payload) != `{ "b": 1.0e2 }` && string(l.Payload) != `{"b":1.0e2}` || l.Key != "acme" || l.Queue != e.o.Pull || l.Attempt != 1 || l.MaxAttempts != 3 {
		t.Errorf("got %+v", l)
	}
	if in := time.Until(l.ExpiresAt); in < 20*time.Second || in > 31*time.Second {
		t.Errorf("the lease ends in %s, want 30s", in)
	}
	if j := e.get(t, first.ID); j.State != "running" || j.Worker != "examiner" {
		t.Errorf("got %+v, want it running for the examiner", j)
	}
	if more := e.lease(t, ""); len(more) != 0 {
		t.Errorf("got %+v, want nothing else on lease", more)
	}
	e.lost(t, first.ID, "complete", l.Fence+1, "")
	for range 2 { // the first answer may be lost
		e.act(t, http.StatusOK, first.ID, "complete", l.Fence, `,"result":{"sum":3}`)
	}
	if j := e.get(t, first.ID); j.State != "completed" || string(j.Result) != `{"sum":3}` {
		t.Errorf("got %+v, want it completed with its result", j)
	}
	e.lost(t, first.ID, "fail", l.Fence, `,"error":"no"`)
	e.lost(t, first.ID, "heartbeat", l.Fence, "")
	second := e.put(t, nil)
	next := e.leaseOne(t, second.ID, "30s")
	if next.Fence <= l.Fence {
		t.Errorf("got fence %d after %d, want it to grow", next.Fence, l.Fence)
	}
	e.act(t, http.StatusOK, second.ID, "complete", next.Fence, "")
}

func (e *examiner) heartbeat(t *testing.T) {
	r := e.put(t, nil)
	l := e.leaseOne(t, r.ID, "2s")
	var h struct {
		ExpiresAt  time.Time `json:"expires_at"`
		Cancelling bool      `json:"cancelling"`
	}
	for i := range 6 { // for longer than the lease would last
		<-time.After(500 * time.Millisecond)
		a := e.act(t, http.StatusOK, r.ID, "heartbeat", l.Fence, fmt.Sprintf(`,"progress":{"done":%d}`, i))
		if err := json.Unmarshal(a.body, &h); err != nil || h.Cancelling || !h.ExpiresAt.After(l.ExpiresAt) {
			t.Fatalf("got %s after %s, %v", a.body, l.ExpiresAt, err)
		}
		l.ExpiresAt = h.ExpiresAt
	}
	if j := e.get(t, r.ID); j.State != "running" || string(j.Progress) != `{"done":5}` {
		t.Errorf("got %+v, want its progress", j)
	}
	a := e.act(t, http.StatusOK, r.ID, "heartbeat", l.Fence, `,"visibility":"1h"`)
	if err := json.Unmarshal(a.body, &h); err != nil || time.Until(h.ExpiresAt) < 50*time.Minute {
		t.Errorf("got %s, want the lease to last an hour", a.body)
	}
	e.act(t, http.StatusOK, r.ID, "complete", l.Fence, "")
}

func (e *examiner) leaseFail(t *testing.T) {
	r := e.put(t, nil)
	l := e.leaseOne(t, r.ID, "30s")
	e.act(t, http.StatusOK, r.ID, "fail", l.Fence, `,"error":"disk\u0000 is\nfull"`)
	l = e.leaseOne(t, r.ID, "30s")
	if l.Attempt != 2 {
		t.Errorf("got %+v, want the second attempt", l)
	}
	before := time.Now()
	e.act(t, http.StatusOK, r.ID, "fail", l.Fence, `,"error":"not yet","retry_after":"1s"`)
	l = e.leaseOne(t, r.ID, "30s")
	if waited := time.Since(before); waited < 900*time.Millisecond || waited > 5*time.Second {
		t.Errorf("waited %s, want the second of retry_after", waited)
	}
	e.act(t, http.StatusOK, r.ID, "fail", l.Fence, `,"error":"never"`)
	j := e.get(t, r.ID)
	if j.State != "dead" || len(j.Errors) != 3 || j.Errors[0].Message != "disk is full" || j.Errors[2].Attempt != 3 {
		t.Errorf("got %+v, want it dead after three attempts", j)
	}
	r = e.put(t, nil)
	l = e.leaseOne(t, r.ID, "30s")
	e.act(t, http.StatusOK, r.ID, "fail", l.Fence, `,"error":"no such order","permanent":true`)
	if j = e.get(t, r.ID); j.State != "dead" || j.Attempt != 1 {
		t.Errorf("got %+v, want it dead at once", j)
	}
}

func (e *examiner) leaseLapses(t *testing.T) {
	r := e.put(t, nil)
	l := e.leaseOne(t, r.ID, "1s")
	next := e.leaseOne(t, r.ID, "30s")
	if next.Attempt != 2 || next.Fence <= l.Fence {
		t.Errorf("got %+v after %+v, want a second attempt", next, l)
	}
	e.lost(t, r.ID, "complete", l.Fence, `,"result":"late"`)
	e.lost(t, r.ID, "heartbeat", l.Fence, "")
	e.lost(t, r.ID, "fail", l.Fence, `,"error":"late"`)
	j := e.get(t, r.ID)
	if j.State != "running" || len(j.Errors) != 1 || j.Errors[0].Message != "the worker's lease ended" {
		t.Errorf("got %+v, want the lapse in its record", j)
	}
	e.act(t, http.StatusOK, r.ID, "complete", next.Fence, "")
}

func (e *examiner) leaseCancel(t *testing.T) {
	for end, more := range map[string]string{"complete": "", "fail": `,"error":"stopped"`, "": ""} {
		r := e.put(t, nil)
		visibility := "30s"
		if end == "" {
			visibility = "1s"
		}
		l := e.leaseOne(t, r.ID, visibility)
		var got receipt
		e.want(t, http.StatusAccepted, http.MethodDelete, "/jobs/"+r.ID, "", &got)
		want := "cancelled"
		if end != "" {
			a := e.act(t, http.StatusOK, r.ID, "heartbeat", l.Fence, "")
			if !strings.Contains(string(a.body), `"cancelling":true`) {
				t.Errorf("got %s, want the worker to be asked to stop", a.body)
			}
			e.act(t, http.StatusOK, r.ID, end, l.Fence, more)
		}
		if end == "complete" {
			want = "completed"
		}
		if j := e.reach(t, r.ID, want); j.FinishedAt == nil {
			t.Errorf("%q: got %+v", end, j)
		}
	}
}

func (e *examiner) leaseWaits(t *testing.T) {
	start := time.Now()
	if items := e.lease(t, `{"wait":"500ms"}`); len(items) != 0 || time.Since(start) < 400*time.Millisecond {
		t.Errorf("got %+v after %s, want nothing after the wait", items, time.Since(start))
	}
	got := make(chan []lease, 1)
	go func() { got <- e.lease(t, `{"wait":"15s","n":5}`) }()
	<-time.After(300 * time.Millisecond) // so that it waits
	var ids []string
	sent := time.Now()
	ids = append(ids, e.put(t, nil).ID)
	items := <-got
	if len(items) != 1 || items[0].ID != ids[0] || time.Since(sent) > 5*time.Second {
		t.Fatalf("got %+v after %s, want job %v at once", items, time.Since(sent), ids)
	}
	for range 3 {
		ids = append(ids, e.put(t, nil).ID)
	}
	items = append(items, e.lease(t, `{"n":2}`)...)
	items = append(items, e.lease(t, `{"n":100}`)...)
	if len(items) != 4 {
		t.Fatalf("got %+v, want all four jobs", items)
	}
	for i, l := range items {
		if l.ID != ids[i] {
			t.Errorf("got job %s at place %d, want %s", l.ID, i, ids[i])
		}
		e.act(t, http.StatusOK, l.ID, "complete", l.Fence, "")
	}
	e.want(t, http.StatusOK, http.MethodPost, "/queues/"+e.o.Pull+"/pause", "", nil)
	r := e.put(t, nil)
	if items = e.lease(t, ""); len(items) != 0 {
		t.Errorf("got %+v of a paused queue", items)
	}
	e.want(t, http.StatusOK, http.MethodPost, "/queues/"+e.o.Pull+"/resume", "", nil)
	e.act(t, http.StatusOK, r.ID, "complete", e.leaseOne(t, r.ID, "30s").Fence, "")
}
