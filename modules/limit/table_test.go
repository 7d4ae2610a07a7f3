package limit

import (
	"hash/maphash"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

var (
	noon     = time.Date(2027, 6, 1, 12, 0, 0, 0, time.UTC).UnixNano()
	testSeed = maphash.MakeSeed()
)

func rates(t testing.TB, specs ...string) []policy.Rate {
	t.Helper()
	var all []policy.Policy
	for _, s := range specs {
		p, err := policy.ParseRate(s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return policy.Compile(all)
}

func key(i int) uint64 { return maphash.Comparable(testSeed, i) | 1 }

func tableFor(r []policy.Rate, maxBytes int) *Table { return NewTable(policy.Words(r), maxBytes) }

func TestTableStaysBelowItsCap(t *testing.T) {
	r := rates(t, "1/24h", "5/24h")
	for _, most := range []int{1, 500, 10_000, 100_000, 1 << 20, 5 << 20} {
		table := tableFor(r, most)
		for i := range 3*most/24 + 1000 {
			table.Take(noon, key(i), r, 1)
		}
		if got := table.Bytes(); got > max(most, ways*3*8) || got < most/3 {
			t.Errorf("a table of %d bytes takes %d", most, got)
		}
		if got, most := table.Len(), table.Bytes()/24; got > most {
			t.Errorf("%d keys are said to be in %d places", got, most)
		}
	}
}

func TestRandomKeysStayBelowTheCap(t *testing.T) {
	n, most := 1_000_000, 8<<20
	if os.Getenv("GATEHOUSE_LONG") != "" {
		n, most = 10_000_000, 64<<20
	}
	r := rates(t, "1000/24h")
	table := tableFor(r, most)
	for range n {
		table.Take(noon, rand.Uint64()|1, r, 1)
	}
	if got := table.Bytes(); got > most {
		t.Errorf("after %d keys the table takes %d bytes, its cap is %d", n, got, most)
	}
}

func TestAKeyTakesLessThan100Bytes(t *testing.T) {
	for _, specs := range [][]string{{"1/24h"}, {"1/24h", "1/24h"}} {
		r := rates(t, specs...)
		for _, n := range []int{20_000, 50_000, 100_000, 300_000} {
			table := tableFor(r, 1<<30)
			for i := range n {
				table.Take(noon, key(i), r, 1)
			}
			if table.Len() != n {
				t.Fatalf("%d of %d keys are held", table.Len(), n)
			}
			got := table.Bytes() / n
			t.Logf("%d policies, %d keys: %d bytes each", len(specs), n, got)
			if got > 100 {
				t.Errorf("%d policies, %d keys: a key takes %d bytes", len(specs), n, got)
			}
		}
	}
}

func TestAFloodDoesNotFreeAKeyThatUsedItsLimitUp(t *testing.T) {
	r := rates(t, "10/1h")
	table := tableFor(r, 100_000)
	for range 10 {
		table.Take(noon, 42, r, 1)
	}
	for i := range 200_000 {
		table.Take(noon, key(i), r, 1)
	}
	if table.Take(noon, 42, r, 1).Allowed {
		t.Error("the key in debt was forgotten")
	}
	if table.Evicted.Load() == 0 {
		t.Error("no key gave way")
	}
}

func TestAFullTableLetsNewKeysShareOneState(t *testing.T) {
	r := rates(t, "10/1h")
	table := tableFor(r, 1)
	for i := range ways {
		table.Charge(noon, key(i), r, 10)
	}
	allowed := 0
	for i := range 100 {
		if table.Take(noon, key(100+i), r, 1).Allowed {
			allowed++
		}
	}
	if allowed != 10 || table.Overflowed.Load() == 0 {
		t.Errorf("%d requests of new keys were allowed, want 10 of all of them", allowed)
	}
	if !table.Take(noon+int64(time.Hour), key(500), r, 1).Allowed {
		t.Error("an hour later a new key was refused")
	}
}

func TestIdleKeysMakeRoom(t *testing.T) {
	r := rates(t, "1/1s")
	table := tableFor(r, 1<<30)
	now := noon
	for i := range 100_000 { // 1000 keys a second: a second's worth is busy
		now += int64(time.Millisecond)
		table.Take(now, key(i), r, 1)
	}
	if got := table.Bytes(); got > 1<<19 {
		t.Errorf("the table takes %d bytes, though about 1000 keys are in use", got)
	}
}

func TestGrowingForgetsNothing(t *testing.T) {
	r := rates(t, "7/24h", "100/24h")
	table := tableFor(r, 1<<30)
	for i := range 50_000 {
		for range i % 8 {
			table.Take(noon, key(i), r, 1)
		}
	}
	for i := range 50_000 {
		v := table.Show(noon, key(i), r)
		if v.Answers[0].Remaining != int64(7-i%8) || v.Answers[1].Remaining != int64(100-i%8) {
			t.Fatalf("key %d: got %+v", i, v)
		}
	}
}

func TestShowRemembersNothing(t *testing.T) {
	r := rates(t, "7/24h")
	table := tableFor(r, 1<<20)
	if v := table.Show(noon, 5, r); v.Answers[0].Remaining != 7 || table.Len() != 0 {
		t.Errorf("got %+v and %d keys", v, table.Len())
	}
	table.Reset(5)
	table.Take(noon, 5, r, 3)
	table.Reset(5)
	if v := table.Show(noon, 5, r); v.Answers[0].Remaining != 7 {
		t.Errorf("after a reset: %+v", v)
	}
}

func TestConcurrentRequestsGetExactlyTheBurst(t *testing.T) {
	r := rates(t, "1000/24h", "300/24h")
	table := tableFor(r, 1<<20)
	var allowed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				if table.Take(noon, 7, r, 1).Allowed {
					allowed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if allowed.Load() != 300 {
		t.Errorf("%d of 1600 requests were allowed, want 300", allowed.Load())
	}
	if v := table.Show(noon, 7, r); v.Answers[0].Remaining != 700 {
		t.Errorf("the other policy has %d left, want 700", v.Answers[0].Remaining)
	}
}

func TestTimeGoingBackGivesNothing(t *testing.T) {
	r := rates(t, "1/1s")
	table := tableFor(r, 1<<20)
	got := 0
	for i := range 100 { // two clocks a second apart, in turn: one second in all
		if table.Take(noon+int64(i%2)*int64(time.Second), 7, r, 1).Allowed {
			got++
		}
	}
	if got != 2 {
		t.Errorf("%d requests were allowed, want the burst and one more", got)
	}
}

func TestInheritedNumbersGoOn(t *testing.T) {
	old := rates(t, "10/1h", "20/1h")
	before := tableFor(old, 1<<20)
	before.Charge(noon, 7, old, 5)
	now := rates(t, "30/1h", "20/1h")
	table := tableFor(now, 1<<20)
	table.Inherit(before, []int{-1, 1}, noon, noon+int64(time.Hour))
	if v := table.Show(noon, 7, now); v.Answers[0].Remaining != 30 || v.Answers[1].Remaining != 15 {
		t.Errorf("shown: %+v", v)
	}
	v := table.Take(noon, 7, now, 1)
	if v.Answers[0].Remaining != 29 || v.Answers[1].Remaining != 14 {
		t.Errorf("got %+v", v)
	}
	before.Charge(noon, 9, old, 20)
	table.Reset(9)
	if v = table.Take(noon, 9, now, 1); v.Answers[1].Remaining != 19 {
		t.Errorf("after a reset: %+v", v)
	}
	if v = table.Take(noon+int64(2*time.Hour), 8, now, 1); !v.Allowed || table.before.Load() != nil {
		t.Error("the old table is held although its numbers mean nothing any more")
	}
}

func TestDecisionDoesNotAllocate(t *testing.T) {
	r := rates(t, "1000000000/1s", "1000000000/24h")
	table := tableFor(r, 1<<20)
	table.Take(noon, 1, r, 1)
	if got := testing.AllocsPerRun(200, func() { table.Take(noon, 1, r, 1) }); got > 0 {
		t.Errorf("a decision makes %v allocations, want none", got)
	}
}

// spread is a key by arithmetic alone (splitmix64): a list of a million keys would be measured as well.
func spread(i int) uint64 {
	z := uint64(i)*0x9e3779b97f4a7c15 + 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return (z ^ z>>31) | 1
}

func BenchmarkTable(b *testing.B) {
	one := rates(b, "1000000000/1s")
	run := func(name string, r []policy.Rate, n int, parallel bool) {
		b.Run(name, func(b *testing.B) {
			table := tableFor(r, defaultMemory)
			for i := range n {
				table.Take(noon, spread(i), r, 1)
			}
			var seed atomic.Uint64
			b.ReportAllocs()
			if !parallel {
				now := noon
				for b.Loop() {
					now += 1000
					table.Take(now, spread(0), r, 1)
				}
				return
			}
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				i := seed.Add(1) * 7919
				for pb.Next() {
					i = i*6364136223846793005 + 1442695040888963407
					table.Take(noon, spread(int((i>>32)%uint64(n))), r, 1)
				}
			})
		})
	}
	run("one-key", one, 1, false)
	run("one-key-refused", rates(b, "1/24h"), 1, false)
	run("one-key-parallel", one, 1, true)
	run("million-keys-parallel", one, 1_000_000, true)
	run("million-keys-two-policies-parallel", rates(b, "1000000000/1s", "1000000/24h"), 1_000_000, true)
}
