package jobs

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverdatabasesql"
	"github.com/riverqueue/river/riverdriver/riversqlite"

	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

// The benchmarks print rates per second, beside those of the engine alone on the same machine, with
// its own fetch and each job committed by itself. Both databases commit to disk.

const clients = 32

// onBoth runs a benchmark on SQLite and on PostgreSQL.
func onBoth(b *testing.B, run func(b *testing.B, settings func() service.Settings)) {
	b.Run("sqlite", func(b *testing.B) {
		run(b, func() service.Settings { return service.Settings{DataDir: b.TempDir()} })
	})
	b.Run("postgres", func(b *testing.B) {
		run(b, func() service.Settings {
			return service.Settings{DataDir: b.TempDir(), Database: pgtest.Start(b).URL}
		})
	})
}

// poisonPath is what the target of the benchmarks fails at.
const poisonPath = "/poison"

// benched is a running service behind a real HTTP server, and a target that takes every push but those of the
// queue poison.
func benched(b *testing.B, settings service.Settings, concurrency int, arrived func(*http.Request)) (url string, h *service.Host) {
	b.Helper()
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == poisonPath {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		if arrived != nil {
			arrived(r)
		}
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	b.Cleanup(sink.Close)
	c := Config{Queues: map[string]Queue{
		"pushed": {Target: sink.URL, Concurrency: concurrency},
		"poison": {Target: sink.URL + poisonPath, Attempts: 1000, Backoff: Backoff{Fixed: true, Base: 100 * time.Millisecond}},
		"kept":   {Pull: true, Keep: Keep{Completed: new(2_000_000)}},
	}}
	h, err := service.NewHost(b.Context(), settings, nil, func(string) (service.Opener, error) { return c, nil })
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = h.Close() })
	if err = h.Open(b.Context(), "jobs"); err != nil {
		b.Fatal(err)
	}
	srv := httptest.NewServer(h.Service("jobs"))
	b.Cleanup(srv.Close)
	return srv.URL, h
}

var benchClient = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2 * clients}}

func request202(b *testing.B, url, body string) {
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		b.Error(err)
		return
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(service.SubjectHeader, "bench")
	resp, err := benchClient.Do(req)
	if err != nil {
		b.Error(err)
		return
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		b.Errorf("got %s", resp.Status)
	}
}

// atOnce does n things by 32 clients and returns how many a second.
func atOnce(n int, do func(i int)) float64 {
	var next atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range clients {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				do(int(i))
			}
		})
	}
	wg.Wait()
	return float64(n) / time.Since(began).Seconds()
}

func BenchmarkEnqueue(b *testing.B) {
	onBoth(b, func(b *testing.B, settings func() service.Settings) {
		url, _ := benched(b, settings(), 1, nil)
		bare := bareRiver(b, settings(), nil)
		var ours, rivers float64
		n := max(b.N, 3000)
		ours = atOnce(n, func(i int) { request202(b, url+"/jobs", fmt.Sprintf(`{"queue":"kept","payload":{"n":%d}}`, i)) })
		rivers = atOnce(n, func(i int) { bare.insert(b, i) })
		b.ReportMetric(ours, "jobs/s")
		b.ReportMetric(rivers, "river/s")
		b.ReportMetric(ours/rivers, "ratio")
	})
}

func BenchmarkBatch(b *testing.B) {
	onBoth(b, func(b *testing.B, settings func() service.Settings) {
		url, _ := benched(b, settings(), 1, nil)
		bare := bareRiver(b, settings(), nil)
		body := `{"jobs":[` + strings.TrimSuffix(strings.Repeat(`{"queue":"kept","payload":{"n":1}},`, 1000), ",") + `]}`
		const batches = 20
		began := time.Now()
		for range batches {
			request202(b, url+"/jobs/batch", body)
		}
		ours := 1000 * batches / time.Since(began).Seconds()
		began = time.Now()
		for range batches {
			bare.insertMany(b, 1000)
		}
		rivers := 1000 * batches / time.Since(began).Seconds()
		b.ReportMetric(ours, "rows/s")
		b.ReportMetric(rivers, "river/s")
		b.ReportMetric(ours/rivers, "ratio")
	})
}

func BenchmarkEnqueueAndPush(b *testing.B) {
	onBoth(b, func(b *testing.B, settings func() service.Settings) {
		n := max(b.N, 3000)
		done := make(chan struct{})
		var arrived atomic.Int64
		url, _ := benched(b, settings(), 100, func(*http.Request) {
			if arrived.Add(1) == int64(n) {
				close(done)
			}
		})
		began := time.Now()
		atOnce(n, func(i int) { request202(b, url+"/jobs", fmt.Sprintf(`{"queue":"pushed","payload":{"n":%d}}`, i)) })
		awaited(b, done)
		ours := float64(n) / time.Since(began).Seconds()

		worked := make(chan struct{})
		var count atomic.Int64
		bare := bareRiver(b, settings(), func() {
			if count.Add(1) == int64(n) {
				close(worked)
			}
		})
		began = time.Now()
		atOnce(n, func(i int) { bare.insert(b, i) })
		awaited(b, worked)
		rivers := float64(n) / time.Since(began).Seconds()
		b.ReportMetric(ours, "jobs/s")
		b.ReportMetric(rivers, "river/s")
		b.ReportMetric(ours/rivers, "ratio")
	})
}

func awaited(b *testing.B, done <-chan struct{}) {
	b.Helper()
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		b.Fatal("the jobs are not done after 2 minutes")
	}
}

// BenchmarkStart measures from the answer's request to the arrival of the push, while nothing else is
// to be done.
func BenchmarkStart(b *testing.B) { starts(b, 0) }

// BenchmarkStartBesidePoison is BenchmarkStart while another queue has ten jobs that the same target fails at
// again and again.
func BenchmarkStartBesidePoison(b *testing.B) { starts(b, 10) }

func starts(b *testing.B, poison int) {
	onBoth(b, func(b *testing.B, settings func() service.Settings) {
		arrived := make(chan time.Time, 1)
		url, _ := benched(b, settings(), 10, func(*http.Request) { arrived <- time.Now() })
		for range poison {
			request202(b, url+"/jobs", `{"queue":"poison","payload":1}`)
		}
		var took []time.Duration
		for range 200 {
			<-time.After(15 * time.Millisecond)
			began := time.Now()
			request202(b, url+"/jobs", `{"queue":"pushed","payload":1}`)
			took = append(took, (<-arrived).Sub(began))
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	})
}

// aloneRiver is the engine alone.
type aloneRiver struct {
	client *river.Client[*sql.Tx]
	db     *sqldb.DB
}

type bareWorker struct {
	river.WorkerDefaults[pushArgs]
	did func()
}

func (w *bareWorker) Work(context.Context, *river.Job[pushArgs]) error {
	w.did()
	return nil
}

// bareRiver is the engine with its own driver. It works if did is given.
func bareRiver(b *testing.B, settings service.Settings, did func()) *aloneRiver {
	b.Helper()
	h, err := service.NewHost(b.Context(), settings, nil, func(string) (service.Opener, error) { return nil, nil })
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = h.Close() })
	if err = Prepare(b.Context(), h.DB, h.Log); err != nil {
		b.Fatal(err)
	}
	var driver riverdriver.Driver[*sql.Tx] = riversqlite.New(h.DB.Write)
	if h.DB.Postgres() {
		pool, err := h.DB.Listener(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(pool.Close)
		driver = riverdatabasesql.NewWithPgxListener(h.DB.Write, pool)
	}
	config := &river.Config{FetchCooldown: fetchCooldown}
	if did != nil {
		config.Workers = river.NewWorkers()
		river.AddWorker(config.Workers, &bareWorker{did: did})
		config.Queues = map[string]river.QueueConfig{"kept": {MaxWorkers: 100}}
	}
	client, err := river.NewClient(driver, config)
	if err != nil {
		b.Fatal(err)
	}
	if did != nil {
		if err = client.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = client.StopAndCancel(context.Background()) })
	}
	return &aloneRiver{client, h.DB}
}

func (r *aloneRiver) insert(b *testing.B, i int) {
	err := r.db.InTx(b.Context(), func(tx *sql.Tx) error {
		_, err := r.client.InsertTx(b.Context(), tx, pushArgs{Body: fmt.Appendf(nil, `{"n":%d}`, i)}, &river.InsertOpts{Queue: "kept"})
		return err
	})
	if err != nil {
		b.Error(err)
	}
}

func (r *aloneRiver) insertMany(b *testing.B, n int) {
	params := make([]river.InsertManyParams, n)
	for i := range params {
		params[i] = river.InsertManyParams{Args: pushArgs{Body: []byte(`{"n":1}`)}, InsertOpts: &river.InsertOpts{Queue: "kept"}}
	}
	err := r.db.InTx(b.Context(), func(tx *sql.Tx) error {
		_, err := r.client.InsertManyTx(b.Context(), tx, params)
		return err
	})
	if err != nil {
		b.Error(err)
	}
}

// BenchmarkAmongMillions measures beside a million jobs that wait and a million that are done, as a
// ratio to an empty database in the same run.
func BenchmarkAmongMillions(b *testing.B) {
	onBoth(b, func(b *testing.B, settings func() service.Settings) {
		const n = 10_000
		measure := func(crowd int) (enqueue, push float64) {
			var arrived atomic.Int64
			done := make(chan struct{}, 1)
			url, h := benched(b, settings(), 100, func(*http.Request) {
				if arrived.Add(1) == n {
					done <- struct{}{}
				}
			})
			crowded(b, h.DB, crowd)
			enqueue = atOnce(n, func(i int) { request202(b, url+"/jobs", fmt.Sprintf(`{"queue":"kept","payload":{"n":%d}}`, i)) })
			began := time.Now()
			atOnce(n, func(i int) { request202(b, url+"/jobs", fmt.Sprintf(`{"queue":"pushed","payload":{"n":%d}}`, i)) })
			awaited(b, done)
			return enqueue, n / time.Since(began).Seconds()
		}
		emptyEnqueue, emptyPush := measure(0)
		enqueue, push := measure(1_000_000)
		b.ReportMetric(enqueue, "enqueued/s")
		b.ReportMetric(enqueue/emptyEnqueue, "enqueue-ratio")
		b.ReportMetric(push, "pushed/s")
		b.ReportMetric(push/emptyPush, "push-ratio")
	})
}

// crowded puts n waiting and n completed jobs in.
func crowded(b *testing.B, db *sqldb.DB, n int) {
	b.Helper()
	for _, state := range []string{"available", "completed"} {
		if n == 0 {
			return
		}
		q := dialectOf(db)
		series, args := "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)", "jsonb('{\"body\":\"MQ==\"}')"
		if q.pg {
			series, args = "WITH n AS (SELECT generate_series(1, $1::int) AS i)", `'{"body":"MQ=="}'::jsonb`
		}
		finalized := "NULL"
		if state == "completed" {
			finalized = q.now
		}
		if _, err := db.Write.ExecContext(b.Context(), "INSERT INTO river_job (kind, queue, state, args, max_attempts, finalized_at) "+
			series+" SELECT 'push', 'kept', "+q.literal(state)+", "+args+", 5, "+finalized+" FROM n", n); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := db.Write.ExecContext(b.Context(), "ANALYZE"); err != nil {
		b.Fatal(err)
	}
	settle := []string{"PRAGMA wal_checkpoint(PASSIVE)"} // what the millions leave to be done is not what is measured
	if db.Postgres() {
		settle = []string{"VACUUM", "CHECKPOINT"}
	}
	for _, statement := range settle {
		if _, err := db.Write.ExecContext(b.Context(), statement); err != nil {
			b.Fatal(err)
		}
	}
}
