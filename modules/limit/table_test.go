package limit

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func key(i int) Key { return byTemplate.of(fmt.Sprint(i)) }

func TestTableNeverHoldsMoreKeysThanItsCap(t *testing.T) {
	for _, most := range []int{1, 2, 63, 64, 100, 1000, 5000} {
		table := NewTable(policies(t, "1/24h"), most)
		for i := range 3*most + 1000 {
			table.Take(table.start, key(i), 1)
		}
		if got := table.Len(); got > most || got < most/2 {
			t.Errorf("a table for %d keys holds %d", most, got)
		}
		for i := range table.shards {
			if s := &table.shards[i]; len(s.index) != len(s.ring) {
				t.Fatalf("shard %d: %d in the index, %d in the ring", i, len(s.index), len(s.ring))
			}
		}
	}
}

func TestFullTableForgetsIdleKeysFirst(t *testing.T) {
	table := NewTable(policies(t, "1/1h"), 40)
	now := table.start
	table.Take(now, key(0), 1) // used longest ago, and still in debt
	for i := 1; i < 40; i++ {
		table.Take(now.Add(time.Second), key(i), 2) // refused at once, so the bucket stays full
	}
	for i := 100; i < 110; i++ {
		table.Take(now.Add(2*time.Second), key(i), 2)
	}
	if v := table.Take(now.Add(3*time.Second), key(0), 1); v.Allowed {
		t.Error("the key in debt was forgotten although idle ones were there")
	}
}

func TestFullTableForgetsTheLeastRecentlyUsed(t *testing.T) {
	const most = 16
	table := NewTable(policies(t, "1/1h"), most)
	for i := range most {
		table.Take(table.start.Add(time.Duration(i)*time.Second), key(i), 1)
	}
	now := table.start.Add(time.Minute)
	table.Take(now, key(0), 1) // refused, but used
	table.Take(now, key(most), 1)
	if v := table.Take(now, key(0), 1); v.Allowed {
		t.Error("the key used just now was forgotten")
	}
	if table.shards[0].index[key(1)] != nil {
		t.Error("the key used longest ago is still there")
	}
}

func TestNewKeysSweepIdleOnesOut(t *testing.T) {
	table := NewTable(policies(t, "1/1s"), 1<<20)
	now := table.start
	for i := range 30_000 { // 1000 keys a second: 2 seconds' worth are busy
		now = now.Add(time.Millisecond)
		table.Take(now, key(i), 1)
	}
	if got := table.Len(); got > 10_000 {
		t.Errorf("%d keys are held, though about 1000 are in use", got)
	}
}

func TestConcurrentRequestsGetExactlyTheBurst(t *testing.T) {
	all := policies(t, "1000/24h", "300/24h")
	table := NewTable(all, 1000)
	now := table.start.Add(time.Second)
	var allowed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				if table.Take(now, Key{7, 7}, 1).Allowed {
					allowed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if allowed.Load() != 300 {
		t.Errorf("%d of 1600 requests were allowed, want 300", allowed.Load())
	}
	if v := table.Take(now, Key{7, 7}, 1); v.Buckets[0].Remaining != 700 {
		t.Errorf("the other policy has %d left, want 700", v.Buckets[0].Remaining)
	}
}

func TestTimeGoingBackGivesNothing(t *testing.T) {
	all := policies(t, "1/1s")
	all[0].Burst = 10
	table := NewTable(all, 10)
	got := 0
	for i := range 100 { // two clocks a second apart, in turn: one second in all
		now := table.start.Add(time.Duration(i%2) * time.Second)
		if table.Take(now, Key{}, 1).Allowed {
			got++
		}
	}
	if got != 11 {
		t.Errorf("%d requests were allowed, want the burst and one more", got)
	}
}

func BenchmarkDecide(b *testing.B) {
	one := policies(b, "1000000000/1s")
	b.Run("one-key", func(b *testing.B) {
		table := NewTable(one, defaultMaxKeys)
		now := table.start
		b.ReportAllocs()
		for b.Loop() {
			now = now.Add(time.Microsecond)
			table.Take(now, Key{1, 1}, 1)
		}
	})
	b.Run("one-key-refused", func(b *testing.B) {
		table := NewTable(policies(b, "1/24h"), defaultMaxKeys)
		b.ReportAllocs()
		for b.Loop() {
			table.Take(table.start, Key{1, 1}, 1)
		}
	})
	b.Run("one-key-parallel", func(b *testing.B) {
		table := NewTable(one, defaultMaxKeys)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				table.Take(table.start, Key{1, 1}, 1)
			}
		})
	})
	b.Run("million-keys-parallel", func(b *testing.B) {
		const n = 1_000_000
		table := NewTable(one, 2*n)
		keys := make([]Key, n)
		for i := range keys {
			keys[i] = key(i)
			table.Take(table.start, keys[i], 1)
		}
		var seed atomic.Uint64
		b.ReportAllocs()
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			i := seed.Add(1) * 7919
			for pb.Next() {
				i = i*6364136223846793005 + 1442695040888963407
				table.Take(table.start, keys[(i>>32)%n], 1)
			}
		})
	})
}

func TestDecisionDoesNotAllocate(t *testing.T) {
	table := NewTable(policies(t, "1000000000/1s", "1000000000/24h"), 1000)
	table.Take(table.start, Key{1, 1}, 1)
	if got := testing.AllocsPerRun(200, func() { table.Take(table.start, Key{1, 1}, 1) }); got > 0 {
		t.Errorf("a decision makes %v allocations, want none", got)
	}
}
