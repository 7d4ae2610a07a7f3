package jobs

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const (
	// bulkPage is how many jobs one transaction of a bulk change looks at.
	bulkPage = 1000
	// bulkRead is how many jobs are chosen at once.
	bulkRead = 100_000
)

// bulk is the body of POST /jobs/retry and POST /jobs/cancel.
type bulk struct {
	filter
	// Cause is that of a group; jobs of other groups are left alone.
	Cause string `json:"cause"`
	// Limit is the most jobs that are changed, the newest first. Default: all.
	Limit *int `json:"limit"`
	// DryRun counts and changes nothing.
	DryRun bool `json:"dry_run"`
}

// BulkReceipt is the answer to a bulk change.
type BulkReceipt struct {
	Count int `json:"count"`
	// Skipped are jobs that the filter chose, but another job has taken over their unique key.
	Skipped int  `json:"skipped,omitempty"`
	DryRun  bool `json:"dry_run,omitempty"`
}

func bulkOf(w http.ResponseWriter, r *http.Request) (*bulk, error) {
	body, err := httpapi.ReadBody(w, r, maxProgress)
	if err != nil {
		return nil, err
	}
	b := new(bulk)
	if len(body) > 0 {
		if err = decode(w, r, body, b); err != nil {
			return nil, err
		}
	}
	if err = b.check(); err != nil {
		return nil, err
	}
	if len(b.Cause) > maxKey {
		return nil, unfit("cause is not one of a group.")
	}
	if b.Limit == nil {
		all := math.MaxInt
		b.Limit = &all
	}
	if *b.Limit < 1 {
		return nil, unfit("limit must be at least 1.")
	}
	return b, nil
}

// retryJobs puts the chosen jobs back into their queues, those that are dead unless it says otherwise.
func (s *Service) retryJobs(w http.ResponseWriter, r *http.Request) error {
	b, err := bulkOf(w, r)
	if err != nil {
		return err
	}
	b.restrict(httpapi.CallerOf(r.Context()))
	if b.State == "" {
		b.State = stateDead
	}
	if b.State == stateRunning || b.State == stateQueued {
		return unfit("state: jobs that are %s cannot be retried, choose dead, cancelled, completed, retrying or scheduled.", b.State)
	}
	receipt, err := s.inBulk(r.Context(), b, func(ctx context.Context, tx *sql.Tx, ids []int64) (int, int, error) {
		done, others, err := s.retryTx(ctx, tx, ids, b.State)
		return done, len(others), err
	})
	s.Poke() // also for what was done before an error
	for name := range s.queues {
		s.bells.ring(name)
	}
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, receipt)
}

// cancelJobs cancels the chosen jobs; those that run are asked to stop.
func (s *Service) cancelJobs(w http.ResponseWriter, r *http.Request) error {
	b, err := bulkOf(w, r)
	if err != nil {
		return err
	}
	switch b.State {
	case stateCompleted, stateDead, stateCancelled:
		return unfit("state: jobs that are %s cannot be cancelled, choose scheduled, queued, running or retrying.", b.State)
	}
	if b.empty() && b.Cause == "" {
		return unfit("Name at least one of queue, state, kind, key, owner, error, since and until: without any, all jobs would be cancelled.")
	}
	b.restrict(httpapi.CallerOf(r.Context()))
	if isInternal(b.Queue) {
		return problem.New(problem.Forbidden, "The jobs of the queue %.64s are the other backends' own and are not cancelled.", b.Queue)
	}
	receipt, err := s.inBulk(r.Context(), b, func(ctx context.Context, tx *sql.Tx, ids []int64) (int, int, error) {
		done, err := s.cancelTx(ctx, tx, ids, b.State)
		return done, 0, err
	})
	s.wake.look()
	s.callbacks.poke()
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, receipt)
}

// inBulk walks through the chosen jobs, the newest first, each once, and has change change a page of
// them in one transaction. What it has changed stays so if a later page fails.
func (s *Service) inBulk(ctx context.Context, b *bulk, change func(ctx context.Context, tx *sql.Tx, ids []int64) (done, skipped int, err error)) (BulkReceipt, error) {
	receipt := BulkReceipt{DryRun: b.DryRun}
	for before := int64(math.MaxInt64); before > 0; {
		ids, last, err := s.chooseBelow(ctx, b, before)
		if err != nil {
			return receipt, err
		}
		for before = last; len(ids) > 0; {
			n := min(len(ids), bulkPage, *b.Limit-receipt.Count)
			if n == 0 {
				return receipt, nil
			}
			done, skipped := n, 0
			if !b.DryRun {
				err = s.db.InTx(ctx, func(tx *sql.Tx) error {
					done, skipped, err = change(ctx, tx, ids[:n])
					return err
				})
				if err != nil {
					return receipt, err
				}
			}
			ids = ids[n:]
			receipt.Count += done
			receipt.Skipped += skipped
		}
	}
	return receipt, nil
}

// chooseBelow is the next of the chosen jobs, and the id that those after them are below, 0 if there are
// none.
func (s *Service) chooseBelow(ctx context.Context, b *bulk, before int64) (ids []int64, last int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	n := 0
	err = s.eachError(ctx, &b.filter, before, bulkRead, func(e *lastError) {
		n++
		last = e.id
		if isInternal(e.queue) && !isInternal(b.Queue) {
			return // the other backends' own are changed where they are meant alone
		}
		if b.Cause == "" || e.cause() == b.Cause {
			ids = append(ids, e.id)
		}
	})
	if err != nil {
		return nil, 0, slow(ctx, err)
	}
	if n < bulkRead {
		last = 0
	}
	return ids, last, nil
}

func jsonIDs(ids []int64) string {
	b, _ := json.Marshal(ids) //nolint:errchkjson // numbers always encode
	return string(b)
}

// chosen is the condition on the row j that its id is in $1 and that it has the user's state, if any.
func (s *Service) chosen(ids []int64, state string) (where string, args []any) {
	where, args = s.q.ids("j.id", "$1"), []any{jsonIDs(ids)}
	if state != "" {
		where, args = where+" AND "+s.q.userState()+" = $2", append(args, state)
	}
	return where, args
}

// retryTx puts the jobs back, unless they run, or are not in the state any more if it is not empty. others
// are the jobs that have taken over the unique keys of those that were left alone.
func (s *Service) retryTx(ctx context.Context, tx *sql.Tx, ids []int64, state string) (done int, others []int64, err error) {
	keyed, err := s.retryable(ctx, tx, ids, state)
	if err != nil {
		return 0, nil, err
	}
	var free []int64
	for _, k := range keyed {
		if k.unique.key != "" {
			other, _, err := s.holderOf(ctx, tx, k.unique)
			if err != nil {
				return 0, nil, err
			}
			if other != 0 && other != k.id {
				others = append(others, other)
				continue
			}
			if err = s.hold(ctx, tx, k.unique, k.id); err != nil {
				return 0, nil, err
			}
		}
		free = append(free, k.id)
	}
	if len(free) == 0 {
		return 0, others, nil
	}
	_, err = tx.ExecContext(ctx, `UPDATE river_job SET state = 'available', finalized_at = NULL, scheduled_at = `+s.q.now+`,
		max_attempts = CASE WHEN attempt >= max_attempts THEN attempt + 1 ELSE max_attempts END, metadata = `+s.q.anew()+`
		WHERE state <> 'running' AND `+s.q.ids("id", "$1"), jsonIDs(free))
	if err != nil {
		return 0, nil, fmt.Errorf("retrying jobs: %w", err)
	}
	return len(free), others, nil
}

// keyed is a job and its unique key.
type keyed struct {
	id     int64
	unique unique
}

// retryable locks the jobs that can be put back.
func (s *Service) retryable(ctx context.Context, tx *sql.Tx, ids []int64, state string) (found []keyed, err error) {
	where, args := s.chosen(ids, state)
	rows, err := tx.QueryContext(ctx, `SELECT j.id, j.queue, coalesce(j.args ->> 'unique_key', ''), coalesce(j.args ->> 'unique_scope', ''),
		coalesce(j.args ->> 'unique_ttl', ''), coalesce(j.args ->> 'owner', '') FROM river_job j WHERE j.state <> 'running' AND `+where+" ORDER BY j.id"+s.q.forUpdate(), args...)
	if err != nil {
		return nil, fmt.Errorf("reading the jobs to retry: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var k keyed
		var queue, ttl string
		var a pushArgs
		if err = rows.Scan(&k.id, &queue, &a.UniqueKey, &a.UniqueScope, &ttl, &a.Owner); err != nil {
			return nil, fmt.Errorf("reading the jobs to retry: %w", err)
		}
		if d, err := unit.ParseDuration(ttl); err == nil && ttl != "" {
			a.UniqueTTL = &d
		}
		k.unique = uniqueOf(queue, &a)
		found = append(found, k)
	}
	return found, rows.Err()
}

// cancelTx cancels the jobs that have not ended, and are still in the state if it is not empty.
func (s *Service) cancelTx(ctx context.Context, tx *sql.Tx, ids []int64, state string) (done int, err error) {
	waiting, running, err := s.cancellable(ctx, tx, ids, state)
	if err != nil {
		return 0, err
	}
	if len(waiting) > 0 {
		_, err = tx.ExecContext(ctx, `UPDATE river_job SET state = 'cancelled', finalized_at = `+s.q.now+`, metadata = `+s.q.withCancel("$1")+`
			WHERE finalized_at IS NULL AND state <> 'running' AND `+s.q.ids("id", "$2"), time.Now().UTC().Format(time.RFC3339Nano), jsonIDs(waiting))
		if err != nil {
			return 0, fmt.Errorf("cancelling jobs: %w", err)
		}
	}
	for _, id := range running {
		if _, err = s.river.JobCancelTx(ctx, tx, id); err != nil {
			return 0, fmt.Errorf("cancelling a job: %w", err)
		}
	}
	return len(waiting) + len(running), nil
}

// cancellable locks the jobs that have not ended.
func (s *Service) cancellable(ctx context.Context, tx *sql.Tx, ids []int64, state string) (waiting, running []int64, err error) {
	where, args := s.chosen(ids, state)
	rows, err := tx.QueryContext(ctx, `SELECT j.id, j.state = 'running' FROM river_job j
		WHERE j.finalized_at IS NULL AND `+notInternal+` AND `+where+" ORDER BY j.id"+s.q.forUpdate(), args...)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the jobs to cancel: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id int64
		var runs bool
		if err = rows.Scan(&id, &runs); err != nil {
			return nil, nil, fmt.Errorf("reading the jobs to cancel: %w", err)
		}
		if runs {
			running = append(running, id)
		} else {
			waiting = append(waiting, id)
		}
	}
	return waiting, running, rows.Err()
}

// putJob edits a job that neither runs nor is completed. It stays in its state.
func (s *Service) putJob(w http.ResponseWriter, r *http.Request) error {
	id, err := jobID(r)
	if err != nil {
		return err
	}
	var edit struct {
		Payload json.RawMessage `json:"payload"`
	}
	if err = httpapi.DecodeJSON(w, r, s.maxRequest(), &edit); err != nil {
		return err
	}
	if err = checkPayload(edit.Payload, maxMaxPayload); err != nil {
		return err
	}
	stored, err := s.db.Reserve(1, len(edit.Payload))
	if err != nil {
		return err
	}
	defer stored()
	if err = s.admitEdit(r.Context(), len(edit.Payload)); err != nil {
		return err
	}
	var v View
	err = s.db.InTx(r.Context(), func(tx *sql.Tx) error {
		ctx := r.Context()
		state, queue, err := s.lookUp(ctx, tx, id)
		if err != nil {
			return err
		}
		if state == stateRunning || state == stateCompleted {
			return problem.New(problem.Conflict, "The job %d is %s, so it cannot be edited.", id, state)
		}
		if match := r.Header.Get("If-Match"); match != "" {
			if v, err = s.jobIn(ctx, tx, id); err != nil {
				return err
			}
			if !matches(match, etag(v)) {
				return problem.New(problem.PreconditionFailed, "The job %d is not as it was under that If-Match: read it again.", id)
			}
		}
		if err = s.editTx(ctx, tx, id, queue, edit.Payload); err != nil {
			return err
		}
		v, err = s.jobIn(ctx, tx, id)
		return err
	})
	if err != nil {
		return err
	}
	w.Header().Set("Etag", etag(v))
	return httpapi.WriteJSON(w, http.StatusOK, v)
}

// admitEdit says why a user may not have another payload of so many bytes. The one that it replaces is not known
// yet, and counts for a second at most.
func (s *Service) admitEdit(ctx context.Context, n int) error {
	c := httpapi.CallerOf(ctx)
	l := lot{owner: c.Owner}
	if c.Any() || c.Owner == "" || s.most(l) == 0 {
		return nil
	}
	over, err := s.overWaiting(ctx, l, n)
	if err == nil && over {
		err = s.tooMany(l)
	}
	return err
}

// matches says whether the value of If-Match names tag.
func matches(header, tag string) bool {
	for one := range strings.SplitSeq(header, ",") {
		if one = strings.TrimSpace(one); one == "*" || one == tag {
			return true
		}
	}
	return false
}

// editTx gives the job another payload.
func (s *Service) editTx(ctx context.Context, tx *sql.Tx, id int64, queue string, payload json.RawMessage) error {
	if isInternal(queue) {
		return problem.New(problem.Forbidden, "The job %d is another backend's own and is not edited.", id)
	}
	if err := checkPayload(payload, s.settings(queue).maxPayload()); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, "UPDATE river_job SET args = "+s.q.withBody("$1")+" WHERE id = $2", base64.StdEncoding.EncodeToString(payload), id)
	if err != nil {
		return fmt.Errorf("editing a job: %w", err)
	}
	return nil
}
