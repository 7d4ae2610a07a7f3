package cache

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/exchange"
	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/egress"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// sweepEvery is how often expired rows are deleted.
const sweepEvery = 10 * time.Second

// Service is the cache. Besides its HTTP API it offers the methods of objects.go.
type Service struct {
	cfg    Config
	state  *State
	log    *slog.Logger
	router *httpapi.Router
	places egress.Places
	client *exchange.Client

	fillTime  time.Duration // bounds one fill
	slots     chan struct{} // one is held by each fetch
	fills     sync.WaitGroup
	fillsCtx  context.Context
	stopFills context.CancelFunc
}

// New is the cache with the given configuration over a loaded state.
func New(c Config, d Deps) (*Service, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	places, err := egress.ParsePlaces(c.FillAllow)
	if err != nil {
		return nil, err
	}
	s := &Service{cfg: c, state: d.State, log: d.Log, router: httpapi.NewRouter(d.Log), places: places, client: newClient(places),
		fillTime: fillTime, slots: make(chan struct{}, maxFills)}
	s.fillsCtx, s.stopFills = context.WithCancel(context.Background())
	s.state.enter(s)
	users := httpapi.Guard{Router: s.router, Authority: c.Authority, Backend: "cache", Check: service.Caller.Check}
	users.Handle(http.MethodGet, "/cache/{key...}", s.get)
	users.Handle(http.MethodPut, "/cache/{key...}", s.put)
	users.Handle(http.MethodDelete, "/cache/{key...}", s.delete)
	users.Handle(http.MethodPost, "/cache/{key...}", s.act)
	return s, nil
}

// Run deletes what has expired, merges old tags when there are very many of them, and follows other
// instances on one PostgreSQL, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	if s.state.shared() {
		var following sync.WaitGroup
		following.Go(func() { s.follow(ctx) })
		defer following.Wait()
	}
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := s.sweep(ctx, time.Now()); err != nil {
			s.log.Error("sweeping the cache", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *Service) sweep(ctx context.Context, now time.Time) error {
	for more := true; more && ctx.Err() == nil; {
		err := s.state.write(func(ctx context.Context, tx *sql.Tx) (err error) {
			more, err = s.state.expire(ctx, tx, now)
			return err
		}, nil)
		if err != nil {
			return err
		}
	}
	cutoff := s.state.tags.excess(maxTags)
	if cutoff == 0 {
		return nil
	}
	return s.state.write(
		func(ctx context.Context, tx *sql.Tx) error { return s.state.raise(ctx, tx, cutoff) },
		func() { s.state.tags.raise(cutoff) })
}

// Check reads from the disk level.
func (s *Service) Check(ctx context.Context) error {
	var n int
	err := s.state.db.Read.QueryRowContext(ctx, "SELECT COUNT(*) FROM (SELECT 1 FROM cache_entries LIMIT 1) AS one").Scan(&n)
	if err != nil {
		return fmt.Errorf("reading the cache: %w", err)
	}
	return nil
}

// Close ends the fills that run and the connections to their origins.
func (s *Service) Close() error {
	s.state.leave(s)
	s.stopFills()
	s.fills.Wait()
	s.client.CloseIdle()
	return nil
}
