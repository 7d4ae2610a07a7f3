package cache

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

const (
	// rowOverhead is what a row counts against the disk bound beyond its own bytes.
	rowOverhead = 256
	// batchRows bounds what one transaction deletes, so that writers need not wait long.
	batchRows = 500
)

// read is the row of key if it is valid at now, else nil.
func (st *State) read(ctx context.Context, q querier, key string, now time.Time) (*item, error) {
	var it item
	var tags []byte
	var created, expires int64
	err := q.QueryRowContext(ctx,
		"SELECT value, content_type, tags, generation, created_at, expires_at FROM cache_entries WHERE key = $1 AND expires_at > $2",
		key, now.UnixMilli()).Scan(&it.value, &it.contentType, &tags, &it.born, &created, &expires)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading an entry: %w", err)
	}
	if err = json.Unmarshal(tags, &it.tags); err != nil {
		return nil, fmt.Errorf("reading the tags of an entry: %w", err)
	}
	if fresh, err := st.fresh(ctx, q, it.tags, it.born); err != nil || !fresh {
		return nil, err
	}
	it.created, it.expires = time.UnixMilli(created), time.UnixMilli(expires)
	return &it, nil
}

// put writes the row of key and says whether there was no valid one before.
func (st *State) put(ctx context.Context, tx *sql.Tx, key string, it *item, now time.Time) (isNew bool, err error) {
	var size, expires int64
	var born uint64
	var raw []byte
	isNew = true
	err = tx.QueryRowContext(ctx, "SELECT size, expires_at, generation, tags FROM cache_entries WHERE key = $1", key).
		Scan(&size, &expires, &born, &raw)
	switch {
	case errors.Is(err, sql.ErrNoRows):
	case err != nil:
		return false, fmt.Errorf("reading the entry to replace: %w", err)
	default:
		var old []string
		if err = json.Unmarshal(raw, &old); err != nil {
			return false, fmt.Errorf("reading the tags of the entry to replace: %w", err)
		}
		fresh, err := st.fresh(ctx, tx, old, born)
		if err != nil {
			return false, err
		}
		isNew = expires <= now.UnixMilli() || !fresh
	}
	tags := it.tags
	if tags == nil {
		tags = []string{}
	}
	raw, err = json.Marshal(tags)
	if err != nil {
		return false, fmt.Errorf("encoding the tags: %w", err)
	}
	grown := int64(rowOverhead + len(key) + len(it.value) + len(it.contentType) + len(raw))
	value := it.value
	if value == nil {
		value = []byte{}
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO cache_entries (key, value, content_type, tags, generation, size, created_at, expires_at, owner)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
		ON CONFLICT (key) DO UPDATE SET value = excluded.value, content_type = excluded.content_type, tags = excluded.tags,
		generation = excluded.generation, size = excluded.size, created_at = excluded.created_at, expires_at = excluded.expires_at`,
		key, value, it.contentType, raw, int64(it.born), grown, it.created.UnixMilli(), it.expires.UnixMilli(), service.ScopeOf(key))
	if err != nil {
		return false, fmt.Errorf("writing an entry: %w", err)
	}
	st.bytes += grown - size
	return isNew, st.grow(ctx, tx, key, grown-size)
}

// remove deletes the row of key, if there is one.
func (st *State) remove(ctx context.Context, tx *sql.Tx, key string) error {
	_, err := st.deleted(ctx, tx, "DELETE FROM cache_entries WHERE key = $1 RETURNING size, owner", key)
	return err
}

// invalidate records a new generation for the tags and returns it; on PostgreSQL it is the keys', too.
func (st *State) invalidate(ctx context.Context, tx *sql.Tx, keys, tags []string) (uint64, error) {
	generation, err := st.nextGeneration(ctx, tx)
	if err != nil {
		return 0, err
	}
	for _, tag := range tags {
		if err := setGeneration(ctx, tx, tag, generation); err != nil {
			return 0, err
		}
	}
	return generation, st.recordDrops(ctx, tx, keys, generation)
}

// raise records a new floor of the tags, unless there is a higher one.
func (st *State) raise(ctx context.Context, tx *sql.Tx, cutoff uint64) error {
	if err := setGeneration(ctx, tx, "", cutoff); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "DELETE FROM cache_tags WHERE generation <= $1 AND tag <> ''", int64(cutoff)); err != nil {
		return fmt.Errorf("deleting old tags: %w", err)
	}
	return nil
}

func setGeneration(ctx context.Context, tx *sql.Tx, tag string, generation uint64) error {
	_, err := tx.ExecContext(ctx,
		`INSERT INTO cache_tags (tag, generation, owner) VALUES ($1, $2, $3)
		ON CONFLICT (tag) DO UPDATE SET generation = excluded.generation WHERE excluded.generation > cache_tags.generation`,
		tag, int64(generation), service.ScopeOf(tag))
	if err != nil {
		return fmt.Errorf("writing a tag: %w", err)
	}
	return nil
}

// expire deletes rows that are past their time and says whether there may be more.
func (st *State) expire(ctx context.Context, tx *sql.Tx, now time.Time) (more bool, err error) {
	if err = st.measure(ctx, tx, now); err != nil {
		return false, err
	}
	n, err := st.deleted(ctx, tx, `DELETE FROM cache_entries WHERE key IN
		(SELECT key FROM cache_entries WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2) RETURNING size, owner`, now.UnixMilli(), batchRows)
	return n == batchRows, err
}

// trim deletes the oldest rows if the disk level is over its bound, down to nine tenths of it.
func (st *State) trim(ctx context.Context, tx *sql.Tx) error {
	limit := st.disk.Load()
	if st.bytes <= limit {
		return nil
	}
	created, key, err := oldest(ctx, tx, "", st.bytes-limit/10*9)
	if err != nil {
		return fmt.Errorf("looking for the oldest entries: %w", err)
	}
	_, err = st.deleted(ctx, tx, "DELETE FROM cache_entries WHERE (created_at, key) <= ($1, $2) RETURNING size, owner", created, key)
	return err
}

// oldest is the place, in the order of age, up to which rows add up to at least excess bytes: those of the
// owner, or all.
func oldest(ctx context.Context, tx *sql.Tx, owner string, excess int64) (created int64, key string, err error) {
	where, args := "", []any(nil)
	if owner != "" {
		where, args = "WHERE owner = $1 AND owner <> ''", []any{owner}
	}
	rows, err := tx.QueryContext(ctx, "SELECT created_at, key, size FROM cache_entries "+where+" ORDER BY created_at, key", args...)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = rows.Close() }()
	for excess > 0 && rows.Next() {
		var size int64
		if err = rows.Scan(&created, &key, &size); err != nil {
			return 0, "", err
		}
		excess -= size
	}
	return created, key, rows.Err()
}

// deleted runs a DELETE … RETURNING size, owner, keeps the sums of sizes right and returns the number of rows.
func (st *State) deleted(ctx context.Context, tx *sql.Tx, query string, args ...any) (n int, err error) {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return 0, fmt.Errorf("deleting entries: %w", err)
	}
	defer func() { _ = rows.Close() }()
	gone := map[string]int64{}
	for rows.Next() {
		var size int64
		var owner string
		if err = rows.Scan(&size, &owner); err != nil {
			return n, fmt.Errorf("deleting entries: %w", err)
		}
		st.bytes -= size
		if owner != "" {
			gone[owner] += size
		}
		n++
	}
	if err = errors.Join(rows.Err(), rows.Close()); err != nil {
		return n, fmt.Errorf("deleting entries: %w", err)
	}
	return n, st.shrink(ctx, tx, gone)
}
