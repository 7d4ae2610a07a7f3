package integration

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gatehouse-proxy/gatehouse/integration/await"
	"github.com/gatehouse-proxy/gatehouse/integration/redistest"
	"github.com/gatehouse-proxy/gatehouse/internal/redisconn"
	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
	"github.com/gatehouse-proxy/gatehouse/modules/limit/shared"
)

// The decisions of shared limits while a real Redis is lost and comes back. Asserted is what a
// request may notice: how long it waits, how many are allowed, and how soon counting is shared again.

const (
	sharedQuota = 200 // per second and key
	sharedBurst = 50
	// late is what the machine adds to the deadline where tests share its processors.
	late = 10 * time.Millisecond
	// soon is within what time counting is shared again once Redis is back.
	soon = 2 * time.Second
)

// decision is one answer to a request.
type decision struct {
	at      time.Time // when it was there
	took    time.Duration
	key     int
	allowed bool
	err     error
}

// redisLoad makes decisions about some keys from several instances until it is stopped.
type redisLoad struct {
	t     *testing.T
	links []*shared.Link
	stop  context.CancelFunc
	work  sync.WaitGroup
	began time.Time
	mu    sync.Mutex
	all   []decision
}

// startRedisLoad asks over instances of their own, each with workers that ask once in 2 ms.
func startRedisLoad(t *testing.T, c redisconn.Config, instances, keys int) *redisLoad {
	t.Helper()
	p, err := policy.ParseRate(fmt.Sprintf("%d/1s", sharedQuota))
	if err != nil {
		t.Fatal(err)
	}
	p.Burst = sharedBurst
	rates := []policy.Rate{p.Compile()}
	ctx, stop := context.WithCancel(t.Context())
	l := &redisLoad{t: t, stop: stop, began: time.Now()}
	for range instances {
		conn, err := redisconn.New(c, nil)
		if err != nil {
			t.Fatal(err)
		}
		link := shared.Acquire(conn, nil)
		l.links = append(l.links, link)
		t.Cleanup(func() {
			link.Release()
			conn.Close()
		})
	}
	for _, link := range l.links {
		for w := range 4 {
			l.work.Go(func() {
				tick := time.NewTicker(2 * time.Millisecond)
				defer tick.Stop()
				for i := w; ; i++ {
					select {
					case <-tick.C:
					case <-ctx.Done():
						return
					}
					d := decision{key: i % keys}
					sum := sha256.Sum256([]byte{byte(d.key)})
					from := time.Now()
					v, err := link.Take(context.Background(), "load", shared.ID(sum[:16]), rates, 1)
					d.at = time.Now()
					d.took, d.allowed, d.err = d.at.Sub(from), v.Allowed, err
					l.mu.Lock()
					l.all = append(l.all, d)
					l.mu.Unlock()
				}
			})
		}
	}
	t.Cleanup(func() {
		stop()
		l.work.Wait()
	})
	return l
}

// since are the decisions from then on.
func (l *redisLoad) since(then time.Time) []decision {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.all, func(d decision) bool { return d.at.After(then) })
	if i < 0 {
		return nil
	}
	return slices.Clone(l.all[i:])
}

// awaitCounting waits until all instances are answered by Redis all the time.
func (l *redisLoad) awaitCounting() {
	l.t.Helper()
	await.For(l.t, "Redis to decide", func() error {
		all := l.since(time.Now().Add(-500 * time.Millisecond))
		if len(all) < 100 {
			return errors.New("few decisions")
		}
		for _, d := range all {
			if d.err != nil {
				return d.err
			}
		}
		return nil
	})
}

// awaitDown waits until each instance knows that Redis is away.
func (l *redisLoad) awaitDown() {
	l.t.Helper()
	await.For(l.t, "the instances to notice", func() error {
		for _, link := range l.links {
			if up, _ := link.Up(); up {
				return errors.New("an instance takes it for up")
			}
		}
		return nil
	})
}

// outages is how often an instance took Redis for lost.
func (l *redisLoad) outages() (n uint64) {
	for _, link := range l.links {
		s := link.Stats()
		n += s.Opened - s.Hiccups
	}
	return n
}

// recovers checks how long it took from back, when Redis could decide again, until it decides.
func (l *redisLoad) recovers(back time.Time) {
	l.t.Helper()
	before := l.outages()
	l.awaitCounting()
	var first, last time.Duration
	for _, d := range l.since(back) {
		if d.err == nil && first == 0 {
			first = d.at.Sub(back)
		}
		if d.err != nil {
			last = d.at.Sub(back)
		}
	}
	more := l.outages() - before
	l.t.Logf("redis decides again after %s, and everything after %s, with %d outages more", first.Round(time.Millisecond), last.Round(time.Millisecond), more)
	if first > soon {
		l.t.Errorf("it took %s until redis decided again, want %s at most", first, soon)
	}
	// A machine that is too busy to answer in time is one more outage, from which it recovers likewise.
	if last > soon && more == 0 {
		l.t.Errorf("it took %s until redis decided everything again, want %s at most", last, soon)
	}
}

// finish stops the load and checks how long requests waited, and how many were allowed: losses is
// how often Redis may have forgotten what was used.
func (l *redisLoad) finish(losses int) {
	l.t.Helper()
	l.stop()
	l.work.Wait()
	span := time.Since(l.began)
	var took []time.Duration
	allowed := map[int]int{}
	failed := 0
	for _, d := range l.all {
		took = append(took, d.took)
		if d.allowed {
			allowed[d.key]++
		}
		if d.err != nil {
			failed++
			if !errors.Is(d.err, shared.ErrDown) {
				l.t.Fatalf("got %v, want ErrDown", d.err)
			}
		}
	}
	slices.Sort(took)
	p99, p50 := took[len(took)*99/100], took[len(took)/2]
	l.t.Logf("%d decisions in %s, %d without redis; took %s at p50, %s at p99, %s at most", len(took), span.Round(time.Millisecond), failed, p50, p99, took[len(took)-1])
	if most := shared.Deadline + late; p99 > most {
		l.t.Errorf("decisions took %s at p99, want %s at most", p99, most)
	}
	most := int(sharedQuota*span.Seconds()) + 1 + sharedBurst*(1+losses)
	for key, n := range allowed {
		if n > most {
			l.t.Errorf("key %d: %d requests were allowed in %s, the limit is %d", key, n, span, most)
		}
	}
}

func TestSharedLimitsWithoutTheirRedis(t *testing.T) {
	s := redistest.Start(t)
	l := startRedisLoad(t, redisconn.Config{Addresses: []string{s.URL()}}, 2, 3)
	l.awaitCounting()

	s.Kill()
	l.awaitDown()
	pause(time.Second)
	s.Restart()
	l.recovers(time.Now())

	s.Stop()
	l.awaitDown()
	pause(time.Second)
	s.Cont()
	l.recovers(time.Now())
	l.finish(1)
}

func TestSharedLimitsOverASlowLink(t *testing.T) {
	s := redistest.Start(t)
	proxy := redistest.SlowProxy(t, s.Addr)
	l := startRedisLoad(t, redisconn.Config{Addresses: []string{proxy.URL()}}, 2, 3)
	l.awaitCounting()
	proxy.SetDelay(5 * time.Millisecond) // slow, but in time
	pause(time.Second)
	proxy.SetDelay(100 * time.Millisecond)
	l.awaitDown()
	pause(time.Second)
	proxy.SetDelay(0)
	l.recovers(time.Now())
	l.finish(0)
}

func TestSharedLimitsOverAClustersFailover(t *testing.T) {
	c := redistest.StartCluster(t)
	l := startRedisLoad(t, redisconn.Config{Addresses: c.URLs()}, 2, 20)
	l.awaitCounting()
	for i, lose := range []func(){c.Masters[0].Kill, c.Masters[1].Stop} {
		lose()
		l.awaitDown()
		c.AwaitFailover(t, []int{0, 1}[:i+1]...)
		l.recovers(time.Now())
	}
	c.Masters[1].Cont()
	l.finish(2)
}

func TestSharedLimitsOverASentinelsFailover(t *testing.T) {
	s := redistest.StartSentinel(t)
	l := startRedisLoad(t, redisconn.Config{Sentinel: s.Name, Addresses: s.Addrs()}, 2, 3)
	l.awaitCounting()
	s.Master.Kill()
	l.awaitDown()
	redistest.AwaitMaster(t, s.Replica)
	client := redis.NewSentinelClient(&redis.Options{Addr: s.Sentinels[0].Addr, Protocol: 2})
	defer func() { _ = client.Close() }()
	await.For(t, "a sentinel to name the new master", func() error {
		addr, err := client.GetMasterAddrByName(context.Background(), s.Name).Result()
		if err == nil && addr[1] != s.Replica.Port() {
			err = fmt.Errorf("it names %v", addr)
		}
		return err
	})
	l.recovers(time.Now())
	l.finish(1)
}

// pause lets the load go on for a while.
func pause(d time.Duration) { <-time.After(d) }
