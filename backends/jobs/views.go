package jobs

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
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

// userState is the user's state of the row j. The engine calls a job available up to 5 s before
// its time.
const userState = `CASE
	WHEN j.state IN ('running', 'completed', 'cancelled') THEN j.state
	WHEN j.state = 'discarded' THEN 'dead'
	WHEN j.state = 'retryable' THEN 'retrying'
	WHEN j.state = 'scheduled' OR j.state = 'available' AND j.scheduled_at > datetime('now', 'subsec')
		THEN CASE WHEN j.attempt > 0 OR j.metadata -> '$.snoozes' IS NOT NULL THEN 'retrying' ELSE 'scheduled' END
	ELSE 'queued' END`

// remembered says of the row j that it is completed and its unique key still counts.
const remembered = `j.state = 'completed' AND j.finalized_at > datetime('now', 'subsec', '-24 hours')`

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
	// Cancelling says that the job runs and was asked to stop.
	Cancelling bool       `json:"cancelling,omitempty"`
	CreatedAt  time.Time  `json:"created_at"`
	RunAt      time.Time  `json:"run_at"`
	StartedAt  *time.Time `json:"started_at,omitempty"`
	FinishedAt *time.Time `json:"finished_at,omitempty"`
	Errors     []Failure  `json:"errors"`
	// Payload is what was posted, if it is JSON. A list leaves it out.
	Payload json.RawMessage `json:"payload,omitempty"`
}

// Failure is one failed attempt.
type Failure struct {
	Time    time.Time `json:"time"`
	Attempt int       `json:"attempt"`
	Message string    `json:"message"`
	// Status is the status of the target's answer, absent if there was none.
	Status int `json:"status,omitempty"`
}

const viewColumns = `j.id, j.queue, j.kind, ` + userState + `, j.attempt, j.max_attempts,
	coalesce(j.metadata ->> '$.snoozes', 0), j.priority, coalesce(j.args ->> '$.target', ''),
	coalesce(j.args ->> '$.unique_key', ''), coalesce(j.args ->> '$.kind', ''),
	j.state = 'running' AND j.metadata -> '$.cancel_attempted_at' IS NOT NULL,
	j.created_at, j.scheduled_at, j.attempted_at, j.finalized_at, coalesce(json(j.errors), '[]')`

func (s *Service) scanView(scan func(...any) error, more ...any) (v View, err error) {
	var id int64
	var kind string
	var started, finished sql.NullTime
	var failures []byte
	err = scan(append([]any{&id, &v.Queue, &kind, &v.State, &v.Attempt, &v.MaxAttempts, &v.Postponed, &v.Priority, &v.Target,
		&v.UniqueKey, &v.Kind, &v.Cancelling, &v.CreatedAt, &v.RunAt, &started, &finished, &failures}, more...)...)
	if err != nil {
		return View{}, err
	}
	v.ID, v.CreatedAt, v.RunAt = strconv.FormatInt(id, 10), v.CreatedAt.UTC(), v.RunAt.UTC()
	if kind == (pushArgs{}).Kind() && v.Target == "" {
		v.Target = s.settings(v.Queue).Target
	}
	v.StartedAt, v.FinishedAt = timeOf(started), timeOf(finished)
	v.Errors, err = failuresOf(failures)
	return v, err
}

func timeOf(t sql.NullTime) *time.Time {
	if !t.Valid {
		return nil
	}
	at := t.Time.UTC()
	return &at
}

// failuresOf reads the engine's record of errors.
func failuresOf(raw []byte) ([]Failure, error) {
	var records []struct {
		At      time.Time `json:"at"`
		Attempt int       `json:"attempt"`
		Error   string    `json:"error"`
	}
	if err := json.Unmarshal(raw, &records); err != nil {
		return nil, fmt.Errorf("reading the errors of a job: %w", err)
	}
	failures := make([]Failure, len(records))
	for i, r := range records {
		status, message := statusOf(r.Error)
		failures[i] = Failure{Time: r.At.UTC(), Attempt: r.Attempt, Message: clean(message), Status: status}
		if failures[i].Message == "" {
			failures[i].Message = http.StatusText(status)
		}
	}
	return failures, nil
}

// job is one job in full.
func (s *Service) job(ctx context.Context, id int64) (View, error) {
	var args []byte
	row := s.db.Read.QueryRowContext(ctx, "SELECT "+viewColumns+", json(j.args) FROM river_job j WHERE j.id = ?", id)
	v, err := s.scanView(row.Scan, &args)
	if errors.Is(err, sql.ErrNoRows) {
		return View{}, noJob(id)
	}
	if err != nil {
		return View{}, fmt.Errorf("reading a job: %w", err)
	}
	var push pushArgs
	if err = json.Unmarshal(args, &push); err != nil {
		return View{}, fmt.Errorf("reading the arguments of a job: %w", err)
	}
	if json.Valid(push.Body) && utf8.Valid(push.Body) {
		v.Payload = push.Body
	}
	return v, nil
}

func noJob(id int64) error {
	return problem.New(problem.NotFound, "There is no job %d, or it finished so long ago that it is no longer kept.", id)
}

// list is one page of jobs, newest first. Empty queue or state stand for all; before is the id
// that the page begins below.
func (s *Service) list(ctx context.Context, queue, state string, before int64, limit int) ([]View, error) {
	where, args := []string{"j.id < ?"}, []any{before}
	if queue != "" {
		where, args = append(where, "j.queue = ?"), append(args, queue)
	}
	if state != "" {
		where, args = append(where, "j.state IN ("+engineStates[state]+")", userState+" = ?"), append(args, state)
	}
	//nolint:gosec // the pieces are constants, values are arguments
	rows, err := s.db.Read.QueryContext(ctx, "SELECT "+viewColumns+" FROM river_job j WHERE "+
		strings.Join(where, " AND ")+" ORDER BY j.id DESC LIMIT ?", append(args, limit)...)
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

// QueueView is a queue as the API shows it.
type QueueView struct {
	Name   string `json:"name"`
	Target string `json:"target,omitempty"`
	// Concurrency is 0 for a queue that still holds jobs but is no longer configured: nobody works it.
	Concurrency int            `json:"concurrency"`
	Paused      bool           `json:"paused"`
	Counts      map[string]int `json:"counts"`
}

// counts are the numbers of jobs by queue and state.
func (s *Service) counts(ctx context.Context) (map[string]map[string]int, error) {
	rows, err := s.db.Read.QueryContext(ctx, "SELECT j.queue, "+userState+", count(*) FROM river_job j GROUP BY 1, 2")
	if err != nil {
		return nil, fmt.Errorf("counting jobs: %w", err)
	}
	defer func() { _ = rows.Close() }()
	all := map[string]map[string]int{}
	for rows.Next() {
		var queue, state string
		var n int
		if err = rows.Scan(&queue, &state, &n); err != nil {
			return nil, fmt.Errorf("counting jobs: %w", err)
		}
		if all[queue] == nil {
			all[queue] = map[string]int{}
		}
		all[queue][state] = n
	}
	return all, rows.Err()
}

// paused are the names of the paused queues.
func (s *Service) paused(ctx context.Context) (map[string]bool, error) {
	rows, err := s.db.Read.QueryContext(ctx, "SELECT name FROM river_queue WHERE paused_at IS NOT NULL")
	if err != nil {
		return nil, fmt.Errorf("reading the queues: %w", err)
	}
	defer func() { _ = rows.Close() }()
	names := map[string]bool{}
	for rows.Next() {
		var name string
		if err = rows.Scan(&name); err != nil {
			return nil, fmt.Errorf("reading the queues: %w", err)
		}
		names[name] = true
	}
	return names, rows.Err()
}
