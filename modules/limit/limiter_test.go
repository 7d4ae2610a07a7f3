package limit

import (
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

var noon = time.Date(2027, 6, 1, 12, 0, 0, 0, time.UTC)

func policies(t testing.TB, rates ...string) []Policy {
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
	all := policies(t, "10/1m")
	all[0].Burst = 3
	table := NewTable(all, 10)
	for i, step := range []struct {
		at                    time.Duration
		allowed               bool
		remaining, next, wait int
	}{
		{at: 0, allowed: true, remaining: 2, next: 6},
		{at: 0, allowed: true, remaining: 1, next: 6},
		{at: time.Second, allowed: true, remaining: 0, next: 5},
		{at: time.Second, remaining: 0, next: 5, wait: 5},
		{at: 5999 * time.Millisecond, remaining: 0, next: 1, wait: 1},
		{at: 6 * time.Second, allowed: true, remaining: 0, next: 6},
		{at: 11500 * time.Millisecond, remaining: 0, next: 1, wait: 1},
		{at: time.Hour, allowed: true, remaining: 2, next: 6},
	} {
		v := table.Take(table.start.Add(step.at), Key{1, 1}, 1)
		b := v.Buckets[0]
		if v.Allowed != step.allowed || b.Remaining != step.remaining || b.Next != step.next || v.Wait != step.wait || b.Wait != step.wait {
			t.Errorf("step %d at %s: got %+v, want %+v", i, step.at, v, step)
		}
	}
}

func TestNothingIsChargedUnlessAllPoliciesAllow(t *testing.T) {
	table := NewTable(policies(t, "100/1m", "1/1m"), 10)
	if v := table.Take(table.start, Key{}, 1); !v.Allowed || v.Buckets[0].Remaining != 99 {
		t.Fatalf("the first request: %+v", v)
	}
	for range 50 {
		v := table.Take(table.start, Key{}, 1)
		if v.Allowed || v.Buckets[0].Remaining != 99 || v.Buckets[0].Wait != 0 || v.Buckets[1].Wait != 60 || v.Wait != 60 {
			t.Fatalf("a refused request: %+v, want the first policy untouched", v)
		}
	}
}

func TestDecideChangesNothing(t *testing.T) {
	state := newState(policies(t, "10/1m", "5/1s"), nil)
	first := Decide(noon, state, 1)
	for range 20 {
		if got := Decide(noon, state, 1); got != first {
			t.Fatalf("got %+v, then %+v", first, got)
		}
	}
}

func TestFullBucketHasNoNext(t *testing.T) {
	v := Decide(noon, newState(policies(t, "10/1m"), nil), 11)
	if v.Allowed || v.Buckets[0].Remaining != 10 || v.Buckets[0].Next != 0 {
		t.Fatalf("got %+v", v)
	}
}

// exactBucket is the reference: a token bucket in rational numbers, without any rounding.
type exactBucket struct {
	policy Policy
	tokens *big.Rat
	at     time.Duration
}

func (b *exactBucket) advance(now time.Duration) {
	gained := big.NewRat(int64(now-b.at), 1)
	gained.Mul(gained, big.NewRat(int64(b.policy.Quota), int64(b.policy.Window.Std())))
	b.tokens.Add(b.tokens, gained)
	if full := big.NewRat(int64(b.policy.burst()), 1); b.tokens.Cmp(full) > 0 {
		b.tokens = full
	}
	b.at = now
}

// room is 1 or -1 for yes and no, and 0 where the answer is within twice the slack of turning.
func (b *exactBucket) room() int {
	over := new(big.Rat).Sub(b.tokens, big.NewRat(1, 1))
	if new(big.Rat).Abs(over).Cmp(big.NewRat(2, 1_000_000)) <= 0 {
		return 0
	}
	return over.Sign()
}

func genPolicy(t *rapid.T, name string) Policy {
	return Policy{
		Name:  name,
		Quota: rapid.OneOf(rapid.IntRange(1, 20), rapid.IntRange(1, maxQuota)).Draw(t, "quota"),
		Window: unit.Duration(time.Duration(rapid.OneOf(rapid.Int64Range(1, 5000), rapid.Int64Range(1, int64(maxWindow/time.Millisecond))).
			Draw(t, "window")) * time.Millisecond),
		Burst: rapid.OneOf(rapid.IntRange(0, 5), rapid.IntRange(0, maxQuota)).Draw(t, "burst"),
	}
}

func TestDecisionsAgreeWithTheExactModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []Policy
		var model []*exactBucket
		for i := range rapid.IntRange(1, 3).Draw(t, "policies") {
			p := genPolicy(t, string(rune('a'+i)))
			all = append(all, p)
			model = append(model, &exactBucket{policy: p, tokens: big.NewRat(int64(p.burst()), 1)})
		}
		table := NewTable(all, 10)
		var now time.Duration
		for range rapid.IntRange(1, 60).Draw(t, "requests") {
			now += time.Duration(rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, int64(3*time.Second)), rapid.Int64Range(0, int64(48*time.Hour))).Draw(t, "pause"))
			v := table.Take(table.start.Add(now), Key{}, 1)
			want, sure := true, true
			for i, b := range model {
				b.advance(now)
				room := b.room()
				want, sure = want && room >= 0, sure && room != 0
				left, _ := b.tokens.Float64()
				if v.Allowed {
					left--
				}
				if got := float64(v.Buckets[i].Remaining); got > left+1e-5 || got < left-1-1e-5 {
					t.Fatalf("policy %d says that %v are left, the model %v", i, got, left)
				}
			}
			if sure && v.Allowed != want {
				t.Fatalf("at %s got allowed=%v, want %v", now, v.Allowed, want)
			}
			if v.Allowed {
				for _, b := range model {
					b.tokens.Sub(b.tokens, big.NewRat(1, 1))
				}
				continue
			}
			if v.Wait < 1 {
				t.Fatalf("refused without a wait: %+v", v)
			}
			for i := range all {
				if b := v.Buckets[i]; b.Wait > 0 && b.Next > v.Wait {
					t.Fatalf("policy %d: t=%d is later than Retry-After %d", i, b.Next, v.Wait)
				}
			}
			if rapid.Bool().Draw(t, "come back when told") {
				now += time.Duration(v.Wait) * time.Second
				if again := table.Take(table.start.Add(now), Key{}, 1); !again.Allowed {
					t.Fatalf("refused again after waiting %d s: %+v", v.Wait, again)
				}
				for _, b := range model {
					b.advance(now)
					b.tokens.Sub(b.tokens, big.NewRat(1, 1))
				}
			}
		}
	})
}

func TestRoundingNeverRefusesAPunctualClient(t *testing.T) {
	for quota := 1; quota <= 60; quota++ {
		for window := 1; window <= 60; window++ {
			p := Policy{Name: "a", Quota: quota, Window: unit.Duration(time.Duration(window) * time.Hour), Burst: 3}
			state, now := newState([]Policy{p}, nil), noon
			for range 8 {
				v := Decide(now, state, 1)
				if !v.Allowed {
					now = now.Add(time.Duration(v.Wait) * time.Second)
					v = Decide(now, state, 1)
				}
				if !v.Allowed {
					t.Fatalf("%d per %d h: refused at the second it was told", quota, window)
				}
				state.charge(now, 1)
			}
		}
	}
}

func TestRetryAfterIsNotLongerThanNeeded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := genPolicy(t, "a")
		p.Burst = 1
		state := newState([]Policy{p}, nil)
		state.charge(noon, 1)
		v := Decide(noon, state, 1)
		if v.Wait <= 1 {
			return
		}
		early := noon.Add(time.Duration(v.Wait-1)*time.Second - time.Duration(float64(p.Window)/float64(p.Quota)*2*slack) - time.Microsecond)
		if Decide(early, state, 1).Allowed {
			t.Fatalf("told to wait %d s, but it was allowed at %s", v.Wait, early.Sub(noon))
		}
	})
}
