package integration

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// crowd is a load that comes whether or not answers do, on an app of known capacity.
type crowd struct {
	workers  int
	takes    time.Duration // a worker's time for one request
	factor   float64       // of the capacity is sent
	warm     time.Duration // is not counted
	lasts    time.Duration // is counted
	patience time.Duration // of a client
}

// nominal is what the app could do a second if timers were exact.
func (c crowd) nominal() float64 { return float64(c.workers) / c.takes.Seconds() }

// tally is what became of the requests of one priority.
type tally struct {
	sent, good, shed, late int
	latencies              []time.Duration // of the good ones
}

func (t *tally) p(percent int) time.Duration {
	if len(t.latencies) == 0 {
		return 0
	}
	slices.Sort(t.latencies)
	return t.latencies[len(t.latencies)*percent/100].Round(time.Millisecond)
}

// slowApp is an app with c's workers that queues without end, as apps do. It does not see clients leave.
type slowApp struct {
	queue chan chan struct{}
	over  chan struct{}
	jobs  atomic.Int64
	spent atomic.Int64 // nanoseconds of the workers in them
}

func (c crowd) slowApp(t *testing.T) (app *slowApp, address string) {
	app = &slowApp{queue: make(chan chan struct{}, 1<<20), over: make(chan struct{})}
	for range c.workers {
		go func() {
			for done := range app.queue {
				begin := time.Now()
				select {
				case <-time.After(c.takes):
				case <-app.over:
				}
				app.jobs.Add(1)
				app.spent.Add(int64(time.Since(begin)))
				close(done)
			}
		}()
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/up" {
			done := make(chan struct{})
			app.queue <- done
			<-done
		}
		_, _ = io.WriteString(w, "done")
	}))
	t.Cleanup(func() {
		close(app.over)
		server.CloseClientConnections()
		server.Close()
		close(app.queue)
	})
	return app, server.Listener.Addr().String()
}

// capacity is what the app can do a second on this machine as it is now, whose timers may be late.
func (a *slowApp) capacity(workers int) float64 {
	return float64(workers) * float64(a.jobs.Load()) / time.Duration(a.spent.Load()).Seconds()
}

// press sends the load to base, one request in twelve of high priority and four of low.
func (c crowd) press(t *testing.T, base string) map[string]*tally {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4096}}
	defer client.CloseIdleConnections()
	tallies := map[string]*tally{"high": {}, "normal": {}, "low": {}}
	priorities := []string{"high", "low", "normal", "normal", "low", "normal", "normal", "low", "normal", "normal", "low", "normal"}
	var mu sync.Mutex
	var all sync.WaitGroup
	send := func(priority string, counts bool) {
		ctx, cancel := context.WithTimeout(t.Context(), c.patience)
		defer cancel()
		r, _ := http.NewRequestWithContext(ctx, http.MethodGet, base+"/work", nil)
		r.Header.Set("X-Priority", priority)
		begin, status := time.Now(), 0
		if resp, err := client.Do(r); err == nil {
			if _, err = io.Copy(io.Discard, resp.Body); err == nil {
				status = resp.StatusCode
			}
			_ = resp.Body.Close()
		}
		if !counts {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		n := tallies[priority]
		n.sent++
		switch status {
		case http.StatusOK:
			n.good++
			n.latencies = append(n.latencies, time.Since(begin))
		case http.StatusServiceUnavailable:
			n.shed++
		default:
			n.late++
		}
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	begin, sent := time.Now(), 0
	for now := begin; now.Sub(begin) < c.warm+c.lasts; now = <-tick.C {
		for due := int(now.Sub(begin).Seconds() * c.nominal() * c.factor); sent < due; sent++ {
			priority, counts := priorities[sent%len(priorities)], now.Sub(begin) >= c.warm
			all.Go(func() { send(priority, counts) })
		}
	}
	all.Wait()
	return tallies
}

// TestOverload sends five times what an app can do, with admission and without.
func TestOverload(t *testing.T) {
	c := crowd{workers: 10, takes: 40 * time.Millisecond, factor: 5, warm: 3 * time.Second, lasts: 6 * time.Second, patience: time.Second}
	if raceEnabled {
		c.takes = 100 * time.Millisecond
	}
	goodput := map[string]float64{}
	for _, directive := range []string{"", "admission {\n\t\tpriority high header X-Priority high\n\t\tpriority low header X-Priority low\n\t}"} {
		name, _, _ := strings.Cut(directive+" ", " ")
		t.Run("with-"+map[bool]string{true: "admission", false: "nothing"}[directive != ""], func(t *testing.T) {
			dir, base := t.TempDir(), "http://127.0.0.1:"+freePort(t)
			config := filepath.Join(dir, "Caddyfile")
			app, upstream := c.slowApp(t)
			text := fmt.Sprintf("{\n\tadmin off\n}\n%s {\n\t%s\n\treverse_proxy %s\n}\n", base, directive, upstream)
			if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			p := start(t, dir, "gatehouse", "run", "--config", config, "--adapter", "caddyfile")
			p.waitFor(base + "/up")
			tallies := c.press(t, base)
			all := tally{}
			for _, n := range tallies {
				all.sent, all.good, all.shed, all.late = all.sent+n.sent, all.good+n.good, all.shed+n.shed, all.late+n.late
				all.latencies = append(all.latencies, n.latencies...)
			}
			capacity := app.capacity(c.workers)
			goodput[name] = float64(all.good) / c.lasts.Seconds() / capacity
			t.Logf("capacity %.0f/s, sent %.0f/s: goodput %.0f/s = %.1f %% of capacity, p50 %v, p99 %v; shed %d, too late %d",
				capacity, float64(all.sent)/c.lasts.Seconds(), float64(all.good)/c.lasts.Seconds(), 100*goodput[name], all.p(50), all.p(99), all.shed, all.late)
			for _, priority := range []string{"high", "normal", "low"} {
				n := tallies[priority]
				t.Logf("%s: %.1f %% of %d answered, p99 %v", priority, 100*float64(n.good)/float64(n.sent), n.sent, n.p(99))
			}
			if directive == "" {
				return
			}
			least := 0.9
			if raceEnabled {
				least = 0.75 // the race detector takes the processors that the app's answers need
			}
			if goodput[name] < least {
				t.Errorf("goodput is %.1f %% of capacity, want %.0f %%", 100*goodput[name], 100*least)
			}
			if n := tallies["high"]; float64(n.good) < 0.99*float64(n.sent) {
				t.Errorf("%d of %d of high priority were answered, want 99 %%", n.good, n.sent)
			}
			if got := all.p(99); got > c.patience/2 {
				t.Errorf("the 99th percentile is %v, want at most %v", got, c.patience/2)
			}
		})
	}
	if goodput[""] > 0.5*goodput["admission"] {
		t.Errorf("without admission goodput is %.1f %% of capacity: the load is no overload", 100*goodput[""])
	}
}
