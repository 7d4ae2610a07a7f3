package shared

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

const (
	// ramp is how long it takes after Redis is back until it is asked for every decision again, so
	// that neither it nor the network meets all instances' calls at once.
	ramp = time.Second
	// rampStart is the share of the calls that are let through at once.
	rampStart = 0.1
	// probeEvery is the time between two probes, and as much again at random at most.
	probeEvery = 100 * time.Millisecond
	// warmTimeout bounds the connecting before a probe.
	warmTimeout = 300 * time.Millisecond
	// probes is how many must succeed in a row.
	probes = 2
	// doubtEvery is the least time between two failures of which it is asked whether they are one.
	doubtEvery = time.Second
)

// ErrDown says that Redis cannot decide now. It comes without delay while Redis is known to be away.
var ErrDown = errors.New("redis cannot decide now")

// downError is ErrDown with its cause.
type downError struct{ cause error }

func (e *downError) Error() string { return fmt.Sprintf("%v: %v", ErrDown, e.cause) }
func (e *downError) Unwrap() error { return e.cause }
func (*downError) Is(err error) bool {
	return err == ErrDown
}

// era is a time in which Redis answers. The first failure ends it for all who wait, and the prober
// begins the next one: a late failure of an old era cannot end a new one.
type era struct {
	over    atomic.Bool
	down    chan struct{} // closed when the era is over
	cause   error         // of the end, set before down is closed
	ended   time.Time     // likewise
	began   time.Time
	ramping atomic.Bool
}

func newEra(began time.Time, ramping bool) *era {
	e := &era{down: make(chan struct{}), began: began}
	e.ramping.Store(ramping)
	return e
}

// admits says whether a call may go to Redis: all may but in the first second after it came back.
func (e *era) admits() bool {
	if e.over.Load() {
		return false
	}
	if !e.ramping.Load() {
		return true
	}
	since := time.Since(e.began)
	if since >= ramp {
		e.ramping.Store(false)
		return true
	}
	return rand.Float64() < rampStart+(1-rampStart)*float64(since)/float64(ramp)
}

// end ends the era, and says whether it had not ended before.
func (e *era) end(cause error) bool {
	if !e.over.CompareAndSwap(false, true) {
		return false
	}
	e.cause, e.ended = cause, time.Now()
	close(e.down)
	return true
}

// fail ends the era because of cause, and looks for the end of the failure.
func (l *Link) fail(e *era, cause error) {
	if l.ctx.Err() != nil || !e.end(cause) {
		return
	}
	l.stats.opened.Add(1)
	l.spawn(func() { l.probe(e) })
}

// probe waits until Redis answers in time, and begins a new era. At first, but not more often than
// once a second, it is asked at once: what was one late answer, because this process or the network
// was slow for a moment, shall not count as an outage.
func (l *Link) probe(e *era) {
	if l.doubted.IsZero() || e.ended.Sub(l.doubted) >= doubtEvery {
		l.doubted = e.ended
		if l.probeOnce() == nil {
			l.stats.hiccups.Add(1)
			l.era.Store(newEra(e.began, e.ramping.Load()))
			return
		}
	}
	l.log.Load().Warn("redis does not answer, limits go by on_store_error until it does", "error", e.cause)
	for good := 0; good < probes; {
		wait := time.NewTimer(probeEvery + rand.N(probeEvery))
		select {
		case <-wait.C:
		case <-l.ctx.Done():
			wait.Stop()
			return
		}
		good++
		if err := l.probeOnce(); err != nil {
			good = 0
			l.stats.probesFailed.Add(1)
		}
	}
	now := time.Now()
	l.log.Load().Info("redis answers again", "after", now.Sub(e.ended).Round(time.Millisecond))
	l.era.Store(newEra(now, true))
}

// probeOnce connects if need be, and then makes a decision within the deadline of any other.
func (l *Link) probeOnce() error {
	ctx, cancel := context.WithTimeout(l.ctx, warmTimeout)
	defer cancel()
	if err := l.runner.warm(ctx); err != nil {
		return err
	}
	ctx, cancel = context.WithTimeout(l.ctx, l.deadline)
	defer cancel()
	c := &call{args: appendArgs(nil, takeHash, prefix+"probe", "charge", 1, 1, probeRates), done: make(chan struct{}, 1)}
	l.runner.run(ctx, []*call{c})
	return c.err
}
