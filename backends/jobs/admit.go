package jobs

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/longpoll"
	"github.com/gatehouse-proxy/gatehouse/backends/internal/tally"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const (
	// countFor is how long a number of waiting jobs, and what is being drained, is believed.
	countFor = tally.Fresh
	// drainRetry is the Retry-After of a queue that takes no jobs.
	drainRetry = 10 * time.Second
)

// apiState is the memory of the HTTP API.
type apiState struct {
	callbacks *bell  // an end that a callback may be due for
	bells     *bells // jobs for the long polls of pull workers
	polls     longpoll.Bound
	awaiting  *awaiting
	vain      *vain // fetches for them that a bound has kept from any job
	drained   drained
	tallies   *tally.Tallies[lot]
}

func newAPIState() apiState {
	return apiState{callbacks: newBell(), bells: newBells(), awaiting: newAwaiting(), vain: &vain{last: map[string]time.Time{}}, tallies: tally.New[lot]()}
}

func noRows(err error) bool { return errors.Is(err, sql.ErrNoRows) }

// admit says why orders that are in order cannot be taken now: a queue is drained, or has as many
// waiting jobs as it may, or an owner's jobs have as many bytes as they may.
func (s *Service) admit(ctx context.Context, orders []order) error {
	draining, err := s.drained.names(ctx, s)
	if err != nil {
		return err
	}
	var lots []lot
	n := map[lot]int{}
	add := func(l lot, by int) {
		if s.most(l) > 0 {
			if n[l] == 0 {
				lots = append(lots, l)
			}
			n[l] += by
		}
	}
	for i := range orders {
		o := &orders[i]
		if draining[o.queue] {
			e := problem.New(problem.Unavailable, "The queue %s is being drained and takes no new jobs until it is resumed.", o.queue)
			e.RetryAfter = drainRetry
			return e
		}
		add(lot{queue: o.queue}, 1)
		if o.args.Key != "" {
			add(lot{queue: o.queue, key: o.args.Key}, 1)
		}
		if o.args.Owner != "" {
			add(lot{owner: o.args.Owner}, len(o.args.Body)+jobOverhead)
		}
	}
	for i, l := range lots {
		over, err := s.overWaiting(ctx, l, n[l])
		if err != nil || over {
			for _, taken := range lots[:i] {
				s.tallies.Add(taken, -n[taken])
			}
			if err != nil {
				return err
			}
			return s.tooMany(l)
		}
	}
	return nil
}

func (s *Service) tooMany(l lot) error {
	most := s.most(l)
	e := problem.New(problem.QuotaExceeded, "The queue %s has %d jobs waiting and takes no more: try again when some have run.", l.queue, most)
	switch {
	case l.owner != "":
		e = problem.New(problem.QuotaExceeded, "The owner's jobs, with those that are kept after their end, would have more than %s: try again when some are gone.", unit.Size(most))
	case l.key != "":
		e = problem.New(problem.QuotaExceeded, "This key has %d jobs waiting in the queue %s, which takes no more of it: try again when some have run.", most, l.queue)
	}
	e.RetryAfter = countFor
	return e
}

// lot is the waiting jobs of a queue, or of one key of it, or the bytes of all jobs of an owner.
type lot struct{ queue, key, owner string }

// most is how much of a lot there may be, 0 for any.
func (s *Service) most(l lot) int {
	switch {
	case l.owner != "":
		return s.ownerBytes
	case l.key != "":
		return s.settings(l.queue).KeyWaiting
	}
	return s.settings(l.queue).Waiting
}

// jobOverhead is what a job counts against its owner's bytes beyond its payload.
const jobOverhead = 1 << 10

// overWaiting says whether n more would be more than may be. If not, they count from now on.
func (s *Service) overWaiting(ctx context.Context, l lot, n int) (bool, error) {
	most := s.most(l)
	return s.tallies.Take(l, n, most, func() (int, error) { return s.count(ctx, l, most) })
}

// count reads how much of a lot there is. It stops where that is more than most.
func (s *Service) count(ctx context.Context, l lot, most int) (n int, err error) {
	if l.owner != "" {
		err = s.db.Read.QueryRowContext(ctx, `SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM (SELECT `+s.q.pick("length", "pg_column_size")+`(j.args) + $1 AS size
			FROM river_job j WHERE j.metadata ->> 'owner' = $2 ORDER BY j.id DESC LIMIT $3) AS sizes`, jobOverhead, l.owner, most/jobOverhead+1).Scan(&n)
		if err != nil {
			return 0, fmt.Errorf("measuring an owner's jobs: %w", err)
		}
		return n, nil
	}
	query, args := `SELECT count(*) FROM (SELECT 1 FROM river_job j WHERE j.queue = $1
		AND j.state IN ('available', 'pending', 'retryable', 'scheduled')`, []any{l.queue, most + 1}
	if l.key != "" {
		query, args = query+" AND "+s.q.key+" = $3", append(args, l.key)
	}
	if err = s.db.Read.QueryRowContext(ctx, query+" LIMIT $2) AS waiting", args...).Scan(&n); err != nil {
		return 0, fmt.Errorf("counting waiting jobs: %w", err)
	}
	return n, nil
}

// drained remembers which queues are being drained.
type drained struct {
	mu    sync.Mutex
	known map[string]bool
	at    time.Time
}

func (d *drained) names(ctx context.Context, s *Service) (map[string]bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known != nil && time.Since(d.at) < countFor {
		return d.known, nil
	}
	known, err := s.drains(ctx)
	if err != nil {
		return nil, err
	}
	d.known, d.at = known, time.Now()
	return known, nil
}

// forget makes the next look read the table.
func (d *drained) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known = nil
}

// bell wakes one loop.
type bell struct{ signal chan struct{} }

func newBell() *bell { return &bell{make(chan struct{}, 1)} }

// poke wakes the loop, now or when it next waits. It never blocks.
func (b *bell) poke() {
	select {
	case b.signal <- struct{}{}:
	default:
	}
}

// bells wake all who wait for something of a name.
type bells struct {
	mu      sync.Mutex
	waiting map[string]chan struct{}
	stopped bool
}

func newBells() *bells { return &bells{waiting: map[string]chan struct{}{}} }

// wait is closed at the next ring.
func (b *bells) wait(name string) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, ok := b.waiting[name]
	if !ok {
		c = make(chan struct{})
		if b.waiting[name] = c; b.stopped {
			close(c)
		}
	}
	return c
}

// ring wakes who waits for the name.
func (b *bells) ring(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c, ok := b.waiting[name]; ok && !b.stopped {
		close(c)
		delete(b.waiting, name)
	}
}

// ringAt is ring at a time in the future.
func (b *bells) ringAt(at time.Time, name string) {
	time.AfterFunc(time.Until(at)+time.Millisecond, func() { b.ring(name) })
}

// stop wakes all, and nobody waits any more.
func (b *bells) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return
	}
	b.stopped = true
	for _, c := range b.waiting {
		close(c)
	}
}

func (b *bells) isStopped() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stopped
}
