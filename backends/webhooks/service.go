// Package webhooks is the webhooks backend. Outgoing, it sends events to the endpoints that want
// them, signed as Standard Webhooks, and tries again until they are taken. Incoming, it keeps
// verified events once each and hands them to a queue of the jobs backend.
package webhooks

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/backends/internal/tally"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

//go:embed migrations
var migrations embed.FS

// deliverKind is the job that makes one attempt at one delivery.
const deliverKind = "webhooks.deliver"

// deliveries is how many attempts are made at once, deliveriesEach to one endpoint: some that hang leave
// places for the others.
const deliveries, deliveriesEach = 100, 10

// Jobs is what this backend needs of the jobs backend.
type Jobs interface {
	// EnqueueKeyedTx puts a job of an in-process kind into tx; it runs after the commit. Keys take turns.
	EnqueueKeyedTx(ctx context.Context, tx *sql.Tx, kind, key string, payload []byte) (id string, err error)
	// EnqueuePushTx puts an HTTP push to the target of the named queue into tx.
	EnqueuePushTx(ctx context.Context, tx *sql.Tx, queue string, body []byte, header http.Header) (id string, err error)
	// HandleKeyed sets the worker of an in-process kind, of which all jobs run at once, and each of one key. An error with RetryAfter() is retried then
	// without using an attempt, one whose Permanent() is true ends the job, others are retried.
	HandleKeyed(kind string, all, each int, work func(ctx context.Context, payload []byte) error)
	// Poke says that a transaction with a job has been committed.
	Poke()
	// QueueTarget is where the queue pushes to; ok says that the queue exists and has a target.
	QueueTarget(queue string) (target string, ok bool)
}

// Deps are what a Service works with.
type Deps struct {
	// DB holds the tables, migrated. Required.
	DB *sqldb.DB
	// Jobs runs the deliveries and takes the received events. Required.
	Jobs Jobs
	// Log takes what goes wrong on our side. Required.
	Log *slog.Logger
}

// Service is the webhooks backend. Several may work on one database at once.
type Service struct {
	db     *sqldb.DB
	jobs   Jobs
	log    *slog.Logger
	own    outlet // of nobody's endpoints
	users  outlet // of those with an owner
	router *httpapi.Router

	ownerBytes int // of Config
	tallies    *tally.Tallies[string]
}

// outlet is the way to endpoints.
type outlet struct {
	guard  *guard
	sender *sender
}

func newOutlet(allowPrivate []string, timeout time.Duration) (o outlet, err error) {
	if o.guard, err = newGuard(allowPrivate); err == nil {
		o.sender = newSender(o.guard, timeout)
	}
	return o, err
}

// outlet is the one of an owner's endpoints.
func (s *Service) outlet(owner string) outlet {
	if owner == "" {
		return s.own
	}
	return s.users
}

// Open migrates the tables and makes the service.
func (c Config) Open(ctx context.Context, h *service.Host) (service.Service, error) {
	jobs, err := service.Need[Jobs](ctx, h, "jobs")
	if err != nil {
		return nil, err
	}
	if err = migrate(ctx, h.DB); err != nil {
		return nil, err
	}
	return New(c, Deps{DB: h.DB, Jobs: jobs, Log: h.Log.With("backend", "webhooks")})
}

func migrate(ctx context.Context, db *sqldb.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("reading the migrations: %w", err)
	}
	return db.Migrate(ctx, "webhooks", files)
}

// New makes the service and becomes the worker of its jobs.
func New(c Config, d Deps) (*Service, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	s := &Service{db: d.DB, jobs: d.Jobs, log: d.Log, ownerBytes: int(c.OwnerBytes), tallies: tally.New[string]()}
	var err error
	if s.own, err = newOutlet(c.AllowPrivate, c.Timeout.Or(defaultTimeout)); err != nil {
		return nil, err
	}
	if s.users = s.own; !c.UserPrivate {
		if s.users, err = newOutlet(nil, c.Timeout.Or(defaultTimeout)); err != nil {
			return nil, err
		}
	}
	s.router = httpapi.NewRouter(d.Log)
	users := httpapi.Guard{Router: s.router, Authority: c.Authority, Backend: "webhooks", Check: service.Caller.Check}
	services := users
	services.Check = service.Caller.CheckAny
	users.Handle(http.MethodPost, "/endpoints", s.createEndpoint)
	users.Handle(http.MethodGet, "/endpoints", s.listEndpoints)
	users.Handle(http.MethodGet, "/endpoints/{id}", s.getEndpoint)
	users.Handle(http.MethodPut, "/endpoints/{id}", s.putEndpoint)
	users.Handle(http.MethodDelete, "/endpoints/{id}", s.deleteEndpoint)
	users.Handle(http.MethodPost, "/events", s.createEvent)
	users.Handle(http.MethodGet, "/deliveries", s.listDeliveries)
	users.Handle(http.MethodGet, "/deliveries/{id}", s.getDelivery)
	users.Handle(http.MethodPost, "/deliveries/{id}/retry", s.retryDelivery)
	services.Handle(http.MethodGet, "/received", s.listReceived)
	d.Jobs.HandleKeyed(deliverKind, deliveries, deliveriesEach, s.deliver)
	return s, nil
}

// ServeHTTP is the HTTP API.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.router.ServeHTTP(w, r) }

// Check reads one row.
func (s *Service) Check(ctx context.Context) error {
	var n int
	if err := s.db.Read.QueryRowContext(ctx, "SELECT COUNT(*) FROM (SELECT 1 FROM webhooks_endpoints LIMIT 1) AS one").Scan(&n); err != nil {
		return fmt.Errorf("reading the database: %w", err)
	}
	return nil
}

// Close closes the idle connections to endpoints.
func (s *Service) Close() error {
	s.own.sender.close()
	s.users.sender.close()
	return nil
}

// numbered is a row of a list with its number. Lists go from the newest row to the oldest, and a cursor is the
// number of the last row that was given out.
type numbered[T any] struct {
	seq  int64
	item T
}

// page is at most limit rows of those given, of which there is one more if another page follows.
func page[T any](rows []numbered[T], limit int) httpapi.Page[T] {
	return httpapi.PageFrom(rows, limit, func(n numbered[T]) string { return strconv.FormatInt(n.seq, 10) }, func(n numbered[T]) T { return n.item })
}

// when is a time as the tables hold it, for JSON: nil for none.
func when(ms int64) *time.Time {
	if ms == 0 {
		return nil
	}
	t := time.UnixMilli(ms).UTC()
	return &t
}

// Interface guards
var (
	_ service.Opener  = Config{}
	_ service.Service = (*Service)(nil)
)
