// Package locks is the backend of named locks with a time to live. Whoever acquires one gets a
// token, which proves ownership, and a fence, a number that grows with every acquisition: a store
// that the lock guards refuses writes with a smaller fence than it has seen, and so is safe from an
// owner that slept past its lock. A fence must never go back, not even after kill -9 or a power cut,
// so locks are rows in SQL, committed to disk before the answer, and not state in memory; or they are in
// Redis, for instances that share no database.
package locks

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/backends/internal/longpoll"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

//go:embed migrations
var migrations embed.FS

const (
	minTTL     = 100 * time.Millisecond
	longestTTL = 24 * time.Hour
	// defaultTTL is that of a request that names none.
	defaultTTL = 30 * time.Second
	// pruneEvery is how often expired rows are deleted. Nothing but the table's size depends on it.
	pruneEvery = time.Minute
)

// Config is the backend's settings.
type Config struct {
	// Ranks say who may list the locks: operators and services. Everybody may acquire one.
	service.Ranks
	// MaxTTL is the longest time to live that a client may ask for, 100ms to 24h. Default: 24h.
	MaxTTL unit.Duration `json:"max_ttl,omitempty"`
	// Store is where the locks are kept: "sql", the database, or "redis", the one that is configured for
	// all. In Redis the locks last as long as it keeps its data: without appendfsync always a crash may lose
	// those of the last second, and a failover may too, so that two hold one lock; their fences then differ,
	// and the later one's is greater. Its maxmemory-policy must be noeviction or one of volatile-*.
	// Default: "sql".
	Store string `json:"store,omitempty"`
}

// The values of Config.Store.
const (
	StoreSQL   = "sql"
	StoreRedis = "redis"
)

// Validate checks the bounds.
func (c Config) Validate() error {
	if c.MaxTTL != 0 && (c.MaxTTL.Std() < minTTL || c.MaxTTL.Std() > longestTTL) {
		return fmt.Errorf("max_ttl must be from %s to %s, not %s", unit.Duration(minTTL), unit.Duration(longestTTL), c.MaxTTL)
	}
	if c.Store != "" && c.Store != StoreSQL && c.Store != StoreRedis {
		return fmt.Errorf("store must be %s or %s, not %q", StoreSQL, StoreRedis, c.Store)
	}
	return c.Ranks.Validate()
}

// Fits says whether the settings of all backends have what this one needs.
func (c Config) Fits(s service.Settings) error {
	if c.Store == StoreRedis && s.Redis == nil {
		return errors.New("store redis needs a Redis: name it in the global options, such as gatehouse { redis redis://127.0.0.1:6379 }, or leave store redis out")
	}
	return nil
}

// Open makes the store ready: it migrates the tables, or takes hold of the Redis.
func (c Config) Open(ctx context.Context, h *service.Host) (service.Service, error) {
	store, err := c.open(ctx, h)
	if err != nil {
		return nil, err
	}
	s, err := New(c, Deps{Store: store, Log: h.Log.With("backend", "locks")})
	if err != nil {
		return nil, err
	}
	// Those who wait do so also for what another configuration's service releases.
	s.waiters = h.Memory("locks.waiters", func() any { return newWaiters() }).(*waiters)
	return s, nil
}

func (c Config) open(ctx context.Context, h *service.Host) (Store, error) {
	if c.Store == StoreRedis {
		conn, err := h.Redis()
		if err != nil {
			return nil, fmt.Errorf("store redis: %w", err)
		}
		return NewRedisStore(conn), nil
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("reading the migrations of locks: %w", err)
	}
	if err = h.DB.Migrate(ctx, "locks", files); err != nil {
		return nil, err
	}
	return NewSQLStore(h.DB), nil
}

// Deps is what a Service works with.
type Deps struct {
	// Store keeps the locks. Required.
	Store Store
	// Log takes what goes wrong on our side. Default: dropped.
	Log *slog.Logger
	// Now is the clock that locks expire by. Default: time.Now.
	Now func() time.Time
}

// Service is the backend.
type Service struct {
	store  Store
	maxTTL time.Duration
	log    *slog.Logger
	now    func() time.Time
	router *httpapi.Router

	authority service.Authority

	polls    longpoll.Bound
	waiters  *waiters
	stopping chan struct{} // closed when Run is to end
	stop     func()
}

// New is a Service ready to answer.
func New(c Config, d Deps) (*Service, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if d.Store == nil {
		return nil, errors.New("locks need a store")
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	s := &Service{store: d.Store, maxTTL: c.MaxTTL.Or(longestTTL), log: d.Log, now: d.Now, router: httpapi.NewRouter(d.Log), authority: service.Authority{Ranks: c.Ranks}, waiters: newWaiters(), stopping: make(chan struct{})}
	s.stop = sync.OnceFunc(func() { close(s.stopping) })
	services := httpapi.Guard{Router: s.router, Authority: s.authority, Backend: "locks", Check: service.Caller.CheckAny}
	services.Handle(http.MethodGet, "/locks", s.list)
	s.router.Handle(http.MethodGet, "/locks/{name}", s.get)
	s.router.Handle(http.MethodPost, "/locks/{name}", s.acquire)
	s.router.Handle(http.MethodPut, "/locks/{name}", s.renew)
	s.router.Handle(http.MethodDelete, "/locks/{name}", s.release)
	return s, nil
}

// ServeHTTP is the HTTP API.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.router.ServeHTTP(w, r) }

// Run deletes expired rows from time to time, until ctx ends. Two instances may do it at once. Its end is
// that of the requests that wait for a lock.
func (s *Service) Run(ctx context.Context) error {
	defer s.stop()
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	for {
		if err := s.store.Prune(ctx, s.now()); err != nil && ctx.Err() == nil {
			s.log.Warn("pruning expired locks failed", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Check reads from the store.
func (s *Service) Check(ctx context.Context) error {
	_, err := s.store.List(ctx, 0, 1, s.now())
	return err
}
