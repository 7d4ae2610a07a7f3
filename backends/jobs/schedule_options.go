package jobs

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/riverqueue/river"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

// The policies for a tick that comes while the run before it is not finished.
const (
	overlapAllow  = "allow"
	overlapSkip   = "skip"
	overlapCancel = "cancel"
)

var overlapPolicies = []string{overlapAllow, overlapSkip, overlapCancel}

const (
	// maxJitter is the longest jitter.
	maxJitter = 24 * time.Hour
	// holdFor is how long a tick waits for room in its queue before it is tried again.
	holdFor = time.Second
)

// errQueueFull holds a tick back: its queue has as many waiting jobs as it may.
var errQueueFull = errors.New("the queue has as many waiting jobs as it may")

// ScheduleOptions are the options of a schedule that say how its jobs are enqueued. Those of the jobs
// are as in POST /jobs.
type ScheduleOptions struct {
	// Key is the key of the jobs. Default: none.
	Key string `json:"key,omitempty"`
	// UniqueKey is the unique key of the jobs: what becomes of a tick whose key is held is said by the
	// queue's on_duplicate. Default: none.
	UniqueKey string `json:"unique_key,omitempty"`
	// Priority is that of the jobs, 1 (the first to run) to 4. Default: 1.
	Priority int `json:"priority,omitempty"`
	// Attempts is how many times a job is tried, 1 to 1000. Default: the queue's.
	Attempts int `json:"attempts,omitempty"`
	// Timeout is how long one attempt may take, up to 24h. Default: the queue's.
	Timeout unit.Duration `json:"timeout,omitempty"`
	// Overlap says what a tick does while the run before it is not finished: "allow" enqueues its job
	// beside it, "skip" enqueues none, "cancel" cancels the earlier run. Default: allow.
	Overlap string `json:"overlap,omitempty"`
	// Jitter delays each job by a random time up to this, at most 24h. Default: none.
	Jitter unit.Duration `json:"jitter,omitempty"`
	// Start and End are the times before and after which there is no tick, as in RFC 3339. Default: none.
	Start string `json:"start,omitempty"`
	End   string `json:"end,omitempty"`
}

// window is Start and End as times, zero for those that are not given.
func (o ScheduleOptions) window() (start, end time.Time, err error) {
	for _, member := range []struct {
		name, text string
		at         *time.Time
	}{{"start", o.Start, &start}, {"end", o.End, &end}} {
		if member.text == "" {
			continue
		}
		if *member.at, err = time.Parse(time.RFC3339, member.text); err != nil {
			return start, end, fmt.Errorf("%s must be a time as in RFC 3339, such as 2027-06-01T09:00:00Z, not %.80q", member.name, member.text)
		}
	}
	if !start.IsZero() && !end.IsZero() && end.Before(start) {
		return start, end, errors.New("end must not be before start")
	}
	return start, end, nil
}

// bounds is the window as it is compared and stored.
func (o ScheduleOptions) bounds() string {
	if o.Start == "" && o.End == "" {
		return ""
	}
	return o.Start + "/" + o.End
}

func (o ScheduleOptions) check() error {
	if !slices.Contains(overlapPolicies, cmp.Or(o.Overlap, overlapAllow)) {
		return fmt.Errorf("overlap must be allow, skip or cancel, not %.80q", o.Overlap)
	}
	if o.Jitter < 0 || o.Jitter.Std() > maxJitter {
		return fmt.Errorf("jitter must be at most %s, not %s", unit.Duration(maxJitter), o.Jitter)
	}
	if o.Timeout < 0 || o.Timeout.Std() > maxTimeout {
		return fmt.Errorf("timeout must be at most %s, not %s", unit.Duration(maxTimeout), o.Timeout)
	}
	var q request
	for _, member := range []struct {
		from string
		to   **string
	}{{o.Key, &q.Key}, {o.UniqueKey, &q.UniqueKey}} {
		if member.from != "" {
			*member.to = &member.from
		}
	}
	if o.Priority != 0 {
		q.Priority = &o.Priority
	}
	if o.Attempts != 0 {
		q.Attempts = &o.Attempts
	}
	var scratch order
	err := q.limits(&scratch)
	if err == nil {
		err = q.keys(&scratch.args)
	}
	if err != nil {
		return errors.New(trimDot(problem.From(err).Detail))
	}
	return nil
}

// trimDot is a sentence as part of another.
func trimDot(s string) string {
	if n := len(s); n > 0 && s[n-1] == '.' {
		return s[:n-1]
	}
	return s
}

// ticks is when the ticks of the schedule are.
func (sc Schedule) ticks() (cron, error) {
	c, err := parseCron(sc.Cron, sc.Timezone)
	if err != nil {
		return cron{}, err
	}
	if c.start, c.end, err = sc.window(); err != nil {
		return cron{}, err
	}
	if !c.end.IsZero() && !c.start.IsZero() && c.next(c.start.Add(-1)).IsZero() {
		return cron{}, errors.New("the cron expression has no tick from start to end")
	}
	return c, nil
}

// scheduledOrder is the order of one job of the schedule. A zero tick is a run that somebody asked for.
func (s *Service) scheduledOrder(sc *schedule, tick time.Time) order {
	o := order{queue: sc.Queue, args: pushArgs{Target: sc.Target, Body: sc.Payload, Schedule: sc.name, Owner: sc.owner, Key: sc.Key, UniqueKey: sc.UniqueKey, Timeout: sc.Timeout}}
	o.opts = river.InsertOpts{Queue: sc.Queue, MaxAttempts: cmp.Or(sc.Attempts, s.settings(sc.Queue).Attempts), Priority: sc.Priority}
	if tick.IsZero() {
		return o
	}
	tick = tick.UTC()
	o.args.ScheduledFor = &tick
	if sc.Jitter > 0 {
		if at := tick.Add(rand.N(sc.Jitter.Std() + 1)); at.After(time.Now()) {
			o.opts.ScheduledAt = at
		}
	}
	return o
}

// fit is how many of n jobs of the schedule its queue takes now. They count as waiting from now on.
func (s *Service) fit(ctx context.Context, sc *schedule, n int) (int, error) {
	q := s.settings(sc.Queue)
	lots := []lot{{queue: sc.Queue}}
	if sc.Key != "" && q.KeyWaiting > 0 {
		lots = append(lots, lot{queue: sc.Queue, key: sc.Key})
	}
	if q.Waiting == 0 {
		lots = lots[1:]
	}
	for taken := range n {
		for i, l := range lots {
			over, err := s.overWaiting(ctx, l, 1)
			if err == nil && !over {
				continue
			}
			for _, counted := range lots[:i] {
				s.tallies.Add(counted, -1)
			}
			return taken, err
		}
	}
	return n, nil
}

// fireTx enqueues one job of the schedule, unless the run before it is in the way; then id is 0. A zero
// tick is a run that somebody asked for, which nothing is in the way of. sc.lastRun is the newest job.
func (s *Service) fireTx(ctx context.Context, tx *sql.Tx, sc *schedule, tick time.Time) (made inserted, err error) {
	if !tick.IsZero() && sc.lastRun != 0 && (sc.Overlap == overlapSkip || sc.Overlap == overlapCancel) {
		var unfinished int
		err = tx.QueryRowContext(ctx, "SELECT count(*) FROM river_job WHERE id = $1 AND finalized_at IS NULL", sc.lastRun).Scan(&unfinished)
		if err != nil {
			return inserted{}, fmt.Errorf("reading the run before this one: %w", err)
		}
		switch {
		case unfinished == 0:
		case sc.Overlap == overlapSkip:
			s.log.Info("a tick of a schedule is skipped, as the run before it is not finished", "schedule", sc.name, "tick", tick, "job", sc.lastRun)
			return inserted{}, nil
		default:
			if _, err = s.cancelTx(ctx, tx, []int64{sc.lastRun}, ""); err != nil {
				return inserted{}, err
			}
		}
	}
	all, err := s.insertOrders(ctx, tx, []order{s.scheduledOrder(sc, tick)})
	if err != nil {
		return inserted{}, err
	}
	sc.lastRun = all[0].id
	_, err = tx.ExecContext(ctx, "UPDATE jobs_schedules SET last_run = $1 WHERE name = $2", sc.lastRun, sc.name)
	if err != nil {
		return inserted{}, fmt.Errorf("moving a schedule on: %w", err)
	}
	return all[0], nil
}

// options reads the stored form of the options. Those that a newer version wrote are left out.
func optionsOf(text string) (o ScheduleOptions) {
	_ = json.Unmarshal([]byte(text), &o) // ours; what cannot be read is as if it were not given
	o.Overlap = cmp.Or(o.Overlap, overlapAllow)
	return o
}
