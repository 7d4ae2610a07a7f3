// Package shared counts for all instances together, in Redis: exactly, with one round trip for each
// decision, or by leases of tokens that most decisions need no round trip for. It never waits longer
// than its deadline, and knows when Redis is away: then it says so at once, and the caller decides
// what its configuration wants done.
package shared

import (
	"context"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/redisconn"
	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

// Deadline bounds every decision, with the wait for its turn.
const Deadline = 20 * time.Millisecond

// linger is how long a link works on after the last user gave it back: for the requests that are in
// flight when a configuration goes. It is less than that of the connection.
const linger = 25 * time.Second

// Link is the way to one Redis, the same for all of the process that use its connection. It starts
// working at the first decision.
type Link struct {
	runner runner
	log    atomic.Pointer[slog.Logger]
	era    atomic.Pointer[era]
	// doubted is when it was last asked whether a failure is one. It is the prober's, of which there is one at a time.
	doubted time.Time
	queue   chan *call
	flying  atomic.Int32 // batches
	left    atomic.Int64 // when the last batch left, since epoch
	armed   atomic.Bool  // one follows it
	epoch   time.Time
	live    atomic.Int64 // instances, 0 if none has been counted yet
	// deadline is Deadline; tests that are not about it have more.
	deadline time.Duration
	calls    sync.Pool
	stats    counters

	ctx   context.Context
	stop  context.CancelFunc
	start sync.Once
	life  sync.Mutex // between spawning and closing
	work  sync.WaitGroup

	conn  *redisconn.Conn
	refs  int         // guarded by links.mu
	timer *time.Timer // closes the link, if refs is 0
}

var links = struct {
	mu  sync.Mutex
	all map[*redisconn.Conn]*Link
}{all: map[*redisconn.Conn]*Link{}}

// Acquire is the link over a connection, which the caller keeps open until it has given the link
// back by Release. It dials and starts nothing. log is where the link says from now on that Redis
// goes and comes; nil for nowhere.
func Acquire(conn *redisconn.Conn, log *slog.Logger) *Link {
	links.mu.Lock()
	defer links.mu.Unlock()
	l := links.all[conn]
	if l == nil {
		l = newLink(newRedisRunner(conn))
		l.conn = conn
		links.all[conn] = l
	}
	if log != nil {
		l.log.Store(log)
	}
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	l.refs++
	return l
}

// Release gives the link back. It works on for 25 s, for the requests in flight.
func (l *Link) Release() {
	links.mu.Lock()
	defer links.mu.Unlock()
	if l.refs--; l.refs == 0 {
		l.timer = time.AfterFunc(linger, l.expire)
	}
}

func (l *Link) expire() {
	links.mu.Lock()
	if l.refs > 0 || links.all[l.conn] != l {
		links.mu.Unlock()
		return
	}
	delete(links.all, l.conn)
	links.mu.Unlock()
	l.close()
}

func newLink(r runner) *Link {
	l := &Link{runner: r, queue: make(chan *call, queued), epoch: time.Now(), deadline: Deadline}
	l.calls.New = func() any { return newCall() }
	l.log.Store(slog.New(slog.DiscardHandler))
	l.ctx, l.stop = context.WithCancel(context.Background())
	l.era.Store(newEra(time.Now(), false))
	return l
}

// close ends the work. Calls that wait are answered ErrDown, as are all later ones.
func (l *Link) close() {
	l.life.Lock()
	l.stop()
	l.life.Unlock()
	l.work.Wait()
	l.era.Load().end(context.Canceled) // nothing begins another
	l.drain()
}

// begin starts what runs in the background, once.
func (l *Link) begin() {
	l.start.Do(func() {
		l.spawn(l.beat)
	})
}

// spawn runs f in the background, unless the link is closed.
func (l *Link) spawn(f func()) bool {
	l.life.Lock()
	defer l.life.Unlock()
	if l.ctx.Err() != nil {
		return false
	}
	l.work.Go(f)
	return true
}

// Up says whether Redis answers, and if not since when it does not.
func (l *Link) Up() (bool, time.Time) {
	e := l.era.Load()
	if !e.over.Load() {
		return true, time.Time{}
	}
	<-e.down // closed by now or in a moment
	return false, e.ended
}

// Instances is how many instances count together over this Redis, at least 1: those that have
// written themselves there within the last 3 s, or did when it was last seen.
func (l *Link) Instances() int { return int(max(1, l.live.Load())) }

// Take decides about a request of a key's and charges it if it is allowed, in one round trip. The
// error is ErrDown if Redis does not answer within Deadline, or that of ctx if it ends first; the
// request may have been charged then. A cost of 0 shows where the key stands and writes nothing, and so
// does one below.
func (l *Link) Take(ctx context.Context, zone string, id ID, rates []policy.Rate, cost int64) (policy.Verdict, error) {
	cost = max(0, cost)
	v, _, err := l.take(ctx, Key(zone, id), rates, cost, cost)
	return v, err
}

// Show says where a key stands, and writes nothing.
func (l *Link) Show(ctx context.Context, zone string, id ID, rates []policy.Rate) (policy.Verdict, error) {
	return l.Take(ctx, zone, id, rates, 0)
}

// Charge takes units after the fact, whether or not there is room; a negative cost gives back.
func (l *Link) Charge(ctx context.Context, zone string, id ID, rates []policy.Rate, cost int64) error {
	if cost == 0 {
		return nil
	}
	c := l.call()
	c.args = appendArgs(c.args, takeHash, Key(zone, id), "charge", cost, 0, rates)
	return l.do(ctx, c, nil)
}

// Reset forgets what a key has used.
func (l *Link) Reset(ctx context.Context, zone string, id ID) error {
	c := l.call()
	c.args = append(c.args[:0], "del", Key(zone, id))
	return l.do(ctx, c, nil)
}

// take asks for cost units at least and for most if there are so many. It returns how many are taken.
func (l *Link) take(ctx context.Context, key string, rates []policy.Rate, cost, most int64) (policy.Verdict, reply, error) {
	c := l.call()
	c.args = appendArgs(c.args, takeHash, key, "take", cost, most, rates)
	var text string
	if err := l.do(ctx, c, &text); err != nil {
		return policy.Verdict{}, reply{}, err
	}
	var r reply
	if err := r.parse(text, rates); err != nil {
		return policy.Verdict{}, reply{}, &downError{err}
	}
	return r.verdict(rates, cost), r, nil
}

// verdict is what the policies say of a request of that cost, from the state before it: the script
// has decided by the same arithmetic.
func (r *reply) verdict(rates []policy.Rate, cost int64) policy.Verdict {
	state := r.state
	return policy.Decide(r.now, rates, state[:], cost)
}

// beat keeps this instance among the live ones, about once a second.
func (l *Link) beat() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-l.ctx.Done():
			ctx, cancel := context.WithTimeout(context.Background(), 5*Deadline)
			defer cancel()
			if l.live.Load() > 0 {
				l.runner.leave(ctx)
			}
			return
		}
		ctx, cancel := context.WithTimeout(l.ctx, 10*Deadline)
		n, err := l.runner.beat(ctx)
		cancel()
		if err == nil {
			l.live.Store(int64(min(max(1, n), math.MaxInt32)))
		} else {
			l.stats.beatsFailed.Add(1)
		}
		timer.Reset(jitter(beatEvery))
	}
}
