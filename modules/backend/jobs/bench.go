package jobs

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/command"
)

const (
	// benchBatch is how many jobs one batch has.
	benchBatch = 1000
	// benchLater is the delay of jobs that shall only be enqueued. They are cancelled in the end.
	benchLater = "24h"
	// benchPatience is how long the sink waits for the next push.
	benchPatience = 30 * time.Second
)

// bench is the load that is put on a gateway.
type bench struct {
	o                          *options
	url, listen, queue, token  string
	jobs, pushes, idle, client int

	base   string // URL of the API
	target string // URL of the sink
	key    string // marks the jobs of this run
	http   *http.Client
	sink   *benchSink
}

// Measured is one figure of bench.
type Measured struct {
	Jobs      int     `json:"jobs"`
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"per_second"`
}

// Benchmark is what bench measured.
type Benchmark struct {
	Clients int      `json:"clients"`
	Enqueue Measured `json:"enqueue"`
	Batch   Measured `json:"batch"`
	Push    Measured `json:"push"`
	// Twice is how many pushes came more than once.
	Twice int `json:"pushed_twice"`
	Idle  struct {
		Jobs int     `json:"jobs"`
		P50  float64 `json:"p50_ms"`
		P99  float64 `json:"p99_ms"`
	} `json:"idle"`
}

func benchCommand(o *options) *cobra.Command {
	b := &bench{o: o}
	c := &cobra.Command{
		Use: "bench", Short: "Measures how many jobs a second the running gateway takes and pushes",
		Long: "Enqueues jobs singly and in batches of 1000, has others pushed to a target of its own, and measures how long\n" +
			"an idle gateway takes to start one. The configuration must allow the target, such as by: allow 127.0.0.1\n" +
			"What is left of it is cancelled in the end. The queue's concurrency bounds what is pushed at once,\n" +
			"and the admin endpoint writes a line of log for each request: give --url to measure without that.\n" + exitCodes,
	}
	f := c.Flags()
	f.StringVar(&b.url, "url", "", "where the gateway answers with the jobs backend, such as http://127.0.0.1:8080 (default its admin endpoint)")
	f.StringVar(&b.token, "token", "", "the bearer token for --url")
	f.StringVar(&b.listen, "listen", "127.0.0.1:0", "the address of the target that the command starts")
	f.StringVar(&b.queue, "queue", "default", "the queue of the jobs")
	f.IntVar(&b.jobs, "jobs", 10_000, "how many jobs are enqueued singly, and as many in batches")
	f.IntVar(&b.pushes, "pushes", 5_000, "how many jobs are enqueued and pushed at once")
	f.IntVar(&b.idle, "idle", 100, "how many jobs are enqueued one after the other, each when the one before was pushed")
	f.IntVar(&b.client, "clients", 32, "how many clients enqueue at once")
	c.RunE = o.run(0, 0, func(cmd *cobra.Command, _ []string) error {
		if b.jobs < 0 || b.pushes < 0 || b.idle < 0 || b.client < 1 {
			return command.Usage(errors.New("--jobs, --pushes and --idle must not be negative, and --clients at least 1"))
		}
		got, err := b.run(cmd.Context())
		if err != nil {
			return err
		}
		raw, err := json.Marshal(got)
		if err != nil {
			return err
		}
		return o.print(cmd.OutOrStdout(), raw, got.table)
	})
	return c
}

func (m *Benchmark) table(w io.Writer) {
	line := func(name string, v Measured) {
		row(w, name, v.Jobs, fmt.Sprintf("%.1fs", v.Seconds), fmt.Sprintf("%.0f", v.PerSecond))
	}
	row(w, "", "JOBS", "TIME", "PER SECOND")
	line(fmt.Sprintf("enqueued singly by %d clients", m.Clients), m.Enqueue)
	line("enqueued in batches of 1000", m.Batch)
	line("enqueued singly and pushed", m.Push)
	_, _ = fmt.Fprintf(w, "\nAn idle gateway starts a job after %.1f ms (p50), %.1f ms (p99) of %d.\n", m.Idle.P50, m.Idle.P99, m.Idle.Jobs)
	if m.Twice > 0 {
		_, _ = fmt.Fprintf(w, "%d jobs were pushed more than once.\n", m.Twice)
	}
}

func (b *bench) run(ctx context.Context) (m *Benchmark, err error) {
	if err = b.open(ctx); err != nil {
		return nil, err
	}
	defer func() { _ = b.sink.Close() }()
	defer func() {
		// The context may have ended, and what was enqueued shall not stay.
		err = errors.Join(err, b.post(context.WithoutCancel(ctx), "/jobs/cancel", map[string]any{"key": b.key, "state": "scheduled"}))
	}()
	m = &Benchmark{Clients: b.client}
	if m.Enqueue, err = b.measure(b.jobs, func() error {
		return b.each(ctx, b.jobs, func(i int) error { return b.post(ctx, "/jobs", b.job(i, benchLater)) })
	}); err != nil {
		return nil, err
	}
	if m.Batch, err = b.measure(b.jobs, func() error { return b.batches(ctx) }); err != nil {
		return nil, err
	}
	if m.Push, err = b.measure(b.pushes, func() error {
		done := b.sink.expect(b.pushes)
		if err := b.each(ctx, b.pushes, func(i int) error { return b.post(ctx, "/jobs", b.job(i, "")) }); err != nil {
			return err
		}
		return b.sink.wait(ctx, done)
	}); err != nil {
		return nil, err
	}
	m.Twice = b.sink.repeated()
	return m, b.latency(ctx, m)
}

// open finds the gateway and starts the sink.
func (b *bench) open(ctx context.Context) error {
	if b.base = strings.TrimSuffix(b.url, "/"); b.base == "" {
		address, err := b.o.admin.Address()
		if err != nil {
			return err
		}
		if strings.Contains(address, "/") {
			return command.Usage(fmt.Errorf("the admin endpoint %s is no TCP address, name the gateway with --url", address))
		}
		b.base = "http://" + address + "/gatehouse/backends/jobs"
	} else if u, err := url.Parse(b.base); err != nil || u.Host == "" {
		return command.Usage(fmt.Errorf("--url must be such as http://127.0.0.1:8080, not %q", b.url))
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", b.listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	b.key = "bench-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	b.target = "http://" + l.Addr().String() + "/" + b.key
	b.http = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: b.client}}
	b.sink = &benchSink{path: "/" + b.key}
	b.sink.Server = &http.Server{Handler: b.sink, ReadHeaderTimeout: benchPatience}
	go func() { _ = b.sink.Serve(l) }()
	return nil
}

func (b *bench) job(i int, delay string) map[string]any {
	j := map[string]any{"queue": b.queue, "target": b.target, "key": b.key, "payload": i}
	if delay != "" {
		j["delay"] = delay
	}
	return j
}

func (b *bench) measure(n int, do func() error) (Measured, error) {
	if n == 0 {
		return Measured{}, nil
	}
	begin := time.Now()
	err := do()
	took := time.Since(begin).Seconds()
	return Measured{Jobs: n, Seconds: took, PerSecond: float64(n) / took}, err
}

// each calls do for 0 to n-1 from all clients, until one fails.
func (b *bench) each(ctx context.Context, n int, do func(i int) error) error {
	var next atomic.Int64
	var clients sync.WaitGroup
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for range b.client {
		clients.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := do(i); err != nil {
					cancel(err)
				}
			}
		})
	}
	clients.Wait()
	return context.Cause(ctx)
}

func (b *bench) batches(ctx context.Context) error {
	for from := 0; from < b.jobs; from += benchBatch {
		var all []map[string]any
		for i := from; i < min(from+benchBatch, b.jobs); i++ {
			all = append(all, b.job(i, benchLater))
		}
		if err := b.post(ctx, "/jobs/batch", map[string]any{"jobs": all}); err != nil {
			return err
		}
	}
	return nil
}

// latency measures the time from an enqueue to the push.
func (b *bench) latency(ctx context.Context, m *Benchmark) error {
	var all []time.Duration
	for i := range b.idle {
		done := b.sink.expect(1)
		begin := time.Now()
		if err := b.post(ctx, "/jobs", b.job(i, "")); err != nil {
			return err
		}
		if err := b.sink.wait(ctx, done); err != nil {
			return err
		}
		all = append(all, b.sink.last().Sub(begin))
	}
	if m.Idle.Jobs = len(all); len(all) == 0 {
		return nil
	}
	slices.Sort(all)
	ms := func(share int) float64 {
		return float64(all[min(len(all)*share/100, len(all)-1)].Microseconds()) / 1000
	}
	m.Idle.P50, m.Idle.P99 = ms(50), ms(99)
	return nil
}

func (b *bench) post(ctx context.Context, path string, body any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, b.base+path, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	if b.token != "" {
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	resp, err := b.http.Do(r)
	if err != nil {
		return command.NoAnswer(fmt.Errorf("no gateway answers at %s, start it, or name it with --url or --address: %w", b.base, err))
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("the gateway at %s went away: %w", b.base, err)
	}
	if resp.StatusCode < 300 {
		return nil
	}
	var p struct{ Detail, Title string }
	_ = json.Unmarshal(answer, &p)
	return fmt.Errorf("the gateway at %s answered %s %d: %s", b.base, path, resp.StatusCode, cmp.Or(p.Detail, p.Title, short(string(answer), 200)))
}

// benchSink is the target of the pushes.
type benchSink struct {
	*http.Server
	path string

	mu    sync.Mutex
	seen  map[string]bool
	want  int
	done  chan struct{}
	at    time.Time // when the newest push came
	twice int
}

// ServeHTTP takes a push.
func (k *benchSink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != k.path {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	id, now := r.Header.Get("Gatehouse-Job-Id"), time.Now()
	_, _ = io.Copy(io.Discard, r.Body)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.at = now; k.seen[id] {
		k.twice++
		return
	}
	if k.seen[id] = true; len(k.seen) == k.want {
		close(k.done)
	}
}

// expect begins to count; the channel is closed when n jobs were pushed.
func (k *benchSink) expect(n int) <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seen, k.want, k.done, k.at = map[string]bool{}, n, make(chan struct{}), time.Now()
	return k.done
}

func (k *benchSink) last() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.at
}

func (k *benchSink) repeated() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.twice
}

// wait waits for what is expected, as long as pushes come.
func (k *benchSink) wait(ctx context.Context, done <-chan struct{}) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if time.Since(k.last()) > benchPatience {
				k.mu.Lock()
				defer k.mu.Unlock()
				return fmt.Errorf("no job was pushed for %s, %d of %d were: see why with gatehouse jobs ls", benchPatience, len(k.seen), k.want)
			}
		}
	}
}
