package jobs

import (
	"slices"
	"strings"
	"time"
)

// reset ends what is held back of the queue, to the target if it is not empty, and returns how many routes
// that were.
func (b *breakers) reset(queue, target string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, o := range b.origins {
		for _, r := range o.routes {
			if !r.concerns(queue) || target != "" && target != r.name() || r.pause == 0 && !o.down {
				continue
			}
			r.release()
			o.down, o.failures = false, 0
			n++
		}
	}
	return n
}

// concerns reports whether pushes of the queue may be on the route.
func (r *route) concerns(queue string) bool { return r.key.queue == queue || r.key == routeKey{} }

// name is the origin and path, without what a query may hide.
func (r *route) name() string { return r.origin.name + r.key.path }

// The causes of a BreakerView.
const (
	causeUnreachable = "unreachable" // no connection, no TLS, or a proxy says so
	causeFailing     = "failing"     // the app answers with failures, or not in time
)

// BreakerView is a target whose pushes are held back, as this instance sees it.
type BreakerView struct {
	// Target is the scheme, host and port, and the path where that is judged by itself.
	Target string `json:"target"`
	// Cause is unreachable, or failing where the app answers with failures or not in time.
	Cause string    `json:"cause"`
	Since time.Time `json:"since"`
	// NextProbe is when one push finds out how things are. It may be past: then the next job does.
	NextProbe time.Time `json:"next_probe"`
}

// held are the targets of the queue that are held back, by name.
func (b *breakers) held(queue string) (views []BreakerView) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, o := range b.origins {
		for _, r := range o.routes {
			if r.concerns(queue) && r.pause > 0 {
				views = append(views, r.view())
			}
		}
	}
	slices.SortFunc(views, func(a, b BreakerView) int { return strings.Compare(a.Target, b.Target) })
	return views
}

// viewOf is the route of a trial.
func (b *breakers) viewOf(t *trial) BreakerView {
	b.mu.Lock()
	defer b.mu.Unlock()
	return t.route.view()
}

func (r *route) view() BreakerView {
	v := BreakerView{Target: r.name(), Cause: causeUnreachable, Since: r.since.UTC().Truncate(time.Millisecond), NextProbe: r.until.UTC().Truncate(time.Millisecond)}
	if r.cause == targetFailing {
		v.Cause = causeFailing
	}
	return v
}

// holding is the breaker that holds back a push of the queue to the target; ok is false if none does.
func (b *breakers) holding(queue, target string, opt Breaker) (v BreakerView, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.of(queue, target, opt, time.Now())
	if r == nil || r.pause == 0 {
		return BreakerView{}, false
	}
	return r.view(), true
}
