package cache

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// Keys and tags are each owner's own: below the API they are service.Scoped, and what belongs to nobody, which
// includes the responses of http_cache, has them as they are. An owner has a share of the disk level, in which
// their own oldest values make room, and a share of the tags that are remembered.

// maxOwnTags is how many invalidated tags of one owner are remembered one by one. Beyond it one
// invalidation stands for all of them, which costs the owner some valid entries and no correctness.
const maxOwnTags = 1000

// scopedAll are the names in the owner's space.
func scopedAll(owner string, names []string) []string {
	if owner == "" {
		return names
	}
	all := make([]string, len(names))
	for i, name := range names {
		all[i] = service.Scoped(owner, name)
	}
	return all
}

// scopedTags are the tags of an entry in the owner's space, with the one of all tagged entries there.
func scopedTags(owner string, tags []string) []string {
	if owner == "" || len(tags) == 0 {
		return tags
	}
	return append(scopedAll(owner, tags), service.Scoped(owner, ""))
}

// grow adds to the bytes of a key's owner, and makes room in the owner's share where it is exceeded.
func (st *State) grow(ctx context.Context, tx *sql.Tx, key string, by int64) error {
	owner := service.ScopeOf(key)
	if owner == "" || by == 0 {
		return nil
	}
	var sum int64
	err := tx.QueryRowContext(ctx, `INSERT INTO cache_owners (owner, bytes) VALUES ($1, $2)
		ON CONFLICT (owner) DO UPDATE SET bytes = cache_owners.bytes + excluded.bytes RETURNING bytes`, owner, by).Scan(&sum)
	if err != nil {
		return fmt.Errorf("counting the owner's bytes: %w", err)
	}
	limit := st.ownerBytes.Load()
	if sum <= limit {
		return nil
	}
	// An instance from before there were owners may have deleted values without counting them.
	err = tx.QueryRowContext(ctx, `UPDATE cache_owners SET bytes =
		(SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM cache_entries WHERE owner = $1 AND owner <> '') WHERE owner = $1 RETURNING bytes`, owner).Scan(&sum)
	if err != nil {
		return fmt.Errorf("measuring the owner's entries: %w", err)
	}
	if sum <= limit {
		return nil
	}
	created, last, err := oldest(ctx, tx, owner, sum-limit/10*9)
	if err != nil {
		return fmt.Errorf("looking for the owner's oldest entries: %w", err)
	}
	_, err = st.deleted(ctx, tx, "DELETE FROM cache_entries WHERE owner = $1 AND owner <> '' AND (created_at, key) <= ($2, $3) AND key <> $4 RETURNING size, owner",
		owner, created, last, key)
	return err
}

// shrink takes from the bytes of owners what was deleted.
func (st *State) shrink(ctx context.Context, tx *sql.Tx, gone map[string]int64) error {
	for owner, n := range gone {
		_, err := tx.ExecContext(ctx, "UPDATE cache_owners SET bytes = bytes - $2 WHERE owner = $1", owner, n)
		if err == nil {
			_, err = tx.ExecContext(ctx, "DELETE FROM cache_owners WHERE owner = $1 AND bytes <= 0", owner)
		}
		if err != nil {
			return fmt.Errorf("counting the owner's bytes: %w", err)
		}
	}
	return nil
}

// merge replaces the tags by the one of all the owner's entries where too many of the owner's are remembered.
func (st *State) merge(ctx context.Context, tx *sql.Tx, tags []string) ([]string, error) {
	if len(tags) == 0 {
		return tags, nil
	}
	owner := service.ScopeOf(tags[0])
	if owner == "" {
		return tags, nil
	}
	var n int
	if err := tx.QueryRowContext(ctx, "SELECT COUNT(*) FROM cache_tags WHERE owner = $1 AND owner <> ''", owner).Scan(&n); err != nil {
		return nil, fmt.Errorf("counting the owner's tags: %w", err)
	}
	if n+len(tags) <= maxOwnTags {
		return tags, nil
	}
	if _, err := tx.ExecContext(ctx, "DELETE FROM cache_tags WHERE owner = $1 AND owner <> ''", owner); err != nil {
		return nil, fmt.Errorf("merging the owner's tags: %w", err)
	}
	return []string{strings.TrimSuffix(tags[0], service.Unscoped(tags[0]))}, nil
}
