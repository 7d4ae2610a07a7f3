package jobs

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/riverqueue/river"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

const (
	// groupSize is how many single jobs are committed together at most.
	groupSize = 256
	// groupTime bounds one commit of a group.
	groupTime = 15 * time.Second
)

// inserted is what became of an order.
type inserted struct {
	id    int64
	state string
	// at is when the job is due, zero for at once.
	at time.Time
	// duplicate says that nothing was inserted, as this job holds the unique key.
	duplicate bool
	// replaced says that the job which holds the unique key waits, and has taken over the order.
	replaced bool
	// replayed says that the same Idempotency-Key was seen before, and that this was the answer.
	replayed bool
}

// group commits what is asked for at the same time in one transaction: a commit to disk takes as long
// for one row as for a hundred.
type group struct {
	s  *Service
	mu sync.Mutex
	// waiting are the entries that the next transaction takes.
	waiting []*entry
	busy    bool
}

// entry is an order under way.
type entry struct {
	order order
	got   inserted
	err   error
	done  chan struct{}
}

// insert puts the order in, or finds the job that holds its unique key. It returns after the commit.
// An order whose ctx ends meanwhile may be committed nevertheless.
func (s *Service) insert(ctx context.Context, o order) (inserted, error) {
	e := &entry{order: o, done: make(chan struct{})}
	g := &s.group
	g.mu.Lock()
	g.waiting = append(g.waiting, e)
	if !g.busy {
		g.busy = true
		go g.work()
	}
	g.mu.Unlock()
	select {
	case <-e.done:
		return e.got, e.err
	case <-ctx.Done():
		return inserted{}, ctx.Err()
	}
}

// work commits until nothing waits.
func (g *group) work() {
	for {
		g.mu.Lock()
		n := min(len(g.waiting), groupSize)
		batch := g.waiting[:n:n]
		if g.waiting = g.waiting[n:]; n == 0 {
			g.busy, g.waiting = false, nil
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		g.s.commit(batch)
	}
}

// commit inserts the batch. One bad order must not spoil the others, so if the whole fails for a
// reason that is not the database's, each is tried by itself.
func (s *Service) commit(batch []*entry) {
	ctx, cancel := context.WithTimeout(context.Background(), groupTime)
	defer cancel()
	orders := make([]order, len(batch))
	for i, e := range batch {
		orders[i] = e.order
	}
	all, err := s.insertAll(ctx, orders)
	for try := 0; try < 3 && sqldb.IsAborted(err); try++ {
		all, err = s.insertAll(ctx, orders)
	}
	for i, e := range batch {
		switch {
		case err == nil:
			e.got = all[i]
		case len(batch) == 1 || sqldb.IsBusy(err) || ctx.Err() != nil:
			e.err = err
		default:
			var one []inserted
			if one, e.err = s.insertAll(ctx, orders[i:i+1]); e.err == nil {
				e.got = one[0]
			}
		}
		close(e.done)
	}
}

// insertAll puts all orders in, in one transaction, and wakes who works on them.
func (s *Service) insertAll(ctx context.Context, orders []order) (all []inserted, err error) {
	err = s.db.InTx(ctx, func(tx *sql.Tx) error {
		all, err = s.insertOrders(ctx, tx, orders)
		return err
	})
	if err != nil {
		return nil, err
	}
	for i := range orders {
		if all[i].duplicate && !all[i].replaced || all[i].replayed {
			continue
		}
		s.wakeFor(orders[i].queue, all[i].at)
	}
	return all, nil
}

// wakeFor has a new job fetched when it is due. Longer waits are the engine's scheduler's.
func (s *Service) wakeFor(queue string, at time.Time) {
	switch wait := time.Until(at); {
	case at.IsZero() || wait <= 0:
		s.wake.poke(queue)
	case wait < scheduleAhead:
		s.wake.pokeAt(at, queue)
	}
}

// insertOrders puts orders into tx. Those that depend on rows of their own go one by one, the rest
// together.
func (s *Service) insertOrders(ctx context.Context, tx *sql.Tx, orders []order) ([]inserted, error) {
	all := make([]inserted, len(orders))
	var plain []river.InsertManyParams
	var at, keyed []int
	for i := range orders {
		o := &orders[i]
		if o.args.UniqueKey == "" && o.idempotency == nil {
			plain, at = append(plain, insertParams(o.args, o.opts)), append(at, i)
			continue
		}
		keyed = append(keyed, i)
	}
	// In one order everywhere: two instances with the same keys must not wait for each other.
	slices.SortStableFunc(keyed, func(a, b int) int { return cmp.Compare(orders[a].rank(), orders[b].rank()) })
	for _, i := range keyed {
		got, err := s.insertOne(ctx, tx, &orders[i])
		if err != nil {
			return nil, err
		}
		all[i] = got
	}
	ids, err := s.insertMany(ctx, tx, plain)
	if err != nil {
		return nil, err
	}
	for n, i := range at {
		all[i] = inserted{id: ids[n], state: orders[i].state(), at: orders[i].opts.ScheduledAt}
	}
	return all, nil
}

// rank orders what locks rows by the rows.
func (o *order) rank() string {
	rank := "\x00" + service.Scoped(o.args.Owner, o.args.UniqueKey) + "\x00" + o.queue
	if o.idempotency != nil {
		rank = o.idempotency.key + "\x00" + o.idempotency.scope + rank
	}
	return rank
}

// state is that of the order's job when it is inserted.
func (o *order) state() string {
	if o.opts.ScheduledAt.IsZero() {
		return stateQueued
	}
	return stateScheduled
}

// insertOne puts an order with a unique key or an Idempotency-Key in.
func (s *Service) insertOne(ctx context.Context, tx *sql.Tx, o *order) (got inserted, err error) {
	if o.idempotency != nil {
		if got, known, err := s.replayTx(ctx, tx, o); known || err != nil {
			return got, err
		}
	}
	if o.args.UniqueKey != "" {
		got.id, got.state, err = s.holderTx(ctx, tx, o)
		if err != nil {
			return got, err
		}
		if got.duplicate = got.id != 0; got.duplicate && o.duplicate.Replace {
			if got, err = s.replaceTx(ctx, tx, o, got.id); err != nil {
				return got, err
			}
			got.duplicate = got.replaced
		}
	}
	if !got.duplicate {
		got.state, got.at = o.state(), o.opts.ScheduledAt
		if got.id, err = s.insertTx(ctx, tx, o.args, o.opts); err != nil {
			return got, err
		}
		if o.args.UniqueKey != "" {
			if err = s.holdTx(ctx, tx, o, got.id); err != nil {
				return got, err
			}
		}
	}
	if o.idempotency != nil {
		err = s.rememberTx(ctx, tx, o, got)
	}
	return got, err
}

// insertTx puts one job into tx.
func (s *Service) insertTx(ctx context.Context, tx *sql.Tx, args river.JobArgs, opts river.InsertOpts) (int64, error) {
	ids, err := s.insertMany(ctx, tx, []river.InsertManyParams{insertParams(args, opts)})
	if err != nil {
		return 0, err
	}
	return ids[0], nil
}

// insertParams is a job in the engine's terms. The tenant's key stands in the metadata, where the
// fetch has an index on it.
func insertParams(args river.JobArgs, opts river.InsertOpts) river.InsertManyParams {
	if push, ok := args.(pushArgs); ok {
		if metadata := metadataOf(&push); metadata != nil {
			opts.Metadata = metadata
		}
		if !opts.ScheduledAt.IsZero() {
			push.RunAt = &opts.ScheduledAt
		}
		args = push
	}
	return river.InsertManyParams{Args: args, InsertOpts: &opts}
}

// insertMany puts jobs into tx and returns their ids. One that is due within seconds is made
// available at once, as the engine's scheduler may be later than that; the fetch waits for its time.
func (s *Service) insertMany(ctx context.Context, tx *sql.Tx, params []river.InsertManyParams) ([]int64, error) {
	if len(params) == 0 {
		return nil, nil
	}
	rows, err := s.river.InsertManyTx(ctx, tx, params)
	if err != nil {
		return nil, fmt.Errorf("inserting jobs: %w", err)
	}
	var ids, soon []int64
	for i, p := range params {
		id := rows[i].Job.ID
		ids = append(ids, id)
		if at := p.InsertOpts.ScheduledAt; !at.IsZero() && time.Until(at) < scheduleAhead {
			soon = append(soon, id)
		}
	}
	if len(soon) == 0 {
		return ids, nil
	}
	_, err = tx.ExecContext(ctx, "UPDATE river_job SET state = 'available' WHERE "+s.q.ids("id", "$1")+" AND state = 'scheduled'", jsonIDs(soon))
	if err != nil {
		return nil, fmt.Errorf("scheduling jobs: %w", err)
	}
	return ids, nil
}

// EnqueuePushTx puts a push to the target of the named queue into tx; it runs after the commit.
// Body and header are sent as they are, but for the headers of the connection and those of the job.
// With a Webhook-Signature in header the push is not signed again. Call Poke after the commit.
func (s *Service) EnqueuePushTx(ctx context.Context, tx *sql.Tx, queue string, body []byte, header http.Header) (id string, err error) {
	if _, ok := s.QueueTarget(queue); !ok {
		return "", fmt.Errorf("the queue %q does not exist or has no target, known are: %s", queue, s.publicQueues())
	}
	n, err := s.insertTx(ctx, tx, pushArgs{Body: body, Header: header},
		river.InsertOpts{Queue: queue, MaxAttempts: s.queues[queue].Attempts})
	if err != nil {
		return "", err
	}
	return strconv.FormatInt(n, 10), nil
}
