package jobs_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/jobs"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// queue is what other backends need of this one, as they declare it.
type queue interface {
	EnqueueTx(ctx context.Context, tx *sql.Tx, kind string, payload []byte) (id string, err error)
	EnqueuePushTx(ctx context.Context, tx *sql.Tx, queue string, body []byte, header http.Header) (id string, err error)
	Handle(kind string, work func(ctx context.Context, payload []byte) error)
	Poke()
	QueueTarget(queue string) (target string, ok bool)
}

var _ queue = (*jobs.Service)(nil)

type later struct{ error }

func (later) RetryAfter() time.Duration { return 10 * time.Millisecond }

type never struct{ error }

func (never) Permanent() bool { return true }

// enqueue commits one job of the kind and returns its id.
func enqueue(t *testing.T, h *service.Host, s *jobs.Service, kind, payload string) (id string) {
	t.Helper()
	err := h.DB.InTx(t.Context(), func(tx *sql.Tx) (err error) {
		id, err = s.EnqueueTx(t.Context(), tx, kind, []byte(payload))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Poke()
	return id
}

// open is a host with the backend running.
func open(t *testing.T, dir string, c jobs.Config) (*service.Host, *jobs.Service) {
	t.Helper()
	h := newHost(t, dir, c)
	if err := h.Open(t.Context(), "jobs"); err != nil {
		t.Fatal(err)
	}
	return h, h.Service("jobs").(*jobs.Service)
}

func TestInProcessKinds(t *testing.T) {
	h, s := open(t, t.TempDir(), jobs.Config{})
	var calls sync.Map
	count := func(kind string) int64 {
		n, _ := calls.LoadOrStore(kind, new(atomic.Int64))
		return n.(*atomic.Int64).Add(1)
	}
	s.Handle("plain", func(_ context.Context, payload []byte) error {
		if string(payload) != `{"a": 1}` {
			return fmt.Errorf("got %q", payload)
		}
		return nil
	})
	s.Handle("later", func(context.Context, []byte) error {
		if count("later") < 15 { // more often than there are attempts
			return fmt.Errorf("not now: %w", later{errors.New("busy")})
		}
		return nil
	})
	s.Handle("never", func(context.Context, []byte) error { return fmt.Errorf("deep: %w", never{errors.New("broken\x00")}) })
	s.Handle("panics", func(context.Context, []byte) error {
		if count("panics") == 1 {
			panic("once")
		}
		return nil
	})
	for kind, want := range map[string]jobs.View{
		"plain":  {State: "completed", Attempt: 1},
		"later":  {State: "completed", Attempt: 1, Postponed: 14},
		"never":  {State: "dead", Attempt: 1},
		"panics": {State: "completed", Attempt: 2},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			id := enqueue(t, h, s, kind, `{"a": 1}`)
			v := reach(t, s, id, want.State)
			if v.Attempt != want.Attempt || v.Postponed != want.Postponed || v.Kind != kind || v.Queue != "internal-"+kind || v.MaxAttempts != 58 || v.Payload != nil {
				t.Errorf("got %+v, want %+v", v, want)
			}
			if kind == "never" && (len(v.Errors) != 1 || v.Errors[0].Message != "deep: broken") {
				t.Errorf("got %+v", v.Errors)
			}
		})
	}
}

func TestRollbackEnqueuesNothing(t *testing.T) {
	h, s := open(t, t.TempDir(), jobs.Config{})
	s.Handle("undone", func(context.Context, []byte) error { t.Error("a job that was rolled back ran"); return nil })
	undone := errors.New("undone")
	err := h.DB.InTx(t.Context(), func(tx *sql.Tx) error {
		if _, err := s.EnqueueTx(t.Context(), tx, "undone", []byte(`{}`)); err != nil {
			return err
		}
		return undone
	})
	if !errors.Is(err, undone) {
		t.Fatal(err)
	}
	s.Poke()
	s.Handle("done", func(context.Context, []byte) error { return nil })
	reach(t, s, enqueue(t, h, s, "done", `{}`), "completed")
}

func TestKindWithoutWorkerWaits(t *testing.T) {
	h, s := open(t, t.TempDir(), jobs.Config{})
	id := enqueue(t, h, s, "unknown-yet", `{}`)
	if v := reach(t, s, id, "queued"); v.Attempt != 0 || len(v.Errors) != 0 {
		t.Errorf("got %+v, want no attempt used", v)
	}
	s.Handle("unknown-yet", func(context.Context, []byte) error { return nil })
	if v := reach(t, s, id, "completed"); v.Attempt != 1 {
		t.Errorf("got %+v", v)
	}
}

func TestPushTx(t *testing.T) {
	got := make(chan *http.Request, 10)
	bodies := make(chan []byte, 10)
	target := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- r
		bodies <- b
	}))
	defer target.Close()
	h, s := open(t, t.TempDir(), jobs.Config{Queues: map[string]jobs.Queue{"in": {Target: target.URL + "/in"}, "bare": {}}})
	if url, ok := s.QueueTarget("in"); !ok || url != target.URL+"/in" {
		t.Errorf("got %q, %v", url, ok)
	}
	for _, queue := range []string{"bare", "nowhere", "internal"} {
		err := h.DB.InTx(t.Context(), func(tx *sql.Tx) error {
			_, err := s.EnqueuePushTx(t.Context(), tx, queue, nil, nil)
			return err
		})
		if err == nil {
			t.Errorf("%s: a push without a target was taken", queue)
		}
	}
	body := []byte("a=\x00\xff&b=<>\r\n")
	push := func(header http.Header) *http.Request {
		t.Helper()
		err := h.DB.InTx(t.Context(), func(tx *sql.Tx) error {
			_, err := s.EnqueuePushTx(t.Context(), tx, "in", body, header)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		s.Poke()
		r := <-got
		if b := <-bodies; !bytes.Equal(b, body) {
			t.Errorf("got %q, want %q", b, body)
		}
		return r
	}
	r := push(http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "X-Sender": {"a", "b"}, "Gatehouse-Job-Id": {"999"},
		"Connection": {"X-Sender"}, "Host": {"elsewhere"}, "Transfer-Encoding": {"gzip"}, "Content-Length": {"1"}})
	if r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" || len(r.Header["X-Sender"]) != 2 ||
		r.Header.Get("Gatehouse-Job-Id") == "999" || r.Header.Get("Webhook-Signature") == "" || r.Host == "elsewhere" {
		t.Errorf("got %v for %s", r.Header, r.Host)
	}
	r = push(http.Header{"Webhook-Id": {"msg_1"}, "Webhook-Timestamp": {"1"}, "Webhook-Signature": {"v1,theirs"}})
	if r.Header.Get("Webhook-Signature") != "v1,theirs" || r.Header.Get("Webhook-Id") != "msg_1" {
		t.Errorf("got %v, want the sender's own signature", r.Header)
	}
}

// Transactions that enqueue, the API and the workers share one writing connection.
func TestNothingWaitsForItself(t *testing.T) {
	h, s := open(t, t.TempDir(), jobs.Config{})
	var ran atomic.Int64
	s.Handle("chain", func(ctx context.Context, payload []byte) error {
		ran.Add(1)
		if string(payload) == "0" {
			return nil
		}
		err := h.DB.InTx(ctx, func(tx *sql.Tx) error {
			_, err := s.EnqueueTx(ctx, tx, "chain", []byte("0"))
			return err
		})
		s.Poke()
		return err
	})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 4 {
				err := h.DB.InTx(t.Context(), func(tx *sql.Tx) error {
					_, err := s.EnqueueTx(t.Context(), tx, "chain", []byte("1"))
					return err
				})
				if err != nil {
					t.Error(err)
				}
				s.Poke()
				get(s, "/jobs?queue=internal")
				get(s, "/queues")
			}
		})
	}
	wg.Wait()
	until(t, "all jobs and those they enqueued have run", func() bool { return ran.Load() == 64 })
}

// TestInternalQueueIsNotForUsers: who may use the API must not be able to stop the other backends.
func TestInternalQueueIsNotForUsers(t *testing.T) {
	h, s := open(t, t.TempDir(), jobs.Config{})
	id := enqueue(t, h, s, "nobody-works-this", `{}`)
	for _, target := range []string{"POST /queues/internal/pause", "POST /queues/internal/resume", "POST /queues/internal-nobody-works-this/pause", "DELETE /jobs/" + id} {
		method, path, _ := strings.Cut(target, " ")
		w := httptest.NewRecorder()
		s.ServeHTTP(w, newRequest(method, path, nil))
		if w.Code != http.StatusForbidden {
			t.Errorf("%s: got %d %s, want 403", target, w.Code, w.Body)
		}
	}
}
