package jobs

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const (
	// uniqueTTL is how long after its completion a job holds its unique key, unless it says otherwise.
	uniqueTTL = 24 * time.Hour
	// scopeAll is the scope of a unique key that counts over all queues. The keys of one queue, the
	// other scope, are apart from these.
	scopeQueue, scopeAll = "queue", "all"
)

// unique is the unique key of a job, as the table jobs_keys has it.
type unique struct {
	queue string // empty for the scope all
	key   string // in the space of the owner; empty for none
	ttl   time.Duration
}

func uniqueOf(queue string, args *pushArgs) unique {
	u := unique{queue: queue, ttl: uniqueTTL}
	if args.UniqueKey != "" {
		u.key = service.Scoped(args.Owner, args.UniqueKey)
	}
	if args.UniqueScope == scopeAll {
		u.queue = ""
	}
	if args.UniqueTTL != nil {
		u.ttl = args.UniqueTTL.Std()
	}
	return u
}

// holderTx is the job that holds the order's unique key, 0 if none does.
func (s *Service) holderTx(ctx context.Context, tx *sql.Tx, o *order) (id int64, state string, err error) {
	return s.holderOf(ctx, tx, uniqueOf(o.queue, &o.args))
}

// holdTx gives the order's unique key to the job. It comes after holderTx.
func (s *Service) holdTx(ctx context.Context, tx *sql.Tx, o *order, id int64) error {
	return s.hold(ctx, tx, uniqueOf(o.queue, &o.args), id)
}

// holderOf is the job that holds the unique key, 0 if none does: one that is not finished, or was
// completed a short enough time ago. Until tx ends, nobody else is told that the key is free.
func (s *Service) holderOf(ctx context.Context, tx *sql.Tx, u unique) (id int64, state string, err error) {
	// Writing the row as it is locks it, also one that is not there yet.
	err = tx.QueryRowContext(ctx, `INSERT INTO jobs_keys (queue, unique_key, job_id, ttl_ms) VALUES ($1, $2, 0, 0)
		ON CONFLICT (queue, unique_key) DO UPDATE SET job_id = jobs_keys.job_id RETURNING job_id`, u.queue, u.key).Scan(&id)
	if err != nil {
		return 0, "", fmt.Errorf("looking a unique key up: %w", err)
	}
	if id == 0 {
		return 0, "", nil
	}
	err = tx.QueryRowContext(ctx, `SELECT j.id, `+s.q.userState()+` FROM jobs_keys k JOIN river_job j ON j.id = k.job_id
		WHERE k.queue = $1 AND k.unique_key = $2 AND (j.finalized_at IS NULL OR `+s.q.remembered()+`)`, u.queue, u.key).Scan(&id, &state)
	if noRows(err) {
		return 0, "", nil
	}
	if err != nil {
		return 0, "", fmt.Errorf("looking a unique key up: %w", err)
	}
	return id, state, nil
}

// hold gives the unique key to the job. It comes after holderOf.
func (s *Service) hold(ctx context.Context, tx *sql.Tx, u unique, id int64) error {
	_, err := tx.ExecContext(ctx, "UPDATE jobs_keys SET job_id = $1, ttl_ms = $2 WHERE queue = $3 AND unique_key = $4",
		id, u.ttl.Milliseconds(), u.queue, u.key)
	if err != nil {
		return fmt.Errorf("storing a unique key: %w", err)
	}
	return nil
}

// uniqueTTLOf reads how long a unique key is remembered.
func uniqueTTLOf(text string) (*unit.Duration, error) {
	d, err := unit.ParseDuration(text)
	if err != nil || d < 0 || d.Std() > maxAhead {
		return nil, errors.New("unique_ttl must be a duration from \"0s\", which remembers the key while the job is unfinished, to 10 years, such as \"24h\"")
	}
	return &d, nil
}
