package locks

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

// SQLStore keeps locks in SQL.
type SQLStore struct{ db *sqldb.DB }

// NewSQLStore is the store in db, whose tables Config.Open migrates.
func NewSQLStore(db *sqldb.DB) *SQLStore { return &SQLStore{db} }

// querier is a transaction or the reading pool.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// current is the lock as now sees it, with its owner, or ErrNotHeld.
func current(ctx context.Context, q querier, name string, now time.Time) (l Lock, owner string, err error) {
	var expires int64
	err = q.QueryRowContext(ctx, `SELECT token, fence, expires_at FROM locks_locks WHERE name = $1 AND expires_at > $2`, name, now.UnixMilli()).
		Scan(&owner, &l.Fence, &expires)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return Lock{}, "", ErrNotHeld
	case err != nil:
		return Lock{}, "", fmt.Errorf("reading a lock: %w", err)
	}
	l.Name, l.ExpiresAt = name, fromMilli(expires)
	return l, owner, nil
}

// owned is current for an owner: ErrHeld if the lock is another's.
func owned(ctx context.Context, q querier, name, owner string, now time.Time) (Lock, error) {
	l, holder, err := current(ctx, q, name, now)
	if err == nil && holder != owner {
		return l, ErrHeld
	}
	return l, err
}

// free is nil if nobody holds the lock, and ErrHeld with the lock if somebody does.
func free(ctx context.Context, q querier, name string, now time.Time) (Lock, error) {
	l, _, err := current(ctx, q, name, now)
	switch {
	case errors.Is(err, ErrNotHeld):
		return Lock{}, nil
	case err != nil:
		return Lock{}, err
	}
	return l, ErrHeld
}

// alone runs fn in a transaction in which nobody else acquires, renews or releases that lock.
func (s *SQLStore) alone(ctx context.Context, name string, fn func(tx *sql.Tx) error) error {
	return s.db.InTx(ctx, func(tx *sql.Tx) error {
		if err := s.db.LockInTx(ctx, tx, "lock "+name); err != nil {
			return err
		}
		return fn(tx)
	})
}

// nextFence takes a fence. On PostgreSQL it is one of a sequence, so that those who acquire other locks
// do not wait for this one to be on disk; a fence that is not used is left out.
func (s *SQLStore) nextFence(ctx context.Context, tx *sql.Tx) (fence int64, err error) {
	if s.db.Postgres() {
		err = tx.QueryRowContext(ctx, `SELECT nextval('locks_fences')`).Scan(&fence)
	} else {
		err = tx.QueryRowContext(ctx, `UPDATE locks_fence SET last = last + 1 WHERE id = 1 RETURNING last`).Scan(&fence)
	}
	if err != nil {
		return 0, fmt.Errorf("taking a fence: %w", err)
	}
	return fence, nil
}

// Acquire implements Store. A lock that is held is seen without waiting for the writing connection.
func (s *SQLStore) Acquire(ctx context.Context, name, owner string, now time.Time, ttl time.Duration) (l Lock, err error) {
	if l, err = free(ctx, s.db.Read, name, now); err != nil {
		return l, err
	}
	err = s.alone(ctx, name, func(tx *sql.Tx) error {
		if l, err = free(ctx, tx, name, now); err != nil {
			return err
		}
		l = Lock{Name: name, ExpiresAt: fromMilli(now.Add(ttl).UnixMilli())}
		if l.Fence, err = s.nextFence(ctx, tx); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO locks_locks (name, token, fence, expires_at) VALUES ($1, $2, $3, $4)
			ON CONFLICT (name) DO UPDATE SET token = excluded.token, fence = excluded.fence, expires_at = excluded.expires_at`,
			name, owner, l.Fence, l.ExpiresAt.UnixMilli())
		if err != nil {
			return fmt.Errorf("writing a lock: %w", err)
		}
		return nil
	})
	return l, err
}

// Renew implements Store.
func (s *SQLStore) Renew(ctx context.Context, name, owner string, now time.Time, ttl time.Duration) (l Lock, err error) {
	err = s.alone(ctx, name, func(tx *sql.Tx) error {
		if l, err = owned(ctx, tx, name, owner, now); err != nil {
			return err
		}
		l.ExpiresAt = fromMilli(now.Add(ttl).UnixMilli())
		if _, err := tx.ExecContext(ctx, `UPDATE locks_locks SET expires_at = $1 WHERE name = $2`, l.ExpiresAt.UnixMilli(), name); err != nil {
			return fmt.Errorf("renewing a lock: %w", err)
		}
		return nil
	})
	return l, err
}

// Release implements Store.
func (s *SQLStore) Release(ctx context.Context, name, owner string, now time.Time) (l Lock, err error) {
	err = s.alone(ctx, name, func(tx *sql.Tx) error {
		if l, err = owned(ctx, tx, name, owner, now); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM locks_locks WHERE name = $1`, name); err != nil {
			return fmt.Errorf("releasing a lock: %w", err)
		}
		return nil
	})
	return l, err
}

// Get implements Store.
func (s *SQLStore) Get(ctx context.Context, name string, now time.Time) (Lock, error) {
	l, _, err := current(ctx, s.db.Read, name, now)
	return l, err
}

// List implements Store.
func (s *SQLStore) List(ctx context.Context, after int64, limit int, now time.Time) (locks []Lock, err error) {
	rows, err := s.db.Read.QueryContext(ctx, `SELECT name, fence, expires_at FROM locks_locks WHERE fence > $1 AND expires_at > $2 ORDER BY fence LIMIT $3`,
		after, now.UnixMilli(), limit)
	if err != nil {
		return nil, fmt.Errorf("listing locks: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var l Lock
		var expires int64
		if err = rows.Scan(&l.Name, &l.Fence, &expires); err != nil {
			return nil, fmt.Errorf("listing locks: %w", err)
		}
		l.ExpiresAt = fromMilli(expires)
		locks = append(locks, l)
	}
	return locks, rows.Err()
}

// Prune implements Store. A lock that is acquired again meanwhile is not in its condition any more.
func (s *SQLStore) Prune(ctx context.Context, now time.Time) error {
	return s.db.DeleteExpired(ctx, "locks_locks", "name", now)
}

func fromMilli(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// Interface guards
var _ Store = (*SQLStore)(nil)
