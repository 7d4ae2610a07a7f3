// Package pressure measures how hard this process is worked: how much of the processors it uses and
// how long a goroutine that could run waits for its turn. One sampler serves all that watch.
package pressure

import (
	"context"
	"math"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"
)

// Interval is how often a sample is taken.
const Interval = 250 * time.Millisecond

// Sample is the load of one interval.
type Sample struct {
	// CPU is the processor time used, 0..1 of what the process may use: GOMAXPROCS, which Go takes from
	// the machine and from the container's limit. It stays 0 on systems that do not tell.
	CPU float64
	// Scheduling is the 99th percentile of the time that a goroutine waited from being able to run to
	// running: the delay that the process itself adds to all it does. It is 0 where next to nothing ran.
	Scheduling time.Duration
	// At is when the sample was taken; zero before the first one.
	At time.Time
}

// Watcher sees the newest sample.
type Watcher struct {
	last  *atomic.Pointer[Sample]
	close func()
}

// Last is the newest sample, the zero Sample before there is one. It takes no lock.
func (w *Watcher) Last() Sample {
	if s := w.last.Load(); s != nil {
		return *s
	}
	return Sample{}
}

// Close ends the watch. Last stays usable and says what was measured last. Closing again does nothing.
func (w *Watcher) Close() { w.close() }

// shared is the one sampler of the process.
var shared struct {
	mu       sync.Mutex
	watchers int
	last     *atomic.Pointer[Sample]
	cancel   context.CancelFunc
	done     chan struct{}
}

// Watch begins to watch. The first watcher starts the sampler, a goroutine, and the last Close ends it.
func Watch() *Watcher {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.watchers++; shared.watchers == 1 {
		ctx, cancel := context.WithCancel(context.Background())
		shared.last, shared.cancel, shared.done = new(atomic.Pointer[Sample]), cancel, make(chan struct{})
		go run(ctx, shared.last, shared.done)
	}
	return &Watcher{last: shared.last, close: sync.OnceFunc(leave)}
}

func leave() {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.watchers--; shared.watchers == 0 {
		shared.cancel()
		<-shared.done
	}
}

// Given is a watcher of the samples that the function it returns is given, for tests.
func Given(first Sample) (w *Watcher, give func(Sample)) {
	last := new(atomic.Pointer[Sample])
	last.Store(&first)
	return &Watcher{last: last, close: func() {}}, func(s Sample) { last.Store(&s) }
}

func run(ctx context.Context, last *atomic.Pointer[Sample], done chan<- struct{}) {
	defer close(done)
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	g := newGauge(time.Now())
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s := g.sample(time.Now())
			last.Store(&s)
		}
	}
}

// gauge reads the runtime's counters and keeps what it needs to tell one interval from the next.
type gauge struct {
	read []metrics.Sample // of the runtime, reused from tick to tick
	at   time.Time
	cpu  time.Duration
	wait waits
}

func newGauge(now time.Time) *gauge {
	g := &gauge{read: []metrics.Sample{{Name: "/sched/gomaxprocs:threads"}, {Name: "/sched/latencies:seconds"}}}
	g.sample(now)
	return g
}

func (g *gauge) sample(now time.Time) Sample {
	metrics.Read(g.read)
	used := cpuTime()
	s := Sample{At: now}
	if g.read[0].Value.Kind() == metrics.KindUint64 {
		s.CPU = share(used-g.cpu, now.Sub(g.at), g.read[0].Value.Uint64())
	}
	if g.read[1].Value.Kind() == metrics.KindFloat64Histogram {
		s.Scheduling = g.wait.next(g.read[1].Value.Float64Histogram())
	}
	g.at, g.cpu = now, used
	return s
}

// share is the processor time used of what n processors gave in that time.
func share(used, passed time.Duration, n uint64) float64 {
	if passed <= 0 || n == 0 {
		return 0
	}
	return min(1, max(0, used.Seconds()/(passed.Seconds()*float64(n))))
}

const (
	enough  = 16 // measurements make a percentile; the runtime measures one start of a goroutine in eight
	patient = 4  // intervals are waited for them, before the process counts as idle
)

// waits turns the runtime's histogram, which counts from the start of the process, into the
// percentile of what is new. Few measurements are kept for the next interval: one slow start in an
// idle process is no pressure, and a process busy with long computations has few starts.
type waits struct {
	seen  []uint64
	ticks int
	last  time.Duration
}

func (w *waits) next(h *metrics.Float64Histogram) time.Duration {
	if len(w.seen) != len(h.Counts) { // the first time
		w.seen = append(w.seen[:0], h.Counts...)
		return 0
	}
	var total uint64
	for i, n := range h.Counts {
		total += n - w.seen[i]
	}
	w.ticks++
	switch {
	case total >= enough:
		w.last = percentile99(h, w.seen, total)
	case w.ticks < patient:
		return w.last
	default:
		w.last = 0
	}
	w.ticks = 0
	copy(w.seen, h.Counts)
	return w.last
}

// percentile99 is the upper edge of the bucket that the percentile falls into.
func percentile99(h *metrics.Float64Histogram, seen []uint64, total uint64) time.Duration {
	rest := total / 100 // how many may be above
	for i := len(h.Counts) - 1; i >= 0; i-- {
		n := h.Counts[i] - seen[i]
		if n <= rest {
			rest -= n
			continue
		}
		edge := h.Buckets[i+1]
		if math.IsInf(edge, 1) {
			edge = h.Buckets[i]
		}
		return time.Duration(edge * float64(time.Second))
	}
	return 0
}
