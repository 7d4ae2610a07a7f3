// Package capture keeps what is needed to explain an overload after it has passed: when the process
// has used its processors fully for a while, or its goroutines wait long for their turn, it saves a
// CPU profile, the goroutines and the routes that were busy meanwhile.
package capture

import (
	"bytes"
	"context"
	"log/slog"
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/pressure"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/traffic"
)

const (
	// interval is how often the load is looked at: as often as it is measured.
	interval = pressure.Interval
	// busyWait is how long to wait where something else takes a CPU profile: Go has one at a time.
	busyWait = 5 * time.Second
)

// Captured is one capture on disk.
type Captured struct {
	// Path is the directory.
	Path string
	// Cause says which threshold was passed.
	Cause string
	// CPU and Scheduling are the load at the beginning.
	CPU        float64
	Scheduling time.Duration
	// Top is the function that used most time itself, "" if the profile has no sample.
	Top string
}

// Sampler tells the load. A pressure.Watcher is one.
type Sampler interface {
	Last() pressure.Sample
	Close()
}

// Hold is one configuration's claim on the watcher of the process.
type Hold struct {
	settings settings
	log      *slog.Logger
	captured func(Captured)
}

// watchers is the one watcher of the process, under the newest configuration that holds it. It and
// the cool-down outlive each of them. A reload that is refused gives the claim back to the one before.
var watchers = pool{
	sampler: func() Sampler { return pressure.Watch() },
	profile: profileCPU,
}

type pool struct {
	sampler func() Sampler
	profile func(ctx context.Context, length time.Duration) (cpu []byte, free bool)

	mu      sync.Mutex
	holds   []*Hold // oldest first
	current atomic.Pointer[Hold]
	cancel  context.CancelFunc
	done    chan struct{}
	ready   time.Time // the end of the cool-down; only the running watcher uses it
}

// Watch begins to watch on behalf of a configuration. Captures go to directories in dir, which is
// made with the first one. captured is called after each, on a goroutine of its own, and may be nil.
func Watch(c *Config, dir string, log *slog.Logger, captured func(Captured)) *Hold {
	return watchers.hold(&Hold{c.settings(dir), log, captured})
}

// Release ends the claim. The last one ends the watcher: a capture that is being made is given up,
// and nothing is written after Release. On nil it does nothing.
func (h *Hold) Release() {
	if h != nil {
		watchers.release(h)
	}
}

func (p *pool) hold(h *Hold) *Hold {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holds = append(p.holds, h)
	p.current.Store(h)
	if len(p.holds) == 1 {
		ctx, cancel := context.WithCancel(context.Background())
		p.cancel, p.done = cancel, make(chan struct{})
		go p.run(ctx, p.done)
	}
	return h
}

func (p *pool) release(h *Hold) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.holds, h)
	if i < 0 {
		return
	}
	p.holds = slices.Delete(p.holds, i, i+1)
	if len(p.holds) > 0 {
		p.current.Store(p.holds[len(p.holds)-1])
		return
	}
	p.cancel()
	<-p.done // it takes no lock of ours and calls nobody
}

func (p *pool) run(ctx context.Context, done chan<- struct{}) {
	defer close(done)
	sampler := p.sampler()
	defer sampler.Close()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var t trigger
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		h, sample := p.current.Load(), sampler.Last()
		cause := t.observe(h.settings, sample)
		if cause == "" || time.Now().Before(p.ready) {
			continue
		}
		wait := h.settings.cooldown
		if p.capture(ctx, h, Captured{Cause: cause, CPU: sample.CPU, Scheduling: sample.Scheduling}) {
			t.reset()
		} else {
			wait = busyWait
		}
		p.ready = time.Now().Add(wait)
	}
}

// capture makes one capture; false if something else takes a CPU profile, or ctx ended. What cannot
// be written is logged, and waits for the cool-down like a capture, so that a full disk is not tried
// again and again.
func (p *pool) capture(ctx context.Context, h *Hold, c Captured) bool {
	began := time.Now()
	var goroutines bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&goroutines, 1) // into memory; grouped by stack
	recording := traffic.Start()
	cpu, free := p.profile(ctx, h.settings.length)
	routes := recording.Stop()
	if ctx.Err() != nil || !free {
		return false
	}
	h = p.current.Load() // a reload meanwhile: its configuration gets the capture
	files, top := render(c, began, cpu, routes)
	files["goroutines.txt"] = goroutines.Bytes()
	c.Top = top
	path, err := save(h.settings.dir, h.settings.keep, began, files)
	if err != nil {
		h.log.Error("saving a profile of the overload", "error", err, "cause", c.Cause, "top", top)
	}
	if path == "" {
		return true
	}
	c.Path = path
	h.log.Warn("overload: profile captured", "path", path, "cause", c.Cause, "cpu", c.CPU, "scheduling", c.Scheduling, "top", top)
	if h.captured != nil {
		go h.captured(c) // it may reload the configuration, whose Release waits for this goroutine
	}
	return true
}

// profileCPU takes a CPU profile, a shorter one if ctx ends; free is false if one is being taken.
func profileCPU(ctx context.Context, length time.Duration) (cpu []byte, free bool) {
	var b bytes.Buffer
	if err := pprof.StartCPUProfile(&b); err != nil {
		return nil, false
	}
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	pprof.StopCPUProfile()
	return b.Bytes(), true
}
