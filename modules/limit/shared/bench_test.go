package shared

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/gatehouse-proxy/gatehouse/integration/redistest"
	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

// BenchmarkExact is decisions over a Redis on the same machine, beside what a pool of connections
// that each carry one script call makes of it. Every instance has so many requests at once.
func BenchmarkExact(b *testing.B) {
	s := redistest.Start(b)
	rates := compile(b, "1000000000/1s")
	each := func(b *testing.B, goroutines int, take func(ctx context.Context, key string) error) {
		b.Helper()
		var wg sync.WaitGroup
		var left atomic.Int64
		left.Store(int64(b.N))
		b.ReportAllocs()
		b.ResetTimer()
		for g := range goroutines {
			key := fmt.Sprint("bench", g)
			wg.Go(func() {
				for left.Add(-1) >= 0 {
					if err := take(b.Context(), key); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
	}
	for _, goroutines := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("link-%d", goroutines), func(b *testing.B) {
			l := patientLink(b, open(b, s.URL()))
			id := map[string]ID{}
			for g := range goroutines {
				key := fmt.Sprint("bench", g)
				id[key] = idOf(key)
			}
			each(b, goroutines, func(ctx context.Context, key string) error {
				_, err := l.Take(ctx, "bench", id[key], rates, 1)
				return err
			})
			stats := l.Stats()
			b.ReportMetric(float64(stats.Calls)/float64(stats.Trips), "calls/trip")
		})
		b.Run(fmt.Sprintf("pooled-evalsha-%d", goroutines), func(b *testing.B) {
			c := open(b, s.URL()).Client()
			script := redis.NewScript(takeScript)
			each(b, goroutines, func(ctx context.Context, key string) error {
				args := appendArgs(nil, takeHash, key, "take", 1, 1, rates)
				text, err := script.EvalSha(ctx, c, []string{key}, args[argNow:]...).Text()
				if err != nil {
					text, err = script.Eval(ctx, c, []string{key}, args[argNow:]...).Text()
				}
				var r reply
				if err == nil {
					err = r.parse(text, rates)
				}
				r.verdict(rates, 1)
				return err
			})
		})
	}
}

// BenchmarkDecide is the decision itself, under a lock as in the table in process.
func BenchmarkDecide(b *testing.B) {
	rates := compile(b, "1000000000/1s")
	state := make([]int64, policy.Words(rates))
	var mu sync.Mutex
	now := noon
	b.ReportAllocs()
	for b.Loop() {
		now += 1000
		mu.Lock()
		policy.Decide(now, rates, state, 1)
		mu.Unlock()
	}
}
