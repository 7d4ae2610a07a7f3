package webhooks

import (
	"context"
	"fmt"
	"time"
)

const (
	sweepEvery = time.Hour
	// retention is how long events and their deliveries are kept. No sender repeats an event for longer.
	retention = 30 * 24 * time.Hour
	// silence is how long after an attempt that failed, or after the pause that an endpoint asked
	// for, there must have been another if the jobs backend had not given up.
	silence = 6 * time.Hour
	// sweepRows and sweepRounds bound one sweep, so that it never holds the database for long.
	sweepRows   = 500
	sweepRounds = 40
)

// Run deletes what is too old, now and every hour, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := s.sweep(ctx, time.Now()); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "deleting old events failed", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// sweep ends deliveries that were given up, and deletes what is older than the retention. The first
// statement has its conditions twice: a delivery that is attempted meanwhile fails the outer ones.
func (s *Service) sweep(ctx context.Context, now time.Time) error {
	old, silent := now.Add(-retention).UnixMilli(), now.Add(-silence).UnixMilli()
	for _, statement := range []struct {
		sql  string
		args []any
	}{
		{`UPDATE webhooks_deliveries SET state = $1 WHERE state = $2 AND last_attempt_at < $3 AND next_at < $4
			AND seq IN (SELECT seq FROM webhooks_deliveries WHERE state = $2 AND last_attempt_at < $3 AND next_at < $4 LIMIT $5)`, []any{failed, retrying, silent, silent, sweepRows}},
		{`DELETE FROM webhooks_deliveries WHERE seq IN (SELECT seq FROM webhooks_deliveries WHERE created_at < $1 LIMIT $2)`, []any{old, sweepRows}},
		{`DELETE FROM webhooks_events WHERE seq IN (SELECT seq FROM webhooks_events e WHERE created_at < $1
			AND NOT EXISTS (SELECT 1 FROM webhooks_deliveries d WHERE d.event_id = e.id) LIMIT $2)`, []any{old, sweepRows}},
		{`DELETE FROM webhooks_received WHERE seq IN (SELECT seq FROM webhooks_received WHERE received_at < $1 LIMIT $2)`, []any{old, sweepRows}},
	} {
		for range sweepRounds {
			n, err := affected(s.db.Write.ExecContext(ctx, statement.sql, statement.args...))
			if err != nil {
				return fmt.Errorf("sweeping: %w", err)
			}
			if n < sweepRows {
				break
			}
		}
	}
	return nil
}
