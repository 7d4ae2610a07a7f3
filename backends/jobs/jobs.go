// Package jobs is the jobs backend: a durable queue over HTTP that pushes each job to a URL with
// retries, and the queue on which the other backends put work of their own inside their
// transactions. River on SQLite or PostgreSQL is the engine; this package gives it HTTP, push delivery, and a
// process that restarts.
package jobs

import (
	"cmp"
	"context"
	"crypto/tls"
	"database/sql"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/exchange"
	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/egress"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

const (
	// stopTime is the default of Deps.StopTime.
	stopTime = 20 * time.Second
	// fetchCooldown bounds how often a queue is asked for jobs, and with it the latency under load.
	fetchCooldown = 5 * time.Millisecond
	// fetchPoll is how late a job may start whose time came more than a few seconds after it was
	// stored. One that is due at once or soon is fetched at its time, see waker.
	fetchPoll = 500 * time.Millisecond
	// checkTime bounds Check.
	checkTime = 2 * time.Second
)

// Deps are what a Service works with.
type Deps struct {
	// DB has the tables, see Prepare. Required.
	DB *sqldb.DB
	// Log takes faults. Nil drops them.
	Log *slog.Logger
	// StopTime is how long Run waits for running jobs before it cancels them, where their queue does not say
	// otherwise. Default: 20s.
	StopTime time.Duration
	// Exit is closed when the process ends: StopTime then bounds all queues. Default: never.
	Exit <-chan struct{}
	// Event is called with what subscribers may want to know, one event at a time. Nil drops them.
	Event func(name string, data map[string]any)
	// SigningKey signs pushes: the text whsec_ and the base64 of at least 24 bytes. Required.
	SigningKey *secret.Set
}

// Service is the jobs backend. Several may work on one database at once.
type Service struct {
	db      *sqldb.DB
	q       dialect
	id      string // of this instance
	log     *slog.Logger
	queues  map[string]Queue
	targets egress.Places
	signer  *signer
	http    *exchange.Client
	clients map[string]*secured // of the queues with certificates of their own
	sockets *exchange.Client
	router  *httpapi.Router
	ui      *ui // nil without one

	authority  service.Authority
	ownerBytes int      // of Config
	fed        sync.Map // the queues that another backend puts jobs of the outside into

	river    *river.Client[*sql.Tx]
	listener *pgxpool.Pool // on PostgreSQL
	wake     *waker
	gate     gate
	group    group
	breakers *breakers
	active   *active
	tell     teller
	trips    byQueue
	deaths   byQueue

	cuts       cuts
	drain      time.Duration
	exit       <-chan struct{}
	events     chan event
	subscriber func(name string, data map[string]any)
	apiState
	running atomic.Bool

	schedules *scheduler

	mu    sync.RWMutex
	kinds map[string]func(ctx context.Context, payload []byte) error
	inner map[string]Queue // the internal queues that are worked here
}

// boot remembers, in the memory of the process, that what a dead process left has been taken over.
type boot struct {
	mu   sync.Mutex
	done bool
}

// Open migrates the tables and makes the service. The first one that a process opens on a data
// directory also puts the jobs back that were running when the process before it died: the
// directory is locked, so nobody else can be running them.
func (c Config) Open(ctx context.Context, h *service.Host) (service.Service, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if err := Prepare(ctx, h.DB, h.Log); err != nil {
		return nil, err
	}
	b := h.Memory("jobs", func() any { return new(boot) }).(*boot)
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.done {
		n, err := adopt(ctx, h.DB)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			h.Log.Warn("jobs of an ended process run again", "backend", "jobs", "jobs", n)
		}
		b.done = true
	}
	key, err := h.GeneratedKey(signingKey, newSigningKey)
	if err != nil {
		return nil, err
	}
	s, err := New(c, Deps{DB: h.DB, Log: h.Log.With("backend", "jobs"), SigningKey: key, StopTime: c.Drain.Std(), Exit: h.Exit(), Event: h.Emit})
	if err != nil {
		return nil, err
	}
	if err = s.registerSchedules(ctx, c.Schedules); err != nil {
		return nil, err
	}
	return s, s.registerQueues(ctx)
}

// New makes the service of a valid configuration. It starts nothing.
func New(c Config, d Deps) (*Service, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	sign, err := newSigner(d.SigningKey, d.Log)
	if err != nil {
		return nil, err
	}
	s := &Service{
		db: d.DB, q: dialectOf(d.DB), id: newInstance(), log: d.Log, breakers: newBreakers(), active: newActive(), queues: c.queues(), targets: placesOf(c), signer: sign, http: newPushClient(placesOf(c), nil),
		authority: c.Authority, ownerBytes: int(c.OwnerBytes),
		wake: newWaker(), apiState: newAPIState(), kinds: map[string]func(context.Context, []byte) error{},
		inner: map[string]Queue{callbackQueue: callbackSettings},
		drain: cmp.Or(d.StopTime, stopTime), exit: d.Exit, events: make(chan event, maxEvents), subscriber: d.Event,
	}
	if s.clients, err = newClients(s.queues, func(t *tls.Config) *exchange.Client { return newPushClient(s.targets, t) }, s.log); err != nil {
		return nil, err
	}
	s.sockets = newSocketClient()
	s.gate.cursors = map[turn]string{}
	s.group.s = s
	s.wake.heard = s.bells.ring
	engine, err := newDriver(s)
	if err != nil {
		return nil, err
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, &pushWorker{s: s})
	river.AddWorker(workers, &callWorker{s: s})
	settings := make(map[string]river.QueueConfig, len(s.queues))
	for name, q := range s.queues {
		if !q.Pull {
			settings[name] = river.QueueConfig{MaxWorkers: q.Concurrency}
		}
	}
	settings[callbackQueue] = river.QueueConfig{MaxWorkers: callbackPlaces}
	s.river, err = river.NewClient(engine, &river.Config{
		ID:                s.id,
		Queues:            settings,
		Workers:           workers,
		Logger:            slog.New(newQuiet(d.Log.Handler())),
		FetchCooldown:     fetchCooldown,
		FetchPollInterval: fetchPoll,
		JobTimeout:        -1, // each worker says its own; River's rescue leaves a job alone before that
		SoftStopTimeout:   s.DrainTime(),
		// Finished jobs are kept by number, see sweep.
		CancelledJobRetentionPeriod: -1,
		CompletedJobRetentionPeriod: -1,
		DiscardedJobRetentionPeriod: -1,
		// SQLite has no use for a nightly rebuild of its indexes, and the writer would wait for it.
		ReindexerIndexNames: []string{},
	})
	if err != nil {
		return nil, fmt.Errorf("making the jobs engine: %w", err)
	}
	s.schedules = newScheduler(s, s.log)
	s.router = s.routes()
	if c.UI {
		if s.ui, err = newUI(s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// newPushClient dials the places and nothing else: no proxy from the environment, no redirects. config is that
// of its TLS, nil for the default.
func newPushClient(places egress.Places, config *tls.Config) *exchange.Client {
	return exchange.New(exchange.Options{
		IdlePerHost: 64,
		TLS:         config,
		Guard: func(base *http.Transport, dialTimeout time.Duration) exchange.Transport {
			return places.NewTransport(base, dialTimeout)
		},
	})
}

// ServeHTTP is the HTTP API.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.ui.owns(r.URL.Path) {
		if err := s.authority.Caller(r, "jobs").CheckOperator(); err != nil {
			s.router.Fail(w, r, err)
			return
		}
		s.ui.handler.ServeHTTP(w, r)
		return
	}
	s.router.ServeHTTP(w, r)
}

// Run works the queues until ctx ends. Then it fetches no more, lets running jobs finish for
// the time of their queue, and Deps.StopTime at most once Deps.Exit is closed, cancels the rest, which go
// back to their queue without losing an attempt, and returns.
func (s *Service) Run(ctx context.Context) error {
	// Nobody may see a job of an instance that has not said that it is alive.
	for err := s.beat(ctx); err != nil; err = s.beat(ctx) {
		s.log.Error("the jobs wait for the database", "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(beatEvery):
		}
	}
	var loops sync.WaitGroup
	alive, stopBeating := context.WithCancel(context.WithoutCancel(ctx)) // also while running jobs are drained
	loops.Go(func() { s.beatLoop(alive) })
	loops.Go(func() { s.controlLoop(alive) })
	defer func() {
		stopBeating()
		loops.Wait()
		s.retire(alive)
	}()
	again, unsubscribe := s.river.Subscribe(river.EventKindJobCompleted, river.EventKindJobCancelled, river.EventKindJobFailed, river.EventKindJobSnoozed, river.EventKindJobInterrupted)
	if err := s.river.Start(ctx); err != nil {
		unsubscribe()
		if ctx.Err() != nil {
			return nil // it was stopped before it had started
		}
		return fmt.Errorf("starting the jobs engine: %w", err)
	}
	if err := s.ui.start(ctx); err != nil {
		s.log.Error("the jobs page does not start", "error", err)
	}
	s.running.Store(true)
	s.Poke() // for what was committed while the fetchers started
	loops.Go(func() { s.sweepLoop(ctx) })
	loops.Go(func() { s.leaseLoop(ctx) })
	loops.Go(func() { s.callbackLoop(ctx) })
	loops.Go(func() { s.schedules.run(ctx) })
	loops.Go(func() { s.wakeForRetries(again) })
	loops.Go(func() { s.eventLoop(alive) })
	loops.Go(func() { s.cutLoop(ctx, s.river.Stopped()) })
	<-s.river.Stopped()
	s.running.Store(false)
	unsubscribe()
	return nil
}

// wakeForRetries has each job that failed or was postponed fetched when its time comes. Longer
// waits are the engine's scheduler's. It returns when again is closed.
func (s *Service) wakeForRetries(again <-chan *river.Event) {
	for e := range again {
		if e.Job != nil && e.Job.FinalizedAt != nil {
			s.awaiting.done(e.Job.ID)
		}
		if e.Job != nil && s.settings(e.Job.Queue).Ordered {
			s.wake.poke(e.Job.Queue) // the next one of the key may start
		}
		if e.Job != nil && toldOf(e.Job) {
			s.callbacks.poke()
		}
		if s.q.pg && e.Kind == river.EventKindJobSnoozed && e.Job != nil && isInternal(e.Job.Queue) {
			// A worker may postpone what another instance has to do. Whoever wakes for it at its time
			// would get it each time; the polls leave it to chance.
			continue
		}
		if e.Job != nil && e.Job.State == rivertype.JobStateAvailable {
			s.wake.pokeAt(e.Job.ScheduledAt, e.Job.Queue)
		}
	}
}

// Check reads one row.
func (s *Service) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	var id int64
	err := s.db.Read.QueryRowContext(ctx, "SELECT id FROM river_job LIMIT 1").Scan(&id)
	if err != nil && !noRows(err) {
		return fmt.Errorf("reading the jobs: %w", err)
	}
	return nil
}

// Close closes the idle connections to targets.
func (s *Service) Close() error {
	s.http.CloseIdle()
	s.sockets.CloseIdle()
	for _, c := range s.clients {
		c.close()
	}
	if s.listener != nil {
		s.listener.Close()
	}
	return nil
}

func (s *Service) worker(kind string) func(context.Context, []byte) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.kinds[kind]
}

// Poke tells the fetchers that a transaction with a job has been committed.
func (s *Service) Poke() { s.wake.poke(s.workedQueues()...) }

// QueueTarget is the target of the queue; ok says that the queue exists and has one. Who asks is to put jobs
// into it that it has verified: from now on users may not, unless the queue is configured as public.
func (s *Service) QueueTarget(queue string) (target string, ok bool) {
	if target = s.queues[queue].Target; target != "" {
		s.fed.LoadOrStore(queue, nil)
	}
	return target, target != ""
}

// settings are those of a queue; one that is no longer configured has the defaults.
func (s *Service) settings(queue string) Queue {
	if q, ok := s.queues[queue]; ok {
		return q
	}
	if !isInternal(queue) {
		return Queue{}.withDefaults()
	}
	if q, ok := s.innerQueue(queue); ok {
		return q
	}
	return internalSettings
}

// quiet passes the engine's warnings and errors on, each message at most once in ten seconds: while a
// database is away every fetch says so. What River says at info is about every job.
type quiet struct {
	slog.Handler
	said *said
}

func newQuiet(h slog.Handler) quiet { return quiet{h, &said{last: map[string]time.Time{}}} }

// said is when each message was passed on. The messages are River's, so they are few.
type said struct {
	mu   sync.Mutex
	last map[string]time.Time
}

const sayAgain = 10 * time.Second

func (q quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && q.Handler.Enabled(ctx, l)
}

// Handle passes on what has not been said just now.
func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	q.said.mu.Lock()
	again := r.Time.Sub(q.said.last[r.Message]) < sayAgain
	if !again {
		if len(q.said.last) > 100 {
			clear(q.said.last)
		}
		q.said.last[r.Message] = r.Time
	}
	q.said.mu.Unlock()
	if again {
		return nil
	}
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quiet{q.Handler.WithAttrs(attrs), q.said}
}
func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name), q.said} }
