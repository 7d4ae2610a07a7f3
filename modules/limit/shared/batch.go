package shared

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"
)

const (
	// queued bounds the calls that wait for their batch; abandoned ones are among them.
	queued = 1024
	// perBatch bounds the calls that travel together.
	perBatch = 256
	// batches bounds the batches under way: as many as leave within the deadline, one every stagger.
	batches = int32(Deadline / stagger)
	// stagger is how long a batch waits for the one before it to return. On a fast link batches go
	// one by one, and each is as long as the round trip makes it; on a slow one they overlap.
	stagger = 500 * time.Microsecond
	// slack is what a batch has beyond the deadline of its calls, so that it is they who end in time.
	slack = 10 * time.Millisecond
)

// Calls are put into batches here and not by go-redis's AutoPipeline, which is experimental and sends
// its batches without the deadlines of those who wait for them.

// runner speaks to Redis. All of it obeys ctx.
type runner interface {
	// run sends the calls in one round trip and fills in their text and err.
	run(ctx context.Context, calls []*call)
	// warm connects to every server that decides.
	warm(ctx context.Context) error
	// beat writes this instance among the live ones and counts them.
	beat(ctx context.Context) (int, error)
	// leave takes this instance from the live ones.
	leave(ctx context.Context)
}

// call is one command on its way. Either somebody waits for done, or then is called.
type call struct {
	args []any
	text string
	err  error
	done chan struct{} // buffered
	then func(*call)   // with text and err set; must not block
	era  *era
	left atomic.Bool // nobody waits for it any more
	time *time.Timer
}

func newCall() *call {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &call{done: make(chan struct{}, 1), time: t, args: make([]any, 0, argRates+6)}
}

func (l *Link) call() *call { return l.calls.Get().(*call) }

// errLate says that no answer came in time.
var errLate = errors.New("no answer within " + Deadline.String())

// do sends a call and waits for its answer, for Deadline at most.
func (l *Link) do(ctx context.Context, c *call, text *string) error {
	l.begin()
	l.stats.calls.Add(1)
	if err := ctx.Err(); err != nil {
		l.calls.Put(c)
		return err
	}
	e := l.era.Load()
	if !e.admits() {
		l.calls.Put(c)
		return l.refuse(e)
	}
	c.era = e
	c.time.Reset(l.deadline)
	select {
	case l.queue <- c:
	default:
		select {
		case l.queue <- c:
		case <-c.time.C:
			return l.late(e)
		case <-e.down:
			return l.refuse(e)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	l.launch()
	select {
	case <-c.done:
		return l.finish(c, text)
	case <-c.time.C:
		select {
		case <-c.done: // both at once: this process was slow, not Redis
			return l.finish(c, text)
		default:
		}
		c.left.Store(true)
		return l.late(e)
	case <-e.down:
		c.left.Store(true)
		return l.refuse(e)
	case <-ctx.Done():
		c.left.Store(true)
		return ctx.Err()
	}
}

func (l *Link) late(e *era) error {
	l.stats.late.Add(1)
	l.fail(e, errLate)
	return &downError{errLate}
}

func (l *Link) refuse(e *era) error {
	l.stats.refused.Add(1)
	if !e.over.Load() {
		return errRamp
	}
	return ErrDown
}

var errRamp = &downError{errors.New("redis has just come back and is not asked for every decision yet")}

// finish takes the answer, and the call can be used again.
func (l *Link) finish(c *call, text *string) error {
	c.time.Stop()
	err := c.err
	if text != nil {
		*text = c.text
	}
	c.text, c.err, c.era = "", nil, nil
	l.calls.Put(c)
	if err != nil {
		return &downError{err}
	}
	return nil
}

// send sends a call that nobody waits for, if the queue has room. then is called once in any case.
func (l *Link) send(c *call) {
	l.begin()
	l.stats.calls.Add(1)
	e := l.era.Load()
	c.era = e
	if !e.admits() {
		c.err = l.refuse(e)
		c.then(c)
		return
	}
	select {
	case l.queue <- c:
		l.launch()
		if l.ctx.Err() != nil { // closed in between
			l.drain()
		}
	default:
		c.err = &downError{errors.New("too many calls wait")}
		c.then(c)
	}
}

// launch makes a batch of what waits, unless one has left a moment ago: it takes along what came
// meanwhile when it is back, or another one follows it after stagger.
func (l *Link) launch() {
	for {
		n := l.flying.Load()
		if n >= batches {
			return
		}
		if n > 0 && time.Since(l.epoch)-time.Duration(l.left.Load()) < stagger {
			if l.armed.CompareAndSwap(false, true) {
				time.AfterFunc(stagger, l.follow)
			}
			return
		}
		if l.flying.CompareAndSwap(n, n+1) {
			break
		}
	}
	l.left.Store(int64(time.Since(l.epoch)))
	if !l.spawn(l.fly) {
		l.flying.Add(-1)
	}
}

// follow launches a batch for what still waits.
func (l *Link) follow() {
	l.armed.Store(false)
	if len(l.queue) > 0 && l.ctx.Err() == nil {
		l.launch()
	}
}

// fly carries batches until nothing waits.
func (l *Link) fly() {
	var batch []*call
	for {
		// Those who have just been answered ask again now.
		runtime.Gosched()
		batch = batch[:0]
		for more := true; more && len(batch) < perBatch; {
			select {
			case c := <-l.queue:
				batch = append(batch, c)
			default:
				more = false
			}
		}
		if len(batch) == 0 {
			l.flying.Add(-1)
			if len(l.queue) > 0 { // it came after the look and before that
				l.launch()
			}
			return
		}
		l.left.Store(int64(time.Since(l.epoch)))
		l.exec(batch)
		clear(batch)
	}
}

// drain answers the calls that wait when the link is closed.
func (l *Link) drain() {
	for {
		select {
		case c := <-l.queue:
			c.err = ErrDown
			c.answer()
		default:
			return
		}
	}
}

func (c *call) answer() {
	if c.then != nil {
		c.then(c)
		return
	}
	c.done <- struct{}{}
}

// exec runs one batch and gives each call its answer.
func (l *Link) exec(batch []*call) {
	wanted := make([]*call, 0, len(batch))
	for _, c := range batch {
		switch {
		case c.left.Load():
		case c.era.over.Load():
			c.err = ErrDown
			c.answer()
		default:
			wanted = append(wanted, c)
		}
	}
	if len(wanted) > 0 {
		ctx, cancel := context.WithTimeout(l.ctx, l.deadline+slack)
		l.runner.run(ctx, wanted)
		cancel()
		l.stats.trips.Add(1)
	}
	for _, c := range wanted {
		if c.err != nil {
			l.stats.failed.Add(1)
			if isOutage(c.err) && l.ctx.Err() == nil {
				l.fail(c.era, c.err)
			}
		}
		c.answer()
	}
}

func jitter(d time.Duration) time.Duration {
	return d - d/5 + rand.N(2*d/5)
}
