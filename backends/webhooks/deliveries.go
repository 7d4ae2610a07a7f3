package webhooks

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

// The states of a delivery.
const (
	pending   = "pending"   // not tried yet
	retrying  = "retrying"  // tried in vain and to be tried again
	delivered = "delivered" // answered with a 2xx
	failed    = "failed"    // given up
)

var states = []string{pending, retrying, delivered, failed}

// delivery is one event on its way to one endpoint, as the API shows it.
type delivery struct {
	ID            string     `json:"id"`
	Owner         string     `json:"owner,omitempty"`
	EventID       string     `json:"event_id"`
	EventType     string     `json:"event_type"`
	EndpointID    string     `json:"endpoint_id"`
	State         string     `json:"state"`
	Attempts      int        `json:"attempts"`
	LastStatus    int        `json:"last_status,omitempty"` // of the last answer, absent if there was none
	LastError     string     `json:"last_error,omitempty"`
	LastAttemptAt *time.Time `json:"last_attempt_at,omitempty"`
	CreatedAt     time.Time  `json:"created_at"`
}

const selectDeliveries = `SELECT d.seq, d.id, d.owner, d.event_id, e.type, d.endpoint_id, d.state, d.attempts, d.last_status, d.last_error, d.last_attempt_at, d.created_at
	FROM webhooks_deliveries d JOIN webhooks_events e ON e.id = d.event_id`

func scanDelivery(row interface{ Scan(...any) error }) (numbered[delivery], error) {
	var (
		n             numbered[delivery]
		last, created int64
	)
	d := &n.item
	err := row.Scan(&n.seq, &d.ID, &d.Owner, &d.EventID, &d.EventType, &d.EndpointID, &d.State, &d.Attempts, &d.LastStatus, &d.LastError, &last, &created)
	d.EventID = service.Unscoped(d.EventID)
	d.LastAttemptAt, d.CreatedAt = when(last), time.UnixMilli(created).UTC()
	return n, err
}

func (s *Service) listDeliveries(w http.ResponseWriter, r *http.Request) error {
	limit, below, err := httpapi.NumberedPageOf(r, math.MaxInt64)
	if err != nil {
		return err
	}
	query, args := selectDeliveries+" WHERE d.seq < $1", []any{below}
	if state := r.URL.Query().Get("state"); state != "" {
		if !slices.Contains(states, state) {
			return problem.New(problem.InvalidRequest, "state must be one of %s.", strings.Join(states, ", "))
		}
		query, args = query+" AND d.state = $2", append(args, state)
	}
	if owner := httpapi.OwnerListed(r); owner != "" {
		query, args = query+fmt.Sprintf(" AND d.owner = $%d", len(args)+1), append(args, owner)
	}
	if id := r.URL.Query().Get("endpoint"); id != "" {
		query, args = query+fmt.Sprintf(" AND d.endpoint_id = $%d", len(args)+1), append(args, id)
	}
	query, args = query+fmt.Sprintf(" ORDER BY d.seq DESC LIMIT $%d", len(args)+1), append(args, limit+1)
	//nolint:gosec // the pieces are ours, what comes from outside is a parameter
	rows, err := s.db.Read.QueryContext(r.Context(), query, args...)
	found, err := collect(rows, err, scanDelivery)
	if err != nil {
		return fmt.Errorf("listing deliveries: %w", err)
	}
	return httpapi.WriteJSON(w, http.StatusOK, page(found, limit))
}

func (s *Service) getDelivery(w http.ResponseWriter, r *http.Request) error {
	d, err := s.delivery(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, d)
}

func (s *Service) delivery(ctx context.Context, id string) (delivery, error) {
	n, err := scanDelivery(s.db.Read.QueryRowContext(ctx, selectDeliveries+" WHERE d.id = $1", id))
	if sqldb.NoRow(err) || err == nil && !httpapi.MayUse(ctx, n.item.Owner) {
		return delivery{}, noDelivery()
	}
	if err != nil {
		return delivery{}, fmt.Errorf("reading the delivery: %w", err)
	}
	return n.item, nil
}

func noDelivery() error {
	return problem.New(problem.NotFound, "There is no delivery with this id; they are kept for 30 days.")
}

// retryDelivery sends the event once more, whatever came of it so far. The receiver knows it by its
// webhook-id.
func (s *Service) retryDelivery(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	err := s.db.InTx(r.Context(), func(tx *sql.Tx) error {
		if err := s.db.LockInTx(r.Context(), tx, "webhooks delivery "+id); err != nil { // or two enqueue it
			return err
		}
		owner, endpoint, err := retryable(r.Context(), tx, id)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(r.Context(), "UPDATE webhooks_deliveries SET state = $1, next_at = 0 WHERE id = $2", pending, id)
		if err != nil {
			return fmt.Errorf("storing the delivery: %w", err)
		}
		return s.enqueue(r.Context(), tx, id, lane(owner, endpoint))
	})
	if err != nil {
		return err
	}
	s.jobs.Poke()
	d, err := s.delivery(r.Context(), id)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusAccepted, d)
}

// retryable returns the owner and the endpoint of a delivery that may be sent once more.
func retryable(ctx context.Context, tx *sql.Tx, id string) (owner, endpoint string, err error) {
	var state, endpointState string
	err = tx.QueryRowContext(ctx, `SELECT d.owner, d.state, d.endpoint_id, COALESCE(p.state, '') FROM webhooks_deliveries d
		LEFT JOIN webhooks_endpoints p ON p.id = d.endpoint_id WHERE d.id = $1`, id).Scan(&owner, &state, &endpoint, &endpointState)
	switch {
	case sqldb.NoRow(err), err == nil && !httpapi.MayUse(ctx, owner):
		return "", "", noDelivery()
	case err != nil:
		return "", "", fmt.Errorf("reading the delivery: %w", err)
	case state == pending:
		return "", "", problem.New(problem.Conflict, "The delivery is waiting for its next attempt already.")
	case endpointState == "":
		return "", "", problem.New(problem.Conflict, "The endpoint of this delivery was deleted.")
	case endpointState != active:
		return "", "", problem.New(problem.Conflict, "The endpoint of this delivery is disabled, set its state to active first.")
	}
	return owner, endpoint, nil
}
