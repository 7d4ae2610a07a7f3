package webhooks

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const (
	maxPayload = 256 << 10
	// maxEventBody leaves room for the type and the id around a payload of full size.
	maxEventBody = maxPayload + 4<<10
	maxEventID   = 128
	// rowBytes is what an event, and each of its deliveries, counts against the owner's bytes beyond its payload.
	rowBytes = 1 << 10
)

// eventInput is the body of POST /events.
type eventInput struct {
	Type    string          `json:"type"`
	Payload json.RawMessage `json:"payload"`
	// Owner is for whom a service or an operator sends the event: it goes to the endpoints of that owner.
	Owner string `json:"owner"`
	// ID makes the call repeatable: an id that is known already sends nothing, and is a conflict with another
	// type or payload. Default: a new one.
	ID string `json:"id"`
}

// accepted is the answer to it.
type accepted struct {
	ID         string `json:"id"`
	Deliveries int    `json:"deliveries"`
	Duplicate  bool   `json:"duplicate,omitempty"`
}

func (s *Service) createEvent(w http.ResponseWriter, r *http.Request) error {
	var in eventInput
	if err := httpapi.DecodeJSON(w, r, maxEventBody, &in); err != nil {
		return err
	}
	switch {
	case !validType(in.Type):
		return problem.New(problem.InvalidRequest, "type must be words of letters, digits, - and _ joined by dots, such as order.created, at most %d bytes.", maxType)
	case in.Payload == nil:
		return problem.New(problem.InvalidRequest, "payload is required, it may be any JSON value.")
	case len(in.Payload) > maxPayload:
		return problem.New(problem.ContentTooLarge, "payload must not be larger than %d bytes.", maxPayload)
	case !utf8.Valid(in.Payload):
		return problem.New(problem.InvalidRequest, "payload must be valid UTF-8.")
	case in.ID == "":
		in.ID = newID("evt_")
	case !validEventID(in.ID):
		return problem.New(problem.InvalidRequest, "id must be at most %d visible ASCII characters without a dot.", maxEventID)
	}
	owner, err := httpapi.OwnerNamed(r.Context(), in.Owner)
	if err != nil {
		return err
	}
	in.Owner = owner
	now := time.Now()
	body, err := envelope(in.Type, now, in.Payload)
	if err != nil {
		return err
	}
	stored, err := s.db.Reserve(1, len(body))
	if err != nil {
		return err
	}
	defer stored()
	if _, err = s.over(r.Context(), owner, 0); err != nil { // counts, if need be, before the transaction
		return err
	}
	var out accepted
	err = s.db.InTx(r.Context(), func(tx *sql.Tx) error {
		out, err = s.publish(r.Context(), tx, in, body, now)
		return err
	})
	if err != nil {
		return err
	}
	if out.Deliveries > 0 {
		s.jobs.Poke()
	}
	return httpapi.WriteJSON(w, http.StatusAccepted, out)
}

// over reports whether so many bytes more would be more than the owner may have. If not, they count from now on,
// for a second also if the event is not stored in the end.
func (s *Service) over(ctx context.Context, owner string, size int) (bool, error) {
	if owner == "" || s.ownerBytes == 0 {
		return false, nil
	}
	return s.tallies.Take(owner, size, s.ownerBytes, func() (int, error) { return s.bytesOf(ctx, owner) })
}

func (s *Service) tooMuch() error {
	e := problem.New(problem.QuotaExceeded, "The owner's events, which are kept for 30 days, would have more than %s with their deliveries: try again when some are gone.", unit.Size(s.ownerBytes))
	e.RetryAfter = sweepEvery
	return e
}

// bytesOf measures an owner's events and deliveries. It stops where they have more bytes than they may.
func (s *Service) bytesOf(ctx context.Context, owner string) (n int, err error) {
	err = s.db.Read.QueryRowContext(ctx, fmt.Sprintf(`SELECT CAST(
			(SELECT COALESCE(SUM(size), 0) FROM (SELECT size + %[1]d AS size FROM webhooks_events WHERE owner = $1 LIMIT $2) AS events) +
			(SELECT COUNT(*) * %[1]d FROM (SELECT 1 FROM webhooks_deliveries WHERE owner = $1 LIMIT $2) AS deliveries)
		AS BIGINT)`, rowBytes), owner, s.ownerBytes/rowBytes+1).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("measuring an owner's events: %w", err)
	}
	return n, nil
}

// publish stores the event, and a delivery with its job for each endpoint that wants it.
func (s *Service) publish(ctx context.Context, tx *sql.Tx, in eventInput, body []byte, now time.Time) (accepted, error) {
	out, stored := accepted{ID: in.ID}, service.Scoped(in.Owner, in.ID)
	n, err := affected(tx.ExecContext(ctx, "INSERT INTO webhooks_events (id, type, body, created_at, owner, size) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING",
		stored, in.Type, body, now.UnixMilli(), in.Owner, len(body)))
	if err != nil {
		return out, fmt.Errorf("storing the event: %w", err)
	}
	if n == 0 {
		out.Duplicate = true
		return out, sameEvent(ctx, tx, in)
	}
	if over, err := s.over(ctx, in.Owner, len(body)+rowBytes); err != nil || over {
		return out, cmp.Or(err, s.tooMuch())
	}
	rows, err := tx.QueryContext(ctx, "SELECT "+endpointColumns+" FROM webhooks_endpoints WHERE owner = $1 AND state = $2 ORDER BY seq", in.Owner, active)
	endpoints, err := collect(rows, err, scanEndpoint)
	if err != nil {
		return out, fmt.Errorf("reading the endpoints: %w", err)
	}
	for _, e := range endpoints {
		if !wanted(e.item.Types, in.Type) {
			continue
		}
		id := newID("dlv_")
		_, err = tx.ExecContext(ctx, "INSERT INTO webhooks_deliveries (id, event_id, endpoint_id, state, created_at, owner) VALUES ($1, $2, $3, $4, $5, $6)",
			id, stored, e.item.ID, pending, now.UnixMilli(), in.Owner)
		if err != nil {
			return out, fmt.Errorf("storing the delivery: %w", err)
		}
		if err = s.enqueue(ctx, tx, id, lane(in.Owner, e.item.ID)); err != nil {
			return out, err
		}
		out.Deliveries++
	}
	s.tallies.Add(in.Owner, out.Deliveries*rowBytes)
	return out, nil
}

// sameEvent returns the problem with an id that was used for an event of another type or payload.
func sameEvent(ctx context.Context, tx *sql.Tx, in eventInput) error {
	var typ string
	var body []byte
	if err := tx.QueryRowContext(ctx, "SELECT type, body FROM webhooks_events WHERE id = $1", service.Scoped(in.Owner, in.ID)).Scan(&typ, &body); err != nil {
		return fmt.Errorf("reading the event of this id: %w", err)
	}
	var old struct {
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(body, &old); err != nil {
		return fmt.Errorf("decoding the event of this id: %w", err)
	}
	if typ != in.Type || !bytes.Equal(old.Data, in.Payload) {
		return problem.New(problem.Conflict, "There is an event of this id already, with another type or payload: choose another id.")
	}
	return nil
}

// deliverJob is the payload of a job of deliverKind.
type deliverJob struct {
	Delivery string `json:"delivery"`
}

// ownLanes is how many lanes the endpoints of one owner have, so that they cannot take all places.
const ownLanes = 3

// lane is the key by which deliveries take turns: an endpoint of nobody's is one of its own, those of an owner
// share a few, in which one that hangs leaves places for the others.
func lane(owner, endpoint string) string {
	if owner == "" {
		return endpoint
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(endpoint))
	return fmt.Sprintf("owner %d %s", h.Sum32()%ownLanes, owner)
}

func (s *Service) enqueue(ctx context.Context, tx *sql.Tx, delivery, lane string) error {
	payload, err := json.Marshal(deliverJob{delivery})
	if err != nil {
		return fmt.Errorf("encoding the job: %w", err)
	}
	if _, err = s.jobs.EnqueueKeyedTx(ctx, tx, deliverKind, lane, payload); err != nil {
		return fmt.Errorf("enqueueing the delivery: %w", err)
	}
	return nil
}

// envelope is what every attempt sends: the shape that Standard Webhooks advises, around the
// payload's own bytes, so that numbers and the order of members stay as they were given.
func envelope(typ string, at time.Time, payload []byte) ([]byte, error) {
	head, err := json.Marshal(struct {
		Type      string `json:"type"`
		Timestamp string `json:"timestamp"`
	}{typ, at.UTC().Format("2006-01-02T15:04:05.000Z07:00")})
	if err != nil {
		return nil, fmt.Errorf("encoding the event: %w", err)
	}
	body := append(head[:len(head)-1], `,"data":`...)
	return append(append(body, payload...), '}'), nil
}

// validEventID says whether s can be a webhook-id.
func validEventID(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' || c == '.' {
			return false
		}
	}
	return len(s) <= maxEventID
}
