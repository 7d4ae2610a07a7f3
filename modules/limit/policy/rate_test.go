package policy

import (
	"fmt"
	"math/big"
	"testing"
	"time"

	"golang.org/x/time/rate"
	"pgregory.net/rapid"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

var noon = time.Date(2027, 6, 1, 12, 0, 0, 0, time.UTC).UnixNano()

func parse(t testing.TB, rates ...string) []Policy {
	t.Helper()
	var all []Policy
	for i, s := range rates {
		p, err := ParseRate(s)
		if err != nil {
			t.Fatal(err)
		}
		p.Name = string(rune('a' + i))
		all = append(all, p)
	}
	return all
}

func TestDecideWalksTime(t *testing.T) {
	all := parse(t, "10/1m")
	all[0].Burst = 3
	rates := Compile(all)
	state := make([]int64, Words(rates))
	for i, step := range []struct {
		at         time.Duration
		cost       int64
		allowed    bool
		remaining  int64
		next, wait time.Duration
	}{
		{at: 0, cost: 0, allowed: true, remaining: 3},
		{at: 0, cost: 1, allowed: true, remaining: 2, next: 6 * time.Second},
		{at: 0, cost: 1, allowed: true, remaining: 1, next: 6 * time.Second},
		{at: time.Second, cost: 1, allowed: true, remaining: 0, next: 5 * time.Second},
		{at: time.Second, cost: 1, remaining: 0, next: 5 * time.Second, wait: 5 * time.Second},
		{at: 5999 * time.Millisecond, cost: 1, remaining: 0, next: time.Millisecond, wait: time.Millisecond},
		{at: 6 * time.Second, cost: 1, allowed: true, remaining: 0, next: 6 * time.Second},
		{at: 11500 * time.Millisecond, cost: 2, remaining: 0, next: 500 * time.Millisecond, wait: 6500 * time.Millisecond},
		{at: time.Hour, cost: 1, allowed: true, remaining: 2, next: 6 * time.Second},
		{at: time.Hour, cost: 0, allowed: true, remaining: 2, next: 6 * time.Second},
	} {
		v := Decide(noon+int64(step.at), rates, state, step.cost)
		a := v.Answers[0]
		if v.Allowed != step.allowed || a.Remaining != step.remaining || a.Next != step.next || v.Wait != step.wait || a.Wait != step.wait {
			t.Errorf("step %d: got %+v, want %+v", i, v, step)
		}
	}
}

func TestSlidingWindowWalksTime(t *testing.T) {
	all := parse(t, "10/1m")
	all[0].Sliding = true
	rates := Compile(all)
	state := make([]int64, Words(rates))
	base := noon - noon%int64(time.Minute)
	at := func(d time.Duration) int64 { return base + int64(d) }
	for range 8 {
		if v := Decide(at(30*time.Second), rates, state, 1); !v.Allowed {
			t.Fatalf("got %+v", v)
		}
	}
	for i, step := range []struct {
		at        time.Duration
		allowed   bool
		remaining int64
		wait      time.Duration
	}{
		{75 * time.Second, true, 3, 0}, {75 * time.Second, true, 2, 0}, {75 * time.Second, true, 1, 0}, {75 * time.Second, true, 0, 0},
		{75 * time.Second, false, 0, 7500 * time.Millisecond},
		{82499 * time.Millisecond, false, 0, time.Millisecond},
		{82500 * time.Millisecond, true, 0, 0},
	} {
		v := Decide(at(step.at), rates, state, 1)
		if v.Allowed != step.allowed || v.Answers[0].Remaining != step.remaining || v.Wait != step.wait {
			t.Errorf("step %d: got %+v, want %+v", i, v, step)
		}
	}
}

func TestNothingIsChargedUnlessAllPoliciesAllow(t *testing.T) {
	rates := Compile(parse(t, "100/1m", "1/1m"))
	state := make([]int64, Words(rates))
	if v := Decide(noon, rates, state, 1); !v.Allowed || v.Answers[0].Remaining != 99 {
		t.Fatalf("the first request: %+v", v)
	}
	for range 50 {
		v := Decide(noon, rates, state, 1)
		if v.Allowed || v.Answers[0].Remaining != 99 || v.Answers[0].Violated || v.Answers[1].Wait != time.Minute || v.Wait != time.Minute {
			t.Fatalf("a refused request: %+v, want the first policy untouched", v)
		}
	}
}

func TestACostBeyondTheSizeNeverFits(t *testing.T) {
	for _, sliding := range []bool{false, true} {
		all := parse(t, "10/1m", "1000/1h")
		all[0].Sliding = sliding
		rates := Compile(all)
		state := make([]int64, Words(rates))
		v := Decide(noon, rates, state, 11)
		if v.Allowed || !v.Never || v.Wait != 0 || v.Answers[0].Remaining != 10 || !v.Answers[0].Violated || v.Answers[1].Violated {
			t.Errorf("sliding=%v: got %+v", sliding, v)
		}
		if !Idle(noon, rates, state) {
			t.Errorf("sliding=%v: a refused request was charged", sliding)
		}
	}
}

func TestChargeAndRefund(t *testing.T) {
	for _, sliding := range []bool{false, true} {
		all := parse(t, "10/1m")
		all[0].Sliding = sliding
		rates := Compile(all)
		state := make([]int64, Words(rates))
		left := func() int64 { return Decide(noon, rates, state, 0).Answers[0].Remaining }
		Charge(noon, rates, state, 4)
		if got := left(); got != 6 {
			t.Errorf("sliding=%v: after a charge of 4, %d are left", sliding, got)
		}
		Charge(noon, rates, state, -1)
		if got := left(); got != 7 {
			t.Errorf("sliding=%v: after a refund of 1, %d are left", sliding, got)
		}
		for range 9 {
			Charge(noon, rates, state, MaxQuota)
		}
		if v := Decide(noon, rates, state, 1); v.Allowed || v.Answers[0].Remaining != 0 || v.Wait > 2*time.Minute {
			t.Errorf("sliding=%v: in debt: %+v, want a wait of two windows at most", sliding, v)
		}
		Charge(noon, rates, state, -MaxQuota)
		Charge(noon, rates, state, -MaxQuota)
		if got := left(); got != 10 {
			t.Errorf("sliding=%v: after all is given back, %d are left", sliding, got)
		}
	}
}

func TestARefundInTheNextWindow(t *testing.T) {
	all := parse(t, "10/1m")
	all[0].Sliding = true
	rates := Compile(all)
	state := make([]int64, Words(rates))
	start := noon - noon%int64(time.Minute)
	Charge(start, rates, state, 10)
	Charge(start+int64(time.Minute), rates, state, -10)
	if !Idle(start+int64(time.Minute), rates, state) {
		t.Errorf("got state %v", state)
	}
}

func genPolicy(t *rapid.T, name string) Policy {
	p := Policy{
		Name:  name,
		Quota: rapid.OneOf(rapid.IntRange(1, 20), rapid.IntRange(1, 1_000_000)).Draw(t, "quota"),
		Window: unit.Duration(time.Duration(rapid.OneOf(rapid.Int64Range(1000, 5000), rapid.Int64Range(1000, int64(MaxWindow/time.Millisecond))).
			Draw(t, "window")) * time.Millisecond),
		Burst:   rapid.OneOf(rapid.IntRange(0, 5), rapid.IntRange(0, 1_000_000)).Draw(t, "burst"),
		Sliding: rapid.Bool().Draw(t, "sliding"),
	}
	if p.Sliding {
		p.Burst = 0
		p.Quota = min(p.Quota, int(maxSliding/p.Window.Std().Milliseconds()))
	}
	p.Burst = min(p.Burst, int(maxRoom/max(1, int64(p.Window)/int64(p.Quota))))
	if err := p.Check(); err != nil {
		t.Fatalf("the generator makes what no configuration can have: %v", err)
	}
	return p
}

// reference is one policy counted by its definition, in rational numbers and slowly: a bucket gains
// a unit each interval, a sliding window remembers every calendar window it has seen.
type reference struct {
	p       Policy
	r       Rate
	tokens  *big.Rat
	at      int64
	windows map[int64]int64
}

func newReference(p Policy) *reference {
	return &reference{p: p, r: p.Compile(), tokens: big.NewRat(int64(p.Size()), 1), windows: map[int64]int64{}}
}

func (f *reference) free(now int64) *big.Rat {
	if f.p.Sliding {
		w := f.p.Window.Std().Milliseconds()
		ms := now / 1e6
		used := big.NewRat(f.windows[ms/w-1]*(w-ms%w), w)
		used.Add(used, big.NewRat(f.windows[ms/w], 1))
		return used.Sub(big.NewRat(int64(f.p.Quota), 1), used)
	}
	f.tokens.Add(f.tokens, big.NewRat(now-f.at, f.r.Interval))
	if full := big.NewRat(int64(f.p.Size()), 1); f.tokens.Cmp(full) > 0 {
		f.tokens = full
	}
	f.at = now
	return new(big.Rat).Set(f.tokens)
}

func (f *reference) take(now, n int64) {
	if f.p.Sliding {
		f.windows[now/1e6/f.p.Window.Std().Milliseconds()] += n
		return
	}
	f.tokens.Sub(f.tokens, big.NewRat(n, 1))
}

func floor(r *big.Rat) int64 { return new(big.Int).Div(r.Num(), r.Denom()).Int64() }

func TestDecisionsAgreeWithTheReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []Policy
		var model []*reference
		now := noon
		for i := range rapid.IntRange(1, 3).Draw(t, "policies") {
			all = append(all, genPolicy(t, string(rune('a'+i))))
			model = append(model, newReference(all[i]))
			model[i].at = now
		}
		rates := Compile(all)
		state := make([]int64, Words(rates))
		for range rapid.IntRange(1, 60).Draw(t, "requests") {
			now += 1000 * rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, 3_000_000), rapid.Int64Range(0, 48*3600*1_000_000)).Draw(t, "pause in µs")
			cost := rapid.OneOf(rapid.Just(int64(1)), rapid.Int64Range(0, 8)).Draw(t, "cost")
			v := Decide(now, rates, state, cost)
			want := true
			for _, m := range model {
				want = want && m.free(now).Cmp(big.NewRat(cost, 1)) >= 0
			}
			if v.Allowed != want {
				t.Fatalf("cost %d: got %+v, want allowed=%v", cost, v, want)
			}
			for i, m := range model {
				if v.Allowed {
					m.take(now, cost)
				}
				if got, want := v.Answers[i].Remaining, max(0, floor(m.free(now))); got != want {
					t.Fatalf("policy %d says that %d are left, the reference %d", i, got, want)
				}
			}
			if v.Allowed || v.Never {
				continue
			}
			if early := Decide(now+int64(v.Wait)-1, rates, append([]int64(nil), state...), cost); early.Allowed {
				t.Fatalf("told to wait %s, but it is allowed before", v.Wait)
			}
			if rapid.Bool().Draw(t, "come back when told") {
				now += int64(v.Wait)
				now += (1000 - now%1000) % 1000
				if again := Decide(now, rates, state, cost); !again.Allowed {
					t.Fatalf("refused again after the wait: %+v", again)
				}
				for _, m := range model {
					m.free(now)
					m.take(now, cost)
				}
			}
		}
	})
}

// TestABucketIsThatOfTimeRate holds the bucket to the semantics of golang.org/x/time/rate.
func TestABucketIsThatOfTimeRate(t *testing.T) {
	for _, s := range []string{"10/s", "100/1m", "1000/1h", "7/1s"} {
		for _, burst := range []int{1, 3, 50} {
			t.Run(fmt.Sprintf("%s-burst-%d", s[:len(s)-2], burst), func(t *testing.T) {
				all := parse(t, s)
				all[0].Burst = burst
				rates := Compile(all)
				state := make([]int64, 1)
				limiter := rate.NewLimiter(rate.Limit(float64(time.Second)/float64(rates[0].Interval)), burst)
				now := noon
				for i := range 2000 {
					now += int64(i*i%997) * int64(7*time.Millisecond)
					if got, want := Decide(now, rates, state, 1).Allowed, limiter.AllowN(time.Unix(0, now), 1); got != want {
						t.Fatalf("request %d: got %v, want %v", i, got, want)
					}
				}
			})
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	for name, specs := range map[string][]string{"one": {"1000000/s"}, "two": {"1000000/s", "1000000000/24h"}} {
		b.Run(name, func(b *testing.B) {
			rates := Compile(parse(b, specs...))
			state := make([]int64, Words(rates))
			now := noon
			for b.Loop() {
				now += 1000
				Decide(now, rates, state, 1)
			}
		})
	}
}
