package jobs

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

//go:embed migrations/*.sql
var migrations embed.FS

const (
	// sweepEvery is the time between two deletions of finished jobs beyond what is kept.
	sweepEvery = 30 * time.Second
	// sweepBatch is how many jobs one transaction deletes, so that others get the writer in between.
	sweepBatch = 500
	// sweepRounds bounds the batches of one queue and state in one sweep.
	sweepRounds = 100
)

// Prepare brings the engine's tables and ours to their newest version. It may be repeated.
func Prepare(ctx context.Context, db *sqldb.DB, log *slog.Logger) error {
	m, err := rivermigrate.New(riversqlite.New(db.Write), &rivermigrate.Config{Logger: slog.New(quiet{log.Handler()})})
	if err != nil {
		return fmt.Errorf("reading the migrations of the jobs engine: %w", err)
	}
	if _, err = m.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return fmt.Errorf("migrating the tables of the jobs engine: %w", err)
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	return db.Migrate(ctx, "jobs", files)
}

// adoptOrphans puts the jobs back that were running when their process died, with the attempt it
// took given back: a crash is not the job's failure. One that was being cancelled is cancelled. The
// dead process also leads no more, so the next one need not wait for its lease to end.
func adoptOrphans(ctx context.Context, db *sqldb.DB) (n int64, err error) {
	err = db.InTx(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `
			UPDATE river_job SET
				attempt = max(attempt - 1, 0),
				state = CASE WHEN metadata -> '$.cancel_attempted_at' IS NULL THEN 'available' ELSE 'cancelled' END,
				finalized_at = CASE WHEN metadata -> '$.cancel_attempted_at' IS NULL THEN NULL ELSE datetime('now', 'subsec') END
			WHERE state = 'running'`)
		if err != nil {
			return fmt.Errorf("putting running jobs of an ended process back: %w", err)
		}
		if n, err = res.RowsAffected(); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "DELETE FROM river_leader")
		return err
	})
	return n, err
}

// registerQueues makes each configured queue known to the engine, so that it can be paused before
// its first job.
func (s *Service) registerQueues(ctx context.Context) error {
	names, err := json.Marshal(slices.Collect(maps.Keys(s.queues)))
	if err != nil {
		return err
	}
	_, err = s.db.Write.ExecContext(ctx, `
		INSERT INTO river_queue (name, created_at, updated_at)
		SELECT value, datetime('now', 'subsec'), datetime('now', 'subsec') FROM json_each(?) WHERE true
		ON CONFLICT (name) DO UPDATE SET updated_at = excluded.updated_at`, string(names))
	if err != nil {
		return fmt.Errorf("registering the queues: %w", err)
	}
	return nil
}

// sweepLoop deletes finished jobs beyond what is kept, until ctx ends.
func (s *Service) sweepLoop(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("finished jobs could not be deleted", "error", err)
		}
	}
}

// sweep deletes finished jobs beyond what is kept. Two at once do no harm: each deletes what is
// still there and still finished.
func (s *Service) sweep(ctx context.Context) error {
	rows, err := s.db.Read.QueryContext(ctx, `
		SELECT queue, state, count(*) FROM river_job
		WHERE state IN ('completed', 'discarded', 'cancelled') GROUP BY queue, state`)
	if err != nil {
		return fmt.Errorf("counting finished jobs: %w", err)
	}
	defer func() { _ = rows.Close() }()
	type full struct {
		queue, state string
		keep         int
	}
	var todo []full
	for rows.Next() {
		var f full
		var n int
		if err = rows.Scan(&f.queue, &f.state, &n); err != nil {
			return fmt.Errorf("counting finished jobs: %w", err)
		}
		keep := s.settings(f.queue).Keep
		if f.keep = keep.failed(); f.state == "completed" {
			f.keep = keep.completed()
		}
		if n > f.keep {
			todo = append(todo, f)
		}
	}
	if err = rows.Err(); err != nil {
		return fmt.Errorf("counting finished jobs: %w", err)
	}
	for _, f := range todo {
		for range sweepRounds {
			n, err := s.sweepOnce(ctx, f.queue, f.state, f.keep)
			if err != nil {
				return err
			}
			if n < sweepBatch {
				break
			}
		}
	}
	return nil
}

// sweepOnce deletes one batch and returns how many jobs it found to delete.
func (s *Service) sweepOnce(ctx context.Context, queue, state string, keep int) (found int, err error) {
	var ids []byte
	err = s.db.Read.QueryRowContext(ctx, `
		SELECT count(*), json_group_array(id) FROM (
			SELECT j.id FROM river_job j
			WHERE j.queue = ? AND j.state = ? AND NOT EXISTS (
				SELECT 1 FROM jobs_keys k WHERE k.job_id = j.id AND `+remembered+`)
			ORDER BY j.finalized_at DESC, j.id DESC LIMIT ? OFFSET ?)`,
		queue, state, sweepBatch, keep).Scan(&found, &ids)
	if err != nil {
		return 0, fmt.Errorf("finding finished jobs to delete: %w", err)
	}
	if found == 0 {
		return 0, nil
	}
	return found, s.db.InTx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `
			DELETE FROM river_job WHERE id IN (SELECT value FROM json_each(?))
			AND state IN ('completed', 'discarded', 'cancelled')`, string(ids))
		if err != nil {
			return fmt.Errorf("deleting finished jobs: %w", err)
		}
		_, err = tx.ExecContext(ctx, `
			DELETE FROM jobs_keys WHERE job_id IN (SELECT value FROM json_each(?))
			AND NOT EXISTS (SELECT 1 FROM river_job j WHERE j.id = job_id)`, string(ids))
		if err != nil {
			return fmt.Errorf("deleting the keys of finished jobs: %w", err)
		}
		return nil
	})
}
