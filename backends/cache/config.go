// Package cache is the bundled cache: keys and values over HTTP in two levels, memory and SQLite,
// with invalidation by key and by tag and with fills that ask an origin once for all who wait.
// The memory level also holds the HTTP responses of the directive http_cache, see objects.go.
package cache

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/egress"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const (
	defaultMemory   = 64 << 20
	defaultDisk     = 256 << 20
	defaultTTL      = 5 * time.Minute
	defaultMaxValue = 1 << 20

	minMemory = 1 << 20
	// valueShare and objectShare bound one value by its level: a value of more than a quarter of the
	// disk level is refused, or of more than half of an owner's share, and one of more than 1/64 of the memory
	// level is kept on disk alone.
	valueShare  = 4
	ownerShare  = 2
	objectShare = 64
)

// Config is the cache's configuration. Its zero value works.
type Config struct {
	// Authority says whose a value is. The scope of services is cache:write. Without ?owner= a service or an
	// operator means what belongs to nobody.
	service.Authority

	// Memory bounds the first level, which values and the responses of http_cache share. An object
	// larger than 1/64 of it is not kept in memory. At least 1MiB. Default: 64MiB.
	Memory unit.Size `json:"memory,omitempty"`
	// Disk bounds the second level, in SQLite; when it is full the oldest values go. At least four
	// times MaxValue. Default: 256MiB.
	Disk unit.Size `json:"disk,omitempty"`
	// OwnerBytes bounds the values of one owner in the second level; beyond it the owner's own oldest values
	// go. At least twice MaxValue. What belongs to nobody is bounded by Disk alone. Default: a tenth of Disk,
	// or twice MaxValue if that is more.
	OwnerBytes unit.Size `json:"owner_bytes,omitempty"`
	// DefaultTTL is how long a value lives if its writer does not say, at most 8760h. Default: 5m.
	DefaultTTL unit.Duration `json:"default_ttl,omitempty"`
	// MaxValue is the largest value that is accepted. Default: 1MiB.
	MaxValue unit.Size `json:"max_value,omitempty"`
	// Inline lets browsers show values as pages of the site. Default: off, so that they are downloads in a
	// sandbox, whatever their media types.
	Inline bool `json:"inline,omitempty"`
	// FillAllow are the places that a fill may fetch from, as HOST, for any port, HOST:PORT or
	// HOST:PORT/path/prefix. Of the gateway itself only sites whose host and port stand here are fetched
	// from, and never its admin endpoint. Default: none, so that fills are refused.
	FillAllow []string `json:"fill_allow,omitempty"`
}

// Validate checks the configuration without touching anything.
func (c Config) Validate() error {
	c = c.withDefaults()
	switch {
	case c.Memory < minMemory:
		return fmt.Errorf("memory %s is too small for a cache, give at least 1MiB", c.Memory)
	case c.MaxValue < 1:
		return fmt.Errorf("max_value must be at least one byte, not %d", int64(c.MaxValue))
	case c.Disk/valueShare < c.MaxValue:
		return fmt.Errorf("disk %s is too small for values of up to %s, give at least four times max_value", c.Disk, c.MaxValue)
	case c.OwnerBytes/ownerShare < c.MaxValue:
		return fmt.Errorf("owner_bytes %s is too small for values of up to %s, give at least twice max_value", c.OwnerBytes, c.MaxValue)
	case c.DefaultTTL.Std() < minTTL || c.DefaultTTL.Std() > maxTTL:
		return fmt.Errorf("default_ttl %s is out of bounds, give 1ms to 8760h", c.DefaultTTL)
	}
	if err := c.Authority.Validate(); err != nil {
		return err
	}
	if _, err := egress.ParsePlaces(c.FillAllow); err != nil {
		return fmt.Errorf("fill_allow: %w", err)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Memory == 0 {
		c.Memory = defaultMemory
	}
	if c.Disk == 0 {
		c.Disk = defaultDisk
	}
	if c.MaxValue == 0 {
		c.MaxValue = defaultMaxValue
	}
	if c.OwnerBytes == 0 {
		c.OwnerBytes = max(c.Disk/10, ownerShare*c.MaxValue)
	}
	c.DefaultTTL = unit.Duration(c.DefaultTTL.Or(defaultTTL))
	return c
}

//go:embed migrations
var migrations embed.FS

// Open makes the cache on the host's database. What is in memory is one for the whole data
// directory: it survives changes of configuration, and a new size applies to what is there.
func (c Config) Open(ctx context.Context, h *service.Host) (service.Service, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("reading the migrations: %w", err)
	}
	if err = h.DB.Migrate(ctx, "cache", files); err != nil {
		return nil, err
	}
	st := h.Memory("cache", func() any { return NewState(h.DB) }).(*State)
	if err = st.load(ctx); err != nil {
		return nil, err
	}
	return New(c, Deps{State: st, Log: h.Log.With("backend", "cache")})
}

// Deps is what the service works on. Both are required.
type Deps struct {
	// State is the memory level and the way to the disk level, shared by all instances of a data directory.
	State *State
	// Log takes what goes wrong on our side.
	Log *slog.Logger
}

// NewState is empty memory over db, whose tables must be migrated; Open loads it before use.
func NewState(db *sqldb.DB) *State {
	st := &State{db: db, turn: make(chan struct{}, 1), flights: map[flightKey]*flight{}}
	st.tags.last = map[string]uint64{}
	st.mem = newMemory(defaultMemory)
	return st
}
