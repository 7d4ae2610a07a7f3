package jobs

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// The states that users see.
const (
	stateScheduled = "scheduled" // its time has not come
	stateQueued    = "queued"    // waits for a worker
	stateRunning   = "running"
	stateRetrying  = "retrying" // was tried or postponed, and waits for its next time
	stateCompleted = "completed"
	stateDead      = "dead" // failed for good
	stateCancelled = "cancelled"
)

// engineStates are the states of the engine that a user's state can stand for.
var engineStates = map[string]string{
	stateScheduled: "'scheduled', 'available'",
	stateQueued:    "'available', 'pending'",
	stateRunning:   "'running'",
	stateRetrying:  "'retryable', 'scheduled', 'available'",
	stateCompleted: "'completed'",
	stateDead:      "'discarded'",
	stateCancelled: "'cancelled'",
}

// everyState are the states of the engine. Named in a query on one queue they open the index by state.
const everyState = "'available', 'cancelled', 'completed', 'discarded', 'pending', 'retryable', 'running', 'scheduled'"

// View is a job as the API shows it.
type View struct {
	ID    string `json:"id"`
	Queue string `json:"queue"`
	// Kind is the in-process kind of a job on the queue internal, empty for a push.
	Kind        string `json:"kind,omitempty"`
	State       string `json:"state"`
	Attempt     int    `json:"attempt"`
	MaxAttempts int    `json:"max_attempts"`
	// Postponed counts the runs that used no attempt: the target said 429 or 503.
	Postponed int    `json:"postponed,omitempty"`
	Priority  int    `json:"priority"`
	Target    string `json:"target,omitempty"`
	UniqueKey string `json:"unique_key,omitempty"`
	// Key is the tenant whose job it is.
	Key string `json:"key,omitempty"`
	// Owner is whose job it is, absent for nobody's.
	Owner string `json:"owner,omitempty"`
	// Schedule is the schedule that made the job.
	Schedule string `json:"schedule,omitempty"`
	// MaxAge is the job's own, how long it is tried.
	MaxAge string `json:"max_age,omitempty"`
	// Callback is the URL that is told of the job's end.
	Callback string `json:"callback,omitempty"`
	// Cancelling says that the job runs and was asked to stop.
	Cancelling bool `json:"cancelling,omitempty"`
	// WaitingFor is what keeps a job that is due from running, as the instance that answers sees it. A list
	// leaves it out.
	WaitingFor string     `json:"waiting_for,omitempty"`
	CreatedAt  time.Time  `json:"created_at"`
	RunAt      time.Time  `json:"run_at"`
	StartedAt  *time.Time `json:"started_at,omitempty"`
	FinishedAt *time.Time `json:"finished_at,omitempty"`
	// Worker is the pull worker that has the job on lease, LeaseExpiresAt until when.
	Worker         string     `json:"worker,omitempty"`
	LeaseExpiresAt *time.Time `json:"lease_expires_at,omitempty"`
	// Progress is what the worker said last about the job under way.
	Progress json.RawMessage `json:"progress,omitempty"`
	// LastStatus is the status of the target's last answer that was a failure.
	LastStatus int `json:"last_status,omitempty"`
	// Errors are the failed attempts, the oldest first. A list shows the last one alone.
	Errors []Failure `json:"errors"`
	// Payload is what was posted, if it is JSON. A list leaves it out.
	Payload json.RawMessage `json:"payload,omitempty"`
	// Result is what the worker gave back. A list leaves it out.
	Result json.RawMessage `json:"result,omitempty"`
}

// Failure is one failed attempt.
type Failure struct {
	Time    time.Time `json:"time"`
	Attempt int       `json:"attempt"`
	Message string    `json:"message"`
	// Status is the status of the target's answer, absent if there was none.
	Status int `json:"status,omitempty"`
}

// viewColumns are read by scanView. errors is an expression for those that are shown.
func (d dialect) viewColumns(errors string) string {
	return `j.id, j.queue, j.kind, ` + d.userState() + `, j.attempt, j.max_attempts,
	coalesce(CAST(j.metadata ->> 'snoozes' AS INTEGER), 0), j.priority, coalesce(j.args ->> 'target', ''),
	coalesce(j.args ->> 'unique_key', ''), coalesce(j.args ->> 'kind', ''), coalesce(j.args ->> 'key', ''),
	coalesce(j.args ->> 'schedule', ''), coalesce(j.args ->> 'max_age', ''), coalesce(j.args ->> 'callback', ''), coalesce(j.metadata ->> 'owner', ''),
	coalesce(j.metadata ->> 'progress', ''), j.state = 'running' AND j.metadata ->> 'cancel_attempted_at' IS NOT NULL,
	j.created_at, j.scheduled_at, j.attempted_at, j.finalized_at, ` + errors
}

func (s *Service) scanView(scan func(...any) error, more ...any) (v View, err error) {
	var id int64
	var kind, progress string
	var started, finished sql.NullTime
	var failures []byte
	err = scan(append([]any{&id, &v.Queue, &kind, &v.State, &v.Attempt, &v.MaxAttempts, &v.Postponed, &v.Priority, &v.Target,
		&v.UniqueKey, &v.Kind, &v.Key, &v.Schedule, &v.MaxAge, &v.Callback, &v.Owner, &progress, &v.Cancelling, &v.CreatedAt, &v.RunAt, &started, &finished,
		&failures}, more...)...)
	if err != nil {
		return View{}, err
	}
	v.ID, v.CreatedAt, v.RunAt = strconv.FormatInt(id, 10), v.CreatedAt.UTC(), v.RunAt.UTC()
	v.Schedule = service.Unscoped(v.Schedule)
	if kind == (pushArgs{}).Kind() && v.Target == "" {
		v.Target = s.settings(v.Queue).Target
	}
	v.StartedAt, v.FinishedAt = timeOf(started), timeOf(finished)
	v.Progress = jsonOf(progress)
	v.Errors = failuresOf(failures)
	for i := len(v.Errors) - 1; i >= 0 && v.LastStatus == 0; i-- {
		v.LastStatus = v.Errors[i].Status
	}
	return v, nil
}

// jsonOf is JSON that was stored as a text, so that it comes back byte by byte.
func jsonOf(text string) json.RawMessage {
	if text == "" || !json.Valid([]byte(text)) {
		return nil
	}
	return json.RawMessage(text)
}

func timeOf(t sql.NullTime) *time.Time {
	if !t.Valid {
		return nil
	}
	at := t.Time.UTC()
	return &at
}

// failuresOf reads the engine's record of errors.
func failuresOf(raw []byte) []Failure {
	var records []json.RawMessage
	if json.Unmarshal(raw, &records) != nil {
		return []Failure{} // somebody else's writing
	}
	failures := make([]Failure, len(records))
	for i, record := range records {
		var r struct {
			At      time.Time `json:"at"`
			Attempt int       `json:"attempt"`
			Error   string    `json:"error"`
		}
		_ = json.Unmarshal(record, &r) // what cannot be read stays empty
		status, _ := statusOf(r.Error)
		failures[i] = Failure{Time: r.At.UTC(), Attempt: r.Attempt, Message: messageOf(r.Error), Status: status}
	}
	return failures
}

// rowQueryer is the reading pool, or a transaction.
type rowQueryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// engineTexts are what the engine itself records, in words for users.
var engineTexts = []struct{ begins, message string }{
	{"JobCancelError", "the job was cancelled"},
	{"Stuck job rescued", "the job did not end in its time, and nobody knows what became of it"},
	{"job kind is not registered", "nobody works jobs of this kind"},
	{"job row couldn't be decoded", "the job's record is damaged"},
}

// messageOf is the message of a record of the engine, without the status.
func messageOf(record string) string {
	for _, t := range engineTexts {
		if strings.HasPrefix(record, t.begins) {
			return t.message
		}
	}
	status, message := statusOf(record)
	return cmp.Or(clean(message), http.StatusText(status))
}

// job is one job in full.
func (s *Service) job(ctx context.Context, id int64) (View, error) {
	return s.jobIn(ctx, s.db.Read, id)
}

// jobIn is job as db sees it.
func (s *Service) jobIn(ctx context.Context, db rowQueryer, id int64) (View, error) {
	var args []byte
	var worker, result string
	var lease sql.NullInt64
	row := db.QueryRowContext(ctx, "SELECT "+s.q.viewColumns(s.q.errors)+", "+s.q.args+`, coalesce(j.metadata ->> 'output', ''), coalesce(l.worker, ''), l.expires_at
		FROM river_job j LEFT JOIN jobs_leases l ON l.job_id = j.id WHERE j.id = $1`, id)
	v, err := s.scanView(row.Scan, &args, &result, &worker, &lease)
	if noRows(err) || err == nil && !httpapi.MayUse(ctx, v.Owner) {
		return View{}, noJob(id)
	}
	if err != nil {
		return View{}, fmt.Errorf("reading a job: %w", err)
	}
	v.Result = jsonOf(result)
	if lease.Valid && v.State == stateRunning {
		at := time.UnixMilli(lease.Int64).UTC()
		v.Worker, v.LeaseExpiresAt = worker, &at
	}
	if isInternal(v.Queue) {
		return v, nil
	}
	var push pushArgs
	if json.Unmarshal(args, &push) != nil {
		return v, nil //nolint:nilerr // somebody else's writing
	}
	if json.Valid(push.Body) && utf8.Valid(push.Body) {
		v.Payload = push.Body
	}
	return v, nil
}

func noJob(id int64) error {
	return problem.New(problem.NotFound, "There is no job %d, or it finished so long ago that it is no longer kept.", id)
}

// list is one page of the jobs that f chooses, newest first. before is the id that the page begins below.
func (s *Service) list(ctx context.Context, f *filter, before int64, limit int) ([]View, error) {
	where, args := f.where(s.q, before)
	//nolint:gosec // the pieces are ours, what comes from outside is a parameter
	rows, err := s.db.Read.QueryContext(ctx, "SELECT "+s.q.viewColumns(s.q.lastErrors())+" FROM river_job j WHERE "+where+
		" ORDER BY j.id DESC LIMIT "+strconv.Itoa(limit), args...)
	if err != nil {
		return nil, fmt.Errorf("listing jobs: %w", err)
	}
	defer func() { _ = rows.Close() }()
	views := []View{}
	for rows.Next() {
		v, err := s.scanView(rows.Scan)
		if err != nil {
			return nil, fmt.Errorf("listing jobs: %w", err)
		}
		views = append(views, v)
	}
	return views, rows.Err()
}
