package jobs

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

const (
	// idempotencyTTL is how long the first answer to an Idempotency-Key is given again.
	idempotencyTTL = 24 * time.Hour
	// idempotencyBatch and idempotencyRounds bound one deletion of answers that are too old.
	idempotencyBatch, idempotencyRounds = 1000, 50
)

// idempotency is the Idempotency-Key of the request that an order came with. Keys of two owners, and
// of two routes, are apart.
type idempotency struct {
	scope, key  string
	part        int    // which order of the request this is, from 0
	fingerprint string // of the request's body
}

// idempotencyOf reads the header, nil without one. body is the request's.
func idempotencyOf(r *http.Request, route string, body []byte) (*idempotency, error) {
	values := r.Header.Values("Idempotency-Key")
	if len(values) == 0 {
		return nil, nil //nolint:nilnil // there is none, which is no error
	}
	key := values[0]
	if len(values) > 1 || key == "" || len(key) > maxKey || !utf8.ValidString(key) || hasControl(key) {
		return nil, problem.New(problem.InvalidRequest, "Idempotency-Key must be one value of 1 to %d bytes without control characters.", maxKey)
	}
	sum := sha256.Sum256(body)
	return &idempotency{
		scope: route + " " + httpapi.CallerOf(r.Context()).Owner, key: key, fingerprint: hex.EncodeToString(sum[:]),
	}, nil
}

// replay is the first answer to the key, if there was one. Another body under the key is an error.
func (i *idempotency) replay(ctx context.Context, db rowQueryer) (first inserted, found bool, err error) {
	var fingerprint, answer string
	err = db.QueryRowContext(ctx, `SELECT fingerprint, answer FROM jobs_idempotency
		WHERE scope = $1 AND idem_key = $2 AND part = $3 AND created_at > $4`,
		i.scope, i.key, i.part, time.Now().Add(-idempotencyTTL).UnixMilli()).Scan(&fingerprint, &answer)
	if noRows(err) {
		return inserted{}, false, nil
	}
	if err != nil {
		return inserted{}, false, fmt.Errorf("looking an Idempotency-Key up: %w", err)
	}
	if fingerprint != i.fingerprint {
		return inserted{}, false, problem.New(problem.Unprocessable, "This Idempotency-Key came with another body before: use a new key for a new request.")
	}
	var r Receipt
	if err = json.Unmarshal([]byte(answer), &r); err != nil {
		return inserted{}, false, fmt.Errorf("reading the answer to an Idempotency-Key: %w", err)
	}
	return inserted{id: parseID(r.ID), state: r.State, duplicate: r.Duplicate, replayed: true}, true, nil
}

// replayTx is the first answer to the order's Idempotency-Key, if it has one and there was one. If not,
// nobody else uses the key until tx ends, and rememberTx must follow.
func (s *Service) replayTx(ctx context.Context, tx *sql.Tx, o *order) (first inserted, found bool, err error) {
	i := o.idempotency
	if i == nil {
		return inserted{}, false, nil
	}
	now := time.Now()
	res, err := tx.ExecContext(ctx, `INSERT INTO jobs_idempotency (scope, idem_key, part, fingerprint, answer, created_at) VALUES ($1, $2, $3, $4, '', $5)
		ON CONFLICT (scope, idem_key, part) DO UPDATE SET fingerprint = excluded.fingerprint, answer = '', created_at = excluded.created_at
		WHERE jobs_idempotency.created_at <= $6`, i.scope, i.key, i.part, i.fingerprint, now.UnixMilli(), now.Add(-idempotencyTTL).UnixMilli())
	if err != nil {
		return inserted{}, false, fmt.Errorf("storing an Idempotency-Key: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n > 0 {
		return inserted{}, false, err
	}
	return i.replay(ctx, tx)
}

// rememberTx keeps the answer to the order's Idempotency-Key.
func (s *Service) rememberTx(ctx context.Context, tx *sql.Tx, o *order, answer inserted) error {
	i := o.idempotency
	if i == nil {
		return nil
	}
	text, err := json.Marshal(answer.receipt())
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "UPDATE jobs_idempotency SET answer = $1 WHERE scope = $2 AND idem_key = $3 AND part = $4",
		string(text), i.scope, i.key, i.part)
	if err != nil {
		return fmt.Errorf("storing the answer to an Idempotency-Key: %w", err)
	}
	return nil
}

// sweepAnswers deletes what is too old to be given again. Two at once do no harm.
func (s *Service) sweepAnswers(ctx context.Context, now time.Time) error {
	for range idempotencyRounds {
		res, err := s.db.Write.ExecContext(ctx, `DELETE FROM jobs_idempotency WHERE (scope, idem_key, part) IN (
			SELECT scope, idem_key, part FROM jobs_idempotency WHERE created_at <= $1 ORDER BY created_at LIMIT $2)`,
			now.Add(-idempotencyTTL).UnixMilli(), idempotencyBatch)
		if err != nil {
			return fmt.Errorf("deleting old answers to Idempotency-Keys: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n < idempotencyBatch {
			return err
		}
	}
	return nil
}
