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
	"strconv"
	"time"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverdatabasesql"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"

	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

//go:embed migrations/*.sql migrations/postgres/*.sql
var migrations embed.FS

const (
	// sweepEvery is the time between two deletions of finished jobs beyond what is kept.
	sweepEvery = 30 * time.Second
	// sweepBatch is how many jobs one transaction deletes, so that others get the writer in between.
	sweepBatch = 1000
	// sweepRounds bounds the batches of one queue and state in one sweep.
	sweepRounds = 500
)

// Prepare brings the engine's tables and ours to their newest version. It may be repeated.
func Prepare(ctx context.Context, db *sqldb.DB, log *slog.Logger) error {
	if err := prepareEngine(ctx, db, log); err != nil {
		return err
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	if err = db.Migrate(ctx, "jobs", files); err != nil {
		return err
	}
	return db.Alone(ctx, "jobs indexes", func() error {
		for _, index := range dialectOf(db).indexes() {
			if _, err := db.Write.ExecContext(ctx, index); err != nil {
				return fmt.Errorf("making an index of the jobs: %w", err)
			}
		}
		return nil
	})
}

// prepareEngine brings the engine's own tables to their newest version.
func prepareEngine(ctx context.Context, db *sqldb.DB, log *slog.Logger) error {
	var engine riverdriver.Driver[*sql.Tx] = riversqlite.New(db.Write)
	if db.Postgres() {
		engine = riverdatabasesql.New(db.Write)
	}
	m, err := rivermigrate.New(engine, &rivermigrate.Config{Logger: slog.New(newQuiet(log.Handler()))})
	if err != nil {
		return fmt.Errorf("reading the migrations of the jobs engine: %w", err)
	}
	return db.Alone(ctx, "jobs engine", func() error {
		if _, err := m.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
			return fmt.Errorf("migrating the tables of the jobs engine: %w", err)
		}
		return nil
	})
}

// indexes are ours on the engine's table. The engine's migrations may rebuild that table, so they are
// made after them, if they are not there.
func (d dialect) indexes() []string {
	key := bare(d.key)
	return []string{
		// The fetch: whose turn it is, and the first of them.
		"CREATE INDEX IF NOT EXISTS jobs_lane ON river_job (queue, priority, (" + key + "), scheduled_at, id) WHERE state = 'available'",
		// What runs, in all and by key, and whose owner is dead.
		"CREATE INDEX IF NOT EXISTS jobs_running ON river_job (queue, (" + key + ")) WHERE state = 'running'",
		// What ordered queues wait for: jobs that were begun and wait.
		"CREATE INDEX IF NOT EXISTS jobs_again ON river_job (queue, id) WHERE " + bare(begun),
		// Ended jobs whose callback is not told yet: none most of the time, however many jobs are kept.
		"CREATE INDEX IF NOT EXISTS jobs_callbacks_due ON river_job (id) WHERE " + bare(callbackDue),
		// The jobs of one owner, the newest first.
		"CREATE INDEX IF NOT EXISTS jobs_owner ON river_job ((metadata ->> 'owner'), id) WHERE (metadata ->> 'owner') IS NOT NULL",
	}
}

// registerQueues makes each configured queue known to the engine, so that it can be paused before
// its first job.
func (s *Service) registerQueues(ctx context.Context) error {
	names, err := json.Marshal(slices.Sorted(maps.Keys(s.queues))) // sorted: two instances at once lock in one order
	if err != nil {
		return err
	}
	each := s.q.pick("json_each($1)", "json_array_elements_text($1::json) AS names(value)")
	_, err = s.db.Write.ExecContext(ctx, `
		INSERT INTO river_queue (name, created_at, updated_at)
		SELECT value, `+s.q.now+`, `+s.q.now+` FROM `+each+` WHERE true
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

// full is a queue and state that has jobs to delete, or may have.
type full struct {
	queue, state string
	n, keep      int
	keepFor      time.Duration // 0 for no bound
}

// sweep deletes finished jobs beyond what is kept. Two at once do no harm: each deletes what is
// still there and still finished.
func (s *Service) sweep(ctx context.Context) error {
	todo, err := s.finished(ctx)
	if err != nil {
		return err
	}
	for _, f := range todo {
		if err = s.sweepOne(ctx, f); err != nil {
			return err
		}
	}
	// A rate whose next start has long been due is as good as none.
	_, err = s.db.Write.ExecContext(ctx, "DELETE FROM jobs_rates WHERE due_at < $1", time.Now().Add(-2*maxRatePer).UnixMicro())
	if err != nil {
		return fmt.Errorf("deleting old rates: %w", err)
	}
	return nil
}

// finished are the queues and states with finished jobs, and how many.
func (s *Service) finished(ctx context.Context) (all []full, err error) {
	rows, err := s.db.Read.QueryContext(ctx, `
		SELECT j.queue, `+s.q.state()+`, count(*) FROM river_job j
		WHERE j.state IN ('completed', 'discarded', 'cancelled') GROUP BY 1, 2`)
	if err != nil {
		return nil, fmt.Errorf("counting finished jobs: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var f full
		if err = rows.Scan(&f.queue, &f.state, &f.n); err != nil {
			return nil, fmt.Errorf("counting finished jobs: %w", err)
		}
		keep := s.settings(f.queue).Keep
		if f.keep, f.keepFor = keep.failed(), keep.FailedFor.Std(); f.state == "completed" {
			f.keep, f.keepFor = keep.completed(), keep.CompletedFor.Std()
		}
		all = append(all, f)
	}
	return all, rows.Err()
}

func (s *Service) sweepOne(ctx context.Context, f full) error {
	if f.n > f.keep {
		// The newest job that is one too many, and all that ended before it.
		var at string
		var id int64
		err := s.db.Read.QueryRowContext(ctx, `SELECT CAST(j.finalized_at AS text), j.id FROM river_job j
			WHERE j.queue = $1 AND j.state = $2`+s.q.cast("river_job_state")+` ORDER BY j.finalized_at DESC, j.id DESC LIMIT 1 OFFSET $3`, f.queue, f.state, f.keep).Scan(&at, &id)
		if err == nil {
			err = s.delete(ctx, f, "(j.finalized_at, j.id) <= ($3"+s.q.cast("timestamptz")+", $4)", at, id)
		}
		if err != nil && !noRows(err) {
			return fmt.Errorf("deleting finished jobs beyond the number that is kept: %w", err)
		}
	}
	if f.keepFor > 0 {
		if err := s.delete(ctx, f, "j.finalized_at < "+s.q.ago("$3"), f.keepFor.Milliseconds()); err != nil {
			return fmt.Errorf("deleting old finished jobs: %w", err)
		}
	}
	return nil
}

// delete deletes the finished jobs that fit a condition, whose parameters begin with $3, in batches.
func (s *Service) delete(ctx context.Context, f full, condition string, args ...any) error {
	args = append([]any{f.queue, f.state}, args...)
	keep := "coalesce(j.metadata ->> 'callback', '') <> 'due' AND NOT EXISTS (SELECT 1 FROM jobs_keys k WHERE k.job_id = j.id AND " + s.q.remembered() + ")"
	for range sweepRounds {
		// Found by a reader, as it may have to pass over many that are kept, and looked at again by the writer.
		found, err := column[int64](s.db.Read.QueryContext(ctx, `SELECT j.id FROM river_job j
			WHERE j.queue = $1 AND j.state = $2`+s.q.cast("river_job_state")+` AND `+condition+` AND `+keep+`
			ORDER BY j.finalized_at LIMIT `+strconv.Itoa(sweepBatch), args...))
		if err != nil || len(found) == 0 {
			return err
		}
		if f.state == string(rivertype.JobStateDiscarded) {
			s.bury(f.queue, found)
		}
		err = s.db.InTx(ctx, func(tx *sql.Tx) error {
			ids, err := column[int64](tx.QueryContext(ctx, `DELETE FROM river_job WHERE id IN (SELECT j.id FROM river_job j WHERE `+s.q.ids("j.id", "$1")+`
				AND j.state IN ('completed', 'discarded', 'cancelled') AND `+keep+`) RETURNING id`, jsonIDs(found)))
			if err != nil || len(ids) == 0 {
				return err
			}
			_, err = tx.ExecContext(ctx, "DELETE FROM jobs_keys WHERE "+s.q.ids("job_id", "$1"), jsonIDs(ids))
			return err
		})
		if err != nil {
			return err
		}
		if len(found) < sweepBatch {
			return nil
		}
	}
	return nil
}
