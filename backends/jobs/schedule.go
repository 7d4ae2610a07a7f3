package jobs

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

const (
	// schedulePoll is the longest sleep of the scheduler: how late it may learn of a schedule that another
	// instance changed.
	schedulePoll = 5 * time.Second
	// scheduleRetry is the wait after the database failed.
	scheduleRetry = time.Second
	// missedAfter is how late a tick may be fired before it counts as missed.
	missedAfter = 10 * time.Second
	// maxCatchUp bounds the jobs of one schedule for ticks that were missed.
	maxCatchUp = 100
)

// tickStore is where schedules are kept.
type tickStore interface {
	// dueSchedules are the schedules whose next tick is not after now, and the first tick after it of
	// the others, zero if there is none.
	dueSchedules(ctx context.Context, now time.Time) (due []schedule, next time.Time, err error)
	// fire moves the schedule from the tick that it has on to next, and enqueues a job for each of ticks,
	// both or neither. It does nothing, and says so, if the schedule was moved, changed or paused since
	// it was read. errQueueFull is that there is no room for any of them.
	fire(ctx context.Context, sc *schedule, next time.Time, ticks []time.Time) (fired bool, err error)
}

// scheduler fires the ticks of schedules. Any number of them may work on one store: a tick is fired by
// the one that moves its schedule on.
type scheduler struct {
	store  tickStore
	log    *slog.Logger
	signal chan struct{}   // holds one token after a change
	unread map[string]bool // schedules that run has complained about
	full   map[string]bool // those whose ticks wait for room in their queue
}

func newScheduler(store tickStore, log *slog.Logger) *scheduler {
	return &scheduler{store: store, log: log, signal: make(chan struct{}, 1), unread: map[string]bool{}, full: map[string]bool{}}
}

// wake makes the scheduler look for what is due, after a schedule was changed. It never blocks.
func (r *scheduler) wake() {
	select {
	case r.signal <- struct{}{}:
	default:
	}
}

// run fires what is due until ctx ends.
func (r *scheduler) run(ctx context.Context) {
	failing := false
	for {
		wait, err := r.fireDue(ctx, time.Now())
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			r.log.Error("the schedules cannot be worked, it is tried again each second", "error", err)
		}
		if failing = err != nil; failing {
			wait = scheduleRetry
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-r.signal:
		}
		timer.Stop()
	}
}

// fireDue fires what is due and returns how long until something will be. What failed does not hold
// up the others.
func (r *scheduler) fireDue(ctx context.Context, now time.Time) (wait time.Duration, err error) {
	due, first, err := r.store.dueSchedules(ctx, now)
	if err != nil {
		return 0, err
	}
	for i := range due {
		next, failure := r.fireOne(ctx, &due[i], now)
		if failure != nil {
			err = failure
		}
		if !next.IsZero() && (first.IsZero() || next.Before(first)) {
			first = next
		}
	}
	if wait = schedulePoll; !first.IsZero() {
		wait = min(wait, time.Until(first))
	}
	return max(wait, 0), err
}

// fireOne fires what is due of one schedule and returns its next tick.
func (r *scheduler) fireOne(ctx context.Context, sc *schedule, now time.Time) (next time.Time, err error) {
	c, err := sc.ticks()
	if err != nil {
		// Another version of this program wrote it; that one fires it.
		if !r.unread[sc.name] {
			r.log.Warn("a schedule cannot be read", "schedule", sc.name, "error", err)
		}
		r.unread[sc.name] = true
		return time.Time{}, nil
	}
	next = c.next(now)
	ticks, late := c.made(sc.Missed, sc.next, now)
	fired, err := r.store.fire(ctx, sc, next, ticks)
	if errors.Is(err, errQueueFull) {
		if !r.full[sc.name] {
			r.log.Warn("the ticks of a schedule wait, as its queue has as many waiting jobs as it may", "schedule", sc.name, "queue", sc.Queue)
		}
		r.full[sc.name] = true
		return now.Add(holdFor), nil
	}
	delete(r.full, sc.name)
	if fired && late {
		r.log.Warn("ticks of a schedule were missed", "schedule", sc.name, "since", sc.next, "policy", sc.Missed, "jobs", len(ticks))
	}
	return next, err
}

// made are the ticks from first to now for which there shall be a job, and whether any was missed. The
// newest is missed when it is 10 s late; those before it are, as another is due.
func (c cron) made(policy string, first, now time.Time) (ticks []time.Time, late bool) {
	ticks = c.due(first, now, maxCatchUp)
	newest := ticks[len(ticks)-1]
	kept := now.Sub(newest) < missedAfter
	late = !kept || len(ticks) > 1
	switch {
	case policy == missedAll:
		return ticks, late
	case policy == missedSkip && !kept:
		return nil, late
	}
	return []time.Time{newest}, late
}
