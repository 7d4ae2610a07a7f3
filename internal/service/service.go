// Package service is the lifecycle of the bundled backends: the contract that each of them keeps,
// and the Host that opens them in order of need, runs them, and stops them after a drain. It knows
// no Caddy, so the gateway and cmd/backends host the very same values.
package service

import (
	"context"
	"net/http"
	"time"
)

// Service is a bundled backend that is ready to answer.
type Service interface {
	// ServeHTTP is the whole HTTP API. It works from the moment the service was opened until it is
	// closed, also before Run starts and after it returns.
	http.Handler
	// Run does the background work until ctx ends and returns when that work is drained. A service
	// without background work returns when ctx ends. During a reload two instances run at once, so
	// every loop holds a lease or is idempotent.
	Run(ctx context.Context) error
	// Check says whether the service can do its work now; it obeys ctx and changes nothing.
	Check(ctx context.Context) error
}

// Drainer is a Service whose work may take longer than the host's own 30 s to drain.
type Drainer interface {
	// DrainTime is how long Run may take to return after its context ended, while the process goes on.
	DrainTime() time.Duration
}

// Opener is the configuration of one backend. Its zero value is a working default.
type Opener interface {
	// Open makes the service from what the host has. It may migrate tables and read files, and it
	// starts nothing: that is Run's.
	Open(ctx context.Context, h *Host) (Service, error)
}

// Fitter is an Opener that needs something of the settings of all backends.
type Fitter interface {
	// Fits says what is missing there. It opens and dials nothing.
	Fits(s Settings) error
}

// HasRedis says whether the settings name a Redis.
func (h *Host) HasRedis() bool {
	h.redis.mu.Lock()
	defer h.redis.mu.Unlock()
	return h.redis.config != nil
}

// Sample is one number that a backend measures.
type Sample struct {
	// Name is the metric's, with the prefix gatehouse_ and the backend's name. Help says what it is, in the
	// same words each time.
	Name, Help string
	// Label and Value tell the samples of one metric apart. Values are names of the configuration.
	Label, Value string
	// Number is what was measured. A Counter only grows while the process and its configuration live.
	Number  float64
	Counter bool
}

// Measured is a Service with metrics.
type Measured interface {
	// Measure tells every number as it is now.
	Measure(tell func(Sample))
}

// Measure tells the numbers of all open backends.
func (h *Host) Measure(tell func(Sample)) {
	h.mu.Lock()
	all := make([]Service, 0, len(h.hosted))
	for _, b := range h.hosted {
		all = append(all, b.service)
	}
	h.mu.Unlock()
	for _, s := range all {
		if m, ok := s.(Measured); ok {
			m.Measure(tell)
		}
	}
}
