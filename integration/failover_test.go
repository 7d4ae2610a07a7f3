package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gatehouse-proxy/gatehouse/integration/await"
	"github.com/gatehouse-proxy/gatehouse/integration/redistest"
	"github.com/gatehouse-proxy/gatehouse/modules/limit/shared"
)

// Two gateways over a Cluster, and over a master with sentinels, that lose their masters under load and go
// on with the replicas, with each on_store_error.

const (
	failoverQuota, failoverBurst = 15, 10 // per second and key, for both gateways: a third of what is asked for
	failoverKeys                 = 12     // over all masters of a Cluster
	// steady is how long Redis decides everything for a gateway to have recovered.
	steady = 300 * time.Millisecond
)

// answer is what a request to a gateway got.
type answer struct {
	at      time.Time
	took    time.Duration
	gateway int
	key     int
	status  int
	exact   bool // Redis decided
	again   bool // with Retry-After
}

// gatewayLoad asks gateways until it is stopped.
type gatewayLoad struct {
	t     *testing.T
	mode  string
	began time.Time
	stop  context.CancelFunc
	work  sync.WaitGroup
	mu    sync.Mutex
	all   []answer
}

// startGatewayLoad starts two gateways and asks each about 250 times a second, for all keys in turn.
func startGatewayLoad(t *testing.T, redis, mode string) *gatewayLoad {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	l := &gatewayLoad{t: t, mode: mode, stop: stop}
	c := client()
	var gateways []*instance
	for range 2 {
		gateways = append(gateways, startInstance(t, redis, fmt.Sprintf("quota %d/1s burst %d {\n\t\tzone z\n\t\tby {header.X-Key}\n\t\tcount exact\n\t\ton_store_error %s\n\t\theaders mode\n\t}", failoverQuota, failoverBurst, mode)))
	}
	l.began = time.Now()
	for g, in := range gateways {
		for w := range 2 {
			l.work.Go(func() {
				tick := time.NewTicker(8 * time.Millisecond)
				defer tick.Stop()
				for i := w * failoverKeys / 2; ; i++ {
					select {
					case <-tick.C:
					case <-ctx.Done():
						return
					}
					a := l.ask(c, in.url, g, i%failoverKeys)
					l.mu.Lock()
					l.all = append(l.all, a)
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

func (l *gatewayLoad) ask(c *http.Client, url string, gateway, key int) answer {
	a := answer{gateway: gateway, key: key}
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
	if err != nil {
		l.t.Error(err)
		return a
	}
	r.Header.Set("X-Key", "key"+strconv.Itoa(key))
	began := time.Now()
	resp, err := c.Do(r)
	a.at = time.Now()
	a.took = a.at.Sub(began)
	if err != nil {
		return a
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	a.status, a.exact, a.again = resp.StatusCode, resp.Header.Get("Gatehouse-Limit-Mode") == "z=exact", resp.Header.Get("Retry-After") != ""
	return a
}

func (l *gatewayLoad) since(then time.Time) []answer {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.all, func(a answer) bool { return a.at.After(then) })
	if i < 0 {
		return nil
	}
	return slices.Clone(l.all[i:])
}

// awaitCounting waits until Redis has decided everything for half a second.
func (l *gatewayLoad) awaitCounting() {
	l.t.Helper()
	await.For(l.t, "Redis to decide", func() error {
		all := l.since(time.Now().Add(-500 * time.Millisecond))
		if len(all) < 50 {
			return fmt.Errorf("%d answers in half a second", len(all))
		}
		for _, a := range all {
			if !a.exact {
				return fmt.Errorf("the answer %d did not come by Redis", a.status)
			}
		}
		return nil
	})
}

// awaitDown waits until both gateways decide without Redis.
func (l *gatewayLoad) awaitDown(lost time.Time) {
	l.t.Helper()
	await.For(l.t, "the gateways to notice", func() error {
		down := map[int]bool{}
		for _, a := range l.since(lost) {
			if !a.exact {
				down[a.gateway] = true
			}
		}
		if len(down) < 2 {
			return errors.New("one counts in Redis")
		}
		return nil
	})
}

// recovers checks how long it took each gateway until Redis decided again, from when it could. What it
// decides grows over a second. That a gateway was too busy to be answered in time later on is an outage of
// its own.
func (l *gatewayLoad) recovers(what string, lost, back time.Time) {
	l.t.Helper()
	l.awaitCounting()
	all := l.since(back)
	for g := range 2 {
		var first, whole, last time.Duration
		var from time.Time
		for _, a := range all {
			if a.gateway != g {
				continue
			}
			d := a.at.Sub(back)
			switch {
			case !a.exact:
				last, from = d, time.Time{}
				continue
			case first == 0:
				first = d
			}
			if from.IsZero() {
				from = a.at
			}
			if whole == 0 && a.at.Sub(from) >= steady {
				whole = from.Sub(back)
			}
		}
		l.t.Logf("%s: a new master after %s; gateway %d: Redis decides again after %s, everything after %s, the last without it at %s", what,
			back.Sub(lost).Round(time.Millisecond), g, first.Round(time.Millisecond), whole.Round(time.Millisecond), last.Round(time.Millisecond))
		most := soon
		if raceEnabled {
			most *= 2
		}
		if first == 0 || whole == 0 || first > most || whole > most {
			l.t.Errorf("%s: it took gateway %d %s until Redis decided, and %s until it decided everything, want %s at most", what, g, first, whole, most)
		}
	}
}

// finish stops the load and checks the answers. losses is how often a master was lost, and with it what its
// replica had not been told.
func (l *gatewayLoad) finish(losses int) {
	l.t.Helper()
	l.stop()
	l.work.Wait()
	span := time.Since(l.began)
	statuses := map[int]int{}
	byRedis, allowed := map[int]int{}, map[int]int{}
	var took []time.Duration
	without := 0
	for _, a := range l.all {
		statuses[a.status]++
		took = append(took, a.took)
		if !a.exact {
			without++
		}
		if a.status == http.StatusOK {
			allowed[a.key]++
			if a.exact {
				byRedis[a.key]++
			}
		}
		if a.status == http.StatusServiceUnavailable && !a.again {
			l.t.Error("a 503 without Retry-After")
		}
	}
	slices.Sort(took)
	p99 := took[len(took)*99/100]
	refused, most := 0, 0
	for _, n := range allowed {
		most = max(most, n)
	}
	bound := int(failoverQuota*span.Seconds()) + 1 + failoverBurst*(1+losses)
	l.t.Logf("%d requests in %s: %v, %d without Redis; p50 %s, p99 %s, at most %s; at most %d allowed of one key, the bound is %d by Redis",
		len(l.all), span.Round(time.Millisecond), statuses, without, took[len(took)/2], p99, took[len(took)-1], most, bound)
	for status := range statuses {
		switch {
		case status == http.StatusOK, status == http.StatusTooManyRequests:
		case status == http.StatusServiceUnavailable && l.mode == "closed":
			refused = statuses[status]
		default:
			l.t.Errorf("%d answers were %d", statuses[status], status)
		}
	}
	if l.mode == "closed" && refused == 0 {
		l.t.Error("nothing was refused while Redis was away")
	}
	limit := shared.Deadline + late
	if raceEnabled {
		limit *= 4 // of the gateways, their race detector and the load on the same processors
	}
	if p99 > limit {
		l.t.Errorf("one request in a hundred took %s, want at most %s", p99, limit)
	}
	for key, n := range byRedis {
		if n > bound {
			l.t.Errorf("key %d: Redis allowed %d in %s, want at most %d", key, n, span, bound)
		}
	}
	// Each gateway has a bucket of its own, a full one at first, for each time without Redis; it gives what the
	// rate is worth meanwhile, which both count.
	if l.mode == "local" {
		local := bound + int(failoverQuota*span.Seconds()*float64(without)/float64(len(l.all))) + 2*failoverBurst*(losses+1)
		for key, n := range allowed {
			if n > local {
				l.t.Errorf("key %d: %d were allowed in %s, want at most %d", key, n, span, local)
			}
		}
	}
	if l.mode == "closed" {
		for key, n := range allowed {
			if n > bound {
				l.t.Errorf("key %d: %d were allowed in %s, want at most %d", key, n, span, bound)
			}
		}
	}
}

func long(t *testing.T) {
	t.Helper()
	if os.Getenv("GATEHOUSE_LONG") == "" {
		t.Skip("set GATEHOUSE_LONG=1: it takes a minute")
	}
}

func TestTheGatewayOverAClustersFailover(t *testing.T) {
	long(t)
	for _, mode := range []string{"open", "closed", "local"} {
		t.Run(mode, func(t *testing.T) {
			c := redistest.StartCluster(t)
			l := startGatewayLoad(t, strings.Join(c.URLs(), " "), mode)
			l.awaitCounting()
			for i, lose := range []func(){c.Masters[0].Kill, c.Masters[1].Stop} {
				lost := time.Now()
				lose()
				l.awaitDown(lost)
				c.AwaitFailover(t, []int{0, 1}[:i+1]...)
				l.recovers([]string{"killed", "stopped"}[i], lost, time.Now())
			}
			c.Masters[1].Cont() // it learns that it is a replica now
			pause(2 * time.Second)
			l.awaitCounting()
			l.finish(2)
		})
	}
}

func TestTheGatewayOverASentinelsFailover(t *testing.T) {
	long(t)
	for _, mode := range []string{"open", "closed", "local"} {
		t.Run(mode, func(t *testing.T) {
			s := redistest.StartSentinel(t)
			l := startGatewayLoad(t, "sentinel "+s.Name+" "+strings.Join(s.Addrs(), " "), mode)
			l.awaitCounting()
			sentinel := redis.NewSentinelClient(&redis.Options{Addr: s.Sentinels[0].Addr, Protocol: 2})
			defer func() { _ = sentinel.Close() }()
			elected := func(next *redistest.Server) {
				redistest.AwaitMaster(t, next)
				await.For(t, "a sentinel to name the new master", func() error {
					addr, err := sentinel.GetMasterAddrByName(context.Background(), s.Name).Result()
					if err == nil && addr[1] != next.Port() {
						err = fmt.Errorf("it names %v", addr)
					}
					return err
				})
			}
			lost := time.Now()
			s.Master.Kill()
			l.awaitDown(lost)
			elected(s.Replica)
			l.recovers("killed", lost, time.Now())

			s.Master.Restart()
			await.For(t, "the old master to follow the new one", func() error {
				role, err := s.Master.Client().Do(context.Background(), "role").Slice()
				if err == nil && (role[0] != "slave" || role[3] != "connected") {
					err = fmt.Errorf("its role is %v", role)
				}
				return err
			})
			l.awaitCounting()
			await.For(t, "the sentinels to know that", func() error {
				master, err := sentinel.Master(context.Background(), s.Name).Result()
				if err == nil && (master["num-slaves"] != "1" || master["flags"] != "master") {
					err = fmt.Errorf("it knows %v", master)
				}
				return err
			})
			lost = time.Now()
			s.Replica.Stop()
			l.awaitDown(lost)
			elected(s.Master)
			l.recovers("stopped", lost, time.Now())
			s.Replica.Cont()
			pause(2 * time.Second)
			l.awaitCounting()
			l.finish(2)
		})
	}
}
