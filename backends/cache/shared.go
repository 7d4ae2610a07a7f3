package cache

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"time"
)

// On PostgreSQL several processes share the second level. It alone then has the values of the API: what
// one instance writes or deletes is at once what all read. Commits happen one after the other over all
// instances, so that generations are in their order. The responses of http_cache stay in the memory of
// each instance; the invalidation of a tag reaches those of another within a second.

const (
	// followEvery is how often the invalidations of other instances are looked for.
	followEvery = 500 * time.Millisecond
	followTime  = 2 * time.Second
	// keepDrops is how long a deletion is remembered for the fills that were on their way. They take fillTime.
	keepDrops = time.Hour
)

// shared says whether other processes write to the second level.
func (st *State) shared() bool { return st.db.Postgres() }

// querier is a transaction or the reading pool.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// fresh is tagTable.fresh; where other instances invalidate, the database says it.
func (st *State) fresh(ctx context.Context, q querier, tags []string, born uint64) (bool, error) {
	if !st.shared() || len(tags) == 0 {
		return st.tags.fresh(tags, born), nil
	}
	query, args := "SELECT COALESCE(MAX(generation), 0) FROM cache_tags WHERE tag IN (''", make([]any, len(tags))
	for i, tag := range tags {
		query += ", $" + strconv.Itoa(i+1)
		args[i] = tag
	}
	var last uint64
	if err := q.QueryRowContext(ctx, query+")", args...).Scan(&last); err != nil {
		return false, fmt.Errorf("reading the tags of an entry: %w", err)
	}
	return born >= last, nil
}

// markNow is mark for a value of the API: it knows also what another instance has just invalidated.
func (st *State) markNow(ctx context.Context, u URL) (Mark, error) {
	m := st.mark(u)
	if !st.shared() {
		return m, nil
	}
	if err := st.db.Read.QueryRowContext(ctx, "SELECT last FROM cache_generation").Scan(&m.born); err != nil {
		return m, fmt.Errorf("reading the generation: %w", err)
	}
	return m, nil
}

// nextGeneration gives out a generation.
func (st *State) nextGeneration(ctx context.Context, tx *sql.Tx) (uint64, error) {
	if !st.shared() {
		st.assigned++
		return st.assigned, nil
	}
	var next uint64
	if err := tx.QueryRowContext(ctx, "UPDATE cache_generation SET last = last + 1 RETURNING last").Scan(&next); err != nil {
		return 0, fmt.Errorf("taking a generation: %w", err)
	}
	return next, nil
}

// recordDrops remembers, for the fills of other instances, that the keys were deleted.
func (st *State) recordDrops(ctx context.Context, tx *sql.Tx, keys []string, generation uint64) error {
	if !st.shared() {
		return nil
	}
	for _, key := range keys {
		_, err := tx.ExecContext(ctx, `INSERT INTO cache_drops (key, generation, dropped_at) VALUES ($1, $2, $3)
			ON CONFLICT (key) DO UPDATE SET generation = excluded.generation, dropped_at = excluded.dropped_at`,
			key, int64(generation), time.Now().UnixMilli())
		if err != nil {
			return fmt.Errorf("recording a deletion: %w", err)
		}
	}
	return nil
}

// unbeaten says whether what a fill made may be stored: since its mark no instance has deleted the key
// or invalidated its tags, and none has put a value there.
func (st *State) unbeaten(ctx context.Context, tx *sql.Tx, key string, it *item, now time.Time) (bool, error) {
	if !st.shared() {
		return true, nil
	}
	var dropped bool
	if err := tx.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM cache_drops WHERE key = $1 AND generation > $2)", key, int64(it.born)).Scan(&dropped); err != nil {
		return false, fmt.Errorf("looking for a deletion: %w", err)
	}
	if dropped {
		return false, nil
	}
	if fresh, err := st.fresh(ctx, tx, it.tags, it.born); err != nil || !fresh {
		return false, err
	}
	other, err := st.read(ctx, tx, key, now)
	return other == nil, err
}

// measure counts anew what others have written, and forgets old deletions.
func (st *State) measure(ctx context.Context, tx *sql.Tx, now time.Time) error {
	if !st.shared() {
		return nil
	}
	if err := tx.QueryRowContext(ctx, "SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM cache_entries").Scan(&st.bytes); err != nil {
		return fmt.Errorf("measuring the entries: %w", err)
	}
	if _, err := tx.ExecContext(ctx, "DELETE FROM cache_drops WHERE dropped_at < $1", now.Add(-keepDrops).UnixMilli()); err != nil {
		return fmt.Errorf("forgetting old deletions: %w", err)
	}
	return nil
}

// follow puts the invalidations of other instances in force, until ctx ends.
func (s *Service) follow(ctx context.Context) {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for failing := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := s.state.catchUp(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			s.log.Warn("the invalidations of other instances cannot be read", "error", err)
		}
		failing = err != nil
	}
}

func (st *State) catchUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, followTime)
	defer cancel()
	st.loading.Lock()
	defer st.loading.Unlock()
	rows, err := st.db.Read.QueryContext(ctx, "SELECT tag, generation FROM cache_tags WHERE generation > $1 OR tag = '' ORDER BY generation", int64(st.followed))
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var tag string
		var generation uint64
		if err = rows.Scan(&tag, &generation); err != nil {
			return err
		}
		if tag == "" {
			st.tags.raise(generation)
			continue
		}
		st.tags.publish([]string{tag}, generation)
		st.followed = max(st.followed, generation)
	}
	return rows.Err()
}
