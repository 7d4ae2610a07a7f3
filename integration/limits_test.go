package integration

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/integration/redistest"
	"github.com/gatehouse-proxy/gatehouse/internal/redisconn"
	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
	"github.com/gatehouse-proxy/gatehouse/modules/limit/shared"
)

// instance is a gateway process that counts over a Redis.
type instance struct {
	*process
	url, admin string
}

// startInstance runs a gateway whose one site has the given limit, before an app that answers ok.
func startInstance(t *testing.T, redis, limit string) *instance {
	t.Helper()
	dir := t.TempDir()
	port, admin := freePort(t), freePort(t)
	config := fmt.Sprintf(`{
	admin 127.0.0.1:%s
	auto_https off
	persist_config off
	log {
		level ERROR
	}
	gatehouse {
		data_dir %s
		redis %s
		profile off
	}
}
http://127.0.0.1:%s {
	%s
	respond ok
}
`, admin, filepath.Join(dir, "data"), redis, port, limit)
	if err := os.WriteFile(filepath.Join(dir, "Caddyfile"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, dir, "gatehouse", "run", "--config", "Caddyfile", "--adapter", "caddyfile")
	p.waitFor("http://127.0.0.1:" + admin + "/startupz")
	return &instance{p, "http://127.0.0.1:" + port + "/", "http://127.0.0.1:" + admin}
}

// client makes requests over connections that are kept.
func client() *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
}

// ask makes one request and returns its status and header; 0 if there was no answer.
func ask(ctx context.Context, c *http.Client, url string) (int, http.Header) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil
	}
	r.Header.Set("X-Key", "all")
	resp, err := c.Do(r)
	if err != nil {
		return 0, nil
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode, resp.Header
}

// TestThreeInstancesShareOneLimit offers 1,800 requests unevenly to three gateways that may admit
// 1,000 a minute together.
func TestThreeInstancesShareOneLimit(t *testing.T) {
	redis := redistest.Start(t)
	for _, test := range []struct {
		name, count, rate string
		// bounds are how many may be admitted in a span of time.
		bounds func(took time.Duration) (least, most int64)
	}{
		{"exact-sliding", "exact", "1000/1m sliding", func(time.Duration) (int64, int64) { return 1000, 1000 }},
		{"exact-bucket", "exact", "1000/1m", func(took time.Duration) (int64, int64) {
			return 1000, 1000 + int64(took/(60*time.Millisecond)) + 1
		}},
		{"leased-bucket", "leased", "1000/1m", func(took time.Duration) (int64, int64) {
			// Tokens held by one instance when another has none are missing: a tenth at most.
			return 900, 1000 + int64(took/(60*time.Millisecond)) + 1
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var gateways []*instance
			for range 3 {
				gateways = append(gateways, startInstance(t, redis.URL(), fmt.Sprintf("quota %s {\n\t\tzone %s\n\t\tby {header.X-Key}\n\t\tcount %s\n\t\ton_store_error closed\n\t}", test.rate, test.name, test.count)))
			}
			if strings.Contains(test.rate, "sliding") { // all within one calendar minute
				eventually(t, time.Minute, func() error {
					if s := time.Now().Second(); s > 35 {
						return fmt.Errorf("the minute is at %d s", s)
					}
					return nil
				})
			}
			var admitted, other, unknown atomic.Int64
			var work sync.WaitGroup
			c := client()
			began := time.Now()
			for i, g := range gateways {
				for range 3 {
					work.Go(func() {
						for range []int{400, 150, 50}[i] {
							status, _ := ask(t.Context(), c, g.url)
							for range 50 {
								if status != http.StatusServiceUnavailable {
									break
								}
								// Redis was late on a busy machine. It may have counted the request all the same.
								unknown.Add(1)
								pause(50 * time.Millisecond)
								status, _ = ask(t.Context(), c, g.url)
							}
							switch status {
							case http.StatusOK:
								admitted.Add(1)
							case http.StatusTooManyRequests:
							default:
								other.Add(1)
							}
						}
					})
				}
			}
			work.Wait()
			took := time.Since(began)
			least, most := test.bounds(took)
			least -= unknown.Load()
			t.Logf("%d admitted in %s, %d not counted in time", admitted.Load(), took, unknown.Load())
			if got := admitted.Load(); got < least || got > most || other.Load() > 0 {
				t.Errorf("%d requests were admitted in %s, want %d to %d; %d had other answers", got, took, least, most, other.Load())
			}
		})
	}
}

// TestClocksOfInstancesDoNotMatter counts over three instances whose clocks are 10 s apart.
func TestClocksOfInstancesDoNotMatter(t *testing.T) {
	redis := redistest.Start(t)
	p := policy.Policy{Name: "minute", Quota: 1000, Window: 60e9}
	rates := policy.Compile([]policy.Policy{p})
	var links []*shared.Link
	for range 3 {
		conn, err := redisconn.New(redisconn.Config{Addresses: []string{redis.URL()}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		link := shared.Acquire(conn, nil)
		links = append(links, link)
		t.Cleanup(func() {
			link.Release()
			conn.Close()
		})
	}
	for _, leased := range []bool{false, true} {
		t.Run(map[bool]string{false: "exact", true: "leased"}[leased], func(t *testing.T) {
			id := shared.ID{1}
			var admitted atomic.Int64
			var work sync.WaitGroup
			began := time.Now()
			for i, link := range links {
				leases := shared.NewLeases(link, "clocks-leased")
				t.Cleanup(leases.Close)
				work.Go(func() {
					for range []int{1200, 600, 200}[i] {
						now := time.Now().Add(time.Duration(i-1) * 10 * time.Second).UnixNano()
						var v policy.Verdict
						var err error
						if !leased {
							v, err = link.Take(t.Context(), "clocks-exact", id, rates, 1)
						} else {
							var ok bool
							if v, ok = leases.Take(now, 1, rates, 1); !ok {
								v, err = leases.Acquire(t.Context(), now, 1, id, rates, 1)
							}
						}
						if err == nil && v.Allowed {
							admitted.Add(1)
						}
					}
				})
			}
			work.Wait()
			most := 1000 + int64(time.Since(began)/(60*time.Millisecond)) + 1
			least := int64(1000)
			if leased {
				least = 900
			}
			if got := admitted.Load(); got < least || got > most {
				t.Errorf("%d were admitted, want %d to %d", got, least, most)
			}
		})
	}
}

// TestTheGatewayWithoutItsRedis loses Redis in three ways under load, with each on_store_error: no
// answer is a 500, none waits much longer than the deadline, and counting in Redis comes back by itself.
func TestTheGatewayWithoutItsRedis(t *testing.T) {
	for _, mode := range []string{"open", "closed", "local"} {
		t.Run(mode, func(t *testing.T) {
			redis := redistest.Start(t)
			proxy := redistest.SlowProxy(t, redis.Addr)
			g := startInstance(t, proxy.URL(), fmt.Sprintf(`quota 40/1s burst 20 {
		zone z
		by {header.X-Key}
		count exact
		on_store_error %s
		headers mode
	}`, mode))
			c := client()
			marker := func() string {
				_, h := ask(t.Context(), c, g.url)
				return h.Get("Gatehouse-Limit-Mode")
			}
			counted := func() error {
				if m := marker(); m != "z=exact" {
					return fmt.Errorf("it counts %q", m)
				}
				return nil
			}
			eventually(t, 5*time.Second, counted)
			for _, loss := range []struct {
				name         string
				lose, regain func()
			}{
				{"killed", redis.Kill, redis.Restart},
				{"stopped", redis.Stop, redis.Cont},
				{"slow", func() { proxy.SetDelay(500 * time.Millisecond) }, func() { proxy.SetDelay(0) }},
			} {
				t.Run(loss.name, func(t *testing.T) {
					ctx, stop := context.WithCancel(t.Context())
					var mu sync.Mutex
					statuses := map[int]int{}
					var waits []time.Duration
					var lost, allowed atomic.Int64
					var work sync.WaitGroup
					for range 4 {
						work.Go(func() {
							tick := time.NewTicker(8 * time.Millisecond)
							defer tick.Stop()
							for ctx.Err() == nil {
								began := time.Now()
								status, h := ask(context.WithoutCancel(ctx), c, g.url)
								took := time.Since(began)
								mu.Lock()
								statuses[status]++
								waits = append(waits, took)
								mu.Unlock()
								if lost.Load() != 0 && status == http.StatusOK {
									allowed.Add(1)
								}
								if status == http.StatusServiceUnavailable && h.Get("Retry-After") == "" {
									t.Error("a 503 without Retry-After")
								}
								<-tick.C
							}
						})
					}
					pause(300 * time.Millisecond)
					lost.Store(time.Now().UnixNano())
					loss.lose()
					eventually(t, 2*time.Second, func() error {
						status, _ := ask(t.Context(), c, g.admin+"/readyz?verbose")
						if m := marker(); mode != "closed" && m == "z=exact" || status != http.StatusOK {
							return fmt.Errorf("it counts %q, readyz is %d", m, status)
						}
						return nil
					})
					pause(1500 * time.Millisecond)
					during := time.Since(time.Unix(0, lost.Load()))
					got := allowed.Load()
					lost.Store(0)
					loss.regain()
					eventually(t, 2*time.Second, counted)
					stop()
					work.Wait()
					slices.Sort(waits)
					p99 := waits[len(waits)*99/100]
					t.Logf("%v, p99 %s, %d allowed in %s without Redis", statuses, p99, got, during)
					if statuses[0] > 0 || statuses[500] > 0 || mode != "closed" && statuses[503] > 0 || mode == "closed" && statuses[503] == 0 {
						t.Errorf("the answers were %v", statuses)
					}
					slack := shared.Deadline + late
					if raceEnabled {
						slack *= 4 // of the gateway, its race detector and the load on the same processors
					}
					if p99 > slack {
						t.Errorf("one request in a hundred took %s, want at most %s", p99, slack)
					}
					// In process a whole new bucket is there, beside what Redis has counted before.
					if most := int64(40*during.Seconds()) + 2*20 + 10; mode == "local" && got > most {
						t.Errorf("%d requests were allowed in %s without Redis, want at most %d", got, during, most)
					}
				})
			}
		})
	}
}
