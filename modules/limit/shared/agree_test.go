package shared

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/gatehouse-proxy/gatehouse/integration/redistest"
	"github.com/gatehouse-proxy/gatehouse/internal/redisconn"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

func open(t testing.TB, urls ...string) *redisconn.Conn {
	t.Helper()
	conn, err := redisconn.New(redisconn.Config{Addresses: urls}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// linkTo is a link of its own, as another instance's.
func linkTo(t testing.TB, conn *redisconn.Conn) *Link {
	t.Helper()
	l := newLink(newRedisRunner(conn))
	t.Cleanup(l.close)
	return l
}

// patientLink is a link that waits for a server on a busy machine.
func patientLink(t testing.TB, conn *redisconn.Conn) *Link {
	t.Helper()
	l := linkTo(t, conn)
	l.deadline = 10 * time.Second
	return l
}

func idOf(s string) ID {
	sum := sha256.Sum256([]byte(s))
	return ID(sum[:16])
}

func compile(t testing.TB, specs ...string) []policy.Rate {
	t.Helper()
	var all []policy.Policy
	for i, s := range specs {
		rate, sliding := strings.CutSuffix(s, " sliding")
		rate, burst, _ := strings.Cut(rate, " burst ")
		p, err := policy.ParseRate(rate)
		if err != nil {
			t.Fatal(err)
		}
		p.Name, p.Sliding = fmt.Sprint("p", i), sliding
		if _, err = fmt.Sscan(burst, &p.Burst); err != nil && burst != "" {
			t.Fatal(err)
		}
		if err = p.Check(); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return policy.Compile(all)
}

// eternal is the script without expiry, which goes by the server's clock and not by the test's.
var eternal = redis.NewScript(strings.Replace(takeScript, ", 'PX', format('%.0f', ttl + 1)", "", 1))

// at asks the script as of the given time.
func (l *Link) at(t testing.TB, now int64, verb, key string, rates []policy.Rate, cost, most int64) (policy.Verdict, reply) {
	t.Helper()
	c := newCall()
	c.args = appendArgs(c.args, eternal.Hash(), key, verb, cost, most, rates)
	c.args[argNow] = now / 1000
	var text string
	if err := l.do(t.Context(), c, &text); err != nil {
		t.Fatal(err)
	}
	if eternal.Hash() == takeHash {
		t.Fatal("the script expires its keys in another way by now")
	}
	var r reply
	if err := r.parse(text, rates); err != nil {
		t.Fatal(err)
	}
	return r.verdict(rates, max(0, cost)), r
}

func drawPolicies(t *rapid.T) []policy.Policy {
	var all []policy.Policy
	for i := range rapid.IntRange(1, 4).Draw(t, "policies") {
		quotas := rapid.OneOf(rapid.IntRange(1, 20), rapid.IntRange(1, 100_000), rapid.SampledFrom([]int{1, policy.MaxQuota, 7, 333_333}))
		windows := rapid.OneOf(rapid.Int64Range(1, 5000), rapid.Int64Range(1, 366*86_400_000), rapid.SampledFrom([]int64{1, 1000, 60_000, 86_400_000, 366 * 86_400_000}))
		p := policy.Policy{Name: string(rune('a' + i)), Quota: quotas.Draw(t, "quota"), Window: unit.Duration(windows.Draw(t, "window")) * unit.Duration(time.Millisecond)}
		if p.Sliding = rapid.Bool().Draw(t, "sliding"); !p.Sliding {
			p.Burst = rapid.OneOf(rapid.Just(0), rapid.IntRange(1, 10), rapid.IntRange(1, policy.MaxQuota)).Draw(t, "burst")
		}
		fill := float64(p.Window.Std()) / float64(p.Quota) * float64(p.Size())
		if p.Check() == nil && fill < 1<<60 { // the times of this test stay within an int64
			all = append(all, p)
		}
	}
	return all
}

// TestAgreesWithPolicy holds the script to the arithmetic in Go: for any policies and any sequence of
// requests, charges and clocks both say the same of every one.
func TestAgreesWithPolicy(t *testing.T) {
	s := redistest.Start(t)
	l := patientLink(t, open(t, s.URL()))
	if err := eternal.Load(t.Context(), s.Client()).Err(); err != nil {
		t.Fatal(err)
	}
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		policies := drawPolicies(rt)
		if len(policies) == 0 {
			rt.Skip("no policy is right")
		}
		rates := policy.Compile(policies)
		state := make([]int64, policy.Words(rates))
		n++
		key := fmt.Sprint("k", n)
		now := rapid.Int64Range(0, 4_000_000_000_000_000).Draw(rt, "start") * 1000
		for range rapid.IntRange(1, 30).Draw(rt, "requests") {
			rate := rates[rapid.IntRange(0, len(rates)-1).Draw(rt, "near")]
			span := rate.Room
			if rate.Sliding {
				span = 2 * rate.Window * int64(time.Millisecond)
			}
			step := rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(-span/1000, 2*span/1000), rapid.SampledFrom([]int64{1, -1, rate.Interval / 1000, span / 1000})).Draw(rt, "step")
			now = max(0, now+step*1000)
			size := rate.Quota
			if !rate.Sliding {
				size = rate.Room / rate.Interval
			}
			cost := rapid.OneOf(rapid.Int64Range(0, 3), rapid.Int64Range(0, size+1), rapid.Just(size)).Draw(rt, "cost")
			if cost > 0 && rapid.IntRange(0, 4).Draw(rt, "verb") == 0 {
				cost *= rapid.SampledFrom([]int64{-1, 1}).Draw(rt, "sign")
				l.at(t, now, "charge", key, rates, cost, 0)
				policy.Charge(now, rates, state, cost)
				forget(now, rates, state)
				continue
			}
			got, r := l.at(t, now, "take", key, rates, cost, cost)
			want := policy.Decide(now, rates, state, cost)
			if got != want || (r.granted == cost) != (want.Allowed || cost == 0) {
				rt.Fatalf("at %d for %d: the script says %d and\n%s", now, cost, r.granted, cmp.Diff(want, got))
			}
			if want.Allowed && cost > 0 {
				forget(now, rates, state)
			}
		}
	})
}

// forget does as Redis does with a state that has nothing to remember. It shows if the clock goes back.
func forget(now int64, rates []policy.Rate, state []int64) {
	if policy.Idle(now, rates, state) {
		clear(state)
	}
}
