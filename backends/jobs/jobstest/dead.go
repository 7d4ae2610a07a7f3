package jobstest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// counted is the answer to a bulk change.
type counted struct {
	Count   int `json:"count"`
	Skipped int `json:"skipped"`
}

func (e *examiner) bulk(t *testing.T, path, body string) int {
	t.Helper()
	var c counted
	e.want(t, http.StatusOK, http.MethodPost, path, body, &c)
	return c.Count
}

// bury makes n dead jobs with the key, each with the error.
func (e *examiner) bury(t *testing.T, key string, n int, message string) (ids []string) {
	t.Helper()
	for range n {
		r := e.put(t, map[string]any{"key": key})
		ids = append(ids, r.ID)
		e.act(t, http.StatusOK, r.ID, "fail", e.leaseOne(t, r.ID, "30s").Fence, fmt.Sprintf(`,"permanent":true,"error":%q`, fmt.Sprintf(message, r.ID)))
	}
	return ids
}

func (e *examiner) search(t *testing.T) {
	key := unlike("search")
	since := time.Now().Add(-time.Second)
	ids := e.bury(t, key, 2, "order %s: 100%% of \\_it\\ Failed")
	in := func(member, value string) []string {
		t.Helper()
		return e.ids(t, "?key="+key+"&"+member+"="+url.QueryEscape(value))
	}
	for _, c := range []struct {
		member, value string
		want          int
	}{
		{"error", "it\\ failed", 2}, {"error", "100% OF", 2}, {"error", "1%", 0}, {"error", "\\_it", 2}, {"error", "order " + ids[0] + ":", 1},
		{"error", "'; DROP TABLE river_job; --", 0},
		{"state", "dead", 2}, {"state", "completed", 0}, {"kind", "push", 2}, {"kind", "other", 0},
		{"since", since.Format(time.RFC3339Nano), 2}, {"until", since.Format(time.RFC3339Nano), 0},
		{"until", time.Now().Add(time.Minute).Format(time.RFC3339), 2}, {"queue", e.o.Queue, 0}, {"key", key, 2},
	} {
		if got := in(c.member, c.value); len(got) != c.want {
			t.Errorf("%s=%s: got %v, want %d jobs", c.member, c.value, got, c.want)
		}
	}
	if got := e.ids(t, "?state=dead&queue="+e.o.Pull+"&key="+key+"&since="+url.QueryEscape(since.Format(time.RFC3339Nano))); len(got) != 2 {
		t.Errorf("got %v, want both", got)
	}
	for _, id := range ids {
		e.want(t, http.StatusAccepted, http.MethodPost, "/jobs/"+id+"/retry", "", nil)
		e.act(t, http.StatusOK, id, "complete", e.leaseOne(t, id, "30s").Fence, "")
	}
}

type group struct {
	Cause     string    `json:"cause"`
	Queue     string    `json:"queue"`
	Status    int       `json:"status"`
	Message   string    `json:"message"`
	Count     int       `json:"count"`
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
	ExampleID string    `json:"example_id"`
}

func (e *examiner) groups(t *testing.T, query string) (items []group) {
	t.Helper()
	var g struct {
		Items     []group `json:"items"`
		Truncated bool    `json:"truncated"`
	}
	e.want(t, http.StatusOK, http.MethodGet, "/jobs/groups"+query, "", &g)
	return g.Items
}

func (e *examiner) groupsAndBulk(t *testing.T) {
	key := unlike("group")
	timeouts := e.bury(t, key, 3, "order %s: timeout after 30s at 0xDEADBEEF")
	refused := e.bury(t, key, 2, "order %s: card \"4242\" refused")
	query := "?queue=" + e.o.Pull + "&key=" + key
	got := e.groups(t, query)
	if len(got) != 2 || got[0].Count != 3 || got[0].Message != "order <n>: timeout after <n>s at <hex>" || got[1].Count != 2 ||
		got[1].Message != "order <n>: card <text> refused" || got[1].ExampleID != refused[1] || got[0].Queue != e.o.Pull ||
		got[0].First.After(got[0].Last) || got[0].Cause == got[1].Cause {
		t.Fatalf("got %+v, want two causes", got)
	}
	if other := e.groups(t, query+"&state=cancelled"); len(other) != 0 {
		t.Errorf("got %+v of cancelled jobs", other)
	}
	filter := fmt.Sprintf(`"queue":%q,"key":%q`, e.o.Pull, key)
	if n := e.bulk(t, "/jobs/retry", `{`+filter+`,"dry_run":true}`); n != 5 {
		t.Errorf("got %d of a dry run, want 5", n)
	}
	if j := e.get(t, timeouts[0]); j.State != "dead" {
		t.Errorf("got %+v after a dry run", j)
	}
	if n := e.bulk(t, "/jobs/retry", fmt.Sprintf(`{%s,"cause":%q,"limit":2}`, filter, got[0].Cause)); n != 2 {
		t.Errorf("got %d, want the limit of 2", n)
	}
	if n := e.bulk(t, "/jobs/retry", fmt.Sprintf(`{%s,"cause":%q}`, filter, got[0].Cause)); n != 1 {
		t.Errorf("got %d, want the last one of the cause", n)
	}
	if n := e.bulk(t, "/jobs/retry", `{`+filter+`,"error":"REFUSED"}`); n != 2 {
		t.Errorf("got %d, want 2 by their error", n)
	}
	items := e.lease(t, `{"n":10}`)
	if len(items) != 5 {
		t.Errorf("got %+v, want all five back in the queue", items)
	}
	for _, l := range items {
		e.act(t, http.StatusOK, l.ID, "complete", l.Fence, "")
	}
}

func (e *examiner) bulkCancel(t *testing.T) {
	key := unlike("cancel")
	for range 3 {
		e.put(t, map[string]any{"key": key})
	}
	e.put(t, map[string]any{"key": key, "delay": "1h"})
	items := e.lease(t, "")
	if len(items) != 1 {
		t.Fatalf("got %+v", items)
	}
	filter := fmt.Sprintf(`"key":%q`, key)
	if n := e.bulk(t, "/jobs/cancel", `{`+filter+`,"state":"scheduled"}`); n != 1 {
		t.Errorf("got %d, want the scheduled one", n)
	}
	if n := e.bulk(t, "/jobs/cancel", `{`+filter+`}`); n != 3 {
		t.Errorf("got %d, want the others", n)
	}
	a := e.act(t, http.StatusOK, items[0].ID, "heartbeat", items[0].Fence, "")
	if !strings.Contains(string(a.body), `"cancelling":true`) {
		t.Errorf("got %s, want the worker to be asked to stop", a.body)
	}
	e.act(t, http.StatusOK, items[0].ID, "fail", items[0].Fence, `,"error":"stopped"`)
	if got := e.ids(t, "?state=cancelled&key="+key); len(got) != 4 {
		t.Errorf("got %v, want all four cancelled", got)
	}
	e.refused(t, 422, http.MethodPost, "/jobs/cancel", `{}`)
	e.refused(t, 422, http.MethodPost, "/jobs/cancel", `{"state":"dead"}`)
	e.refused(t, 403, http.MethodPost, "/jobs/cancel", `{"queue":"internal"}`)
}

func (e *examiner) edit(t *testing.T) {
	e.sink.answer("/picky", func(w http.ResponseWriter, _ *http.Request) {
		got := e.sink.got("/picky")
		if string(got[len(got)-1].body) != `{"fixed":true}` {
			w.WriteHeader(http.StatusUnprocessableEntity)
		}
	})
	r := e.enqueue(t, "/picky", nil)
	e.reach(t, r.ID, "dead")
	before := e.do(t, http.MethodGet, "/jobs/"+r.ID, "")
	path := "/jobs/" + r.ID
	if a := e.do(t, http.MethodPut, path, `{"payload":{"fixed":1}}`, "If-Match", `"stale"`); a.status != http.StatusPreconditionFailed {
		t.Errorf("got %d %s, want 412", a.status, a.body)
	}
	a := e.do(t, http.MethodPut, path, `{"payload":{"fixed":true}}`, "If-Match", before.header.Get("Etag"))
	var j job
	if err := json.Unmarshal(a.body, &j); err != nil || a.status != http.StatusOK || string(j.Payload) != `{"fixed":true}` || j.State != "dead" {
		t.Fatalf("got %d %s, want the dead job with its new payload", a.status, a.body)
	}
	if a.header.Get("Etag") == before.header.Get("Etag") || a.header.Get("Etag") != e.do(t, http.MethodGet, path, "").header.Get("Etag") {
		t.Errorf("got Etag %s after %s", a.header.Get("Etag"), before.header.Get("Etag"))
	}
	e.want(t, http.StatusAccepted, http.MethodPost, path+"/retry", "", nil)
	e.reach(t, r.ID, "completed")
	e.refused(t, 409, http.MethodPut, path, `{"payload":1}`)
	r = e.enqueue(t, "/picky", nil)
	e.reach(t, r.ID, "dead")
	e.want(t, http.StatusAccepted, http.MethodPost, "/jobs/"+r.ID+"/retry", `{"payload":{"fixed":true}}`, nil)
	e.reach(t, r.ID, "completed")
}

// badRequests are what the further routes must refuse.
func (e *examiner) badRequests(t *testing.T) {
	r := e.put(t, nil)
	l := e.leaseOne(t, r.ID, "30s")
	job, leases := "/jobs/"+r.ID, "/queues/"+e.o.Pull+"/lease"
	post := func(members string) string { return fmt.Sprintf(`{"queue":%q,"payload":1,%s}`, e.o.Pull, members) }
	for name, c := range map[string]struct {
		status             int
		method, path, body string
	}{
		"lease-none":            {422, "POST", leases, `{"n":0}`},
		"lease-many":            {422, "POST", leases, `{"n":101}`},
		"lease-visibility":      {422, "POST", leases, `{"visibility":"1ms"}`},
		"lease-visibility-long": {422, "POST", leases, `{"visibility":"13h"}`},
		"lease-wait":            {422, "POST", leases, `{"wait":"21s"}`},
		"lease-worker":          {422, "POST", leases, `{"worker":"a\u0000"}`},
		"lease-member":          {400, "POST", leases, `{"nr":1}`},
		"lease-pushed":          {422, "POST", "/queues/" + e.o.Queue + "/lease", ``},
		"lease-unknown":         {404, "POST", "/queues/nowhere/lease", ``},
		"lease-internal":        {403, "POST", "/queues/internal/lease", ``},
		"heartbeat-no-fence":    {422, "POST", job + "/heartbeat", `{}`},
		"heartbeat-fence-word":  {400, "POST", job + "/heartbeat", `{"fence":"1"}`},
		"heartbeat-unknown-job": {404, "POST", "/jobs/999999999/heartbeat", `{"fence":1}`},
		"heartbeat-progress":    {413, "POST", job + "/heartbeat", fmt.Sprintf(`{"fence":%d,"progress":%q}`, l.Fence, strings.Repeat("x", 4<<10))},
		"complete-result":       {413, "POST", job + "/complete", fmt.Sprintf(`{"fence":%d,"result":%q}`, l.Fence, strings.Repeat("x", 64<<10))},
		"complete-utf-8":        {400, "POST", job + "/complete", fmt.Sprintf(`{"fence":%d,"result":"%s"}`, l.Fence, "\xff")},
		"complete-unknown-job":  {404, "POST", "/jobs/999999999/complete", `{"fence":1}`},
		"fail-no-error":         {422, "POST", job + "/fail", fmt.Sprintf(`{"fence":%d}`, l.Fence)},
		"fail-retry-after":      {422, "POST", job + "/fail", fmt.Sprintf(`{"fence":%d,"error":"x","retry_after":"25h"}`, l.Fence)},
		"pull-with-target":      {422, "POST", "/jobs", post(`"target":"` + e.sink.url + `"`)},
		"key-empty":             {422, "POST", "/jobs", post(`"key":""`)},
		"key-long":              {422, "POST", "/jobs", post(`"key":"` + strings.Repeat("k", 256) + `"`)},
		"key-control":           {422, "POST", "/jobs", post(`"key":"a\nb"`)},
		"scope-word":            {422, "POST", "/jobs", post(`"unique_key":"k","unique_scope":"some"`)},
		"scope-alone":           {422, "POST", "/jobs", post(`"unique_scope":"all"`)},
		"ttl-word":              {422, "POST", "/jobs", post(`"unique_key":"k","unique_ttl":"long"`)},
		"max-age":               {422, "POST", "/jobs", post(`"max_age":"0s"`)},
		"callback-not-allowed":  {422, "POST", "/jobs", post(`"callback":"http://169.254.169.254/"`)},
		"callback-relative":     {422, "POST", "/jobs", post(`"callback":"/told"`)},
		"edit-running":          {409, "PUT", job, `{"payload":1}`},
		"edit-nothing":          {422, "PUT", job, `{}`},
		"edit-unknown":          {404, "PUT", "/jobs/999999999", `{"payload":1}`},
		"retry-running":         {409, "POST", job + "/retry", `{"payload":1}`},
		"retry-member":          {400, "POST", job + "/retry", `{"body":1}`},
		"bulk-state":            {400, "POST", "/jobs/retry", `{"state":"lost"}`},
		"bulk-retry-running":    {422, "POST", "/jobs/retry", `{"state":"running"}`},
		"bulk-member":           {400, "POST", "/jobs/retry", `{"all":true}`},
		"bulk-limit":            {422, "POST", "/jobs/retry", `{"limit":0}`},
		"bulk-since":            {400, "POST", "/jobs/retry", `{"since":"yesterday"}`},
		"bulk-error-control":    {400, "POST", "/jobs/retry", `{"error":"\u0000"}`},
		"list-since":            {400, "GET", "/jobs?since=1", ``},
		"list-until":            {400, "GET", "/jobs?until=2027-13-01T00:00:00Z", ``},
		"list-error-long":       {400, "GET", "/jobs?error=" + strings.Repeat("e", 201), ``},
		"list-queue-control":    {400, "GET", "/jobs?queue=%00", ``},
		"groups-state":          {400, "GET", "/jobs/groups?state=lost", ``},
		"queue-unknown":         {404, "GET", "/queues/nowhere", ``},
		"drain-unknown":         {404, "POST", "/queues/nowhere/drain", ``},
		"drain-internal":        {403, "POST", "/queues/internal/drain", ``},
		"batch-with-a-bad-type": {400, "POST", "/jobs/batch", `[]`},
		"method-on-lease":       {405, "GET", leases, ``},
	} {
		t.Run(name, func(t *testing.T) { e.refused(t, c.status, c.method, c.path, c.body) })
	}
	e.act(t, http.StatusOK, r.ID, "complete", l.Fence, "")
}
