package jobstest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// examiner drives the HTTP API under base.
type examiner struct {
	base   string
	client *http.Client
	sink   *sink
	o      Options
}

// answer is a response with its body read.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// job is a job as GET /jobs/{id} shows it.
type job struct {
	ID          string     `json:"id"`
	Queue       string     `json:"queue"`
	State       string     `json:"state"`
	Attempt     int        `json:"attempt"`
	MaxAttempts int        `json:"max_attempts"`
	Target      string     `json:"target"`
	CreatedAt   time.Time  `json:"created_at"`
	RunAt       time.Time  `json:"run_at"`
	FinishedAt  *time.Time `json:"finished_at"`
	Errors      []struct {
		Time    time.Time `json:"time"`
		Attempt int       `json:"attempt"`
		Message string    `json:"message"`
		Status  int       `json:"status"`
	} `json:"errors"`
	Payload    json.RawMessage `json:"payload"`
	Key        string          `json:"key"`
	Callback   string          `json:"callback"`
	MaxAge     string          `json:"max_age"`
	LastStatus int             `json:"last_status"`
	Worker     string          `json:"worker"`
	Progress   json.RawMessage `json:"progress"`
	Result     json.RawMessage `json:"result"`
	Cancelling bool            `json:"cancelling"`
}

// receipt is the answer to POST /jobs.
type receipt struct {
	ID        string `json:"id"`
	State     string `json:"state"`
	Duplicate bool   `json:"duplicate"`
	Replaced  bool   `json:"replaced"`
}

func (e *examiner) do(t *testing.T, method, path, body string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, e.base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Gatehouse-Rank", "operator") // where nothing stands in front; a gateway says it itself
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := e.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, b}
}

// want is do with the status that must come, and the body read into v.
func (e *examiner) want(t *testing.T, status int, method, path, body string, v any) answer {
	t.Helper()
	a := e.do(t, method, path, body)
	if a.status != status {
		t.Fatalf("%s %s: got %d, want %d: %s", method, path, a.status, status, a.body)
	}
	if v != nil {
		if err := json.Unmarshal(a.body, v); err != nil {
			t.Fatalf("%s %s: %v: %s", method, path, err, a.body)
		}
	}
	return a
}

// enqueue posts a job for a path of the sink. more are further members of the request.
func (e *examiner) enqueue(t *testing.T, path string, more map[string]any) receipt {
	t.Helper()
	members := map[string]any{"queue": e.o.Queue, "target": e.sink.url + path, "payload": map[string]any{"path": path}}
	for name, v := range more {
		members[name] = v
	}
	body, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	var r receipt
	a := e.want(t, http.StatusAccepted, http.MethodPost, "/jobs", string(bytes.TrimSpace(body)), &r)
	if got, want := a.header.Get("Location"), "/jobs/"+r.ID; r.ID == "" || got != want {
		t.Fatalf("got Location %q, want %q", got, want)
	}
	return r
}

func (e *examiner) get(t *testing.T, id string) job {
	t.Helper()
	var j job
	e.want(t, http.StatusOK, http.MethodGet, "/jobs/"+id, "", &j)
	return j
}

// reach waits until the job is in the state.
func (e *examiner) reach(t *testing.T, id, state string) job {
	t.Helper()
	var j job
	e.until(t, "job "+id+" is "+state, func() bool {
		j = e.get(t, id)
		return j.State == state
	}, func() any { return j })
	return j
}

// until waits for a condition and fails the test with what was seen last if it does not come.
func (e *examiner) until(t *testing.T, what string, is func() bool, seen func() any) {
	t.Helper()
	for deadline := time.Now().Add(e.o.Patience); ; <-time.After(10 * time.Millisecond) {
		if is() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s until %s, but last saw %+v", e.o.Patience, what, seen())
		}
	}
}

// pushed waits until the path has received n pushes and returns them.
func (e *examiner) pushed(t *testing.T, path string, n int) []push {
	t.Helper()
	e.until(t, path+" was pushed to", func() bool { return len(e.sink.got(path)) >= n }, func() any { return len(e.sink.got(path)) })
	return e.sink.got(path)
}
