package jobs

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverdatabasesql"
	"github.com/riverqueue/river/riverdriver/riversqlite"
)

// driver is River's driver of the database with our fetch, see gate.go, and another listener. River's
// own for SQLite polls its outbox every 50 ms through the pool that writes, which is a single
// connection. All that writes to SQLite is in this process, so ours is woken by it, and polls seldom
// and on the reading pool. On PostgreSQL ours is River's, which also hears what this process says.
type driver struct {
	riverdriver.Driver[*sql.Tx]
	s *Service
}

// newDriver is the driver of the database of s. What it opens for itself is closed with s.
func newDriver(s *Service) (*driver, error) {
	if !s.db.Postgres() {
		return &driver{riversqlite.New(s.db.Write), s}, nil
	}
	if s.db.Pooled() {
		return &driver{riverdatabasesql.New(s.db.Write), s}, nil
	}
	pool, err := s.db.Listener(context.Background())
	if err != nil {
		return nil, fmt.Errorf("making the listener of the jobs engine: %w", err)
	}
	s.listener = pool
	return &driver{riverdatabasesql.NewWithPgxListener(s.db.Write, pool), s}, nil
}

// GetExecutor gives the engine its access to the database.
func (d *driver) GetExecutor() riverdriver.Executor { return executor{d.Driver.GetExecutor(), d.s} }

// SupportsListener tells that GetListener gives one in any case.
func (d *driver) SupportsListener() bool { return true }

// GetListener gives the notifier its listener.
func (d *driver) GetListener(params *riverdriver.GetListenenerParams) riverdriver.Listener {
	if d.s.db.Pooled() {
		return &wakeListener{wake: d.s.wake, schema: params.Schema}
	}
	if d.s.db.Postgres() {
		return &pgListener{Listener: d.Driver.GetListener(params), s: d.s, heard: make(chan heard, 1)}
	}
	return &listener{read: d.s.db.Read, wake: d.s.wake, schema: params.Schema}
}

// pgListener hears what PostgreSQL notifies, from all instances, and what the waker has. The wait on
// the connection goes on in the background when the waker is first, as breaking it off each time would
// cost more than the notification.
type pgListener struct {
	riverdriver.Listener
	s *Service

	mu     sync.Mutex
	cancel context.CancelFunc // of the wait under way, nil if none is
	heard  chan heard
	kept   []heard // of waits that were ended
}

// heard is what a wait on the connection ended with.
type heard struct {
	n   *riverdriver.Notification
	err error
}

// WaitForNotification returns what the database or the waker has next.
func (l *pgListener) WaitForNotification(ctx context.Context) (*riverdriver.Notification, error) {
	l.mu.Lock()
	if len(l.kept) > 0 {
		h := l.kept[0]
		l.kept = l.kept[1:]
		l.mu.Unlock()
		return h.n, h.err
	}
	if l.cancel == nil {
		wait, cancel := context.WithCancel(context.WithoutCancel(ctx))
		l.cancel = cancel
		go func() {
			n, err := l.Listener.WaitForNotification(wait)
			l.heard <- heard{n, err}
		}()
	}
	l.mu.Unlock()
	for {
		select {
		case h := <-l.heard:
			l.mu.Lock()
			l.cancel()
			l.cancel = nil
			l.mu.Unlock()
			if h.n != nil && h.n.Topic == insertTopic {
				var told struct {
					Queue string `json:"queue"`
				}
				if json.Unmarshal([]byte(h.n.Payload), &told) == nil {
					l.s.bells.ring(told.Queue) // for long polls at this instance
				}
			}
			return h.n, h.err
		case <-l.s.wake.signal:
			if n, err := l.s.wake.told(); n != nil || err != nil {
				return n, err
			}
			queue, _ := l.s.wake.next() // the outbox is the server's
			if queue == "" {
				continue
			}
			return insertedInto(queue)
		case <-ctx.Done():
			l.halt()
			return nil, ctx.Err()
		}
	}
}

// insertedInto tells the fetcher of a queue about new jobs, in the engine's words.
func insertedInto(queue string) (*riverdriver.Notification, error) {
	payload, err := json.Marshal(map[string]string{"queue": queue})
	return &riverdriver.Notification{Topic: insertTopic, Payload: string(payload)}, err
}

// halt ends the wait on the connection, so that it can be used for something else.
func (l *pgListener) halt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cancel != nil {
		l.cancel()
		if h := <-l.heard; h.err == nil {
			l.kept = append(l.kept, h)
		}
		l.cancel = nil
	}
}

// Listen adds a topic.
func (l *pgListener) Listen(ctx context.Context, topic string) error {
	l.halt()
	return l.Listener.Listen(ctx, topic)
}

// Unlisten takes a topic away.
func (l *pgListener) Unlisten(ctx context.Context, topic string) error {
	l.halt()
	return l.Listener.Unlisten(ctx, topic)
}

// Ping reaches for the server.
func (l *pgListener) Ping(ctx context.Context) error {
	l.halt()
	return l.Listener.Ping(ctx)
}

// Close gives the connection up.
func (l *pgListener) Close(ctx context.Context) error {
	l.halt()
	return l.Listener.Close(ctx)
}

const (
	// insertTopic is the topic on which River tells fetchers about new jobs.
	insertTopic = "river_insert"
	// outboxPoll is the time between two looks into the outbox when nothing wakes the listener:
	// how late another Service in the process learns of a pause.
	outboxPoll = 250 * time.Millisecond
	// outboxBatch is how many rows of the outbox are read at once.
	outboxBatch = 256
)

// waker collects what the listener shall see to now.
type waker struct {
	mu     sync.Mutex
	queues []string           // whose fetcher should look for jobs
	outbox bool               // whether to look into the outbox
	tells  []control          // what fetchers are to be told
	signal chan struct{}      // holds one token while there is anything to see to
	heard  func(queue string) // hears each poke, nil for nobody
}

func newWaker() *waker { return &waker{signal: make(chan struct{}, 1)} }

// poke wakes the fetchers of the queues. It never blocks.
func (w *waker) poke(queues ...string) {
	if w.heard != nil {
		for _, q := range queues {
			w.heard(q)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, q := range queues {
		if !slices.Contains(w.queues, q) {
			w.queues = append(w.queues, q)
		}
	}
	w.arm()
}

// pokeAt is poke at a time in the future.
func (w *waker) pokeAt(at time.Time, queue string) {
	// The stored time has whole milliseconds, rounded.
	time.AfterFunc(time.Until(at)+time.Millisecond, func() { w.poke(queue) })
}

// look makes the listener read the outbox, after a command was committed. It never blocks.
func (w *waker) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.outbox = true
	w.arm()
}

// tell has the fetchers told, in place of what they were to be told before.
func (w *waker) tell(all []control) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tells = all
	w.arm()
}

// told takes out what is to be told next, nil for nothing. It is called after the token was received.
func (w *waker) told() (*riverdriver.Notification, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.tells) == 0 {
		return nil, nil //nolint:nilnil // there is nothing to tell
	}
	c := w.tells[0]
	w.tells = w.tells[1:]
	w.arm()
	return c.notification()
}

// arm puts the token in; the caller holds w.mu.
func (w *waker) arm() {
	if len(w.queues) == 0 && !w.outbox && len(w.tells) == 0 {
		return
	}
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

// next takes out one queue, or none, and whether to look into the outbox. It is called after the
// token was received.
func (w *waker) next() (queue string, outbox bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	outbox, w.outbox = w.outbox, false
	if len(w.queues) > 0 {
		queue, w.queues = w.queues[0], w.queues[1:]
	}
	w.arm()
	return queue, outbox
}

// listener gives River's notifier the rows of the outbox that were written since it connected, and
// what the waker has.
type listener struct {
	read   *sql.DB
	wake   *waker
	schema string

	mu      sync.Mutex
	open    bool
	topics  map[string]bool
	last    int64     // the id of the newest row that was read
	polled  time.Time // when the outbox was read
	pending []*riverdriver.Notification
}

// Connect begins after the newest row.
func (l *listener) Connect(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open {
		return errors.New("connection already established")
	}
	err := l.read.QueryRowContext(ctx, "SELECT coalesce(max(id), 0) FROM river_notification").Scan(&l.last)
	l.open, l.topics, l.pending, l.polled = err == nil, map[string]bool{}, nil, time.Now()
	return err
}

// Close forgets the topics.
func (l *listener) Close(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open, l.topics, l.pending = false, nil, nil
	return nil
}

// Listen adds a topic. Rows that were written since Connect may still come.
func (l *listener) Listen(_ context.Context, topic string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.open {
		return errors.New("listener is not connected")
	}
	l.topics[topic] = true
	return nil
}

// Unlisten takes a topic away.
func (l *listener) Unlisten(_ context.Context, topic string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.topics, topic)
	return nil
}

// Ping reaches for the database.
func (l *listener) Ping(ctx context.Context) error { return l.read.PingContext(ctx) }

// Schema is the schema of the tables, empty for the only one that there is.
func (l *listener) Schema() string { return l.schema }

// SetAfterConnectExec is for River's own tests.
func (l *listener) SetAfterConnectExec(string) {}

// WaitForNotification returns what the outbox or the waker has next.
func (l *listener) WaitForNotification(ctx context.Context) (*riverdriver.Notification, error) {
	for {
		n, wait := l.take()
		if n != nil {
			return n, nil
		}
		if n, err := l.wake.told(); n != nil || err != nil {
			return n, err
		}
		due := time.NewTimer(wait)
		var queue string
		var outbox bool
		select {
		case <-ctx.Done():
			due.Stop()
			return nil, ctx.Err()
		case <-due.C:
			outbox = true
		case <-l.wake.signal:
			due.Stop()
			queue, outbox = l.wake.next()
		}
		if outbox {
			if err := l.poll(ctx); err != nil {
				l.wake.look() // what was asked for is still to be done
				return nil, err
			}
		}
		if queue != "" {
			return insertedInto(queue)
		}
	}
}

// take takes out a notification that was read, or says how long until the next look into the outbox.
func (l *listener) take() (*riverdriver.Notification, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pending) == 0 {
		return nil, time.Until(l.polled.Add(outboxPoll))
	}
	n := l.pending[0]
	l.pending = l.pending[1:]
	return n, 0
}

// poll reads new rows of the outbox. A writer that commits later has a higher id, as SQLite has
// one writer at a time, so none is passed over.
func (l *listener) poll(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.polled = time.Now()
	rows, err := l.read.QueryContext(ctx, "SELECT id, topic, payload FROM river_notification WHERE id > ? ORDER BY id LIMIT ?", l.last, outboxBatch)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id int64
		n := new(riverdriver.Notification)
		if err = rows.Scan(&id, &n.Topic, &n.Payload); err != nil {
			return err
		}
		if l.last = id; l.topics[n.Topic] {
			l.pending = append(l.pending, n)
		}
	}
	return rows.Err()
}
