package shared

import (
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

const (
	// horizon is how long the tokens of one batch should last at the rate of late.
	horizon = 200 * time.Millisecond
	// share is the part of a policy's size that all instances together may hold in leases: 1/share.
	share = 10
	// idle is how long tokens are kept that nobody takes.
	idle = time.Second
	// trust is how long a refusal is repeated without asking, at most: somebody may have given back
	// what was taken, or reset the key.
	trust = time.Second
)

// lease is what this instance holds of one key: tokens that Redis has charged already. It is guarded
// by the lock of its shard.
type lease struct {
	id    ID
	rates []policy.Rate
	// tokens may be used without asking.
	tokens int64
	// state is the key's as of the last answer and of what has been used here since, which is what
	// the answers to clients show. Its clock is Redis's: the local time plus offset.
	state  [2 * policy.Max]int64
	offset int64
	// asked is when Redis answered last, used when a token was taken last.
	asked, used int64
	// spent counts the units used since the last answer, for the size of the next batch, and batch is
	// the size of the last.
	spent, batch int64
	// waiting is the sum of the costs that wait for the answer under way.
	waiting int64
	flight  *flight
}

// flight is one question to Redis about a key, on whose answer all others wait.
type flight struct {
	done chan struct{}
	err  error // set before done is closed
}

// take decides from what is held. ok is false if Redis must be asked.
func (e *lease) take(now int64, rates []policy.Rate, cost int64, v *policy.Verdict) (ok bool) {
	at := now + e.offset
	if cost > 0 && cost <= e.tokens {
		e.tokens -= cost
		e.use(now, at, cost, v)
		return true
	}
	// As long as the last answer refuses it, asking again would not help.
	if e.flight != nil || e.tokens > 0 || now-e.asked > int64(trust) {
		return false
	}
	state := e.state
	*v = policy.Decide(at, rates, state[:], max(0, cost))
	return cost <= 0 || !v.Allowed
}

// use counts units that are had, and answers.
func (e *lease) use(now, at, cost int64, v *policy.Verdict) {
	e.spent += cost
	e.used = now
	policy.Charge(at, e.rates, e.state[:], cost)
	v.Allowed = true
	v.Describe(at, e.rates, e.state[:])
}

// want is the size of the next batch: what is used within horizon, at most twice the last one, no
// more than the share of this instance, and little where little is left.
func (e *lease) want(now int64, instances int64) int64 {
	since := now - e.asked
	if instances == 0 || since >= int64(idle) { // not known yet, or a cold key
		return 0
	}
	rate := int64(float64(e.spent) / float64(max(since, 1)) * float64(horizon))
	most := min(policySize(e.rates)/(share*instances), e.left(now)/(2*instances))
	return max(0, min(rate, max(2, 2*e.batch), most))
}

// left is how much of the nearest policy is left, as far as is known here.
func (e *lease) left(now int64) int64 {
	var v policy.Verdict
	v.Describe(now+e.offset, e.rates, e.state[:])
	n := v.Answers[0].Remaining
	for i := 1; i < len(e.rates); i++ {
		n = min(n, v.Answers[i].Remaining)
	}
	return n
}

// policySize is how many units fit at once into the smallest policy.
func policySize(rates []policy.Rate) int64 {
	n := int64(policy.MaxQuota)
	for i := range rates {
		if rates[i].Sliding {
			n = min(n, rates[i].Quota)
		} else {
			n = min(n, rates[i].Room/rates[i].Interval)
		}
	}
	return n
}

// learn takes over an answer of Redis. What is unused of the units granted is among the tokens by now.
func (e *lease) learn(now int64, r *reply, batch int64) {
	e.state = r.state
	e.offset = r.now - now
	// The state is that before this grant. All tokens are charged in Redis, but they are not used.
	policy.Charge(r.now, e.rates, e.state[:], r.granted-e.tokens)
	e.asked, e.spent, e.batch = now, 0, batch
}

// leaseShard is a part of the keys.
type leaseShard struct {
	mu   sync.Mutex
	keys map[uint64]*lease
	// local counts the decisions made here.
	local uint64
	_     [64 - 24]byte // shards do not share cache lines
}
