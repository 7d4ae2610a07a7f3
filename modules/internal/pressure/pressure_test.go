package pressure

import (
	"math"
	"runtime/metrics"
	"testing"
	"testing/synctest"
	"time"
)

func TestShare(t *testing.T) {
	for name, tc := range map[string]struct {
		used, passed time.Duration
		n            uint64
		want         float64
	}{
		"half":         {time.Second, time.Second, 2, 0.5},
		"all":          {2 * time.Second, time.Second, 2, 1},
		"over":         {3 * time.Second, time.Second, 2, 1},
		"backwards":    {-time.Second, time.Second, 2, 0},
		"no-time":      {time.Second, 0, 2, 0},
		"no-processor": {time.Second, time.Second, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := share(tc.used, tc.passed, tc.n); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// histogram has buckets up to 1 ms, 10 ms, 100 ms, and without end.
func histogram(counts ...uint64) *metrics.Float64Histogram {
	return &metrics.Float64Histogram{Counts: counts, Buckets: []float64{0, 0.001, 0.01, 0.1, math.Inf(1)}}
}

func TestWaits(t *testing.T) {
	var w waits
	for i, step := range []struct {
		counts *metrics.Float64Histogram
		want   time.Duration
	}{
		{histogram(5000, 0, 0, 90), 0},                       // what was before the first tick does not count
		{histogram(5100, 0, 0, 90), time.Millisecond},        // all fast
		{histogram(5199, 0, 1, 90), time.Millisecond},        // one in a hundred is not the 99th percentile
		{histogram(5297, 0, 3, 90), 100 * time.Millisecond},  // two are
		{histogram(5298, 0, 3, 91), 100 * time.Millisecond},  // too few to say
		{histogram(5298, 13, 3, 91), 100 * time.Millisecond}, // one more would do
		{histogram(5298, 15, 3, 92), 100 * time.Millisecond}, // enough; beyond the last edge counts as that edge
		{histogram(5398, 15, 3, 92), time.Millisecond},       // it passes
		{histogram(5398, 15, 4, 92), time.Millisecond},       // idle
		{histogram(5398, 15, 4, 92), time.Millisecond},       // idle
		{histogram(5398, 15, 4, 92), time.Millisecond},       // idle
		{histogram(5398, 15, 4, 92), 0},                      // for a whole second
		{histogram(5398, 115, 4, 92), 10 * time.Millisecond}, // and busy again
	} {
		if got := w.next(step.counts); got != step.want {
			t.Errorf("step %d: got %v, want %v", i, got, step.want)
		}
	}
}

func TestOneSampler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Watch(), Watch()
		if got := a.Last(); !got.At.IsZero() {
			t.Errorf("before the first tick: got %+v, want the zero sample", got)
		}
		time.Sleep(Interval) //nolint:forbidigo // synthetic time
		synctest.Wait()
		first := b.Last()
		if first.At.IsZero() || first != a.Last() {
			t.Errorf("got %+v and %+v, want one sample for both", a.Last(), first)
		}
		a.Close()
		a.Close()            // counts once
		time.Sleep(Interval) //nolint:forbidigo // synthetic time
		synctest.Wait()
		if got := b.Last().At.Sub(first.At); got != Interval {
			t.Errorf("the other one left: the next sample came after %v, want %v", got, Interval)
		}
		b.Close()
		last := b.Last()
		time.Sleep(4 * Interval) //nolint:forbidigo // synthetic time
		if got := b.Last(); got != last {
			t.Errorf("closed by all: got a new sample %+v", got)
		}
		c := Watch() // and it begins again
		defer c.Close()
		time.Sleep(Interval) //nolint:forbidigo // synthetic time
		synctest.Wait()
		if got := c.Last(); got.At.IsZero() {
			t.Error("watching anew got no sample")
		}
	})
}

func TestGauge(t *testing.T) {
	now := time.Now()
	g := newGauge(now)
	work := 0
	for cpuTime()-g.cpu < 20*time.Millisecond {
		for i := range 10000 {
			work += i
		}
		if time.Since(now) > 10*time.Second {
			t.Skip("this system does not tell the processor time", work)
		}
	}
	if got := g.sample(time.Now()); got.CPU <= 0 || got.CPU > 1 || got.Scheduling < 0 {
		t.Errorf("after work: got %+v", got)
	}
}

func TestGiven(t *testing.T) {
	w, give := Given(Sample{CPU: 0.5})
	if got := w.Last().CPU; got != 0.5 {
		t.Errorf("got %v, want the first", got)
	}
	give(Sample{CPU: 0.9})
	if got := w.Last().CPU; got != 0.9 {
		t.Errorf("got %v, want the second", got)
	}
	w.Close()
}

func BenchmarkSample(b *testing.B) {
	g := newGauge(time.Now())
	b.ReportAllocs()
	for b.Loop() {
		g.sample(time.Now())
	}
}

func BenchmarkLast(b *testing.B) {
	w, _ := Given(Sample{CPU: 0.5})
	b.ReportAllocs()
	for b.Loop() {
		_ = w.Last()
	}
}
