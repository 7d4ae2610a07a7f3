package jobs

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// maxSchedules is how many schedules there may be.
const maxSchedules = 1000

// schedule is a stored schedule.
type schedule struct {
	Schedule
	name       string // in the space of the owner
	owner      string
	configured bool
	paused     bool
	next       time.Time // the next tick; zero if there is none
	last       time.Time // the newest tick that was fired; zero if none was
	lastJob    int64     // its job
	lastRun    int64     // the newest job, by a tick or by hand
}

const scheduleColumns = "name, cron, timezone, queue, payload, target, missed, configured, paused_at, next_at, last_at, last_job, owner, options, last_run"

func scanSchedule(scan func(...any) error) (sc schedule, err error) {
	var payload, options string
	var configured, paused, next, last int64
	err = scan(&sc.name, &sc.Cron, &sc.Timezone, &sc.Queue, &payload, &sc.Target, &sc.Missed, &configured, &paused, &next, &last, &sc.lastJob, &sc.owner,
		&options, &sc.lastRun)
	sc.ScheduleOptions = optionsOf(options)
	sc.Payload, sc.configured, sc.paused, sc.next, sc.last = []byte(payload), configured != 0, paused != 0, fromMilli(next), fromMilli(last)
	return sc, err
}

// fromMilli is a stored time; 0 is the zero time.
func fromMilli(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// toMilli is fromMilli's reverse.
func toMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// querier is a pool or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// querySchedules reads the schedules that where, with its arguments, picks.
func querySchedules(ctx context.Context, db querier, where string, args ...any) ([]schedule, error) {
	rows, err := db.QueryContext(ctx, "SELECT "+scheduleColumns+" FROM jobs_schedules "+where, args...)
	if err != nil {
		return nil, fmt.Errorf("reading schedules: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var all []schedule
	for rows.Next() {
		sc, err := scanSchedule(rows.Scan)
		if err != nil {
			return nil, fmt.Errorf("reading schedules: %w", err)
		}
		all = append(all, sc)
	}
	if err = rows.Err(); err != nil {
		return nil, fmt.Errorf("reading schedules: %w", err)
	}
	return all, nil
}

// readSchedule is the named schedule, or the problem that there is none.
func readSchedule(ctx context.Context, db querier, name string) (schedule, error) {
	all, err := querySchedules(ctx, db, "WHERE name = $1", name)
	if err == nil && len(all) == 0 {
		err = noSchedule(service.Unscoped(name))
	}
	if err != nil {
		return schedule{}, err
	}
	return all[0], nil
}

func noSchedule(name string) error {
	return problem.New(problem.NotFound, "There is no schedule %.80q, GET /schedules lists them.", name)
}

// ticking says of a schedule that its ticks are fired: not while it is paused, nor while its queue is
// drained, as that takes no new jobs. What a drain held up counts as missed.
const ticking = "paused_at = 0 AND NOT EXISTS (SELECT 1 FROM jobs_drains d WHERE d.queue = jobs_schedules.queue)"

// dueSchedules is for the scheduler.
func (s *Service) dueSchedules(ctx context.Context, now time.Time) (due []schedule, next time.Time, err error) {
	due, err = querySchedules(ctx, s.db.Read, "WHERE "+ticking+" AND next_at > 0 AND next_at <= $1 ORDER BY next_at, name", now.UnixMilli())
	if err != nil {
		return nil, time.Time{}, err
	}
	var ms int64
	err = s.db.Read.QueryRowContext(ctx, "SELECT coalesce(min(next_at), 0) FROM jobs_schedules WHERE "+ticking+" AND next_at > $1", now.UnixMilli()).Scan(&ms)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("reading schedules: %w", err)
	}
	return due, fromMilli(ms), nil
}

// fire is for the scheduler. What it enqueues is what is stored at that time: a payload may have been
// changed since sc was read. Ticks that the queue has no room for stay due; with room for none of them it
// is errQueueFull.
func (s *Service) fire(ctx context.Context, sc *schedule, next time.Time, ticks []time.Time) (fired bool, err error) {
	if fit, err := s.fit(ctx, sc, len(ticks)); err != nil {
		return false, err
	} else if fit < len(ticks) {
		if next, ticks = ticks[fit], ticks[:fit]; fit == 0 {
			return false, errQueueFull
		}
	}
	last := sc.last
	if len(ticks) > 0 {
		last = ticks[len(ticks)-1]
	}
	now, cancels := schedule{name: sc.name, owner: sc.owner}, false
	var made []inserted
	err = s.db.InTx(ctx, func(tx *sql.Tx) error {
		fired, made = false, nil
		var payload, options string
		err := tx.QueryRowContext(ctx, `
			UPDATE jobs_schedules SET next_at = $1, last_at = $2
			WHERE name = $3 AND next_at = $4 AND cron = $5 AND timezone = $6 AND missed = $7 AND bounds = $8 AND `+ticking+`
			RETURNING queue, payload, target, options, last_run`,
			toMilli(next), toMilli(last), sc.name, toMilli(sc.next), sc.Cron, sc.Timezone, sc.Missed, sc.bounds()).
			Scan(&now.Queue, &payload, &now.Target, &options, &now.lastRun)
		if noRows(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("moving a schedule on: %w", err)
		}
		fired, now.Payload, now.ScheduleOptions = true, []byte(payload), optionsOf(options)
		cancels = now.Overlap == overlapCancel
		for _, tick := range ticks {
			one, err := s.fireTx(ctx, tx, &now, tick)
			if err != nil {
				return err
			}
			if one.id != 0 {
				made = append(made, one)
			}
		}
		if len(made) == 0 {
			return nil
		}
		if _, err = tx.ExecContext(ctx, "UPDATE jobs_schedules SET last_job = $1 WHERE name = $2", made[len(made)-1].id, sc.name); err != nil {
			return fmt.Errorf("moving a schedule on: %w", err)
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	for _, one := range made {
		s.wakeFor(now.Queue, one.at)
	}
	if cancels {
		s.wake.look()
		s.callbacks.poke()
	}
	return fired, nil
}

// registerSchedules stores the configured schedules and removes those that are configured no more. One
// whose cron, timezone, start and end are as they were goes on where it was, so that what was missed in between is
// known; one that was made over the API becomes a configured one. Where instances with different
// configurations share a database, the last one to start decides.
func (s *Service) registerSchedules(ctx context.Context, configured map[string]Schedule) error {
	err := s.db.InTx(ctx, func(tx *sql.Tx) error {
		stored, err := querySchedules(ctx, tx, "WHERE configured = 1 ORDER BY name")
		if err != nil {
			return err
		}
		for _, sc := range stored {
			if _, ok := configured[sc.name]; ok {
				continue
			}
			if _, err = tx.ExecContext(ctx, "DELETE FROM jobs_schedules WHERE name = $1", sc.name); err != nil {
				return fmt.Errorf("removing a schedule: %w", err)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(configured)) { // sorted, so that two instances do not wait for each other
			if err = storeSchedule(ctx, tx, name, "", configured[name].withDefaults(), true, time.Now()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("storing the configured schedules: %w", err)
	}
	return nil
}

// storeSchedule stores a schedule that was checked. Its next tick is reckoned anew if there is none yet or
// the cron expression, time zone, start or end is another. One of the configuration gives way to none but these.
func storeSchedule(ctx context.Context, tx *sql.Tx, name, owner string, sc Schedule, configured bool, now time.Time) error {
	c, err := sc.ticks()
	if err != nil {
		return err
	}
	options, err := json.Marshal(sc.ScheduleOptions)
	if err != nil {
		return err
	}
	mark := 0
	if configured {
		mark = 1
	}
	res, err := tx.ExecContext(ctx, `
		INSERT INTO jobs_schedules (name, cron, timezone, queue, payload, target, missed, configured, next_at, updated_at, owner, options, bounds)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
		ON CONFLICT (name) DO UPDATE SET
			next_at = CASE WHEN jobs_schedules.cron = excluded.cron AND jobs_schedules.timezone = excluded.timezone AND jobs_schedules.bounds = excluded.bounds
				THEN jobs_schedules.next_at ELSE excluded.next_at END,
			cron = excluded.cron, timezone = excluded.timezone, queue = excluded.queue, payload = excluded.payload,
			target = excluded.target, missed = excluded.missed, configured = excluded.configured, updated_at = excluded.updated_at,
			options = excluded.options, bounds = excluded.bounds
		WHERE jobs_schedules.configured <= excluded.configured`,
		name, sc.Cron, sc.Timezone, sc.Queue, string(sc.Payload), sc.Target, sc.Missed, mark, toMilli(c.next(now)), now.UnixMilli(), owner, string(options), sc.bounds())
	if err != nil {
		return fmt.Errorf("storing a schedule: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return cmp.Or(err, errConfigured(service.Unscoped(name)))
	}
	return nil
}

func errConfigured(name string) error {
	return problem.New(problem.Conflict, "The schedule %s is one of the configuration: change it there. It can be paused here.", name)
}
