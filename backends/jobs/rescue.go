package jobs

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivertype"

	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

// Who runs a job holds a lease on it by being alive: each instance says so every two seconds in one
// row, whatever it runs, and the jobs of one that has been silent are put back by any other. So a long
// job needs no long lease, and a dead one is run again within seconds.

const (
	// beatEvery is the time between two signs of life, and between two looks for the dead.
	beatEvery = 2 * time.Second
	// deadAfter is how long an instance is silent before its jobs are taken from it.
	deadAfter = 10 * time.Second
	// rememberDead is how long the row of a silent instance is kept.
	rememberDead = time.Hour
)

// pullOwner begins the owner of a job that a pull worker has leased; its lease is a row of its own.
const pullOwner = "pull:"

// millis is the clock of the database.
func (d dialect) millis() string {
	return d.pick("cast(unixepoch('subsec') * 1000 AS integer)", "(extract(epoch FROM now()) * 1000)::bigint")
}

// newInstance is a name that no other instance has.
func newInstance() string {
	host, _ := os.Hostname()
	return strings.Map(func(r rune) rune {
		if r == ':' || r < ' ' {
			return '-'
		}
		return r
	}, host) + "-" + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatUint(rand.Uint64(), 36)
}

// beat says that this instance is alive.
func (s *Service) beat(ctx context.Context) error {
	_, err := s.db.Write.ExecContext(ctx, `INSERT INTO jobs_instances (id, seen_at) VALUES ($1, `+s.q.millis()+`)
		ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at`, s.id)
	if err != nil {
		return fmt.Errorf("saying that this instance is alive: %w", err)
	}
	return nil
}

// retire forgets this instance: what it still held may be run by others at once.
func (s *Service) retire(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), beatEvery)
	defer cancel()
	if _, err := s.db.Write.ExecContext(ctx, "DELETE FROM jobs_instances WHERE id = $1", s.id); err != nil {
		s.log.Warn("the jobs of this instance are taken over later", "error", err)
	}
}

// beatLoop says that this instance is alive and takes over from those that are not, until ctx ends.
func (s *Service) beatLoop(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	// Whoever could not speak itself must not take others for dead: the database was away for all, or
	// this process slept.
	last, since := time.Now(), time.Now()
	var suspects []held
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		turn, cancel := context.WithTimeout(ctx, deadAfter/2)
		err := s.beat(turn)
		switch {
		case err != nil || time.Since(last) > deadAfter/2:
			since = time.Now()
		case time.Since(since) > deadAfter:
			if err = s.rescue(turn); err == nil {
				suspects, err = s.reclaim(turn, suspects)
			}
		}
		last = time.Now()
		cancel()
		if err != nil && ctx.Err() == nil {
			s.log.Error("the jobs of dead instances could not be looked for", "error", err)
		}
	}
}

// rescue puts the jobs of silent instances back, with the attempt it took given back: a crash is not
// the job's failure. One that was being cancelled is cancelled. Two that rescue at once do no harm.
func (s *Service) rescue(ctx context.Context) error {
	silent := `NOT EXISTS (SELECT 1 FROM jobs_instances i WHERE i.id = ` + s.q.owner + ` AND i.seen_at > ` + s.q.millis() + ` - $1)`
	var n int
	err := s.db.Read.QueryRowContext(ctx, `SELECT count(*) FROM (SELECT 1 FROM river_job j WHERE `+s.q.pushed()+` AND `+silent+` LIMIT 1) AS orphans`, deadAfter.Milliseconds()).Scan(&n)
	if err != nil {
		return fmt.Errorf("looking for jobs of dead instances: %w", err)
	}
	if n == 0 {
		return nil
	}
	var res sql.Result
	err = s.db.InTx(ctx, func(tx *sql.Tx) error {
		// Locked first, and looked at again by a statement of its own: who had to wait for a lock may hold a job
		// that has ended, or that another has begun anew.
		found, err := column[int64](tx.QueryContext(ctx, "SELECT j.id FROM river_job j WHERE "+s.q.pushed()+" AND "+silent+" ORDER BY j.id"+s.q.forUpdate(),
			deadAfter.Milliseconds()))
		if err != nil {
			return err
		}
		res, err = tx.ExecContext(ctx, "UPDATE river_job SET "+s.q.putBack()+" WHERE "+s.q.ids("id", "$2")+" AND "+bare(s.q.pushed()+" AND "+silent),
			deadAfter.Milliseconds(), jsonIDs(found))
		return err
	})
	if err != nil {
		return fmt.Errorf("putting the jobs of dead instances back: %w", err)
	}
	if rescued, err := res.RowsAffected(); err == nil && rescued > 0 {
		s.log.Warn("jobs of a dead instance run again", "jobs", rescued)
		s.Poke()
	}
	_, err = s.db.Write.ExecContext(ctx, "DELETE FROM jobs_instances WHERE seen_at < "+s.q.millis()+" - $1", rememberDead.Milliseconds())
	return err
}

// held is a running job of this instance, with the attempt that runs.
type held struct {
	ID      int64 `json:"id"`
	Attempt int   `json:"attempt"`
}

// reclaim puts back what runs in the name of this instance although it does not run it: the answer to
// the commit of a fetch was lost with the connection, or the end of a job could not be stored. It takes
// what it finds in two looks, as a job may end or begin during one, and returns what to look at again.
func (s *Service) reclaim(ctx context.Context, suspects []held) (again []held, err error) {
	rows, err := s.db.Read.QueryContext(ctx, "SELECT j.id, j.attempt FROM river_job j WHERE j.state = 'running' AND "+s.q.owner+" = $1 ORDER BY j.id LIMIT 1000", s.id)
	if err != nil {
		return nil, fmt.Errorf("looking for jobs of this instance: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var lost []held
	for rows.Next() {
		var h held
		if err = rows.Scan(&h.ID, &h.Attempt); err != nil {
			return nil, fmt.Errorf("looking for jobs of this instance: %w", err)
		}
		switch {
		case s.active.holds(h.ID):
		case slices.Contains(suspects, h):
			lost = append(lost, h)
		default:
			again = append(again, h)
		}
	}
	if err = rows.Err(); err != nil {
		return nil, fmt.Errorf("looking for jobs of this instance: %w", err)
	}
	for _, h := range lost {
		_, err = s.db.Write.ExecContext(ctx, "UPDATE river_job SET "+s.q.putBack()+" WHERE id = $1 AND attempt = $2 AND state = 'running' AND "+bare(s.q.owner)+" = $3", h.ID, h.Attempt, s.id)
		if err != nil {
			return again, fmt.Errorf("putting a job of this instance back: %w", err)
		}
	}
	if len(lost) > 0 {
		s.log.Warn("jobs whose start or end was lost on the way to the database run again", "jobs", len(lost))
		s.Poke()
	}
	return again, nil
}

// pushed says of the row j that an instance runs it itself, and not for a pull worker.
func (d dialect) pushed() string {
	return "j.state = 'running' AND coalesce(" + d.owner + ", '') NOT LIKE '" + pullOwner + "%'"
}

// putBack is the SET clause for a job whose owner is dead.
func (d dialect) putBack() string {
	return `metadata = ` + d.pick("jsonb_set(metadata, '$."+redelivered+"', jsonb('true'))", "jsonb_set(metadata, '{"+redelivered+"}', 'true')") + `,
		attempt = ` + d.pick("max", "greatest") + `(attempt - 1, 0),
		state = CASE WHEN metadata ->> 'cancel_attempted_at' IS NULL THEN ` + d.literal("available") + ` ELSE ` + d.literal("cancelled") + ` END,
		finalized_at = CASE WHEN metadata ->> 'cancel_attempted_at' IS NULL THEN NULL ELSE ` + d.now + ` END`
}

// literal is a state of the engine as a value.
func (d dialect) literal(state string) string {
	return "'" + state + "'" + d.cast("river_job_state")
}

// adopt puts back what ran when the process before this one died. On SQLite the directory is locked,
// so nobody else can be running it; on PostgreSQL others may, and rescue tells who is dead. The dead
// process also leads no more, so the next one need not wait for its lease to end.
func adopt(ctx context.Context, db *sqldb.DB) (n int64, err error) {
	if db.Postgres() {
		return 0, nil
	}
	q := dialectOf(db)
	err = db.InTx(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, "UPDATE river_job SET "+q.putBack()+` WHERE id IN (SELECT j.id FROM river_job j
			WHERE `+q.pushed()+`)`)
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

// JobSetStateIfRunningMany ends jobs, but only those that this instance still owns: one that was
// thought dead, and woke up, must not end what another has started since.
func (e executor) JobSetStateIfRunningMany(ctx context.Context, p *riverdriver.JobSetStateIfRunningManyParams) (rows []*rivertype.JobRow, err error) {
	e.s.active.end(p.ID...)
	e.s.markCut(p.ID, p.MetadataDoMerge, p.MetadataUpdates)
	defer func() {
		if err == nil {
			e.s.active.stored(p.ID...)
			e.s.diedOf(rows, p.ID, p.State)
		}
	}()
	if !e.s.q.pg {
		return e.Executor.JobSetStateIfRunningMany(ctx, p)
	}
	err = e.s.db.InTx(ctx, func(tx *sql.Tx) error {
		owned, err := e.s.owned(ctx, tx, p.ID)
		if err != nil {
			return err
		}
		x := e.s.river.Driver().UnwrapExecutor(tx)
		if len(owned) == len(p.ID) {
			rows, err = x.JobSetStateIfRunningMany(ctx, p)
			return err
		}
		mine, others := split(p, owned)
		if len(mine.ID) > 0 {
			if rows, err = x.JobSetStateIfRunningMany(ctx, mine); err != nil {
				return err
			}
		}
		lost, err := x.JobGetByIDMany(ctx, &riverdriver.JobGetByIDManyParams{ID: others})
		rows = append(rows, lost...)
		e.s.log.Warn("jobs that were taken from this instance are not ended by it", "jobs", len(others))
		return err
	})
	return rows, err
}

// owned are those of the jobs that run in the name of this instance.
func (s *Service) owned(ctx context.Context, tx *sql.Tx, ids []int64) (map[int64]bool, error) {
	mine, err := column[int64](tx.QueryContext(ctx, "SELECT j.id FROM river_job j WHERE "+s.q.ids("j.id", "$1")+
		" AND j.state = 'running' AND "+s.q.owner+" = $2 ORDER BY j.id FOR UPDATE", jsonIDs(ids), s.id))
	if err != nil {
		return nil, fmt.Errorf("reading who runs jobs: %w", err)
	}
	owned := make(map[int64]bool, len(mine))
	for _, id := range mine {
		owned[id] = true
	}
	return owned, nil
}

// split parts the jobs that are owned from the others.
func split(p *riverdriver.JobSetStateIfRunningManyParams, owned map[int64]bool) (mine *riverdriver.JobSetStateIfRunningManyParams, others []int64) {
	mine = &riverdriver.JobSetStateIfRunningManyParams{Now: p.Now, Schema: p.Schema}
	for i, id := range p.ID {
		if !owned[id] {
			others = append(others, id)
			continue
		}
		mine.ID = append(mine.ID, id)
		mine.Attempt = append(mine.Attempt, p.Attempt[i])
		mine.ErrData = append(mine.ErrData, p.ErrData[i])
		mine.FinalizedAt = append(mine.FinalizedAt, p.FinalizedAt[i])
		mine.MetadataDoMerge = append(mine.MetadataDoMerge, p.MetadataDoMerge[i])
		mine.MetadataUpdates = append(mine.MetadataUpdates, p.MetadataUpdates[i])
		mine.ScheduledAt = append(mine.ScheduledAt, p.ScheduledAt[i])
		mine.State = append(mine.State, p.State[i])
	}
	return mine, slices.Clip(others)
}
