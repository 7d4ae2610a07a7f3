package jobs

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivertype"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// leaseEnded is the error of an attempt whose lease lapsed.
const leaseEnded = "the worker's lease ended"

// checkFence reads the fence of a request.
func checkFence(fence *int64) error {
	if fence == nil || *fence < 1 {
		return unfit("fence is required: the number that came with the lease.")
	}
	return nil
}

// checkJSON checks JSON that a worker stores with a job.
func checkJSON(member string, v json.RawMessage, most int) error {
	if len(v) > most {
		return problem.New(problem.ContentTooLarge, "%s must not be larger than %d bytes.", member, most)
	}
	if !utf8.Valid(v) {
		return problem.New(problem.InvalidRequest, "%s must be valid UTF-8.", member)
	}
	return nil
}

// HeartbeatReceipt is the answer to a heartbeat.
type HeartbeatReceipt struct {
	ExpiresAt time.Time `json:"expires_at"`
	// Cancelling asks the worker to stop.
	Cancelling bool `json:"cancelling"`
}

func (s *Service) postHeartbeat(w http.ResponseWriter, r *http.Request) error {
	id, err := jobID(r)
	if err != nil {
		return err
	}
	var q struct {
		Fence      *int64          `json:"fence"`
		Visibility string          `json:"visibility"`
		Progress   json.RawMessage `json:"progress"`
	}
	if err = httpapi.DecodeJSON(w, r, 4*maxProgress, &q); err != nil {
		return err
	}
	if err = checkFence(q.Fence); err != nil {
		return err
	}
	visibility, err := durationOf("visibility", q.Visibility, 0, minVisibility, maxVisibility)
	if err != nil {
		return err
	}
	if err = checkJSON("progress", q.Progress, maxProgress); err != nil {
		return err
	}
	var receipt HeartbeatReceipt
	err = s.db.InTx(r.Context(), func(tx *sql.Tx) error {
		receipt, err = s.extendTx(r.Context(), tx, id, *q.Fence, visibility, q.Progress)
		return err
	})
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, receipt)
}

// extendTx makes the lease last from now on. A visibility of 0 is the lease's own.
func (s *Service) extendTx(ctx context.Context, tx *sql.Tx, id, fence int64, visibility time.Duration, progress json.RawMessage) (h HeartbeatReceipt, err error) {
	now := time.Now()
	var expires int64
	err = tx.QueryRowContext(ctx, `UPDATE jobs_leases SET
			visibility_ms = CASE WHEN $1 = 0 THEN visibility_ms ELSE $1 END,
			expires_at = $2 + CASE WHEN $1 = 0 THEN visibility_ms ELSE $1 END
		WHERE job_id = $3 AND fence = $4 AND expires_at > $2 RETURNING expires_at`,
		visibility.Milliseconds(), now.UnixMilli(), id, fence).Scan(&expires)
	if noRows(err) {
		return h, s.lostTx(ctx, tx, id)
	}
	if err != nil {
		return h, fmt.Errorf("extending a lease: %w", err)
	}
	h.ExpiresAt = time.UnixMilli(expires).UTC()
	var running bool
	err = tx.QueryRowContext(ctx, "SELECT j.state = 'running', j.metadata ->> 'cancel_attempted_at' IS NOT NULL FROM river_job j WHERE j.id = $1", id).
		Scan(&running, &h.Cancelling)
	if err != nil && !noRows(err) {
		return h, fmt.Errorf("reading a job: %w", err)
	}
	if !running {
		return h, leaseLost(id)
	}
	if progress != nil {
		err = s.noteTx(ctx, tx, id, map[string]any{"progress": string(progress)})
	}
	return h, err
}

// noteTx merges members into the metadata of a job.
func (s *Service) noteTx(ctx context.Context, tx *sql.Tx, id int64, note map[string]any) error {
	b, err := json.Marshal(note)
	if err != nil {
		return err
	}
	_, err = s.river.Driver().UnwrapExecutor(tx).JobUpdate(ctx, &riverdriver.JobUpdateParams{ID: id, MetadataDoMerge: true, Metadata: b})
	if err != nil {
		return fmt.Errorf("storing what a worker says of a job: %w", err)
	}
	return nil
}

// lostTx is leaseLost, or that there is no such job.
func (s *Service) lostTx(ctx context.Context, tx *sql.Tx, id int64) error {
	var one int
	if err := tx.QueryRowContext(ctx, "SELECT 1 FROM river_job WHERE id = $1", id).Scan(&one); noRows(err) {
		return noJob(id)
	} else if err != nil {
		return fmt.Errorf("reading a job: %w", err)
	}
	return leaseLost(id)
}

func (s *Service) postComplete(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		Fence  *int64          `json:"fence"`
		Result json.RawMessage `json:"result"`
	}
	if err := httpapi.DecodeJSON(w, r, maxResult+maxProgress, &q); err != nil {
		return err
	}
	if err := checkFence(q.Fence); err != nil {
		return err
	}
	if err := checkJSON("result", q.Result, maxResult); err != nil {
		return err
	}
	return s.endLease(w, r, *q.Fence, func(*rivertype.JobRow, time.Time) verb {
		v := verb{name: "complete", state: rivertype.JobStateCompleted}
		if q.Result != nil {
			v.note = map[string]any{"output": string(q.Result)}
		}
		return v
	})
}

func (s *Service) postFail(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		Fence      *int64 `json:"fence"`
		Error      string `json:"error"`
		RetryAfter string `json:"retry_after"`
		Permanent  bool   `json:"permanent"`
	}
	if err := httpapi.DecodeJSON(w, r, maxResult, &q); err != nil {
		return err
	}
	if err := checkFence(q.Fence); err != nil {
		return err
	}
	after, err := durationOf("retry_after", q.RetryAfter, -1, 0, maxPostpone)
	if err != nil {
		return err
	}
	message := clean(q.Error)
	if message == "" {
		return unfit("error is required: why the attempt failed.")
	}
	return s.endLease(w, r, *q.Fence, func(row *rivertype.JobRow, now time.Time) verb {
		return s.failed(row, now, message, after, q.Permanent)
	})
}

// verb is what the end of a lease makes of a job.
type verb struct {
	name  string
	state rivertype.JobState
	at    time.Time // of the next attempt
	fault string
	note  map[string]any
}

// failed is a failed attempt. after below 0 is the wait of the queue's backoff.
func (s *Service) failed(row *rivertype.JobRow, now time.Time, message string, after time.Duration, permanent bool) verb {
	v := verb{name: "fail", state: rivertype.JobStateDiscarded, fault: message}
	if permanent || row.Attempt >= row.MaxAttempts {
		return v
	}
	job := &river.Job[pushArgs]{JobRow: row}
	if json.Unmarshal(row.EncodedArgs, &job.Args) != nil {
		return v
	}
	if v.at = now.Add(after); after < 0 {
		v.at = (&pushWorker{s: s}).NextRetry(job)
	}
	if expires := s.expires(job); !expires.IsZero() && v.at.After(expires) {
		return v
	}
	if v.state = rivertype.JobStateRetryable; v.at.Sub(now) < scheduleAhead {
		v.state = rivertype.JobStateAvailable
	}
	return v
}

// endLease ends the lease that the request names with what it decides. Said twice by the same worker, as
// when the first answer was lost, it is done once.
func (s *Service) endLease(w http.ResponseWriter, r *http.Request, fence int64, decide func(row *rivertype.JobRow, now time.Time) verb) error {
	id, err := jobID(r)
	if err != nil {
		return err
	}
	now := time.Now()
	var row *rivertype.JobRow
	err = s.db.InTx(r.Context(), func(tx *sql.Tx) error {
		ctx := r.Context()
		res, err := tx.ExecContext(ctx, "DELETE FROM jobs_leases WHERE job_id = $1 AND fence = $2 AND expires_at > $3", id, fence, now.UnixMilli())
		if err != nil {
			return fmt.Errorf("ending a lease: %w", err)
		}
		held, err := res.RowsAffected()
		if err != nil {
			return err
		}
		found, err := s.river.Driver().UnwrapExecutor(tx).JobGetByIDMany(ctx, &riverdriver.JobGetByIDManyParams{ID: []int64{id}})
		switch {
		case err != nil:
			return fmt.Errorf("reading a job: %w", err)
		case len(found) == 0:
			return noJob(id)
		}
		v := decide(found[0], now)
		if held == 0 || found[0].State != rivertype.JobStateRunning {
			if row = found[0]; row.State != rivertype.JobStateRunning && saidBefore(row, fence, v.name) {
				return nil
			}
			return leaseLost(id)
		}
		row, err = s.endTx(ctx, tx, found[0], v, fence, now)
		return err
	})
	if err != nil {
		return err
	}
	s.ended(row)
	return httpapi.WriteJSON(w, http.StatusOK, Receipt{ID: itoa(id), State: shownState(row)})
}

// saidBefore says that the job's last lease had this fence, and was ended by the same verb.
func saidBefore(row *rivertype.JobRow, fence int64, name string) bool {
	var m struct {
		Fence int64  `json:"fence"`
		Verb  string `json:"verb"`
	}
	return json.Unmarshal(row.Metadata, &m) == nil && m.Fence == fence && m.Verb == name
}

// shownState is the user's state of a job that is not running.
func shownState(row *rivertype.JobRow) string {
	switch row.State {
	case rivertype.JobStateCompleted, rivertype.JobStateCancelled:
		return string(row.State)
	case rivertype.JobStateDiscarded:
		return stateDead
	default:
		return stateRetrying
	}
}

// endTx does what v says to a running job. One that was asked to stop, and would be tried again, is
// cancelled by the engine.
func (s *Service) endTx(ctx context.Context, tx *sql.Tx, row *rivertype.JobRow, v verb, fence int64, now time.Time) (*rivertype.JobRow, error) {
	p := &riverdriver.JobSetStateIfRunningManyParams{
		ID: []int64{row.ID}, Attempt: []*int{nil}, ErrData: [][]byte{nil}, FinalizedAt: []*time.Time{nil}, ScheduledAt: []*time.Time{nil},
		MetadataDoMerge: []bool{true}, State: []rivertype.JobState{v.state}, Now: &now,
	}
	if v.fault != "" {
		fault, err := json.Marshal(rivertype.AttemptError{At: now.UTC(), Attempt: row.Attempt, Error: v.fault})
		if err != nil {
			return nil, err
		}
		p.ErrData[0] = fault
	}
	switch v.state {
	case rivertype.JobStateCompleted, rivertype.JobStateDiscarded:
		p.FinalizedAt[0] = &now
	default:
		p.ScheduledAt[0] = &v.at
	}
	note := map[string]any{"fence": fence, "verb": v.name}
	for name, value := range v.note {
		note[name] = value
	}
	b, err := json.Marshal(note)
	if err != nil {
		return nil, err
	}
	p.MetadataUpdates = [][]byte{b}
	return s.setState(ctx, tx, p)
}

// backTx puts a running job back as if it had not been taken.
func (s *Service) backTx(ctx context.Context, tx *sql.Tx, id int64, attempt int) error {
	now, before := time.Now(), max(attempt-1, 0)
	_, err := s.setState(ctx, tx, &riverdriver.JobSetStateIfRunningManyParams{
		ID: []int64{id}, Attempt: []*int{&before}, ErrData: [][]byte{nil}, FinalizedAt: []*time.Time{nil}, ScheduledAt: []*time.Time{nil},
		MetadataDoMerge: []bool{false}, MetadataUpdates: [][]byte{[]byte("{}")}, State: []rivertype.JobState{rivertype.JobStateAvailable}, Now: &now,
	})
	return err
}

func (s *Service) setState(ctx context.Context, tx *sql.Tx, p *riverdriver.JobSetStateIfRunningManyParams) (*rivertype.JobRow, error) {
	rows, err := s.river.Driver().UnwrapExecutor(tx).JobSetStateIfRunningMany(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("ending a job: %w", err)
	}
	if len(rows) == 0 {
		return nil, noJob(p.ID[0])
	}
	return rows[0], nil
}

// ended wakes what waits for the job that is not running any more.
func (s *Service) ended(row *rivertype.JobRow) {
	if row.State == rivertype.JobStateDiscarded {
		s.died(row)
	}
	if row.FinalizedAt != nil {
		s.callbacks.poke()
		s.awaiting.done(row.ID)
		if s.settings(row.Queue).Ordered {
			s.bells.ring(row.Queue) // the next one of the key may start
		}
	} else {
		s.wakeQueueAt(row.ScheduledAt, row.Queue)
	}
}
