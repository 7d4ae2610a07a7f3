package jobs

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivertype"
)

// unreadable is the error of a job whose row was changed by somebody else, so that it cannot be read.
const unreadable = "the row of this job cannot be read"

// started reads the jobs that start. One whose row cannot be read is dead: with it in the fetch, none of
// the queue would ever start again.
func (s *Service) started(ctx context.Context, tx *sql.Tx, ids []int64) ([]*rivertype.JobRow, error) {
	x := s.river.Driver().UnwrapExecutor(tx)
	rows, err := x.JobGetByIDMany(ctx, &riverdriver.JobGetByIDManyParams{ID: ids})
	if err == nil || ctx.Err() != nil {
		return rows, err
	}
	rows = nil
	for _, id := range ids {
		var alive int
		if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM river_job WHERE id = $1", id).Scan(&alive); err != nil {
			return nil, err // it is not the row, but the database
		}
		one, wrong := x.JobGetByIDMany(ctx, &riverdriver.JobGetByIDManyParams{ID: []int64{id}})
		if wrong == nil {
			rows = append(rows, one...)
			continue
		}
		if err = s.buryTx(ctx, tx, id); err != nil {
			return nil, err
		}
		s.active.end(id)
		s.log.Error("a job is dead, as its row cannot be read", "job", id, "error", wrong)
	}
	return rows, nil
}

// buryTx makes a job dead whose row cannot be read, and the row readable for lists.
func (s *Service) buryTx(ctx context.Context, tx *sql.Tx, id int64) error {
	_, err := tx.ExecContext(ctx, "UPDATE river_job SET state = 'discarded', finalized_at = "+s.q.now+", "+s.q.pick(
		`errors = jsonb_array(jsonb_object('at', $2, 'attempt', attempt, 'error', $3)),
		args = CASE WHEN json_valid(args, 9) THEN args ELSE jsonb('{}') END,
		tags = jsonb_array()`,
		`errors = ARRAY[jsonb_build_object('at', $2::text, 'attempt', attempt, 'error', $3::text)]`)+" WHERE id = $1",
		id, time.Now().UTC().Format(time.RFC3339Nano), unreadable)
	if err != nil {
		return fmt.Errorf("ending a job that cannot be read: %w", err)
	}
	return nil
}
