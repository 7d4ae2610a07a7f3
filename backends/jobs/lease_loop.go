package jobs

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivertype"
)

const (
	// reapEvery is the time between two looks for leases that lapsed.
	reapEvery = time.Second
	// tidyEvery is the time between two looks for what is seldom: jobs without a lease, old answers.
	tidyEvery = 10 * time.Second
	// reapBatch and reapRounds bound one look.
	reapBatch, reapRounds = 200, 50
	// strayAfter is how long a job may run for a pull worker without a lease: a crash came between.
	strayAfter = 10 * time.Second
	// keepQueue is how old the engine's mark on a queue of pull workers may become.
	keepQueue = time.Hour
)

// leaseLoop ends the leases that lapsed, until ctx ends: an attempt that was not completed in time has
// failed. Two at once do no harm: each lease is ended by one. With it the long polls end.
func (s *Service) leaseLoop(ctx context.Context) {
	defer s.bells.stop()
	tick := time.NewTicker(reapEvery)
	defer tick.Stop()
	tidied, failing := time.Now(), false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := s.reap(ctx)
		if err == nil && time.Since(tidied) >= tidyEvery {
			tidied = time.Now()
			err = s.tidy(ctx)
		}
		if err != nil && ctx.Err() == nil && !failing {
			s.log.Error("leases could not be looked after, it is tried again each second", "error", err)
		}
		failing = err != nil
	}
}

// lapsed is a lease that is over.
type lapsed struct{ id, fence int64 }

// reap ends the leases that lapsed.
func (s *Service) reap(ctx context.Context) error {
	for range reapRounds {
		over, err := s.lapsed(ctx, time.Now())
		if err != nil || len(over) == 0 {
			return err
		}
		var rows []*rivertype.JobRow
		err = s.db.InTx(ctx, func(tx *sql.Tx) error {
			rows = rows[:0]
			for _, l := range over {
				row, err := s.lapseTx(ctx, tx, l)
				if err != nil {
					return err
				}
				if row != nil {
					rows = append(rows, row)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, row := range rows {
			s.ended(row)
		}
		if len(over) < reapBatch {
			return nil
		}
	}
	return nil
}

func (s *Service) lapsed(ctx context.Context, now time.Time) (over []lapsed, err error) {
	rows, err := s.db.Read.QueryContext(ctx, "SELECT job_id, fence FROM jobs_leases WHERE expires_at <= $1 ORDER BY job_id LIMIT $2", now.UnixMilli(), reapBatch)
	if err != nil {
		return nil, fmt.Errorf("looking for leases that ended: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var l lapsed
		if err = rows.Scan(&l.id, &l.fence); err != nil {
			return nil, fmt.Errorf("looking for leases that ended: %w", err)
		}
		over = append(over, l)
	}
	return over, rows.Err()
}

// lapseTx fails the attempt whose lease is over, unless it was extended or ended meanwhile.
func (s *Service) lapseTx(ctx context.Context, tx *sql.Tx, l lapsed) (*rivertype.JobRow, error) {
	now := time.Now()
	res, err := tx.ExecContext(ctx, "DELETE FROM jobs_leases WHERE job_id = $1 AND fence = $2 AND expires_at <= $3", l.id, l.fence, now.UnixMilli())
	if err != nil {
		return nil, fmt.Errorf("ending a lease: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return nil, err
	}
	found, err := s.river.Driver().UnwrapExecutor(tx).JobGetByIDMany(ctx, &riverdriver.JobGetByIDManyParams{ID: []int64{l.id}})
	if err != nil {
		return nil, fmt.Errorf("reading a job: %w", err)
	}
	if len(found) == 0 || found[0].State != rivertype.JobStateRunning {
		return nil, nil //nolint:nilnil // there is nothing to end
	}
	v := s.failed(found[0], now, leaseEnded, -1, false)
	v.name, v.note = "lapse", map[string]any{redelivered: true}
	return s.endTx(ctx, tx, found[0], v, l.fence, now)
}

// tidy gives back jobs that run for a pull worker without a lease, keeps the queues that nobody else
// keeps, and forgets old answers.
func (s *Service) tidy(ctx context.Context) error {
	strays, err := s.strays(ctx)
	if err != nil {
		return err
	}
	for _, id := range strays {
		err = s.db.InTx(ctx, func(tx *sql.Tx) error { return s.strayTx(ctx, tx, id) })
		if err != nil {
			return err
		}
	}
	for name, q := range s.queues {
		if q.Pull {
			// The engine forgets a queue that none of its fetchers keeps, and with it that it is paused.
			_, err = s.db.Write.ExecContext(ctx, "UPDATE river_queue SET updated_at = "+s.q.now+" WHERE name = $1 AND updated_at < "+s.q.ago("$2"),
				name, keepQueue.Milliseconds())
			if err != nil {
				return fmt.Errorf("keeping a queue: %w", err)
			}
		}
	}
	return s.sweepAnswers(ctx, time.Now())
}

// stray says of the row j that a pull worker runs it without a lease, for longer than it takes to store
// one: $1 is a time.
func (d dialect) stray() string {
	return "j.state = 'running' AND j.attempted_at < $1 AND " + d.owner + " LIKE '" + pullOwner +
		"%' AND NOT EXISTS (SELECT 1 FROM jobs_leases l WHERE l.job_id = j.id)"
}

func (s *Service) strays(ctx context.Context) ([]int64, error) {
	found, err := column[int64](s.db.Read.QueryContext(ctx, "SELECT j.id FROM river_job j WHERE "+s.q.stray()+" LIMIT 1000", s.q.time(time.Now().Add(-strayAfter))))
	if err != nil {
		return nil, fmt.Errorf("looking for jobs without a lease: %w", err)
	}
	return found, nil
}

func (s *Service) strayTx(ctx context.Context, tx *sql.Tx, id int64) error {
	var attempt int
	err := tx.QueryRowContext(ctx, "SELECT j.attempt FROM river_job j WHERE "+s.q.stray()+" AND j.id = $2"+s.q.forUpdate(),
		s.q.time(time.Now().Add(-strayAfter)), id).Scan(&attempt)
	if noRows(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading a job without a lease: %w", err)
	}
	return s.backTx(ctx, tx, id, attempt)
}
