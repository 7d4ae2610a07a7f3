package jobs

import (
	"maps"
	"math/rand/v2"
	"net/url"
	"sync"
	"time"
)

// A target that is down must not use up the attempts of a thousand jobs. After some failures in a row
// nothing more is fetched for it; one job after another then finds out whether it is back, and its load
// grows from there. The same slow start follows a silence, as what slept may be cold.

const (
	// tripAfter is how many pushes in a row fail before a target counts as down.
	tripAfter = 5
	// firstPause and longestPause bound the time until a target that is down is tried again.
	firstPause, longestPause = 2 * time.Second, time.Minute
	// idleAfter is the silence after which a target is started slowly.
	idleAfter = time.Minute
	// idleStart is how many pushes a target gets at first after a silence.
	idleStart = 4
	// growEvery is how often the number of pushes at once doubles while all of them are under way.
	growEvery = time.Second
	// fullSpeed is the number of pushes at once from which on the start is over.
	fullSpeed = 1024
	// maxTargets bounds the memory; targets beyond it have no breaker, until a sweep finds some idle.
	maxTargets = 4096
	// roomEvery is the time between two such sweeps.
	roomEvery = time.Second
)

// breakers are those of all targets, by origin.
type breakers struct {
	mu    sync.Mutex
	all   map[string]*breaker
	swept time.Time // when those idle were last looked for, to make room
}

// breaker is what is known of one target. While pause is above 0 it is down: until is when the next
// probe may go.
type breaker struct {
	failures int // in a row
	pause    time.Duration
	until    time.Time
	inFlight int
	limit    int // of inFlight
	grown    time.Time
	last     time.Time
}

func newBreakers() *breakers { return &breakers{all: map[string]*breaker{}} }

// originOf is what a breaker is kept by, empty for what is no URL.
func originOf(target string) string {
	u, err := url.Parse(target)
	if err != nil || u.Host == "" {
		return ""
	}
	return u.Scheme + "://" + u.Hostname() + ":" + portOf(u)
}

// of is the breaker of the target, nil if it has none. The caller holds b.mu.
func (b *breakers) of(target string, now time.Time) *breaker {
	origin := originOf(target)
	if origin == "" {
		return nil
	}
	t, ok := b.all[origin]
	if !ok {
		if len(b.all) >= maxTargets && now.Sub(b.swept) >= roomEvery {
			b.swept = now
			maps.DeleteFunc(b.all, func(_ string, old *breaker) bool {
				return old.inFlight == 0 && old.pause == 0 && now.Sub(old.last) > idleAfter
			})
		}
		if len(b.all) >= maxTargets {
			return nil
		}
		t = &breaker{limit: idleStart, grown: now, last: now}
		b.all[origin] = t
	}
	if t.inFlight == 0 && t.pause == 0 && now.Sub(t.last) > idleAfter {
		t.limit, t.grown = idleStart, now
	}
	// Long jobs say late that all is well: while nothing fails, time says it too.
	if t.pause == 0 && t.failures == 0 && t.inFlight >= t.limit && now.Sub(t.grown) >= growEvery {
		t.limit, t.grown = min(2*t.limit, fullSpeed), now
	}
	return t
}

// room is how many of want pushes to the target may start now.
func (b *breakers) room(target string, want int) int {
	if target == "" {
		return want
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	t := b.of(target, now)
	switch {
	case t == nil:
		return want
	case t.pause > 0 && (now.Before(t.until) || t.inFlight > 0):
		return 0
	case t.pause > 0:
		return min(want, 1)
	case t.limit >= fullSpeed:
		return want
	}
	return max(0, min(want, t.limit-t.inFlight))
}

// begin says whether a push may go now; if not, when to ask again. Each begun push must end.
func (b *breakers) begin(target string) (again time.Duration, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	t := b.of(target, now)
	if t == nil {
		return 0, true
	}
	if t.pause > 0 {
		if wait := t.until.Sub(now); wait > 0 {
			return wait + rand.N(t.pause/4+1), false
		}
		if t.inFlight > 0 {
			return time.Second + rand.N(time.Second), false
		}
	}
	t.inFlight++
	t.last = now
	return 0, true
}

// outcome is what a push says about its target.
type outcome int

const (
	targetWell outcome = iota // it answered, also if it refused the job
	targetDown                // no answer, or one of a server in trouble
	targetMute                // the push was called off by us
)

// end is called once for each begun push. down is how long the target is left alone, 0 if it is not
// down; tripped says that this push brought it about.
func (b *breakers) end(target string, o outcome) (down time.Duration, tripped bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	t := b.of(target, now)
	if t == nil {
		return 0, false
	}
	t.inFlight = max(0, t.inFlight-1)
	t.last = now
	switch o {
	case targetWell:
		if t.failures, t.limit = 0, min(t.limit+1, fullSpeed); t.pause > 0 {
			t.pause, t.limit = 0, 2
		}
	case targetDown:
		if t.failures++; t.pause == 0 && t.failures < tripAfter {
			return 0, false
		}
		if tripped = !now.Before(t.until); tripped {
			t.pause = min(max(2*t.pause, firstPause), longestPause)
			t.until = now.Add(t.pause + rand.N(t.pause/4+1))
			t.limit = 1
		}
	case targetMute:
	}
	if t.pause == 0 {
		return 0, false
	}
	return max(t.until.Sub(now), time.Millisecond), tripped
}
