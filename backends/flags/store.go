package flags

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

// prefix begins the key under which a flag is stored.
const prefix = "flag:"

// store keeps the flags in SQL.
type store struct{ db *sqldb.DB }

func (s store) all(ctx context.Context) (_ map[string]*Flag, err error) {
	rows, err := s.db.Read.QueryContext(ctx, `SELECT key, value, version, updated_at FROM flags_flags WHERE value IS NOT NULL`)
	if err != nil {
		return nil, fmt.Errorf("reading the flags: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	flags := map[string]*Flag{}
	for rows.Next() {
		var key, value string
		var version, updated int64
		if err = rows.Scan(&key, &value, &version, &updated); err != nil {
			return nil, fmt.Errorf("reading the flags: %w", err)
		}
		var d Definition
		if err = json.Unmarshal([]byte(value), &d); err != nil {
			return nil, fmt.Errorf("reading the value of %q: %w", key, err)
		}
		f := compiled(strings.TrimPrefix(key, prefix), d, version, updated)
		flags[f.Key] = f
	}
	return flags, rows.Err()
}

func compiled(key string, d Definition, version, updated int64) *Flag {
	f := Compile(key, d)
	f.Version, f.UpdatedAt = version, time.UnixMilli(updated).UTC()
	return f
}

func (s store) put(ctx context.Context, key string, d Definition, c conditions, now time.Time) (f *Flag, created bool, err error) {
	value, err := json.Marshal(d)
	if err != nil {
		return nil, false, fmt.Errorf("encoding the flag %s: %w", key, err)
	}
	err = s.db.InTx(ctx, func(tx *sql.Tx) error {
		version, exists, err := s.current(ctx, tx, key)
		if err != nil {
			return err
		}
		if err = c.check(version, exists); err != nil {
			return err
		}
		created = !exists
		f = compiled(key, d, version+1, now.UnixMilli())
		return write(ctx, tx, f.Key, string(value), f.Version, now)
	})
	return f, created, err
}

func (s store) delete(ctx context.Context, key string, c conditions, now time.Time) error {
	return s.db.InTx(ctx, func(tx *sql.Tx) error {
		version, exists, err := s.current(ctx, tx, key)
		if err != nil {
			return err
		}
		if err = c.check(version, exists); err != nil {
			return err
		}
		if !exists {
			return notFound(key)
		}
		return write(ctx, tx, key, nil, version+1, now)
	})
}

// current is the newest version of the key, 0 if it never was, and whether the flag exists now. Both
// stay so until tx ends.
func (s store) current(ctx context.Context, tx *sql.Tx, key string) (version int64, exists bool, err error) {
	if err = s.db.LockInTx(ctx, tx, prefix+key); err != nil {
		return 0, false, err
	}
	err = tx.QueryRowContext(ctx, `SELECT version, value IS NOT NULL FROM flags_flags WHERE key = $1`, prefix+key).Scan(&version, &exists)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, false, fmt.Errorf("reading the version of flag %s: %w", key, err)
	}
	return version, exists, nil
}

// write stores a value, or nil for a flag that is deleted.
func write(ctx context.Context, tx *sql.Tx, key string, value any, version int64, now time.Time) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO flags_flags (key, value, version, updated_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version, updated_at = excluded.updated_at`,
		prefix+key, value, version, now.UnixMilli())
	if err != nil {
		return fmt.Errorf("writing the flag %s: %w", key, err)
	}
	return nil
}

// changes is a number that grows with every change of any flag.
func (s store) changes(ctx context.Context) (n int64, err error) {
	if err = s.db.Read.QueryRowContext(ctx, `SELECT CAST(COALESCE(SUM(version), 0) AS BIGINT) FROM flags_flags`).Scan(&n); err != nil {
		return 0, fmt.Errorf("reading the versions of the flags: %w", err)
	}
	return n, nil
}

func (s store) check(ctx context.Context) error {
	var n int
	err := s.db.Read.QueryRowContext(ctx, `SELECT 1 FROM flags_flags LIMIT 1`).Scan(&n)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("reading the flags: %w", err)
	}
	return nil
}

func notFound(key string) error {
	return problem.New(problem.NotFound, "There is no flag %s.", key)
}
