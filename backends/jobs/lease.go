package jobs

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/riverqueue/river/rivertype"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

// A worker that pulls has a job on lease: until a time, under a fence that is never given again. What
// the worker says of the job counts only under the fence of the lease that is in force, so one that
// was paused, and is late, changes nothing. The clocks of two instances may differ by as much as a lease
// may then end too early or too late; the fence holds regardless.

const (
	// maxLease is the most jobs of one lease.
	maxLease = 100
	// visibilities of a lease.
	defaultVisibility, minVisibility, maxVisibility = 30 * time.Second, time.Second, 12 * time.Hour
	// maxLeaseWait is how long a request may wait for jobs.
	maxLeaseWait = 20 * time.Second
	// leasePoll is how late a waiting request may learn of a job that another instance has taken in.
	leasePoll = 200 * time.Millisecond
	// maxProgress is the largest JSON that a heartbeat may store with a job.
	maxProgress = 4 << 10
)

// leaseRequest is the body of POST /queues/{queue}/lease. All of it may be absent.
type leaseRequest struct {
	N          *int   `json:"n"`
	Visibility string `json:"visibility"`
	Wait       string `json:"wait"`
	Worker     string `json:"worker"`
}

// Lease is one job that a worker has on lease.
type Lease struct {
	ID      string          `json:"id"`
	Queue   string          `json:"queue"`
	Key     string          `json:"key,omitempty"`
	Payload json.RawMessage `json:"payload,omitempty"`
	// Body is the payload in base64, where it is not JSON.
	Body        string `json:"body,omitempty"`
	Attempt     int    `json:"attempt"`
	MaxAttempts int    `json:"max_attempts"`
	// Fence stands in for the lease in all that the worker says of the job. It only grows.
	Fence     int64     `json:"fence"`
	ExpiresAt time.Time `json:"expires_at"`
	// Redelivered says that another run of the job may have been under way without its end being known.
	Redelivered bool `json:"redelivered,omitempty"`

	row *rivertype.JobRow
}

// durationOf reads the duration of a member, def if it is empty.
func durationOf(member, text string, def, least, most time.Duration) (time.Duration, error) {
	if text == "" {
		return def, nil
	}
	d, err := unit.ParseDuration(text)
	if err != nil || d.Std() < least || d.Std() > most {
		return 0, unfit("%s must be a duration from %s to %s, such as \"10s\".", member, unit.Duration(least), unit.Duration(most))
	}
	return d.Std(), nil
}

func (s *Service) postLease(w http.ResponseWriter, r *http.Request) error {
	queue, err := s.knownQueue(r)
	if err != nil {
		return err
	}
	if !s.settings(queue).Pull {
		return unfit("The jobs of the queue %s are pushed. Configure it with pull to have workers lease them.", queue)
	}
	body, err := httpapi.ReadBody(w, r, maxProgress)
	if err != nil {
		return err
	}
	var q leaseRequest
	if len(body) > 0 {
		if err = decode(w, r, body, &q); err != nil {
			return err
		}
	}
	n := or(q.N, 1)
	if n < 1 || n > maxLease {
		return unfit("n must be from 1 to %d.", maxLease)
	}
	visibility, err := durationOf("visibility", q.Visibility, defaultVisibility, minVisibility, maxVisibility)
	if err != nil {
		return err
	}
	wait, err := durationOf("wait", q.Wait, 0, 0, maxLeaseWait)
	if err != nil {
		return err
	}
	if len(q.Worker) > maxKey || hasControl(q.Worker) {
		return unfit("worker must have at most %d bytes and no control characters.", maxKey)
	}
	leave := func() {}
	if wait > 0 {
		leave, err = s.polls.Begin(w, r, httpapi.CallerOf(r.Context()))
		if err != nil {
			return err
		}
	}
	leases, err := s.lease(r.Context(), queue, n, visibility, wait, q.Worker)
	leave()
	if err != nil {
		return err
	}
	if r.Context().Err() != nil && len(leases) > 0 {
		s.giveBack(context.WithoutCancel(r.Context()), leases) // nobody hears the answer
	}
	return httpapi.WriteJSON(w, http.StatusOK, httpapi.Page[Lease]{Items: leases})
}

// lease takes up to n jobs, and waits for the first one.
func (s *Service) lease(ctx context.Context, queue string, n int, visibility, wait time.Duration, worker string) ([]Lease, error) {
	late := time.NewTimer(wait)
	defer late.Stop()
	poll := time.NewTicker(leasePoll)
	defer poll.Stop()
	for look := true; ; {
		rung := s.bells.wait(queue) // before the look, so that no job is passed over
		if look {
			leases, err := s.leaseNow(ctx, queue, n, visibility, worker)
			if err != nil || len(leases) > 0 || wait <= 0 {
				return leases, err
			}
		}
		if s.bells.isStopped() {
			return []Lease{}, nil
		}
		select {
		case <-rung:
			look = true
		case <-poll.C:
			look = s.vain.due(queue)
		case <-late.C:
			look, wait = true, 0
		case <-ctx.Done():
			return []Lease{}, nil
		}
	}
}

// vain are the last fetches by queue that took nothing although jobs wait, as a bound keeps them. A
// thousand workers that wait for the same queue need not all try again.
type vain struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// note is told of a fetch that took nothing.
func (v *vain) note(queue string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last[queue] = time.Now()
}

// due says whether the queue should be looked at again, and lets no other look for a while.
func (v *vain) due(queue string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	last, known := v.last[queue]
	if !known {
		return true
	}
	if time.Since(last) < leasePoll*9/10 {
		return false
	}
	v.last[queue] = time.Now()
	return true
}

// cleared forgets a vain fetch: nothing waits, or jobs were taken.
func (v *vain) cleared(queue string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.last, queue)
}

// leaseNow takes the jobs that are due. A crash between its two transactions leaves running jobs
// without a lease, which leaseLoop gives back.
func (s *Service) leaseNow(ctx context.Context, queue string, n int, visibility time.Duration, worker string) ([]Lease, error) {
	leases := []Lease{}
	waiting, err := s.anyWaiting(ctx, queue)
	if err != nil || !waiting {
		s.vain.cleared(queue)
		return leases, err
	}
	rows, err := s.take(ctx, queue, n, pullOwner+worker)
	if err != nil || len(rows) == 0 {
		s.vain.note(queue)
		return leases, err
	}
	s.vain.cleared(queue)
	for _, row := range rows {
		l, err := leaseOf(row)
		if err != nil { // not of our making; the others are leased all the same
			s.log.Error("a job is dead, as its row cannot be read", "job", row.ID, "error", err)
			if err = s.db.InTx(ctx, func(tx *sql.Tx) error { return s.buryTx(ctx, tx, row.ID) }); err != nil {
				return nil, err
			}
			continue
		}
		leases = append(leases, l)
	}
	expires := time.Now().Add(visibility)
	err = s.db.InTx(context.WithoutCancel(ctx), func(tx *sql.Tx) error {
		for i := range leases {
			leases[i].ExpiresAt = expires.UTC().Truncate(time.Millisecond)
			if leases[i].Fence, err = s.fenceTx(ctx, tx, leases[i].row.ID, worker, visibility, expires); err != nil {
				return err
			}
		}
		return nil
	})
	return leases, err
}

func leaseOf(row *rivertype.JobRow) (Lease, error) {
	var args pushArgs
	if err := json.Unmarshal(row.EncodedArgs, &args); err != nil {
		return Lease{}, fmt.Errorf("reading the arguments of a job: %w", err)
	}
	l := Lease{ID: itoa(row.ID), Queue: row.Queue, Key: args.Key, Attempt: row.Attempt, MaxAttempts: row.MaxAttempts, Redelivered: isRedelivered(row), row: row}
	if json.Valid(args.Body) && utf8.Valid(args.Body) {
		l.Payload = args.Body
	} else {
		l.Body = base64.StdEncoding.EncodeToString(args.Body)
	}
	return l, nil
}

// fenceTx stores the lease of a job. One that the job still has is void from now on.
func (s *Service) fenceTx(ctx context.Context, tx *sql.Tx, id int64, worker string, visibility time.Duration, expires time.Time) (fence int64, err error) {
	if _, err = tx.ExecContext(ctx, "DELETE FROM jobs_leases WHERE job_id = $1", id); err == nil {
		err = tx.QueryRowContext(ctx, "INSERT INTO jobs_leases (job_id, worker, visibility_ms, expires_at) VALUES ($1, $2, $3, $4) RETURNING fence",
			id, worker, visibility.Milliseconds(), expires.UnixMilli()).Scan(&fence)
	}
	if err != nil {
		return 0, fmt.Errorf("storing a lease: %w", err)
	}
	return fence, nil
}

// giveBack ends leases as if they had never been.
func (s *Service) giveBack(ctx context.Context, leases []Lease) {
	err := s.db.InTx(ctx, func(tx *sql.Tx) error {
		for _, l := range leases {
			held, err := s.dropTx(ctx, tx, l.row.ID, l.Fence)
			if err != nil {
				return err
			}
			if !held {
				continue // another has ended this one
			}
			if err = s.backTx(ctx, tx, l.row.ID, l.row.Attempt); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.log.Warn("jobs are on lease to a worker that went away, until the leases end", "error", err)
		return
	}
	s.bells.ring(leases[0].Queue)
}

// dropTx ends the lease, whether it has lapsed or not. held says that it was there.
func (s *Service) dropTx(ctx context.Context, tx *sql.Tx, id, fence int64) (held bool, err error) {
	res, err := tx.ExecContext(ctx, "DELETE FROM jobs_leases WHERE job_id = $1 AND fence = $2", id, fence)
	if err != nil {
		return false, fmt.Errorf("ending a lease: %w", err)
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// leaseLost is the answer to a worker whose word on the job does not count any more.
func leaseLost(id int64) error {
	return problem.New(problem.LeaseLost, "The job %d is not on lease under this fence any more: drop what was done for it, and lease anew.", id)
}
