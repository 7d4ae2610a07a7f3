package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/redisconn"
	"github.com/gatehouse-proxy/gatehouse/internal/secret/source"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

// drainTime bounds how long Close waits for background work and requests in flight.
const drainTime = 30 * time.Second

// Settings are what all backends of one configuration share.
type Settings struct {
	// DataDir holds everything that is kept: the database, objects and generated keys; with Database
	// the objects alone. Created with mode 0700 at start. Default: "./data".
	DataDir string `json:"data_dir,omitempty"`
	// Region names where this instance runs; it is shown, never guessed. Default: empty.
	Region string `json:"region,omitempty"`
	// Secrets are the named secret sets and where each is read from. They are kept up to date while the
	// process runs: a new value needs no change of configuration.
	Secrets map[string]source.Source `json:"secrets,omitempty"`
	// Database is the PostgreSQL that holds the rows, which several instances may share:
	// postgres://user@host[:port]/database, without a password. Options such as sslmode follow after a ?;
	// what it leaves out is as libpq has it, also PGPASSWORD. Default: SQLite in DataDir.
	Database string `json:"database,omitempty"`
	// DatabasePassword names the secret set that holds the password of the database. Default: none is needed.
	DatabasePassword string `json:"database_password,omitempty"`
	// Redis is where instances share what they count. Default: none, each counts for itself.
	Redis *redisconn.Config `json:"redis,omitempty"`
}

// Host runs the backends of one configuration. Backends are opened on first need, dependencies
// first, and live until Close.
type Host struct {
	*Node
	// Log is the parent of each backend's logger. Never nil.
	Log *slog.Logger
	// Region is Settings.Region.
	Region string

	secrets Secrets
	opener  func(name string) (Opener, error)
	redis   redisRef

	mu      sync.Mutex
	hosted  map[string]*hosted
	opening []string // the chain of backends being opened, to see a cycle
	closed  bool
	runs    sync.WaitGroup
	runCtx  context.Context
	stop    context.CancelFunc
	exit    chan struct{}
	exiting sync.Once

	// Events is called with what subscribers of the process may want to know. It is set before Open. Nil
	// drops the events.
	Events func(name string, data map[string]any)
}

type hosted struct {
	service  Service
	requests atomic.Int64
}

// CheckDatabase says what is wrong with Database and DatabasePassword, without dialling.
func (s *Settings) CheckDatabase() error {
	if s.Database == "" {
		if s.DatabasePassword != "" {
			return errors.New("database_password is for database, name that or leave it out")
		}
		return nil
	}
	if err := s.CheckDatabaseURL(); err != nil || s.DatabasePassword == "" {
		return err
	}
	if _, ok := s.Secrets[s.DatabasePassword]; !ok {
		return fmt.Errorf("database: there is no secret named %q for its password, known are: %s", s.DatabasePassword, list(slices.Sorted(maps.Keys(s.Secrets))))
	}
	return nil
}

// CheckDatabaseURL is CheckDatabase without the password.
func (s *Settings) CheckDatabaseURL() error {
	if err := sqldb.CheckPostgres(s.Database); err != nil {
		return err
	}
	if sqldb.HasPassword(s.Database) {
		return fmt.Errorf("database: %s holds a password: take it out, put it into a secret, and name that: database URL { password SECRET }, in JSON database_password", sqldb.Redact(s.Database))
	}
	return nil
}

// Dir is the data directory: DataDir or its default.
func (s *Settings) Dir() string { return cmp.Or(s.DataDir, "data") }

// NewHost opens the secrets and begins to watch them, and opens the data directory. opener gives the configuration of a backend by name; its error
// for an unknown name says which names there are.
func NewHost(ctx context.Context, s Settings, log *slog.Logger, opener func(name string) (Opener, error)) (*Host, error) {
	if err := s.CheckDatabase(); err != nil {
		return nil, err
	}
	secrets, err := s.OpenSecrets(log)
	if err != nil {
		return nil, err
	}
	if err = secrets.start(ctx); err != nil {
		secrets.Close()
		return nil, err
	}
	var password *source.Handle
	if s.DatabasePassword != "" {
		// The node's own hold: it may outlive this host.
		if password, err = source.Open(s.DatabasePassword, s.Secrets[s.DatabasePassword], log); err != nil {
			secrets.Close()
			return nil, err
		}
	}
	node, err := openNode(ctx, s.Dir(), s.Database, password, log)
	if err != nil {
		secrets.Close()
		return nil, err
	}
	h := &Host{Node: node, Log: logger(log), Region: s.Region, secrets: secrets, opener: opener, hosted: map[string]*hosted{}, exit: make(chan struct{})}
	h.redis.config = s.Redis
	h.runCtx, h.stop = context.WithCancel(context.Background())
	return h, nil
}

// Open opens and runs the named backends that are not open yet.
func (h *Host) Open(ctx context.Context, names ...string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range names {
		if _, err := h.open(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// open is Open for one name; the caller holds h.mu. Openers come back to it through Need.
func (h *Host) open(ctx context.Context, name string) (*hosted, error) {
	if b, ok := h.hosted[name]; ok {
		return b, nil
	}
	if h.closed {
		return nil, errors.New("the host is closed")
	}
	if slices.Contains(h.opening, name) {
		return nil, fmt.Errorf("backends need each other in a circle: %s, %s", strings.Join(h.opening, ", "), name)
	}
	opener, err := h.opener(name)
	if err != nil {
		return nil, err
	}
	h.opening = append(h.opening, name)
	s, err := opener.Open(ctx, h)
	h.opening = h.opening[:len(h.opening)-1]
	if err != nil {
		return nil, fmt.Errorf("opening backend %s: %w", name, err)
	}
	b := &hosted{service: s}
	h.hosted[name] = b
	h.runs.Go(func() {
		if err := s.Run(h.runCtx); err != nil && h.runCtx.Err() == nil {
			h.Log.Error("backend stopped working", "backend", name, "error", err)
		}
	})
	return b, nil
}

// Need gives an Opener the backend that its own depends on, opening it first. T is the interface
// that the caller declares for what it needs; a backend that does not have it is an error.
// It may be called only from inside Opener.Open.
func Need[T any](ctx context.Context, h *Host, name string) (T, error) {
	var none T
	b, err := h.open(ctx, name)
	if err != nil {
		return none, err
	}
	t, ok := b.service.(T)
	if !ok {
		return none, fmt.Errorf("backend %s does not offer %T", name, &none)
	}
	return t, nil
}

// Service is the open backend of that name, or nil if Open was not called for it.
func (h *Host) Service(name string) Service {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b, ok := h.hosted[name]; ok {
		return b.service
	}
	return nil
}

// Handler serves the open backend of that name and counts its requests in flight, so that Close
// can wait for them.
func (h *Host) Handler(name string) (http.Handler, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b, ok := h.hosted[name]
	if !ok {
		return nil, fmt.Errorf("backend %s is not open", name)
	}
	return b, nil
}

func (b *hosted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.requests.Add(1)
	defer b.requests.Add(-1)
	b.service.ServeHTTP(w, r)
}

// Check asks every open backend and the data directory for their health and returns the errors by
// name, nil for a healthy one; StateOf tells those that are degraded from those that have failed.
func (h *Host) Check(ctx context.Context) map[string]error {
	h.mu.Lock()
	services := make(map[string]Service, len(h.hosted))
	for name, b := range h.hosted {
		services[name] = b.service
	}
	h.mu.Unlock()
	health := map[string]error{"data_dir": h.checkDir(ctx)}
	for name, s := range services {
		health[name] = s.Check(ctx)
	}
	return health
}

// StopWork ends the background work as the process ends: no new job is taken. The backends go on answering.
// Close waits for it. It may be called while Close runs, which then takes no longer than the process's time.
func (h *Host) StopWork() {
	h.exiting.Do(func() { close(h.exit) })
	h.stop()
}

// Exit is closed when the process ends.
func (h *Host) Exit() <-chan struct{} { return h.exit }

// Emit has the subscribers see an event, and returns when they have.
func (h *Host) Emit(name string, data map[string]any) {
	if h.Events != nil {
		h.Events(name, data)
	}
}

// Close stops the background work, waits until it is drained and no request is in flight (30 s at
// most, or as long as a Drainer asks for while the process goes on), and gives the node back.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	hostedNow := slices.Collect(maps.Values(h.hosted))
	h.mu.Unlock()

	h.stop()
	late := h.drain(hostedNow)
	for _, b := range hostedNow {
		if c, ok := b.service.(interface{ Close() error }); ok {
			late = errors.Join(late, c.Close())
		}
	}
	h.redis.release()
	late = errors.Join(late, h.release())
	h.secrets.Close()
	return late
}

// drain waits until no background work runs and no request is in flight, within what Close says.
func (h *Host) drain(all []*hosted) error {
	limit := drainTime
	for _, b := range all {
		if d, ok := b.service.(Drainer); ok {
			limit = max(limit, d.DrainTime())
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	go func() {
		select {
		case <-h.exit:
		case <-ctx.Done():
			return
		}
		late := time.NewTimer(drainTime)
		defer late.Stop()
		select {
		case <-late.C:
			cancel()
		case <-ctx.Done():
		}
	}()
	drained := make(chan struct{})
	go func() {
		h.runs.Wait()
		close(drained)
	}()
	select {
	case <-drained:
	case <-ctx.Done():
		return fmt.Errorf("background work was not drained in its time, %s or %s at the end of the process", limit, drainTime)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for slices.ContainsFunc(all, func(b *hosted) bool { return b.requests.Load() > 0 }) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.New("requests were still in flight when the time to drain was over")
		}
	}
	return nil
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// Unavailable is the answer while a backend cannot be reached.
func Unavailable(name string, cause error) error {
	return (&problem.Error{Code: problem.Unavailable, Detail: "The backend " + name + " is starting or stopping.", RetryAfter: time.Second}).Because(cause)
}
