package uploads

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

const (
	sweepEvery = time.Minute
	// sweepBatch and sweepBatches bound one sweep; the rest is for the next.
	sweepBatch   = 100
	sweepBatches = 50
	// grace is how long after its URL expired an upload may still end and be confirmed.
	grace = time.Hour
	// lastSweep is how long after its URL expired an ended upload's object is deleted again: the
	// URL may have been used, or a slow upload may have ended, after it was deleted the first time.
	lastSweep = 25 * time.Hour
	// keepEnded is how long after its URL expired a rejected or expired upload can be asked about.
	keepEnded = 30 * 24 * time.Hour
	// jobTime is how long an upload may be processing before its job is enqueued once more.
	jobTime = time.Hour
)

// Run sweeps once a minute until ctx ends. Several may run at once: every step is conditional.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := s.Sweep(ctx, s.Now()); err != nil && ctx.Err() == nil {
			s.Log.WarnContext(ctx, "the sweep of uploads failed, trying again in a minute", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Sweep expires what was never confirmed, deletes the objects of what has ended, forgets old rows,
// and revives what waits for a job that got lost.
func (s *Service) Sweep(ctx context.Context, now time.Time) error {
	for range sweepBatches {
		files, err := s.due(ctx, now)
		if err != nil {
			return err
		}
		for _, f := range files {
			if err = s.sweep(ctx, f, now); err != nil {
				return err
			}
		}
		if len(files) < sweepBatch {
			return nil
		}
	}
	return nil
}

func (s *Service) due(ctx context.Context, now time.Time) ([]*file, error) {
	rows, err := s.DB.Read.QueryContext(ctx, "SELECT "+columns+" FROM uploads_files WHERE sweep_at <= $1 ORDER BY sweep_at LIMIT $2", now.UnixMilli(), sweepBatch)
	if err != nil {
		return nil, fmt.Errorf("reading what to sweep: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var files []*file
	for rows.Next() {
		f, err := scanFile(rows)
		if err != nil {
			return nil, fmt.Errorf("reading what to sweep: %w", err)
		}
		files = append(files, f)
	}
	return files, rows.Err()
}

func (s *Service) sweep(ctx context.Context, f *file, now time.Time) error {
	switch f.state {
	case pending:
		// The state first: a confirm at the same time either came before or finds it expired.
		won, err := s.toEnded(ctx, f, expired, "")
		if err != nil || !won {
			return err
		}
		s.discard(ctx, f)
		return nil
	case processing:
		err := s.DB.InTx(ctx, func(tx *sql.Tx) error {
			won, err := changed(tx.ExecContext(ctx, "UPDATE uploads_files SET sweep_at = $1 WHERE id = $2 AND state = $3 AND sweep_at <= $4",
				now.Add(jobTime).UnixMilli(), f.id, processing, now.UnixMilli()))
			if err != nil || !won {
				return err
			}
			return s.enqueue(ctx, tx, f.id, f.etag)
		})
		s.Queue.Poke()
		return err
	}
	if !s.discard(ctx, f) {
		return nil
	}
	forget := f.expires.Add(keepEnded)
	if f.state == deleted || !now.Before(forget) {
		_, err := changed(s.DB.Write.ExecContext(ctx, "DELETE FROM uploads_files WHERE id = $1 AND state = $2", f.id, f.state))
		return err
	}
	_, err := changed(s.DB.Write.ExecContext(ctx, "UPDATE uploads_files SET sweep_at = $1 WHERE id = $2 AND state = $3", forget.UnixMilli(), f.id, f.state))
	return err
}
