package limit

import (
	"math"
	"time"

	"golang.org/x/time/rate"
)

// slack is the part of a token that a bucket may be short of. It absorbs the rounding of float64,
// so that a client which comes back at the very second it was told is never refused.
const slack = 1e-6

// State is what is kept of one key: a bucket per policy, in the order of the policies. It is
// guarded by its owner, who must not call Decide or charge on it from two goroutines at once.
type State []rate.Limiter

// newState is the state of a key that has not been seen: every bucket is full. It lies in room if
// that is large enough.
func newState(policies []Policy, room State) State {
	if len(room) < len(policies) {
		room = make(State, len(policies))
	}
	for i, p := range policies {
		room[i] = *rate.NewLimiter(p.perSecond(), p.burst())
	}
	return room
}

// Verdict is the answer to one request.
type Verdict struct {
	// Allowed says that every policy has room for the cost.
	Allowed bool
	// Wait is how many seconds must pass until the same request is allowed, if nobody else uses the
	// key: at least 1. It is 0 for an allowed request.
	Wait int
	// Buckets are the policies' own answers, in their order; those past the last policy are zero.
	Buckets [maxPolicies]Bucket
}

// Bucket is what one policy has to say.
type Bucket struct {
	// Remaining is how many requests are left after this one, rounded down.
	Remaining int
	// Next is in how many seconds there is one more, rounded up; 0 if the bucket is full.
	Next int
	// Wait is in how many seconds there is room for the cost, rounded up; 0 if there is room now.
	Wait int
}

// Decide says whether a request of the given cost is allowed at now. All policies must have room,
// and none is charged here: the owner of the state persists an allowed request with charge.
func Decide(now time.Time, state State, cost int) Verdict {
	v := Verdict{Allowed: true}
	var tokens [maxPolicies]float64
	for i := range state {
		tokens[i] = state[i].TokensAt(now)
		if missing := float64(cost) - slack - tokens[i]; missing > 0 {
			v.Allowed = false
			v.Buckets[i].Wait = seconds(missing, state[i].Limit())
			v.Wait = max(v.Wait, v.Buckets[i].Wait)
		}
	}
	for i := range state {
		left := tokens[i] + slack
		if v.Allowed {
			left -= float64(cost)
		}
		whole := math.Floor(left)
		v.Buckets[i].Remaining = int(whole)
		if left < float64(state[i].Burst()) {
			v.Buckets[i].Next = seconds(whole+1-left, state[i].Limit())
		}
	}
	return v
}

// seconds is how long tokens take to come, in whole seconds, at least 1.
func seconds(tokens float64, perSecond rate.Limit) int {
	return max(1, int(math.Ceil(tokens/float64(perSecond))))
}

// charge takes the cost of an allowed request out of every bucket.
func (s State) charge(now time.Time, cost int) {
	for i := range s {
		// A reservation, as Allow would refuse what slack has forgiven.
		s[i].ReserveN(now, cost)
	}
}

// idle says that the state is that of a key which has not been seen: forgetting it changes nothing.
func (s State) idle(now time.Time) bool {
	for i := range s {
		if s[i].TokensAt(now) < float64(s[i].Burst()) {
			return false
		}
	}
	return true
}
