package jobs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/exchange"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

// script is a target that answers as it is told.
type script struct {
	status int
	header http.Header
	body   string
	err    error
	hang   bool // until the job's timeout
	asked  int
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	s.asked++
	if s.hang {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	if s.err != nil {
		return nil, s.err
	}
	return &http.Response{StatusCode: s.status, Header: s.header, Body: io.NopCloser(strings.NewReader(s.body)), Request: r}, nil
}

// walker is a service that only pushes, in fake time.
func walker(t *testing.T, target *script) *Service {
	t.Helper()
	c := Config{Queues: map[string]Queue{"q": {Target: "http://app.example/tasks"}}}
	log := slog.New(slog.DiscardHandler)
	key, err := newSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	sign, err := newSigner(secret.NewSet("k", secret.Version{Value: secret.NewValue(key)}), log)
	if err != nil {
		t.Fatal(err)
	}
	return &Service{
		log: log, queues: c.queues(), targets: placesOf(c), signer: sign,
		http: exchange.With(target, target, nil), wake: newWaker(), breakers: newBreakers(), active: newActive(), apiState: newAPIState(),
	}
}

// attempt pushes one job with 30 s of time, and says what becomes of it.
func attempt(s *Service, id int64) (verdict string, after time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	job := &river.Job[pushArgs]{JobRow: &rivertype.JobRow{ID: id, Queue: "q", Attempt: 1, MaxAttempts: 5, CreatedAt: time.Now()}, Args: pushArgs{Body: []byte("1")}}
	err := (&pushWorker{s: s}).Work(ctx, job)
	var later *river.JobSnoozeError
	switch {
	case err == nil:
		return "done", 0
	case errors.As(err, &later):
		return "postponed", later.Duration
	case job.MaxAttempts == 1:
		return "dead", 0
	}
	return "failed", 0
}

// TestAnswersBreakerAndSlowStart walks a target through its troubles by the clock.
func TestAnswersBreakerAndSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := &script{}
		s := walker(t, target)
		id := int64(0)
		step := func(what, want string, least, most time.Duration) {
			t.Helper()
			id++
			if got, after := attempt(s, id); got != want || after < least || after > most {
				t.Errorf("%s: got %s after %s, want %s after %s to %s", what, got, after, want, least, most)
			}
		}
		answer := func(status int, header ...string) {
			*target = script{status: status, header: http.Header{}, asked: target.asked}
			for i := 0; i+1 < len(header); i += 2 {
				target.header.Set(header[i], header[i+1])
			}
		}
		for status, want := range map[int]string{
			200: "done", 204: "done", 299: "done", 301: "failed", 400: "dead", 401: "dead", 404: "dead", 410: "dead", 422: "dead",
			408: "failed", 409: "failed", 425: "failed",
		} {
			answer(status)
			step(http.StatusText(status), want, 0, 0)
		}
		answer(429, "Retry-After", "7")
		step("429 with seconds", "postponed", 7*time.Second, 7*time.Second)
		answer(429, "Retry-After", time.Now().Add(90*time.Second).UTC().Format(http.TimeFormat))
		step("429 with a date", "postponed", 89*time.Second, 90*time.Second)
		answer(429)
		step("429 alone", "postponed", defaultPostpone, defaultPostpone)
		answer(503, "Retry-After", "100000000")
		step("503 for years", "postponed", maxPostpone, maxPostpone)
		answer(200)
		step("well again", "done", 0, 0)

		// Down: failures in a row, of every kind, each using an attempt.
		answer(500)
		step("first failure", "failed", 0, 0)
		target.err = errors.New("connection refused")
		step("second failure", "failed", 0, 0)
		target.err, target.hang = nil, true
		step("third failure", "failed", 0, 0)
		answer(502)
		step("fourth failure", "failed", 0, 0)
		step("the one that trips it", "failed", 0, 0)
		asked := target.asked
		for range 50 {
			step("while it is down", "postponed", firstPause, 2*firstPause)
		}
		if n := roomOf(s.breakers, "http://app.example/tasks", 10); target.asked != asked || n != 0 {
			t.Errorf("a target that is down was asked %d times, and has room for %d", target.asked-asked, n)
		}
		<-time.After(2 * firstPause)
		step("the probe", "failed", 0, 0)
		step("after it", "postponed", 2*firstPause, 4*firstPause)
		<-time.After(4 * firstPause)
		answer(204)
		step("the probe that finds it well", "done", 0, 0)

		// Slow start: the room grows with each success.
		last := 0
		for range 20 {
			n := roomOf(s.breakers, "http://app.example/tasks", 1000)
			if n <= last || n > last+2 {
				t.Errorf("room for %d after %d", n, last)
			}
			last = n
			step("a success", "done", 0, 0)
		}
		<-time.After(2 * idleAfter)
		if n := roomOf(s.breakers, "http://app.example/tasks", 1000); n != idleStart {
			t.Errorf("room for %d after a silence", n)
		}
	})
}

// TestTooOldIsDead lets a job's max_age pass.
func TestTooOldIsDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := walker(t, &script{status: 429, header: http.Header{"Retry-After": {"20"}}})
		job := &river.Job[pushArgs]{JobRow: &rivertype.JobRow{ID: 1, Queue: "q", Attempt: 1, MaxAttempts: 5, CreatedAt: time.Now()}}
		job.Args.MaxAge = 60_000_000_000
		work := func() error { return (&pushWorker{s: s}).Work(t.Context(), job) }
		var later *river.JobSnoozeError
		for range 2 {
			if err := work(); !errors.As(err, &later) {
				t.Fatalf("got %v", err)
			}
			<-time.After(20 * time.Second)
		}
		<-time.After(time.Second)
		if err := work(); err == nil || job.MaxAttempts != 1 || !strings.Contains(err.Error(), "max_age") {
			t.Errorf("got %v with %d attempts, want it dead as its next time is too late", err, job.MaxAttempts)
		}
		job.MaxAttempts = 5
		<-time.After(time.Minute)
		if err := work(); err == nil || job.MaxAttempts != 1 {
			t.Errorf("got %v, want it dead without a push", err)
		}
		job.MaxAttempts = 5
		job.Metadata = fmt.Appendf(nil, `{"retried_at":%d}`, time.Now().UnixMilli())
		if err := work(); !errors.As(err, &later) {
			t.Errorf("got %v for a job that a person has just had retried, want it tried", err)
		}
	})
}
