package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const (
	// maxPostpone bounds how long a target or a worker may put a job off.
	maxPostpone = 24 * time.Hour
	// noWorkerYet is the wait of a job whose kind nobody works yet.
	noWorkerYet = 5 * time.Second
)

// pushArgs is a job that is pushed to a URL. They are stored, so members are only added.
type pushArgs struct {
	// Target is the job's own; empty stands for the queue's at the time of the push.
	Target    string      `json:"target,omitempty"`
	Body      []byte      `json:"body"`
	Header    http.Header `json:"header,omitempty"`
	UniqueKey string      `json:"unique_key,omitempty"`
	// UniqueScope is "all" if the unique key counts over all queues. UniqueTTL is how long after its
	// completion the job holds the key, nil for the default.
	UniqueScope string         `json:"unique_scope,omitempty"`
	UniqueTTL   *unit.Duration `json:"unique_ttl,omitempty"`
	// Key is the tenant: between keys jobs are fetched in turn. Empty for a job without one.
	Key      string `json:"key,omitempty"`
	Callback string `json:"callback,omitempty"`
	// Owner is whose job it is, empty for nobody's.
	Owner   string        `json:"owner,omitempty"`
	Backoff Backoff       `json:"backoff,omitzero"`
	Timeout unit.Duration `json:"timeout,omitempty"`
	MaxAge  unit.Duration `json:"max_age,omitempty"`
	// RunAt is when the job was due first, if not at once.
	RunAt *time.Time `json:"run_at,omitempty"`
	// Schedule names the schedule that made the job, ScheduledFor the tick.
	Schedule     string     `json:"schedule,omitempty"`
	ScheduledFor *time.Time `json:"scheduled_for,omitempty"`
}

func (pushArgs) Kind() string { return "push" }

// callArgs is a job for a worker in this process.
type callArgs struct {
	Name    string `json:"kind"`
	Key     string `json:"key,omitempty"`
	Payload []byte `json:"payload"`
}

func (callArgs) Kind() string { return "call" }

type pushWorker struct {
	river.WorkerDefaults[pushArgs]
	s *Service
}

func (w *pushWorker) Timeout(job *river.Job[pushArgs]) time.Duration {
	if n := len(job.AttemptedBy); n > 0 && strings.HasPrefix(job.AttemptedBy[n-1], pullOwner) {
		return -1 // on lease; the engine, which asks when it looks for stuck jobs, leaves it alone
	}
	return job.Args.Timeout.Or(w.s.settings(job.Queue).Timeout.Std())
}

func (w *pushWorker) NextRetry(job *river.Job[pushArgs]) time.Time {
	b := job.Args.Backoff
	if b == (Backoff{}) {
		b = w.s.settings(job.Queue).Backoff
	}
	return time.Now().Add(b.wait(job.Attempt))
}

func (w *pushWorker) Work(ctx context.Context, job *river.Job[pushArgs]) error {
	defer w.s.freed(job.ID, job.Queue)
	ctx, leave := w.s.cuts.join(ctx, job.Queue)
	defer leave()
	expires := w.s.expires(job)
	if !expires.IsZero() && time.Now().After(expires) {
		return w.s.answer(ctx, job.JobRow, refused{errTooOld})
	}
	err := w.s.push(ctx, job)
	if later, ok := errors.AsType[postponed](err); ok && !expires.IsZero() && time.Now().Add(later.after).After(expires) {
		err = refused{fmt.Errorf("%w; at last %w", errTooOld, err)}
	}
	return w.s.answer(ctx, job.JobRow, err)
}

var errTooOld = errors.New("the job's max_age has passed before it was done")

// expires is when the job is too old to be tried, zero for never. It is counted from when the job was
// due first, or from when a person had it retried.
func (s *Service) expires(job *river.Job[pushArgs]) time.Time {
	age := job.Args.MaxAge.Or(s.settings(job.Queue).MaxAge.Std())
	if age == 0 {
		return time.Time{}
	}
	from := job.CreatedAt
	if job.Args.RunAt != nil {
		from = *job.Args.RunAt
	}
	var retried struct {
		At int64 `json:"retried_at"` // unix milliseconds
	}
	if json.Unmarshal(job.Metadata, &retried) == nil && retried.At > from.UnixMilli() {
		from = time.UnixMilli(retried.At)
	}
	return from.Add(age)
}

type callWorker struct {
	river.WorkerDefaults[callArgs]
	s *Service
}

// Timeout is none: the worker of a kind knows how long its work may take.
func (w *callWorker) Timeout(*river.Job[callArgs]) time.Duration { return -1 }

func (w *callWorker) NextRetry(job *river.Job[callArgs]) time.Time {
	return time.Now().Add(internalSettings.Backoff.wait(job.Attempt))
}

func (w *callWorker) Work(ctx context.Context, job *river.Job[callArgs]) error {
	defer w.s.freed(job.ID, job.Queue)
	ctx, leave := w.s.cuts.join(ctx, job.Queue)
	defer leave()
	work := w.s.worker(job.Args.Name)
	if work == nil {
		return river.JobSnooze(noWorkerYet)
	}
	return w.s.answer(ctx, job.JobRow, w.call(ctx, job, work))
}

// call runs the work; a panic of it is an error like another.
func (w *callWorker) call(ctx context.Context, job *river.Job[callArgs], work func(context.Context, []byte) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			w.s.log.Error("a worker panicked", "kind", job.Args.Name, "job", job.ID, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("the worker panicked: %v", p)
		}
	}()
	return work(ctx, job.Args.Payload)
}

// cleaned is an error whose text fits the engine's record, which PostgreSQL keeps as JSON: one that
// does not would keep the whole batch of ended jobs from being stored.
type cleaned struct{ error }

func (c cleaned) Error() string { return clean(c.error.Error()) }
func (c cleaned) Unwrap() error { return c.error }

// answer is err in the engine's terms.
func (s *Service) answer(ctx context.Context, row *rivertype.JobRow, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return s.calledOff(ctx, row)
	}
	if later, ok := errors.AsType[interface {
		error
		RetryAfter() time.Duration
	}](err); ok {
		return river.JobSnooze(min(max(later.RetryAfter(), 0), maxPostpone))
	}
	if p, ok := errors.AsType[interface {
		error
		Permanent() bool
	}](err); ok && p.Permanent() {
		// The engine has no word for "failed for good": its cancel is what users ask for. With no
		// attempt left it takes the job for dead; the stored number stays as it is.
		row.MaxAttempts = row.Attempt
	}
	return cleaned{err}
}
