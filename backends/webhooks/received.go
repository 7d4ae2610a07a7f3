package webhooks

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// noTargetRetry is when a sender may try again while the queue is not configured: a person has to act.
const noTargetRetry = time.Minute

// Received is an event from outside whose signature was verified.
type Received struct {
	// Scheme, Endpoint, Queue and EventID together are the event's identity: how it is signed, the
	// path it came in on, where it goes, and its id there.
	Scheme, Endpoint, Queue, EventID string
	// Header is sent on to the queue's target, and nothing else of the request's headers.
	Header http.Header
	// Body is sent on as it came.
	Body []byte
}

// CanReceive says why events for the queue could not be delivered: it must exist and have a target.
func (s *Service) CanReceive(queue string) error {
	if _, ok := s.jobs.QueueTarget(queue); ok {
		return nil
	}
	return &problem.Error{
		Code: problem.Unavailable, RetryAfter: noTargetRetry,
		Detail: fmt.Sprintf("Events cannot be taken in: the queue %[1]s of the jobs backend does not exist or has no target, "+
			"give it one in the global options: gatehouse { backend jobs { queue %[1]s { target URL } } }", queue),
	}
}

// Receive keeps the event and enqueues its push to the queue's target, both in one transaction. An
// event that was received before is a duplicate, and nothing is enqueued. An error means that
// nothing was kept and the sender should try again. A queue without a target is unavailable.
func (s *Service) Receive(ctx context.Context, e Received) (duplicate bool, err error) {
	if err = s.CanReceive(e.Queue); err != nil {
		return false, err
	}
	stored, err := s.db.Reserve(1, len(e.Body))
	if err != nil {
		return false, err
	}
	defer stored()
	err = s.db.InTx(ctx, func(tx *sql.Tx) error {
		duplicate, err = s.receive(ctx, tx, e)
		return err
	})
	if err != nil {
		return false, err
	}
	if !duplicate {
		s.jobs.Poke()
	}
	return duplicate, nil
}

func (s *Service) receive(ctx context.Context, tx *sql.Tx, e Received) (duplicate bool, err error) {
	n, err := affected(tx.ExecContext(ctx, `INSERT INTO webhooks_received (scheme, endpoint, queue, event_id, job_id, size, received_at)
		VALUES ($1, $2, $3, $4, '', $5, $6) ON CONFLICT (scheme, endpoint, queue, event_id) DO NOTHING`,
		e.Scheme, e.Endpoint, e.Queue, e.EventID, len(e.Body), time.Now().UnixMilli()))
	if err != nil {
		return false, fmt.Errorf("storing the event: %w", err)
	}
	if n == 0 {
		return true, nil
	}
	job, err := s.jobs.EnqueuePushTx(ctx, tx, e.Queue, e.Body, e.Header)
	if err != nil {
		return false, fmt.Errorf("enqueueing the event: %w", err)
	}
	_, err = tx.ExecContext(ctx, "UPDATE webhooks_received SET job_id = $1 WHERE scheme = $2 AND endpoint = $3 AND queue = $4 AND event_id = $5",
		job, e.Scheme, e.Endpoint, e.Queue, e.EventID)
	if err != nil {
		return false, fmt.Errorf("storing the event's job: %w", err)
	}
	return false, nil
}

// receivedItem is a received event, as the API shows it.
type receivedItem struct {
	Scheme     string    `json:"scheme"`
	Endpoint   string    `json:"endpoint"`
	EventID    string    `json:"event_id"`
	Queue      string    `json:"queue"`
	JobID      string    `json:"job_id"`
	Size       int64     `json:"size"` // of the body in bytes
	ReceivedAt time.Time `json:"received_at"`
}

func scanReceived(row interface{ Scan(...any) error }) (numbered[receivedItem], error) {
	var (
		n  numbered[receivedItem]
		at int64
	)
	i := &n.item
	err := row.Scan(&n.seq, &i.Scheme, &i.Endpoint, &i.EventID, &i.Queue, &i.JobID, &i.Size, &at)
	i.ReceivedAt = time.UnixMilli(at).UTC()
	return n, err
}

func (s *Service) listReceived(w http.ResponseWriter, r *http.Request) error {
	limit, below, err := httpapi.NumberedPageOf(r, math.MaxInt64)
	if err != nil {
		return err
	}
	rows, err := s.db.Read.QueryContext(r.Context(), `SELECT seq, scheme, endpoint, event_id, queue, job_id, size, received_at
		FROM webhooks_received WHERE seq < $1 ORDER BY seq DESC LIMIT $2`, below, limit+1)
	found, err := collect(rows, err, scanReceived)
	if err != nil {
		return fmt.Errorf("listing received events: %w", err)
	}
	return httpapi.WriteJSON(w, http.StatusOK, page(found, limit))
}
