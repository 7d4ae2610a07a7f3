package shared

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

const (
	leaseShards = 64
	// MaxLeases bounds the keys of a zone that hold tokens. Others are counted exactly.
	MaxLeases = 1 << 16
	// sweepEvery is how often idle tokens are looked for.
	sweepEvery = 250 * time.Millisecond
	// settling bounds the wait for tokens to be given back at the end.
	settling = 500 * time.Millisecond
)

// Leases count a zone's keys together with the other instances, with far fewer round trips than
// requests: an instance takes tokens of a hot key in batches and decides from them.
//
// All that is charged in Redis is charged before it is used. So the instances together allow, in any
// span of time, at most what the policies allow in it and besides what was held when it began: one
// batch of each instance, together at most a tenth of the smallest policy's size. With fewer than 10
// tokens for each instance nothing is leased, and counting is exact. An instance that ends without
// Close loses the tokens that it holds: less is allowed then, never more. While an instance comes
// up, the others learn of it within about a second.
type Leases struct {
	link   *Link
	zone   string
	shards [leaseShards]leaseShard
	stats  leaseCounters
	wanted atomic.Bool // the sweeper runs
	closed atomic.Bool
	stop   context.CancelFunc
	ctx    context.Context
	work   sync.WaitGroup
	life   sync.Mutex
}

type leaseCounters struct {
	asked, prefetched, joined, granted, returned, lost, unleased atomic.Uint64
}

// LeaseStats are the counts of a zone.
type LeaseStats struct {
	// Local decisions needed no round trip, Asked ones did. Joined counts the waits for that of another request.
	Local, Asked, Joined uint64
	// Prefetched counts the batches that were taken in the background.
	Prefetched uint64
	// Granted counts the tokens taken, Returned those given back unused, Lost those that could not be.
	Granted, Returned, Lost uint64
	// Unleased decisions were exact because too many keys hold tokens.
	Unleased uint64
	// Keys is how many keys are held now.
	Keys int
}

// NewLeases are the leases of a zone over a link, which the caller holds until it has closed them. It
// starts nothing.
func NewLeases(link *Link, zone string) *Leases {
	l := &Leases{link: link, zone: zone}
	l.ctx, l.stop = context.WithCancel(context.Background())
	for i := range l.shards {
		l.shards[i].keys = map[uint64]*lease{}
	}
	return l
}

// Stats are the counts until now.
func (l *Leases) Stats() LeaseStats {
	c := &l.stats
	s := LeaseStats{
		Asked: c.asked.Load(), Joined: c.joined.Load(), Prefetched: c.prefetched.Load(),
		Granted: c.granted.Load(), Returned: c.returned.Load(), Lost: c.lost.Load(), Unleased: c.unleased.Load(),
	}
	for i := range l.shards {
		l.shards[i].mu.Lock()
		s.Keys += len(l.shards[i].keys)
		s.Local += l.shards[i].local
		l.shards[i].mu.Unlock()
	}
	return s
}

// same says cheaply whether rates are those that a lease is about. If not, Acquire makes them so.
func same(a, b []policy.Rate) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }

func (l *Leases) shard(local uint64) *leaseShard { return &l.shards[local>>58] }

// Take decides from the tokens held for the key, or from what is known to refuse it; ok is false if
// it must be asked for by Acquire. now is the local time in nanoseconds since the Unix epoch, and
// local a hash of the key within the zone that clients cannot choose.
func (l *Leases) Take(now int64, local uint64, rates []policy.Rate, cost int64) (v policy.Verdict, ok bool) {
	s := l.shard(local)
	s.mu.Lock()
	e := s.keys[local]
	if e == nil {
		s.mu.Unlock()
		return v, false
	}
	low := false
	if same(rates, e.rates) && e.take(now, rates, cost, &v) {
		ok = true
		s.local++
		low = v.Allowed && e.flight == nil && e.batch > 1 && e.tokens < e.batch/2
	}
	s.mu.Unlock()
	if low {
		l.prefetch(now, local)
	}
	return v, ok
}

// Acquire decides by asking Redis, and takes a batch along if the key is hot. Requests of the same
// key that come meanwhile wait for the same answer. The error is as that of Link.Take.
func (l *Leases) Acquire(ctx context.Context, now int64, local uint64, id ID, rates []policy.Rate, cost int64) (policy.Verdict, error) {
	if cost <= 0 || l.closed.Load() {
		return l.link.Take(ctx, l.zone, id, rates, cost)
	}
	l.sweeping()
	var v policy.Verdict
	var late <-chan time.Time
	for {
		s := l.shard(local)
		s.mu.Lock()
		e := s.keys[local]
		if e == nil {
			if len(s.keys) >= MaxLeases/leaseShards {
				s.mu.Unlock()
				l.stats.unleased.Add(1)
				return l.link.Take(ctx, l.zone, id, rates, cost)
			}
			e = &lease{asked: now - int64(trust) - 1, used: now}
			s.keys[local] = e
		}
		if e.id, e.rates = id, rates; e.take(now, rates, cost, &v) {
			s.local++
			s.mu.Unlock()
			return v, nil
		}
		if e.flight == nil {
			return l.ask(ctx, s, e, now, cost)
		}
		f := e.flight
		e.waiting += cost
		s.mu.Unlock()
		l.stats.joined.Add(1)
		if late == nil {
			timer := time.NewTimer(l.link.deadline)
			defer timer.Stop()
			late = timer.C
		}
		var err error
		select {
		case <-f.done:
			err = f.err
		case <-late:
			err = &downError{errLate}
		case <-ctx.Done():
			err = ctx.Err()
		}
		s.mu.Lock()
		e.waiting -= cost
		s.mu.Unlock()
		if err != nil {
			return policy.Verdict{}, err
		}
	}
}

// ask asks Redis for what is missing of the cost, what others wait for, and a batch. The shard is
// locked; it unlocks it.
func (l *Leases) ask(ctx context.Context, s *leaseShard, e *lease, now, cost int64) (policy.Verdict, error) {
	l.stats.asked.Add(1)
	f := &flight{done: make(chan struct{})}
	e.flight = f
	batch := e.want(now, l.link.live.Load())
	held, rates, id := e.tokens, e.rates, e.id // less than the cost
	e.tokens = 0
	need := cost - held
	most := need + max(batch, e.waiting)
	s.mu.Unlock()

	v, r, err := l.link.take(ctx, Key(l.zone, id), rates, need, most)

	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(f.done)
	e.flight = nil
	switch {
	case err != nil:
		e.tokens += held
		if ctx.Err() == nil { // else only who asked has gone: the others ask themselves
			f.err = err
		}
	case r.granted >= need:
		l.stats.granted.Add(uint64(r.granted))
		e.tokens += r.granted - need
		e.learn(now, &r, batch)
		e.spent, e.used = cost, now
		v = policy.Verdict{Allowed: true}
		v.Describe(r.now, rates, e.state[:])
	default: // v says when there is what is missing
		e.tokens += held
		e.learn(now, &r, batch)
	}
	return v, err
}

// prefetch takes the next batch in the background.
func (l *Leases) prefetch(now int64, local uint64) {
	s := l.shard(local)
	s.mu.Lock()
	e := s.keys[local]
	if e == nil || e.flight != nil {
		s.mu.Unlock()
		return
	}
	batch := e.want(now, l.link.live.Load())
	need := batch - e.tokens
	if need < max(1, batch/2) || l.closed.Load() {
		e.batch = batch // not low any more
		s.mu.Unlock()
		return
	}
	f := &flight{done: make(chan struct{})}
	e.flight = f
	c := newCall()
	rates := e.rates
	c.args = appendArgs(c.args, takeHash, Key(l.zone, e.id), "take", 1, need, rates)
	s.mu.Unlock()
	l.stats.prefetched.Add(1)
	sent := time.Now()
	c.then = func(c *call) {
		var r reply
		err := c.err
		if err == nil {
			err = r.parse(c.text, rates)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		defer close(f.done)
		e.flight, f.err = nil, err
		if err == nil {
			l.stats.granted.Add(uint64(max(0, r.granted)))
			e.tokens += r.granted
			e.learn(now+int64(time.Since(sent)), &r, batch)
		}
	}
	l.link.send(c)
}

// Charge takes units after the fact, whether or not there is room; a negative cost gives back. It
// does not wait; what cannot be sent because Redis is away is lost.
func (l *Leases) Charge(now int64, local uint64, id ID, rates []policy.Rate, cost int64) {
	s := l.shard(local)
	s.mu.Lock()
	if e := s.keys[local]; e != nil {
		policy.Charge(now+e.offset, rates, e.state[:], cost)
		part := min(cost, e.tokens)
		if cost < 0 { // kept for the next request, if that is within a batch
			part = max(cost, min(0, e.tokens-e.batch))
		}
		e.tokens -= part
		cost -= part
	}
	s.mu.Unlock()
	if cost != 0 {
		l.charge(id, rates, cost, nil)
	}
}

// charge sends a charge that nobody waits for.
func (l *Leases) charge(id ID, rates []policy.Rate, cost int64, done func()) {
	c := newCall()
	c.args = appendArgs(c.args, takeHash, Key(l.zone, id), "charge", cost, 0, rates)
	c.then = func(c *call) {
		n := uint64(max(cost, -cost))
		switch {
		case c.err != nil:
			l.stats.lost.Add(n)
		case cost < 0:
			l.stats.returned.Add(n)
		}
		if done != nil {
			done()
		}
	}
	l.link.send(c)
}

// sweeping starts the sweeper, once.
func (l *Leases) sweeping() {
	if l.wanted.Load() || !l.wanted.CompareAndSwap(false, true) {
		return
	}
	l.life.Lock()
	defer l.life.Unlock()
	if l.closed.Load() {
		return
	}
	l.work.Go(func() {
		tick := time.NewTicker(sweepEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				l.sweep(time.Now().UnixNano(), nil)
			case <-l.ctx.Done():
				return
			}
		}
	})
}

// sweep gives back the tokens that nobody has taken for a while and forgets their keys.
func (l *Leases) sweep(now int64, all *sync.WaitGroup) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		var old []*lease
		for local, e := range s.keys {
			if all == nil && now-max(e.used, e.asked) < int64(idle) || e.flight != nil {
				continue
			}
			delete(s.keys, local)
			if e.tokens > 0 {
				old = append(old, e)
			}
		}
		s.mu.Unlock()
		for _, e := range old {
			if all == nil {
				l.charge(e.id, e.rates, -e.tokens, nil)
				continue
			}
			all.Add(1)
			l.charge(e.id, e.rates, -e.tokens, all.Done)
		}
	}
}

// Close gives all tokens back, and waits for that for half a second at most. Requests that come
// later are counted exactly.
func (l *Leases) Close() {
	l.life.Lock()
	was := l.closed.Swap(true)
	l.life.Unlock()
	if was {
		return
	}
	l.stop()
	l.work.Wait()
	var sent sync.WaitGroup
	l.sweep(0, &sent)
	done := make(chan struct{})
	go func() {
		sent.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(settling):
	}
}
