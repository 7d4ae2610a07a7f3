package webhooks

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/signature"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

// The states of an endpoint.
const (
	active   = "active"
	disabled = "disabled" // by its own answer 410, or by PUT; nothing is sent to it
)

const (
	maxEndpoints    = 1000 // of nobody; every event is matched against all of its owner's
	maxOwnEndpoints = 100  // of one owner
	maxPatterns     = 100
	maxDescription  = 1024
	maxEndpointBody = 64 << 10
)

// endpoint is a place that events are sent to, as the API shows it.
type endpoint struct {
	ID          string    `json:"id"`
	Owner       string    `json:"owner,omitempty"`
	URL         string    `json:"url"`
	Types       []string  `json:"types"`
	Description string    `json:"description,omitempty"`
	State       string    `json:"state"`
	CreatedAt   time.Time `json:"created_at"`
	UpdatedAt   time.Time `json:"updated_at"`
	// Secret signs what is sent there. It is shown when the endpoint is made, and never again.
	Secret string `json:"secret,omitempty"`
}

// endpointInput is the body of POST and PUT.
type endpointInput struct {
	URL         string   `json:"url"`
	Types       []string `json:"types"`
	Description string   `json:"description"`
	State       string   `json:"state"`
	// Owner is for whom a service or an operator makes the endpoint. It is never changed.
	Owner string `json:"owner"`
}

func (s *Service) readEndpoint(w http.ResponseWriter, r *http.Request) (in endpointInput, err error) {
	if err = httpapi.DecodeJSON(w, r, maxEndpointBody, &in); err != nil {
		return in, err
	}
	if in.State == "" {
		in.State = active
	}
	if in.Types == nil {
		in.Types = []string{}
	}
	switch {
	case len(in.Types) > maxPatterns:
		return in, problem.New(problem.InvalidRequest, "types must not have more than %d entries.", maxPatterns)
	case len(in.Description) > maxDescription:
		return in, problem.New(problem.InvalidRequest, "description must not be longer than %d bytes.", maxDescription)
	case in.State != active && in.State != disabled:
		return in, problem.New(problem.InvalidRequest, "state must be active or disabled.")
	}
	for i, p := range in.Types {
		if !validPattern(p) {
			return in, problem.New(problem.InvalidRequest, "types[%d] must be an event type such as order.created, or a pattern such as order.*.", i)
		}
	}
	return in, nil
}

func (s *Service) createEndpoint(w http.ResponseWriter, r *http.Request) error {
	in, err := s.readEndpoint(w, r)
	if err != nil {
		return err
	}
	owner, err := httpapi.OwnerNamed(r.Context(), in.Owner)
	if err == nil {
		err = s.outlet(owner).guard.checkURL(in.URL)
	}
	if err != nil {
		return err
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	e := endpoint{
		ID: newID("ep_"), Owner: owner, URL: in.URL, Types: in.Types, Description: in.Description, State: in.State,
		CreatedAt: now, UpdatedAt: now, Secret: signature.NewStandardSecret(),
	}
	err = s.db.InTx(r.Context(), func(tx *sql.Tx) error {
		if err := s.db.LockInTx(r.Context(), tx, "webhooks endpoints"); err != nil { // or two count the same
			return err
		}
		return insertEndpoint(r.Context(), tx, e)
	})
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return httpapi.WriteJSON(w, http.StatusCreated, e)
}

func insertEndpoint(ctx context.Context, tx *sql.Tx, e endpoint) error {
	var n int
	if err := tx.QueryRowContext(ctx, "SELECT COUNT(*) FROM webhooks_endpoints WHERE owner = $1", e.Owner).Scan(&n); err != nil {
		return fmt.Errorf("counting the endpoints: %w", err)
	}
	if n >= maxEndpoints || e.Owner != "" && n >= maxOwnEndpoints {
		return problem.New(problem.Unprocessable, "There are %d endpoints already, delete one that is no longer needed.", n)
	}
	types, err := json.Marshal(e.Types)
	if err != nil {
		return fmt.Errorf("encoding the types: %w", err)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO webhooks_endpoints (id, url, types, description, secret, state, created_at, updated_at, owner)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		e.ID, e.URL, string(types), e.Description, e.Secret, e.State, e.CreatedAt.UnixMilli(), e.UpdatedAt.UnixMilli(), e.Owner)
	if err != nil {
		return fmt.Errorf("storing the endpoint: %w", err)
	}
	return nil
}

func (s *Service) putEndpoint(w http.ResponseWriter, r *http.Request) error {
	in, err := s.readEndpoint(w, r)
	if err != nil {
		return err
	}
	types, err := json.Marshal(in.Types)
	if err != nil {
		return fmt.Errorf("encoding the types: %w", err)
	}
	old, err := s.endpoint(r.Context(), r.PathValue("id"))
	switch {
	case err != nil:
		return err
	case in.Owner != "" && in.Owner != old.Owner:
		return problem.New(problem.InvalidRequest, "owner cannot be changed: make another endpoint.")
	}
	if err = s.outlet(old.Owner).guard.checkURL(in.URL); err != nil {
		return err
	}
	n, err := affected(s.db.Write.ExecContext(r.Context(),
		"UPDATE webhooks_endpoints SET url = $1, types = $2, description = $3, state = $4, updated_at = $5 WHERE id = $6",
		in.URL, string(types), in.Description, in.State, time.Now().UnixMilli(), old.ID))
	if err != nil {
		return fmt.Errorf("storing the endpoint: %w", err)
	}
	if n == 0 {
		return noEndpoint()
	}
	return s.getEndpoint(w, r)
}

func (s *Service) deleteEndpoint(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	if _, err := s.endpoint(r.Context(), id); err != nil {
		return err
	}
	err := s.db.InTx(r.Context(), func(tx *sql.Tx) error {
		n, err := affected(tx.ExecContext(r.Context(), "DELETE FROM webhooks_endpoints WHERE id = $1", id))
		if err != nil {
			return fmt.Errorf("deleting the endpoint: %w", err)
		}
		if n == 0 {
			return noEndpoint()
		}
		_, err = tx.ExecContext(r.Context(),
			"UPDATE webhooks_deliveries SET state = $1, last_error = $2 WHERE endpoint_id = $3 AND state IN ($4, $5)",
			failed, endpointGone, id, pending, retrying)
		if err != nil {
			return fmt.Errorf("ending its deliveries: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

const endpointColumns = "seq, id, owner, url, types, description, state, created_at, updated_at"

func scanEndpoint(row interface{ Scan(...any) error }) (numbered[endpoint], error) {
	var (
		n                numbered[endpoint]
		types            string
		created, updated int64
	)
	e := &n.item
	if err := row.Scan(&n.seq, &e.ID, &e.Owner, &e.URL, &types, &e.Description, &e.State, &created, &updated); err != nil {
		return n, err
	}
	e.CreatedAt, e.UpdatedAt = time.UnixMilli(created).UTC(), time.UnixMilli(updated).UTC()
	if err := json.Unmarshal([]byte(types), &e.Types); err != nil {
		return n, fmt.Errorf("decoding the types of %s: %w", e.ID, err)
	}
	return n, nil
}

func (s *Service) getEndpoint(w http.ResponseWriter, r *http.Request) error {
	e, err := s.endpoint(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, e)
}

// endpoint is the one of this id. For who may not use it there is none.
func (s *Service) endpoint(ctx context.Context, id string) (endpoint, error) {
	n, err := scanEndpoint(s.db.Read.QueryRowContext(ctx, "SELECT "+endpointColumns+" FROM webhooks_endpoints WHERE id = $1", id))
	switch {
	case sqldb.NoRow(err) || err == nil && !httpapi.MayUse(ctx, n.item.Owner):
		return endpoint{}, noEndpoint()
	case err != nil:
		return endpoint{}, fmt.Errorf("reading the endpoint: %w", err)
	}
	return n.item, nil
}

func (s *Service) listEndpoints(w http.ResponseWriter, r *http.Request) error {
	limit, below, err := httpapi.NumberedPageOf(r, math.MaxInt64)
	if err != nil {
		return err
	}
	where, args := "seq < $1", []any{below, limit + 1}
	if owner := httpapi.OwnerListed(r); owner != "" {
		where, args = where+" AND owner = $3", append(args, owner)
	}
	rows, err := s.db.Read.QueryContext(r.Context(), "SELECT "+endpointColumns+" FROM webhooks_endpoints WHERE "+where+" ORDER BY seq DESC LIMIT $2", args...)
	found, err := collect(rows, err, scanEndpoint)
	if err != nil {
		return fmt.Errorf("listing endpoints: %w", err)
	}
	return httpapi.WriteJSON(w, http.StatusOK, page(found, limit))
}

// affected is how many rows a statement changed.
func affected(res sql.Result, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// collect scans every row of a query and closes it.
func collect[T any](rows *sql.Rows, err error, scan func(interface{ Scan(...any) error }) (T, error)) ([]T, error) {
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var all []T
	for rows.Next() {
		item, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, item)
	}
	return all, rows.Err()
}

func noEndpoint() error { return problem.New(problem.NotFound, "There is no endpoint with this id.") }

// newID is a new random id with its kind in front.
func newID(prefix string) string { return prefix + strings.ToLower(rand.Text()) }
