// Package flags is the backend of feature flags: named switches with a rollout percentage and lists
// of users, changed over HTTP and evaluated in process or by OFREP. Flags are kept in SQL; what is
// evaluated is a snapshot of all of them in memory, replaced in the same call that commits a change,
// so a change counts from the next evaluation on. Other instances on one PostgreSQL follow within a second.
package flags

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

//go:embed migrations
var migrations embed.FS

// writeTime bounds one change. A change is not given up when the client leaves: it is committed and
// seen, or neither.
const writeTime = 10 * time.Second

const (
	// followEvery is how often the changes of other instances are looked for.
	followEvery = 500 * time.Millisecond
	// followTime bounds one look; changes of our own wait for it.
	followTime = 2 * time.Second
)

// Config says who may change flags: operators and services. Everybody may have them evaluated.
type Config struct {
	service.Ranks
}

// Validate checks the ranks.
func (c Config) Validate() error { return c.Ranks.Validate() }

// Open migrates the tables and reads all flags, unless this process has read them before.
func (c Config) Open(ctx context.Context, h *service.Host) (service.Service, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("reading the migrations of flags: %w", err)
	}
	if err = h.DB.Migrate(ctx, "flags", files); err != nil {
		return nil, err
	}
	live := h.Memory("flags", func() any { return new(Live) }).(*Live)
	return New(c, Deps{Ctx: ctx, DB: h.DB, Live: live, Log: h.Log.With("backend", "flags")})
}

// Deps is what a Service works with.
type Deps struct {
	// Ctx bounds the reading of the flags in New. Default: no bound.
	Ctx context.Context
	// DB has the migrated tables. Required.
	DB *sqldb.DB
	// Live is the snapshot in memory. Services of one process on one database must share it. Default: a new one.
	Live *Live
	// Log takes what goes wrong on our side. Default: dropped.
	Log *slog.Logger
	// Now is the clock for updated_at. Default: time.Now.
	Now func() time.Time
}

// Service is the backend.
type Service struct {
	store  store
	live   *Live
	log    *slog.Logger
	now    func() time.Time
	router *httpapi.Router

	authority service.Authority
}

// New is a Service that has all flags in memory and is ready to answer.
func New(c Config, d Deps) (*Service, error) {
	if d.Ctx == nil {
		d.Ctx = context.Background()
	}
	if d.Live == nil {
		d.Live = new(Live)
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	s := &Service{store: store{d.DB}, live: d.Live, log: d.Log, now: d.Now, router: httpapi.NewRouter(d.Log), authority: service.Authority{Ranks: c.Ranks}}
	if err := s.live.load(d.Ctx, s.store); err != nil {
		return nil, err
	}
	// The definition of a flag names users, so it is not for them.
	services := httpapi.Guard{Router: s.router, Authority: s.authority, Backend: "flags", Check: service.Caller.CheckAny}
	services.Handle(http.MethodGet, "/flags", s.list)
	services.Handle(http.MethodGet, "/flags/{key}", s.get)
	services.Handle(http.MethodPut, "/flags/{key}", s.put)
	services.Handle(http.MethodDelete, "/flags/{key}", s.delete)
	s.router.Handle(http.MethodPost, "/ofrep/v1/evaluate/flags", s.evaluateAll)
	s.router.Handle(http.MethodPost, "/ofrep/v1/evaluate/flags/{key}", s.evaluateOne)
	return s, nil
}

// ServeHTTP is the HTTP API.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.router.ServeHTTP(w, r) }

// Run follows the changes of other instances on one PostgreSQL, until ctx ends. While the database is
// out of reach the flags stay as they are.
func (s *Service) Run(ctx context.Context) error {
	if !s.store.db.Postgres() {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for failing := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := s.follow(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			s.log.Warn("flags cannot be read from the database, those in memory stay in force", "error", err)
		}
		failing = err != nil
	}
}

func (s *Service) follow(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, followTime)
	defer cancel()
	return s.live.catchUp(ctx, s.store)
}

// Check reads from the table.
func (s *Service) Check(ctx context.Context) error { return s.store.check(ctx) }

// On says whether the flag is on for the user. A flag that is not there is off. It allocates
// nothing, unless the names are very long.
func (s *Service) On(flag, user string) bool {
	f := s.live.flag(flag)
	return f != nil && f.Evaluate(user).On
}

// set creates or replaces the flag if the precondition holds, and makes it count.
func (s *Service) set(ctx context.Context, key string, d Definition, c conditions) (f *Flag, created bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTime)
	defer cancel()
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	f, created, err = s.store.put(ctx, key, d, c, s.now())
	if err != nil {
		return nil, false, err
	}
	s.live.put(f)
	return f, created, nil
}

// remove deletes the flag if it is there and the precondition holds, and makes that count.
func (s *Service) remove(ctx context.Context, key string, c conditions) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTime)
	defer cancel()
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	if err := s.store.delete(ctx, key, c, s.now()); err != nil {
		return err
	}
	s.live.drop(key)
	return nil
}
