// Package jobstest is the examiner of the jobs backend: it judges an implementation through its
// HTTP API alone, in this process or behind a proxy.
package jobstest

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Options say what the examined backend was configured with.
type Options struct {
	// Queue is the queue that the examiner uses. Default: "examine".
	Queue string
	// Pull is the queue whose jobs are leased. Default: "examine-pull".
	Pull string
	// Full is the queue that takes few waiting jobs. Default: "examine-full".
	Full string
	// Ordered is an ordered queue. Default: "examine-ordered".
	Ordered string
	// Attempts is the queue's number of attempts. Default: 3.
	Attempts int
	// SigningKey is the text of the key that signs pushes, whsec_ and base64. With it the signatures
	// are verified; without it only their form is looked at.
	SigningKey string
	// Patience is how long the examiner waits for anything to come about. Default: 15s.
	Patience time.Duration
}

// Examine judges the jobs API under base, a prefix such as http://127.0.0.1:8080 to which /jobs and
// /queues are appended. client must not follow redirects to elsewhere; nil is http.DefaultClient.
// The backend must be configured with
//
//	queue examine {
//		attempts 3
//		backoff  fixed 50ms
//	}
//	queue examine-pull {
//		pull
//		attempts 3
//		backoff  fixed 50ms
//	}
//	queue examine-full {
//		pull
//		waiting     3
//		key_waiting 2
//	}
//	queue examine-ordered {
//		ordered
//	}
//	allow 127.0.0.1
//
// as the targets are a server that the examiner starts on 127.0.0.1. The queues are paused, drained and
// emptied, so two examiners must not use them at once.
func Examine(t *testing.T, base string, client *http.Client, o Options) {
	e := &examiner{base: strings.TrimSuffix(base, "/"), client: client, sink: newSink(t), o: o}
	if e.client == nil {
		e.client = http.DefaultClient
	}
	e.o.Queue = cmp.Or(o.Queue, "examine")
	e.o.Pull = cmp.Or(o.Pull, "examine-pull")
	e.o.Full = cmp.Or(o.Full, "examine-full")
	e.o.Ordered = cmp.Or(o.Ordered, "examine-ordered")
	e.o.Attempts = cmp.Or(o.Attempts, 3)
	e.o.Patience = cmp.Or(o.Patience, 15*time.Second)

	t.Run("delivers-once", e.deliversOnce)
	t.Run("keeps-the-payload-exactly", e.keepsThePayload)
	t.Run("retries-until-success", e.retries)
	t.Run("dead-is-listed-and-retried", e.deadLetter)
	t.Run("client-error-is-dead-at-once", e.deadAtOnce)
	t.Run("retryable-client-errors", e.retryableClientErrors)
	t.Run("not-now-uses-no-attempt", e.notNow)
	t.Run("redirects-are-not-followed", e.redirects)
	t.Run("timeout", e.timeout)
	t.Run("scheduled", e.scheduled)
	t.Run("unique-key", e.uniqueKey)
	t.Run("cancel", e.cancel)
	t.Run("cancel-running", e.cancelRunning)
	t.Run("pause-and-resume", e.pause)
	t.Run("priority", e.priority)
	t.Run("pages", e.pages)
	t.Run("queues", e.queues)
	t.Run("drain", e.drain)
	t.Run("waiting-caps", e.waitingCaps)
	t.Run("batch", e.batch)
	t.Run("batch-is-all-or-nothing", e.batchRefused)
	t.Run("idempotency-key", e.idempotencyKey)
	t.Run("unique-scope-and-ttl", e.uniqueScope)
	t.Run("ordered", e.ordered)
	t.Run("on-duplicate", e.onDuplicate)
	t.Run("wait", e.waitForTheEnd)
	t.Run("callback", e.callback)
	t.Run("result-and-max-age", e.resultAndMaxAge)
	t.Run("lease-complete", e.leaseComplete)
	t.Run("lease-heartbeat", e.heartbeat)
	t.Run("lease-fail", e.leaseFail)
	t.Run("lease-lapses", e.leaseLapses)
	t.Run("lease-cancel", e.leaseCancel)
	t.Run("lease-waits", e.leaseWaits)
	t.Run("search", e.search)
	t.Run("groups-and-bulk", e.groupsAndBulk)
	t.Run("bulk-cancel", e.bulkCancel)
	t.Run("edit", e.edit)
	t.Run("bad-requests", e.badRequests)
	t.Run("bad-input", e.badInput)
}

func (e *examiner) deliversOnce(t *testing.T) {
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	body := fmt.Sprintf(`{"queue":%q,"target":%q,"payload":{"n":1}}`, e.o.Queue, e.sink.url+"/once")
	a := e.do(t, http.MethodPost, "/jobs", body, "Traceparent", trace)
	var r receipt
	if err := json.Unmarshal(a.body, &r); err != nil || a.status != http.StatusAccepted {
		t.Fatalf("got %d %s", a.status, a.body)
	}
	if r.State != "queued" || r.Duplicate {
		t.Errorf("got %+v, want a queued job", r)
	}
	j := e.reach(t, r.ID, "completed")
	if j.Attempt != 1 || j.MaxAttempts != e.o.Attempts || j.Queue != e.o.Queue || j.Target != e.sink.url+"/once" ||
		j.FinishedAt == nil || j.CreatedAt.IsZero() || j.RunAt.IsZero() || len(j.Errors) != 0 {
		t.Errorf("got %+v", j)
	}
	pushes := e.sink.got("/once")
	if len(pushes) != 1 {
		t.Fatalf("got %d pushes, want 1", len(pushes))
	}
	p := pushes[0]
	for name, want := range map[string]string{
		"Content-Type": "application/json", "Gatehouse-Job-Id": r.ID, "Gatehouse-Job-Queue": e.o.Queue,
		"Gatehouse-Job-Attempt": "1", "Traceparent": trace,
	} {
		if got := p.header.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	deadline, err := time.Parse(time.RFC3339, p.header.Get("Gatehouse-Job-Deadline"))
	if err != nil || deadline.Before(p.at) {
		t.Errorf("got deadline %q at %s, want a later time", p.header.Get("Gatehouse-Job-Deadline"), p.at)
	}
	e.signed(t, p)
}

// signed looks at the Standard Webhooks headers.
func (e *examiner) signed(t *testing.T, p push) {
	t.Helper()
	id, ts := p.header.Get("Webhook-Id"), p.header.Get("Webhook-Timestamp")
	at, err := strconv.ParseInt(ts, 10, 64)
	if id == "" || strings.Contains(id, ".") || err != nil || p.at.Sub(time.Unix(at, 0)).Abs() > time.Minute {
		t.Errorf("got webhook-id %q, webhook-timestamp %q at %d", id, ts, p.at.Unix())
	}
	encoded, ok := strings.CutPrefix(p.header.Get("Webhook-Signature"), "v1,")
	got, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(got) != sha256.Size {
		t.Fatalf("got webhook-signature %q, want v1 and the base64 of 32 bytes", p.header.Get("Webhook-Signature"))
	}
	if e.o.SigningKey == "" {
		return
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(e.o.SigningKey, "whsec_"))
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha256.New, key)
	_, _ = fmt.Fprintf(mac, "%s.%s.%s", id, ts, p.body)
	if !hmac.Equal(got, mac.Sum(nil)) {
		t.Error("the signature does not verify")
	}
}

func (e *examiner) keepsThePayload(t *testing.T) {
	for name, payload := range map[string]string{
		"null": `null`, "number": `1.0e2`, "string": `"<&>\u0000é\/"`, "spaced": `{ "b" : 1, "a":[ ] }`, "twice": `{"a":1,"a":2}`,
		"large": `"` + strings.Repeat("x", 256<<10-2) + `"`,
	} {
		t.Run(name, func(t *testing.T) {
			path := "/exact/" + name
			var r receipt
			e.want(t, http.StatusAccepted, http.MethodPost, "/jobs",
				fmt.Sprintf(`{"queue":%q,"target":%q,"payload":%s}`, e.o.Queue, e.sink.url+path, payload), &r)
			if got := string(e.pushed(t, path, 1)[0].body); got != payload {
				t.Errorf("got %.100q, want %.100q", got, payload)
			}
		})
	}
}

func (e *examiner) retries(t *testing.T) {
	e.sink.answer("/flaky", status(http.StatusInternalServerError, 2))
	r := e.enqueue(t, "/flaky", nil)
	j := e.reach(t, r.ID, "completed")
	if j.Attempt != 3 || len(j.Errors) != 2 {
		t.Fatalf("got %+v, want success at the third attempt", j)
	}
	if f := j.Errors[1]; f.Status != 500 || f.Attempt != 2 || f.Message != "no [31mthanks" || f.Time.IsZero() {
		t.Errorf("got %+v, want the cleaned answer of the second attempt", f)
	}
	for i, p := range e.sink.got("/flaky") {
		if got, want := p.header.Get("Gatehouse-Job-Attempt"), strconv.Itoa(i+1); got != want {
			t.Errorf("got attempt %s, want %s", got, want)
		}
	}
}

func (e *examiner) deadLetter(t *testing.T) {
	e.sink.answer("/dead", status(http.StatusBadGateway, 0))
	r := e.enqueue(t, "/dead", nil)
	j := e.reach(t, r.ID, "dead")
	if j.Attempt != e.o.Attempts || len(j.Errors) != e.o.Attempts || j.FinishedAt == nil {
		t.Errorf("got %+v, want all attempts used", j)
	}
	if ids := e.ids(t, "?state=dead&queue="+e.o.Queue); !contains(ids, r.ID) {
		t.Errorf("got %v, want the dead job %s in the list", ids, r.ID)
	}
	e.sink.answer("/dead", nil)
	var again receipt
	e.want(t, http.StatusAccepted, http.MethodPost, "/jobs/"+r.ID+"/retry", "", &again)
	if again.ID != r.ID || again.State != "queued" {
		t.Errorf("got %+v, want the same job queued", again)
	}
	e.reach(t, r.ID, "completed")
}

func (e *examiner) deadAtOnce(t *testing.T) {
	for _, code := range []int{400, 401, 404, 410, 422} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			path := "/refuses/" + strconv.Itoa(code)
			e.sink.answer(path, status(code, 0))
			j := e.reach(t, e.enqueue(t, path, nil).ID, "dead")
			if j.Attempt != 1 || len(j.Errors) != 1 || j.Errors[0].Status != code || j.MaxAttempts != e.o.Attempts {
				t.Errorf("got %+v, want dead after one attempt of %d", j, e.o.Attempts)
			}
		})
	}
}

func (e *examiner) retryableClientErrors(t *testing.T) {
	for _, code := range []int{408, 409, 425} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			path := "/again/" + strconv.Itoa(code)
			e.sink.answer(path, status(code, 1))
			if j := e.reach(t, e.enqueue(t, path, nil).ID, "completed"); j.Attempt != 2 {
				t.Errorf("got %+v, want success at the second attempt", j)
			}
		})
	}
}

func (e *examiner) notNow(t *testing.T) {
	for _, code := range []int{429, 503} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			path := "/busy/" + strconv.Itoa(code)
			e.sink.answer(path, status(code, 1, "Retry-After", "1"))
			r := e.enqueue(t, path, map[string]any{"attempts": 1})
			j := e.reach(t, r.ID, "completed")
			pushes := e.sink.got(path)
			if j.Attempt != 1 || len(pushes) != 2 {
				t.Fatalf("got %+v after %d pushes, want the only attempt to be left for the second push", j, len(pushes))
			}
			if waited := pushes[1].at.Sub(pushes[0].at); waited < 900*time.Millisecond {
				t.Errorf("waited %s, want the second of Retry-After", waited)
			}
			if got := pushes[1].header.Get("Gatehouse-Job-Attempt"); got != "1" {
				t.Errorf("got attempt %s, want 1", got)
			}
		})
	}
}

func (e *examiner) redirects(t *testing.T) {
	e.sink.answer("/moved", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	})
	e.reach(t, e.enqueue(t, "/moved", map[string]any{"attempts": 1}).ID, "dead")
	if n := len(e.sink.got("/elsewhere")); n != 0 {
		t.Errorf("a redirect was followed %d times", n)
	}
}

func (e *examiner) timeout(t *testing.T) {
	e.sink.answer("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	j := e.reach(t, e.enqueue(t, "/slow", map[string]any{"attempts": 1, "timeout": "200ms"}).ID, "dead")
	if len(j.Errors) != 1 || j.Errors[0].Status != 0 || !strings.Contains(j.Errors[0].Message, "timeout") {
		t.Errorf("got %+v, want one error about the timeout", j)
	}
}
