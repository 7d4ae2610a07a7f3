package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/backends/cache"
	"github.com/gatehouse-proxy/gatehouse/backends/flags"
	"github.com/gatehouse-proxy/gatehouse/backends/identity"
	"github.com/gatehouse-proxy/gatehouse/backends/jobs"
	"github.com/gatehouse-proxy/gatehouse/backends/locks"
	"github.com/gatehouse-proxy/gatehouse/backends/uploads"
	"github.com/gatehouse-proxy/gatehouse/backends/webhooks"
	"github.com/gatehouse-proxy/gatehouse/internal/egress"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

// target is one backend: its settings and the paths it answers.
type target struct {
	new   func() service.Opener
	paths []string
}

var targets = map[string]target{
	"cache":    {func() service.Opener { return new(cache.Config) }, []string{"/cache/"}},
	"flags":    {func() service.Opener { return new(flags.Config) }, []string{"/flags", "/flags/", "/ofrep/"}},
	"identity": {func() service.Opener { return new(identity.Config) }, []string{"/login", "/refresh", "/logout", "/.well-known/", "/users", "/users/", "/revocations", "/revocations/"}},
	"jobs":     {func() service.Opener { return new(jobs.Config) }, []string{"/jobs", "/jobs/", "/queues", "/queues/", "/schedules", "/schedules/"}},
	"locks":    {func() service.Opener { return new(locks.Config) }, []string{"/locks", "/locks/"}},
	"uploads":  {func() service.Opener { return new(uploads.Config) }, []string{"/uploads/"}},
	"webhooks": {func() service.Opener { return new(webhooks.Config) }, []string{"/events", "/endpoints", "/endpoints/", "/deliveries", "/deliveries/", "/received"}},
}

func names() []string { return slices.Sorted(maps.Keys(targets)) }

// config is the file that --config names.
type config struct {
	// Listen is the address to answer on. Default: 127.0.0.1:8081. The backends believe the headers
	// that say who calls, Gatehouse-Subject, -Owner, -Role, -Scope and -Rank, so nobody but the gateway may
	// reach them, and the gateway must delete what clients send under these names.
	Listen string `json:"listen,omitempty"`
	// Gateway are the addresses of the gateway, its admin endpoint and its sites, as HOST:PORT: nothing that a
	// user can name is sent there, whatever is allowed. A HOST that is a name is resolved when its port is dialled. Default: localhost:2019.
	Gateway []string `json:"gateway,omitempty"`
	service.Settings
	// BodyMemory bounds the bytes of all bodies of requests that are held at the same time, such as
	// "128MiB". Default: an eighth of the memory limit of the process, at least 64 MiB.
	BodyMemory unit.Size `json:"body_memory,omitempty"`
	// Backends are the settings of each backend, by name; the same as in the gateway's JSON.
	Backends map[string]json.RawMessage `json:"backends,omitempty"`
}

func load(file string) (config, error) {
	cfg := config{Listen: "127.0.0.1:8081"}
	if file == "" {
		return cfg, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return cfg, fmt.Errorf("reading the configuration: %w", err)
	}
	if err = strict(b, &cfg); err != nil {
		return cfg, fmt.Errorf("%s: %w", file, err)
	}
	if _, err = cfg.gateway(); err != nil {
		return cfg, fmt.Errorf("%s: %w", file, err)
	}
	if cfg.Database != "" {
		if err = cfg.CheckDatabaseURL(); err != nil {
			return cfg, fmt.Errorf("%s: %w", file, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Backends)) {
		if _, err = cfg.opener(name); err != nil {
			return cfg, fmt.Errorf("%s: %w", file, err)
		}
	}
	return cfg, nil
}

// gateway returns the listeners of the gateway.
func (c config) gateway() ([]egress.Listener, error) {
	entries := c.Gateway
	if entries == nil {
		entries = []string{"localhost:2019"}
	}
	listeners := make([]egress.Listener, len(entries))
	for i, entry := range entries {
		l, err := egress.ParseListener(entry)
		if err != nil {
			return nil, fmt.Errorf("gateway: %q is not an address, write HOST:PORT, such as localhost:2019: %w", entry, err)
		}
		l.Never, l.Elsewhere = true, true
		listeners[i] = l
	}
	return listeners, nil
}

// strict refuses unknown members.
func strict(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	return dec.Decode(v)
}

// opener is the settings of a backend: as configured, or its defaults.
func (c config) opener(name string) (service.Opener, error) {
	t, ok := targets[name]
	if !ok {
		return nil, fmt.Errorf("unknown backend %q, known are: %s", name, strings.Join(names(), ", "))
	}
	o := t.new()
	if raw, ok := c.Backends[name]; ok {
		if err := strict(raw, o); err != nil {
			return nil, fmt.Errorf("backend %s: %w", name, err)
		}
	}
	if v, ok := o.(interface{ Validate() error }); ok {
		if err := v.Validate(); err != nil {
			return nil, fmt.Errorf("backend %s: %w", name, err)
		}
	}
	return o, nil
}

// routes mounts the backends by their paths, and /livez and /readyz beside them.
func routes(host *service.Host, wanted []string) (http.Handler, error) {
	mux := http.NewServeMux()
	for _, name := range wanted {
		h, err := host.Handler(name)
		if err != nil {
			return nil, err
		}
		for _, path := range targets[name].paths {
			mux.Handle(path, h)
		}
	}
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		host.Health(r.Context()).ServeHTTP(w, r)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problem.Write(w, r, problem.New(problem.NotFound, "No backend answers at this path."))
	})
	return mux, nil
}
