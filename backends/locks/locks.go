// Package locks is the backend of named locks with a time to live. Whoever acquires one gets a
// token, which proves ownership, and a fence, a number that grows with every acquisition: a store
// that the lock guards refuses writes with a smaller fence than it has seen, and so is safe from an
// owner that slept past its lock. A fence must never go back, not even after kill -9 or a power cut,
// so locks are rows in SQL, committed to disk before the answer, and not state in memory.
package locks

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

//go:embed migrations/*.sql
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
	// MaxTTL is the longest time to live that a client may ask for, 100ms to 24h. Default: 24h.
	MaxTTL unit.Duration `json:"max_ttl,omitempty"`
}

// Validate checks the bounds.
func (c Config) Validate() error {
	if c.MaxTTL != 0 && (c.MaxTTL.Std() < minTTL || c.MaxTTL.Std() > longestTTL) {
		return fmt.Errorf("max_ttl must be from %s to %s, not %s", unit.Duration(minTTL), unit.Duration(longestTTL), c.MaxTTL)
	}
	return nil
}

// Open migrates the tables.
func (c Config) Open(ctx context.Context, h *service.Host) (service.Service, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("reading the migrations of locks: %w", err)
	}
	if err = h.DB.Migrate(ctx, "locks", files); err != nil {
		return nil, err
	}
	return New(c, Deps{Store: NewSQLStore(h.DB), Log: h.Log.With("backend", "locks")})
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
	s := &Service{store: d.Store, maxTTL: c.MaxTTL.Or(longestTTL), log: d.Log, now: d.Now, router: httpapi.NewRouter(d.Log)}
	s.router.Handle(http.MethodGet, "/locks", s.list)
	s.router.Handle(http.MethodGet, "/locks/{name}", s.get)
	s.router.Handle(http.MethodPost, "/locks/{name}", s.acquire)
	s.router.Handle(http.MethodPut, "/locks/{name}", s.renew)
	s.router.Handle(http.MethodDelete, "/locks/{name}", s.release)
	return s, nil
}

// ServeHTTP is the HTTP API.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.router.ServeHTTP(w, r) }

// Run deletes expired rows from time to time, until ctx ends. Two instances may do it at once.
func (s *Service) Run(ctx context.Context) error {
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
