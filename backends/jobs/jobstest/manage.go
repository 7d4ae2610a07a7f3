package jobstest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func contains(ids []string, id string) bool { return slices.Contains(ids, id) }

// page is one page of GET /jobs.
type page struct {
	Items      []job  `json:"items"`
	NextCursor string `json:"next_cursor"`
}

// ids lists the jobs of the query on its first page.
func (e *examiner) ids(t *testing.T, query string) (ids []string) {
	t.Helper()
	var p page
	e.want(t, http.StatusOK, http.MethodGet, "/jobs"+query, "", &p)
	for _, j := range p.Items {
		ids = append(ids, j.ID)
	}
	return ids
}

func (e *examiner) scheduled(t *testing.T) {
	for name, when := range map[string]func() (member, value string){
		"delay": func() (string, string) { return "delay", "800ms" },
		"run-at": func() (string, string) {
			return "run_at", time.Now().Add(800 * time.Millisecond).Format(time.RFC3339Nano)
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := time.Now()
			member, value := when()
			r := e.enqueue(t, "/later/"+name, map[string]any{member: value})
			if r.State != "scheduled" {
				t.Errorf("got %+v, want scheduled", r)
			}
			p := e.pushed(t, "/later/"+name, 1)[0]
			j := e.reach(t, r.ID, "completed")
			if p.at.Before(j.RunAt.Add(-2*time.Millisecond)) || j.RunAt.Before(before) || p.at.Sub(j.RunAt) > 2*time.Second {
				t.Errorf("pushed at %s, want it at %s or soon after", p.at, j.RunAt)
			}
		})
	}
	t.Run("past", func(t *testing.T) {
		if r := e.enqueue(t, "/later/past", map[string]any{"run_at": "2001-01-01T00:00:00Z"}); r.State != "queued" {
			t.Errorf("got %+v, want queued", r)
		}
		e.pushed(t, "/later/past", 1)
	})
}

func (e *examiner) uniqueKey(t *testing.T) {
	key := fmt.Sprintf("order-%d", time.Now().UnixNano())
	first := e.enqueue(t, "/unique", map[string]any{"unique_key": key, "delay": "1h"})
	again := e.enqueue(t, "/unique", map[string]any{"unique_key": key})
	if again.ID != first.ID || !again.Duplicate || again.State != "scheduled" {
		t.Fatalf("got %+v, want the waiting job %s", again, first.ID)
	}
	e.want(t, http.StatusAccepted, http.MethodPost, "/jobs/"+first.ID+"/retry", "", nil)
	e.reach(t, first.ID, "completed")
	if again = e.enqueue(t, "/unique", map[string]any{"unique_key": key}); again.ID != first.ID || !again.Duplicate || again.State != "completed" {
		t.Errorf("got %+v, want the completed job %s", again, first.ID)
	}
	if n := len(e.sink.got("/unique")); n != 1 {
		t.Errorf("got %d pushes, want 1", n)
	}
	key += "-cancelled"
	first = e.enqueue(t, "/unique", map[string]any{"unique_key": key, "delay": "1h"})
	e.want(t, http.StatusOK, http.MethodDelete, "/jobs/"+first.ID, "", nil)
	if again = e.enqueue(t, "/unique", map[string]any{"unique_key": key, "delay": "1h"}); again.ID == first.ID || again.Duplicate {
		t.Errorf("got %+v, want a new job after the first was cancelled", again)
	}
	e.want(t, http.StatusConflict, http.MethodPost, "/jobs/"+first.ID+"/retry", "", nil)
}

func (e *examiner) cancel(t *testing.T) {
	r := e.enqueue(t, "/cancelled", map[string]any{"delay": "1h"})
	var got receipt
	e.want(t, http.StatusOK, http.MethodDelete, "/jobs/"+r.ID, "", &got)
	if got.ID != r.ID || got.State != "cancelled" {
		t.Errorf("got %+v, want cancelled", got)
	}
	if j := e.get(t, r.ID); j.State != "cancelled" || j.FinishedAt == nil {
		t.Errorf("got %+v, want cancelled", j)
	}
	e.refused(t, http.StatusConflict, http.MethodDelete, "/jobs/"+r.ID, "")
	e.want(t, http.StatusAccepted, http.MethodPost, "/jobs/"+r.ID+"/retry", "", nil)
	e.reach(t, r.ID, "completed")
	e.refused(t, http.StatusConflict, http.MethodDelete, "/jobs/"+r.ID, "")
}

func (e *examiner) cancelRunning(t *testing.T) {
	e.sink.answer("/hangs", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	r := e.enqueue(t, "/hangs", nil)
	e.pushed(t, "/hangs", 1)
	e.reach(t, r.ID, "running")
	e.refused(t, http.StatusConflict, http.MethodPost, "/jobs/"+r.ID+"/retry", "")
	var got receipt
	e.want(t, http.StatusAccepted, http.MethodDelete, "/jobs/"+r.ID, "", &got)
	if got.State != "running" {
		t.Errorf("got %+v, want a job that still runs", got)
	}
	e.reach(t, r.ID, "cancelled")
	if n := len(e.sink.got("/hangs")); n != 1 {
		t.Errorf("got %d pushes, want 1", n)
	}
}

func (e *examiner) pause(t *testing.T) {
	e.want(t, http.StatusOK, http.MethodPost, "/queues/"+e.o.Queue+"/pause", "", nil)
	defer e.want(t, http.StatusOK, http.MethodPost, "/queues/"+e.o.Queue+"/resume", "", nil)
	if !e.queue(t).Paused {
		t.Error("the queue is not shown as paused")
	}
	r := e.enqueue(t, "/paused", nil)
	<-time.After(300 * time.Millisecond) // nothing may happen; there is nothing to wait for
	if j := e.get(t, r.ID); j.State != "queued" || len(e.sink.got("/paused")) != 0 {
		t.Errorf("got %+v, want it to wait while the queue is paused", j)
	}
	e.want(t, http.StatusOK, http.MethodPost, "/queues/"+e.o.Queue+"/resume", "", nil)
	e.reach(t, r.ID, "completed")
	if e.queue(t).Paused {
		t.Error("the queue is shown as paused after it was resumed")
	}
}

func (e *examiner) priority(t *testing.T) {
	e.want(t, http.StatusOK, http.MethodPost, "/queues/"+e.o.Queue+"/pause", "", nil)
	low := e.enqueue(t, "/low", map[string]any{"priority": 4})
	high := e.enqueue(t, "/high", map[string]any{"priority": 1})
	e.want(t, http.StatusOK, http.MethodPost, "/queues/"+e.o.Queue+"/resume", "", nil)
	var l, h struct {
		Priority  int       `json:"priority"`
		StartedAt time.Time `json:"started_at"`
	}
	e.reach(t, low.ID, "completed")
	e.reach(t, high.ID, "completed")
	e.want(t, http.StatusOK, http.MethodGet, "/jobs/"+low.ID, "", &l)
	e.want(t, http.StatusOK, http.MethodGet, "/jobs/"+high.ID, "", &h)
	if l.Priority != 4 || h.Priority != 1 || h.StartedAt.After(l.StartedAt) {
		t.Errorf("got priority %d started at %s and priority %d at %s", h.Priority, h.StartedAt, l.Priority, l.StartedAt)
	}
}

func (e *examiner) pages(t *testing.T) {
	var want []string
	for range 5 {
		want = append(want, e.enqueue(t, "/pages", map[string]any{"delay": "2h"}).ID)
	}
	slices.Reverse(want)
	var got []string
	for cursor, n := "", 0; ; n++ {
		var p page
		e.want(t, http.StatusOK, http.MethodGet, "/jobs?limit=2&state=scheduled&queue="+e.o.Queue+"&cursor="+cursor, "", &p)
		for _, j := range p.Items {
			got = append(got, j.ID)
		}
		if cursor = p.NextCursor; cursor == "" || n > 100 {
			break
		}
	}
	if len(got) < 5 || !slices.Equal(got[:5], want) {
		t.Errorf("got %v, want it to begin with %v", got, want)
	}
	if slices.Sort(got); len(slices.Compact(got)) != len(got) {
		t.Errorf("got %v, want each job once", got)
	}
	for _, id := range want {
		e.want(t, http.StatusOK, http.MethodDelete, "/jobs/"+id, "", nil)
	}
}

type queue struct {
	Name   string         `json:"name"`
	Paused bool           `json:"paused"`
	Counts map[string]int `json:"counts"`
}

func (e *examiner) queue(t *testing.T) queue {
	t.Helper()
	var list struct {
		Items []queue `json:"items"`
	}
	e.want(t, http.StatusOK, http.MethodGet, "/queues", "", &list)
	for _, q := range list.Items {
		if q.Name == e.o.Queue {
			return q
		}
	}
	t.Fatalf("got %+v, want the queue %s in it", list, e.o.Queue)
	return queue{}
}

func (e *examiner) queues(t *testing.T) {
	before := e.queue(t).Counts
	r := e.enqueue(t, "/counted", map[string]any{"delay": "1h"})
	if got, want := e.queue(t).Counts["scheduled"], before["scheduled"]+1; got != want {
		t.Errorf("got %d scheduled, want %d", got, want)
	}
	e.want(t, http.StatusOK, http.MethodDelete, "/jobs/"+r.ID, "", nil)
	after := e.queue(t).Counts
	if after["scheduled"] != before["scheduled"] || after["cancelled"] != before["cancelled"]+1 {
		t.Errorf("got %v after one more was cancelled, had %v", after, before)
	}
}

// refused sends a request that must be answered with a problem of that status.
func (e *examiner) refused(t *testing.T, status int, method, path, body string) {
	t.Helper()
	a := e.do(t, method, path, body)
	var p struct {
		Type, Title, Detail string
		Status              int
	}
	err := json.Unmarshal(a.body, &p)
	if a.status != status || a.header.Get("Content-Type") != "application/problem+json" || err != nil || p.Status != status || p.Type == "" || p.Title == "" {
		t.Errorf("%s %s %.200s: got %d %s %.300s, want a problem of status %d", method, path, body, a.status, a.header.Get("Content-Type"), a.body, status)
	}
}

func (e *examiner) badInput(t *testing.T) {
	ok := fmt.Sprintf(`"queue":%q,"target":%q,"payload":1`, e.o.Queue, e.sink.url+"/bad")
	with := func(members string) string { return "{" + ok + "," + members + "}" }
	to := func(target string) string {
		return fmt.Sprintf(`{"queue":%q,"payload":1,"target":%q}`, e.o.Queue, target)
	}
	for name, c := range map[string]struct {
		status int
		body   string
	}{
		"empty":                 {400, ""},
		"not-json":              {400, "{"},
		"array":                 {400, "[]"},
		"two-values":            {400, "{" + ok + "} {}"},
		"unknown-member":        {400, with(`"rate":1`)},
		"wrong-type":            {400, with(`"priority":"high"`)},
		"number-as-delay":       {400, with(`"delay":5`)},
		"unknown-queue":         {422, `{"queue":"nowhere","payload":1}`},
		"our-own-queue":         {422, `{"queue":"internal","payload":1}`},
		"hostile-queue":         {422, `{"queue":"\u0000\n'; --","payload":1}`},
		"no-payload":            {422, fmt.Sprintf(`{"queue":%q,"target":%q}`, e.o.Queue, e.sink.url)},
		"no-target":             {422, fmt.Sprintf(`{"queue":%q,"payload":1}`, e.o.Queue)},
		"target-not-allowed":    {422, to("http://169.254.169.254/latest/meta-data")},
		"target-by-other-name":  {422, to("http://127.0.0.1.example.com/")},
		"target-as-user":        {422, to("http://127.0.0.1@example.com/")},
		"target-with-user":      {422, to("http://user@127.0.0.1/")},
		"target-scheme":         {422, to("file:///etc/passwd")},
		"target-relative":       {422, to("/tasks")},
		"target-port":           {422, to("http://127.0.0.1:99999/")},
		"target-control":        {422, to("http://127.0.0.1/\r\nX-A: b")},
		"target-long":           {422, to("http://127.0.0.1/" + strings.Repeat("a", 4096))},
		"priority-low":          {422, with(`"priority":0`)},
		"priority-high":         {422, with(`"priority":5`)},
		"attempts-none":         {422, with(`"attempts":0`)},
		"attempts-huge":         {422, with(`"attempts":1000000`)},
		"backoff-word":          {422, with(`"backoff":"linear 2s"`)},
		"backoff-zero":          {422, with(`"backoff":"fixed 0s"`)},
		"timeout-zero":          {422, with(`"timeout":"0s"`)},
		"timeout-huge":          {422, with(`"timeout":"1000h"`)},
		"delay-word":            {422, with(`"delay":"soon"`)},
		"delay-negative":        {422, with(`"delay":"-5s"`)},
		"delay-huge":            {422, with(`"delay":"200000h"`)},
		"run-at-word":           {422, with(`"run_at":"tomorrow"`)},
		"run-at-far":            {422, with(`"run_at":"9999-01-01T00:00:00Z"`)},
		"run-at-and-delay":      {422, with(`"run_at":"2027-01-01T00:00:00Z","delay":"5s"`)},
		"unique-key-empty":      {422, with(`"unique_key":""`)},
		"unique-key-control":    {422, with(`"unique_key":"a\u0000b"`)},
		"unique-key-long":       {422, with(fmt.Sprintf(`"unique_key":%q`, strings.Repeat("k", 300)))},
		"payload-large":         {413, fmt.Sprintf(`{"queue":%q,"target":%q,"payload":"%s"}`, e.o.Queue, e.sink.url, strings.Repeat("x", 256<<10))},
		"body-huge":             {413, `{"payload":"` + strings.Repeat("x", 1<<20) + `"}`},
		"payload-invalid-utf-8": {400, fmt.Sprintf(`{"queue":%q,"target":%q,"payload":"`, e.o.Queue, e.sink.url) + "\xff\"}"},
		"nested":                {400, fmt.Sprintf(`{"queue":%q,"target":%q,"payload":%s}`, e.o.Queue, e.sink.url, strings.Repeat("[", 20000))},
	} {
		t.Run(name, func(t *testing.T) { e.refused(t, c.status, http.MethodPost, "/jobs", c.body) })
	}
	for name, c := range map[string]struct {
		status       int
		method, path string
	}{
		"get-unknown":     {404, http.MethodGet, "/jobs/999999999"},
		"get-word":        {404, http.MethodGet, "/jobs/latest"},
		"get-huge":        {404, http.MethodGet, "/jobs/99999999999999999999999"},
		"get-padded":      {404, http.MethodGet, "/jobs/007"},
		"retry-unknown":   {404, http.MethodPost, "/jobs/999999999/retry"},
		"delete-unknown":  {404, http.MethodDelete, "/jobs/999999999"},
		"list-state":      {400, http.MethodGet, "/jobs?state=lost"},
		"list-limit":      {400, http.MethodGet, "/jobs?limit=0"},
		"list-cursor":     {400, http.MethodGet, "/jobs?cursor=abc"},
		"pause-unknown":   {404, http.MethodPost, "/queues/nowhere/pause"},
		"resume-all":      {404, http.MethodPost, "/queues/*/resume"},
		"method-on-jobs":  {405, http.MethodPut, "/jobs"},
		"method-on-pause": {405, http.MethodGet, "/queues/" + e.o.Queue + "/pause"},
		"unknown-act":     {404, http.MethodPost, "/jobs/1/boost"},
	} {
		t.Run(name, func(t *testing.T) { e.refused(t, c.status, c.method, c.path, "") })
	}
	if n := len(e.sink.got("/bad")); n != 0 {
		t.Errorf("%d refused jobs were pushed", n)
	}
}
