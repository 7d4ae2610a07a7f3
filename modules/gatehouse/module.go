// Package gatehouse is the Caddy app of that name: what the directives share. It hosts the bundled
// backends, which its guests bring, and gives them one data directory and one lifecycle.
package gatehouse

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap/exp/zapslog"

	"github.com/gatehouse-proxy/gatehouse/internal/body"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/capture"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/event"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/meter"
)

// Namespace is where the bundled backends are registered as Caddy modules.
const Namespace = "gatehouse.backends"

// startWait bounds how long a request waits for the app while the configuration starts.
const startWait = 5 * time.Second

// App is the app `gatehouse`. With nothing set it keeps everything in ./data and needs no service.
type App struct {
	service.Settings

	// BackendsRaw are the settings of the bundled backends, by name. A backend that is used but not
	// named here has its defaults.
	BackendsRaw caddy.ModuleMap `json:"backends,omitempty" caddy:"namespace=gatehouse.backends"`
	// BodyMemory bounds the bytes of all bodies of requests that the gateway and its backends hold at the
	// same time; a request that finds it used up is answered 503. Bodies that are passed on to an app are
	// not held. Default: an eighth of the memory limit of the process, at least 64 MiB.
	BodyMemory unit.Size `json:"body_memory,omitempty"`
	// Profile says when an overload is captured under data_dir/profiles. Default: on.
	Profile *capture.Config `json:"profile,omitempty"`

	ctx     caddy.Context
	log     *slog.Logger
	openers map[string]service.Opener
	secrets service.Secrets   // from Provision to Cleanup
	key     [sha256.Size]byte // of everything that the host depends on
	mu      sync.Mutex
	used    []string
	checks  []func(*service.Host) error
	reports []report
	capture *capture.Hold // from Start to Cleanup, nil if Profile is off
	pooled  pooledHost    // hosts[key], on which this app has a reference from Start to Cleanup
	host    atomic.Pointer[service.Host]
	started chan struct{}
	redis   redisRef
	quiet   func() // from Start to Cleanup
}

// hosts are the running hosts by the hash of their settings. A reload that changes no setting of
// the app goes on with the host that runs; nothing in it restarts.
var hosts = caddy.NewUsagePool()

// draining counts hosts that are being closed, so that the process does not end before them.
var draining sync.WaitGroup

// closing has the hosts that drain after a reload, which may take minutes: as the process ends, they end too.
var closing sync.Map

type pooledHost struct {
	*service.Host
	logs *logTarget
}

// Destruct closes the host after a drain: in the background during a reload, where old requests are
// still in flight, and before returning when the process ends.
func (p pooledHost) Destruct() error {
	closing.Store(p.Host, true)
	draining.Go(func() {
		defer closing.Delete(p.Host)
		if err := p.Close(); err != nil {
			p.Log.Error("closing the backends", "error", err)
		}
	})
	if caddy.Exiting() {
		draining.Wait()
	}
	return nil
}

// Provision checks the settings and loads the guests. It opens, dials and starts nothing.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx, a.started = ctx, make(chan struct{})
	a.log = slog.New(zapslog.NewHandler(ctx.Logger().Core(), zapslog.WithName("gatehouse")))
	secrets, err := a.OpenSecrets(a.log)
	if err != nil {
		return err
	}
	a.secrets = secrets
	if err = meter.Register(ctx, secretCollector{a}, backendCollector{a}); err != nil {
		return err
	}
	if err = a.checkRedis(); err != nil {
		return err
	}
	if err = a.checkDatabase(); err != nil {
		return err
	}
	if err = a.hash(); err != nil {
		return err
	}
	a.openers = map[string]service.Opener{}
	loaded, err := ctx.LoadModule(a, "BackendsRaw")
	if err != nil {
		return fmt.Errorf("loading the backends: %w", err)
	}
	for name, m := range loaded.(map[string]any) {
		if err = a.add(name, m); err != nil {
			return err
		}
	}
	return a.provisionProfile()
}

// checkDatabase is the database's part of Provision.
func (a *App) checkDatabase() error {
	if a.DatabasePassword != "" {
		if _, err := a.Secret(a.DatabasePassword); err != nil {
			return fmt.Errorf("database: %w", err)
		}
	}
	return a.CheckDatabase()
}

// hash identifies the settings. Of the secrets it has the sources and not the values: a rotated secret
// restarts nothing.
func (a *App) hash() error {
	h := sha256.New()
	settings := a.Settings
	settings.Secrets = maps.Clone(a.Secrets)
	for name, s := range settings.Secrets {
		s.At = "" // a line that moved changes nothing
		settings.Secrets[name] = s
	}
	if err := json.NewEncoder(h).Encode(struct {
		service.Settings
		Backends caddy.ModuleMap
	}{settings, a.BackendsRaw}); err != nil {
		return fmt.Errorf("encoding the settings: %w", err)
	}
	h.Sum(a.key[:0])
	return nil
}

func (a *App) add(name string, module any) error {
	o, ok := module.(service.Opener)
	if !ok {
		return fmt.Errorf("backend %s: module %T is not a backend", name, module)
	}
	if f, ok := module.(service.Fitter); ok {
		if err := f.Fits(a.Settings); err != nil {
			return fmt.Errorf("backend %s: %w", name, err)
		}
	}
	a.openers[name] = o
	return nil
}

// Start opens the data directory and the backends that this configuration uses.
func (a *App) Start() error {
	service.TuneGC()
	body.SetMax(int64(a.BodyMemory))
	a.listen() // before any backend sends anything
	pooled, running, err := hosts.LoadOrNew(a.key, func() (caddy.Destructor, error) {
		logs := &logTarget{open: []*App{a}}
		h, err := service.NewHost(context.Background(), a.Settings, slog.New(logHandler{target: logs}), a.opener)
		if err == nil {
			h.Events = emit
		}
		return pooledHost{h, logs}, err
	})
	if err != nil {
		return err
	}
	a.pooled = pooled.(pooledHost)
	if running {
		a.pooled.logs.enter(a)
	}
	host := a.pooled.Host
	a.mu.Lock()
	names, checks := slices.Clone(a.used), slices.Clone(a.checks)
	a.mu.Unlock()
	for name := range a.openers {
		names = append(names, name)
	}
	slices.Sort(names)
	if err = host.Open(context.Background(), slices.Compact(names)...); err != nil {
		return err
	}
	for _, check := range checks {
		if err = check(host); err != nil {
			return err
		}
	}
	a.host.Store(host)
	close(a.started)
	a.watch(host)
	return nil
}

// Stop ends the background work if the process ends: while requests in flight are served, no job is
// pushed to an app that is going as well. The backends go on answering until Cleanup gives them back.
func (a *App) Stop() error {
	if !caddy.Exiting() {
		return nil
	}
	if h := a.host.Load(); h != nil {
		h.StopWork()
	}
	closing.Range(func(h, _ any) bool {
		h.(*service.Host).StopWork()
		return true
	})
	return nil
}

// Cleanup gives the host back if Start took it.
func (a *App) Cleanup() error {
	a.capture.Release()
	a.capture = nil
	a.redis.release()
	a.secrets.Close()
	if a.quiet != nil {
		a.quiet()
	}
	if a.pooled.Host == nil {
		return nil
	}
	a.pooled.logs.leave(a)
	a.pooled = pooledHost{}
	_, err := hosts.Delete(a.key)
	return err
}

func (a *App) provisionProfile() error {
	if a.Profile == nil {
		a.Profile = new(capture.Config)
	}
	return a.Profile.Validate()
}

// emitCaptured emits the event profile_captured.
func emitCaptured(c capture.Captured) {
	emit("profile_captured", map[string]any{"path": c.Path, "cause": c.Cause, "cpu": c.CPU, "top": c.Top})
}

// emit emits an event from the active configuration: one that is being started may still be subscribing
// its handlers.
func emit(name string, data map[string]any) {
	active := caddy.ActiveContext()
	if active.Context == nil {
		return
	}
	if app, err := active.AppIfConfigured("gatehouse"); err == nil {
		event.Emit(app.(*App).ctx, name, data)
	}
}

// opener is the settings of the named backend: as configured, or its defaults.
func (a *App) opener(name string) (service.Opener, error) {
	if o, ok := a.openers[name]; ok {
		return o, nil
	}
	if err := known(name); err != nil {
		return nil, err
	}
	info, _ := caddy.GetModule(Namespace + "." + name)
	o, ok := info.New().(service.Opener)
	if !ok {
		return nil, fmt.Errorf("module %s is not a backend", info.ID)
	}
	return o, nil
}

// known says whether this build has a backend of that name.
func known(name string) error {
	var names []string
	for _, info := range caddy.GetModules(Namespace) {
		if info.ID.Name() == name {
			return nil
		}
		names = append(names, info.ID.Name())
	}
	return errors.New(dispense.Unknown("backend", name, names))
}

// Dir is the data directory. It need not exist before Start.
func (a *App) Dir() string { return a.Settings.Dir() }

// Secret is the named secret set, for the Provision of a directive. It changes while it lives: its
// versions are asked for each time they are needed, and what is made of them is kept in a
// secret.Derived. A set that is kept in Vault or AWS is empty until Start has read it.
func (a *App) Secret(name string) (*secret.Set, error) {
	if s, ok := a.secrets[name]; ok {
		return s.Set(), nil
	}
	what := "no secret is configured, " + name + " is needed"
	if names := slices.Sorted(maps.Keys(a.secrets)); len(names) > 0 {
		what = dispense.Unknown("secret", name, names)
	}
	return nil, errors.New(what + "; name it in the global options: gatehouse { secret " + name + " file PATH }")
}

// Ref is a directive's hold on a backend. T is what the directive needs of it.
type Ref[T any] struct {
	app    *App
	name   string
	loaded atomic.Pointer[T]
}

// Of is the app of the configuration being provisioned, with its defaults if it is not configured.
func Of(ctx caddy.Context) (*App, error) {
	a, err := ctx.App("gatehouse")
	if err != nil {
		return nil, err
	}
	return a.(*App), nil
}

// Need says in a directive's Provision that it uses the named backend, and returns the hold on it.
func Need[T any](ctx caddy.Context, name string) (*Ref[T], error) {
	app, err := Of(ctx)
	if err != nil {
		return nil, err
	}
	if err = known(name); err != nil {
		return nil, err
	}
	app.mu.Lock()
	app.used = append(app.used, name)
	app.mu.Unlock()
	return &Ref[T]{app: app, name: name}, nil
}

// Settings are those of the backend, as configured or its defaults. They are known in Provision.
func (r *Ref[T]) Settings() (service.Opener, error) { return r.app.opener(r.name) }

// AtStart adds a check that must hold when the backend has been opened, for what no Provision can
// know. Its error refuses the configuration.
func (r *Ref[T]) AtStart(check func(T) error) {
	r.app.mu.Lock()
	defer r.app.mu.Unlock()
	r.app.checks = append(r.app.checks, func(h *service.Host) error {
		t, ok := h.Service(r.name).(T)
		if !ok {
			return fmt.Errorf("backend %s does not offer what is needed of it", r.name)
		}
		return check(t)
	})
}

// Get is the backend, ready to answer. While the configuration starts it waits for it, at most 5 s.
func (r *Ref[T]) Get(ctx context.Context) (T, error) {
	if t := r.loaded.Load(); t != nil {
		return *t, nil
	}
	var none T
	host, err := r.app.wait(ctx)
	if err != nil {
		return none, service.Unavailable(r.name, err)
	}
	t, ok := host.Service(r.name).(T)
	if !ok {
		return none, service.Unavailable(r.name, fmt.Errorf("backend %s does not offer %T", r.name, &none))
	}
	r.loaded.Store(&t)
	return t, nil
}

// Handler is the backend's HTTP API, counted as in flight until it returns.
func (r *Ref[T]) Handler(ctx context.Context) (http.Handler, error) {
	host, err := r.app.wait(ctx)
	if err != nil {
		return nil, service.Unavailable(r.name, err)
	}
	return host.Handler(r.name)
}

// Serving is the host of the active configuration, for the admin endpoint; nil if it does not use the
// app, or none is active.
func Serving() *service.Host {
	if active := caddy.ActiveContext(); active.Context != nil {
		if app, err := active.AppIfConfigured("gatehouse"); err == nil {
			return app.(*App).host.Load()
		}
	}
	return nil
}

func (a *App) wait(ctx context.Context) (*service.Host, error) {
	if h := a.host.Load(); h != nil {
		return h, nil
	}
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	select {
	case <-a.started:
		return a.host.Load(), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
