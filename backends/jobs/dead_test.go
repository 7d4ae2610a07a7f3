package jobs

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestNormalise(t *testing.T) {
	for message, want := range map[string]string{
		"timeout after 30s":                                "timeout after <n>s",
		"dial tcp 10.0.0.7:5432: connect: refused":         "dial tcp <n>.<n>.<n>.<n>:<n>: connect: refused",
		`user "bob" is unknown`:                            "user <text> is unknown",
		"user 'bob' isn't here, it's gone":                 "user <text> isn't here, it's gone",
		"key `a b` and \"c":                                "key <text> and \"c",
		"id 3f2504e0-4f89-11d3-9a0c-0305e82c3301!":         "id <uuid>!",
		"3f2504e0-4f89-11d3-9a0c-0305e82c33011":            "<hex>-<n>f<n>-<n>d<n>-<n>a<n>c-<hex>",
		"commit deadbeef12 of 0xFF":                        "commit <hex> of <hex>",
		"feedback facade":                                  "feedback facade",
		"order_123_x 12345678 v2":                          "order_<n>_x <n> v<n>",
		"é 5 ünï 6":                                        "é <n> ünï <n>",
		"":                                                 "",
		strings.Repeat("word ", 100):                       strings.Repeat("word ", 40),
		"a\x00b\tc":                                        "ab c",
		"2026-01-02T03:04:05Z: \x1b[31mred\x1b[0m, '', \"": "<n>-<n>-<n>T<n>:<n>:<n>Z: [<n>mred[<n>m, <text>, \"",
	} {
		if got := normalise(message); got != want {
			t.Errorf("%q: got %q, want %q", message, got, want)
		}
	}
}

func FuzzNormalise(f *testing.F) {
	for _, s := range []string{"", "a 1 'b", "0x", "\"\"", "\xff1", "3f2504e0-4f89-11d3-9a0c-0305e82c3301", "é'é'", strings.Repeat("1", 500)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := normalise(s)
		if !utf8.ValidString(got) || len(got) > maxCause+10 {
			t.Errorf("%q became %q", s, got)
		}
		if normalise(s) != got {
			t.Errorf("%q has two forms", s)
		}
	})
}

// send makes one request of the API.
func send(s *Service, method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := newRequest(method, path, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// fail makes all jobs dead, each with an error of its own.
func (s *Service) fail(t *testing.T, message string) {
	t.Helper()
	s.exec(t, s.q.pick(`UPDATE river_job SET state = 'discarded', attempt = 1, finalized_at = datetime('now', 'subsec'),
			errors = jsonb_array(jsonb_object('at', '2026-01-01T00:00:00Z', 'attempt', 1, 'error', `+message+`))`,
		`UPDATE river_job SET state = 'discarded', attempt = 1, finalized_at = now(),
			errors = ARRAY[jsonb_build_object('at', '2026-01-01T00:00:00Z', 'attempt', 1, 'error', `+message+`)]`))
}

// A storm of 10 000 dead letters is listed, grouped and retried in seconds.
func TestDeadLetterStorm(t *testing.T) {
	n := 10_000
	if raceEnabled {
		n = 2000 // its size is what the clock is for
	}
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true}}})
	orders := make([]order, maxBatch)
	for i := range orders {
		o, err := s.check(&request{Queue: "q", Payload: json.RawMessage(`{"n":1}`)}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		orders[i] = o
	}
	for range n / maxBatch {
		if _, err := s.insertAll(t.Context(), orders); err != nil {
			t.Fatal(err)
		}
	}
	s.fail(t, `'HTTP 50' || (id % 2 + 2) || ': order ' || id || ' failed at node ' || (id % 7)`)
	begun := time.Now()
	seen := 0
	for cursor := ""; ; {
		var page struct {
			Items      []View `json:"items"`
			NextCursor string `json:"next_cursor"`
		}
		w := send(s, http.MethodGet, "/jobs?queue=q&state=dead&limit=1000&cursor="+cursor, "")
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
			t.Fatal(err)
		}
		seen += len(page.Items)
		if cursor = page.NextCursor; cursor == "" || seen > n {
			break
		}
	}
	if seen != n {
		t.Errorf("got %d jobs listed, want %d", seen, n)
	}
	listed := time.Since(begun)
	var groups Groups
	if err := json.Unmarshal(send(s, http.MethodGet, "/jobs/groups?queue=q", "").Body.Bytes(), &groups); err != nil {
		t.Fatal(err)
	}
	if len(groups.Items) != 2 || groups.Items[0].Count != n/2 || groups.Looked != n || groups.Truncated ||
		groups.Items[0].Message != "order <n> failed at node <n>" || groups.Items[0].Status+groups.Items[1].Status != 502+503 {
		t.Errorf("got %+v", groups)
	}
	grouped := time.Since(begun)
	count := func(body string) int {
		t.Helper()
		var r BulkReceipt
		w := send(s, http.MethodPost, "/jobs/retry", body)
		if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil || w.Code != http.StatusOK {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
		return r.Count
	}
	if got := count(`{"queue":"q","dry_run":true}`); got != n {
		t.Errorf("a dry run counts %d", got)
	}
	if got := count(`{"queue":"q","cause":"` + groups.Items[0].Cause + `"}`); got != n/2 {
		t.Errorf("got %d of one cause", got)
	}
	if got := count(`{"queue":"q"}`); got != n/2 {
		t.Errorf("got %d of the rest", got)
	}
	took := time.Since(begun)
	t.Logf("listed after %s, grouped after %s, retried after %s", listed, grouped, took)
	if took > 10*time.Second && !raceEnabled {
		t.Errorf("took %s, want less than 10s", took)
	}
	counts, err := s.counts(t.Context(), "q")
	if err != nil || counts["q"][stateQueued] != n {
		t.Errorf("got %v, %v, want all of them queued", counts, err)
	}
}

// What differs too much to be told apart is counted together.
func TestGroupsAreBounded(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true}}})
	o, err := s.check(&request{Queue: "q", Payload: json.RawMessage(`1`)}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	orders := make([]order, maxBatch)
	for i := range orders {
		orders[i] = o
	}
	for range 3 {
		if _, err = s.insertAll(t.Context(), orders); err != nil {
			t.Fatal(err)
		}
	}
	letters := func(n int) string {
		return fmt.Sprintf("substr('abcdefghij', CAST((id / %d) %% 10 + 1 AS INTEGER), 1)", n)
	}
	s.fail(t, letters(1)+" || "+letters(10)+" || "+letters(100)+" || "+letters(1000))
	g, err := s.groups(t.Context(), &filter{State: stateDead}, 1000)
	if err != nil || len(g.Items) != 1000 || !g.Truncated || g.Looked != 3000 {
		t.Fatalf("got %d groups of %d jobs, truncated %v, %v", len(g.Items), g.Looked, g.Truncated, err)
	}
	if first := g.Items[0]; first.Message != otherCause || first.Count != 1000 {
		t.Errorf("got %+v, want what is beyond the bound in one group", first)
	}
}

// A retry in bulk leaves a job alone whose unique key another one has taken over.
func TestBulkRetryMindsUniqueKeys(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true}}})
	const body = `{"queue":"q","payload":1,"unique_key":"k"}`
	post(t, s, body)
	s.fail(t, "'broken'")
	taken := post(t, s, body)
	w := send(s, http.MethodPost, "/jobs/retry", `{}`)
	if w.Body.String() != "{\"count\":0,\"skipped\":1}\n" {
		t.Errorf("got %s, want the job to be skipped", w.Body)
	}
	if w = send(s, http.MethodDelete, "/jobs/"+taken.ID, ""); w.Code != http.StatusOK {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	if w = send(s, http.MethodPost, "/jobs/retry", `{}`); w.Body.String() != "{\"count\":1}\n" {
		t.Errorf("got %s, want the job to be retried", w.Body)
	}
	if again := post(t, s, body); !again.Duplicate || again.ID == taken.ID {
		t.Errorf("got %+v, want the retried job to hold the key again", again)
	}
}

// Jobs of other backends are neither cancelled nor edited, nor retried unless they are meant.
func TestBulkLeavesInternalJobsAlone(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true}}})
	tx, err := s.db.Write.Begin()
	if err != nil {
		t.Fatal(err)
	}
	id, err := s.EnqueueTx(t.Context(), tx, "kind", []byte(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	if err = tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if w := send(s, http.MethodPost, "/jobs/cancel", `{"since":"2000-01-01T00:00:00Z"}`); w.Body.String() != "{\"count\":0}\n" {
		t.Errorf("got %s", w.Body)
	}
	for _, path := range []string{"/jobs/" + id, "/jobs/" + id + "/retry"} {
		method := http.MethodPut
		if strings.HasSuffix(path, "retry") {
			method = http.MethodPost
		}
		if w := send(s, method, path, `{"payload":1}`); w.Code != http.StatusForbidden {
			t.Errorf("%s: got %d %s, want 403", path, w.Code, w.Body)
		}
	}
	s.fail(t, "'broken'")
	if w := send(s, http.MethodPost, "/jobs/retry", `{}`); w.Body.String() != "{\"count\":0}\n" {
		t.Errorf("got %s, want it left alone", w.Body)
	}
	if w := send(s, http.MethodPost, "/jobs/retry", `{"queue":"internal-kind","kind":"kind"}`); w.Body.String() != "{\"count\":1}\n" {
		t.Errorf("got %s, want it retried when it is meant", w.Body)
	}
}
