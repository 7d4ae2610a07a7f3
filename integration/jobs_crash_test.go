package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
)

// crashRun is some instances of the jobs backend that are killed at random while jobs are put in and
// worked on, and the target of the jobs.
type crashRun struct {
	t        *testing.T
	dir      string
	database string // of all instances, empty for SQLite
	ports    []string
	procs    []*process

	sink *httptest.Server
	mu   sync.Mutex
	seen map[string]int // pushes by payload
}

const crashConcurrency = 20

func newCrashRun(t *testing.T, database string, instances int) *crashRun {
	r := &crashRun{t: t, dir: t.TempDir(), database: database, seen: map[string]int{}}
	r.sink = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		b, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		r.mu.Lock()
		r.seen[string(b)]++
		r.mu.Unlock()
	}))
	t.Cleanup(r.sink.Close)
	r.procs = make([]*process, instances)
	for i := range instances {
		r.ports = append(r.ports, freePort(t))
		r.start(i)
	}
	for i := range instances {
		r.procs[i].waitFor("http://127.0.0.1:" + r.ports[i] + "/livez")
	}
	return r
}

// start begins instance i anew, on the same port and directory.
func (r *crashRun) start(i int) {
	dir := filepath.Join(r.dir, strconv.Itoa(i))
	if r.database == "" {
		dir = r.dir
	}
	config, err := json.Marshal(map[string]any{
		"listen": "127.0.0.1:" + r.ports[i], "data_dir": dir, "database": r.database,
		"backends": map[string]any{"jobs": map[string]any{"queues": map[string]any{"q": map[string]any{
			// One attempt: a crash that used it up would make the job dead.
			"target": r.sink.URL, "concurrency": crashConcurrency, "attempts": 1, "keep": map[string]any{"completed": 1_000_000},
		}}}},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	file := filepath.Join(r.dir, fmt.Sprintf("config%d.json", i))
	if err = os.WriteFile(file, config, 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.procs[i] = start(r.t, r.dir, "backends", "--config", file, "jobs")
}

// fill puts the jobs from..to in, again and again until some instance has said that it has them.
func (r *crashRun) fill(from, to int) error {
	var b strings.Builder
	for i := from; i < to; i++ {
		_, _ = fmt.Fprintf(&b, `,{"queue":"q","payload":%d}`, i)
	}
	body := `{"jobs":[` + b.String()[1:] + `]}`
	client := &http.Client{Timeout: 10 * time.Second}
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); {
		req, err := http.NewRequest(http.MethodPost, "http://127.0.0.1:"+r.ports[rand.IntN(len(r.ports))]+"/jobs/batch", strings.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Gatehouse-Rank", "service")
		req.Header.Set("Idempotency-Key", strconv.Itoa(from)) // an answer may be lost although the jobs are in
		resp, err := client.Do(req)
		if err != nil {
			<-time.After(20 * time.Millisecond)
			continue
		}
		answer, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		switch {
		case err == nil && resp.StatusCode == http.StatusAccepted:
			return nil
		case resp.StatusCode == http.StatusInternalServerError, resp.StatusCode >= 400 && resp.StatusCode < 500:
			return fmt.Errorf("a batch got %s %s", resp.Status, answer)
		}
		<-time.After(50 * time.Millisecond)
	}
	return errors.New("a batch was not taken in 2 minutes")
}

func (r *crashRun) done() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}

// counts are those of the queue, from any instance.
func (r *crashRun) counts() (map[string]int, error) {
	for _, port := range r.ports {
		req, err := http.NewRequest(http.MethodGet, "http://127.0.0.1:"+port+"/queues", nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Gatehouse-Rank", "service")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			continue
		}
		var page struct {
			Items []struct {
				Name   string         `json:"name"`
				Counts map[string]int `json:"counts"`
			} `json:"items"`
		}
		b, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err = json.NewDecoder(bytes.NewReader(b)).Decode(&page); err != nil {
			continue
		}
		for _, q := range page.Items {
			if q.Name == "q" {
				return q.Counts, nil
			}
		}
	}
	return nil, errors.New("no instance answers")
}

// run puts the jobs in while strike is called at random moments, and looks at what became of them.
func (r *crashRun) run(jobs, kills int, strike func(r *crashRun)) {
	r.t.Helper()
	const batch = 100
	filled := make(chan error, 1)
	go func() {
		var err error
		for from := 0; from < jobs && err == nil; from += batch {
			err = r.fill(from, min(from+batch, jobs))
		}
		filled <- err
	}()
	struck := 0
	for ; struck < kills && r.done() < jobs; struck++ {
		// At random points of the work, as far as it has come.
		goal := r.done() + rand.IntN(2*max(1, jobs-r.done())/(kills-struck+1)+1)
		for until := time.Now().Add(3 * time.Second); r.done() < goal && time.Now().Before(until); {
			<-time.After(5 * time.Millisecond)
		}
		strike(r)
	}
	if err := <-filled; err != nil {
		r.t.Fatal(err)
	}
	last := map[string]int{}
	eventually(r.t, 4*time.Minute, func() error {
		counts, err := r.counts()
		if err != nil {
			return err
		}
		last = counts
		if counts["completed"] != jobs {
			return fmt.Errorf("the queue has %v after %d kills", counts, struck)
		}
		return nil
	})
	if n := last["running"] + last["dead"] + last["queued"] + last["retrying"]; n != 0 {
		r.t.Errorf("the queue has %v", last)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	again := 0
	for i := range jobs {
		n := r.seen[strconv.Itoa(i)]
		if n == 0 {
			r.t.Errorf("job %d was acknowledged and never pushed", i)
		}
		again += max(0, n-1)
	}
	if len(r.seen) != jobs {
		r.t.Errorf("%d jobs were pushed, %d were put in", len(r.seen), jobs)
	}
	// What ran at the kill, and what had ended but was not stored yet.
	if most := struck * (crashConcurrency + 300); again > most {
		r.t.Errorf("%d pushes too many after %d kills, want at most %d", again, struck, most)
	}
	r.t.Logf("%d jobs, %d kills: none lost, %d pushed again", jobs, struck, again)
}

// crashSize is the number of jobs and of kills.
func crashSize() (jobs, kills int) {
	if os.Getenv("GATEHOUSE_LONG") != "" {
		return 50_000, 30
	}
	return 1000, 2
}

// restart ends instances with kill -9 and begins them anew.
func (r *crashRun) restart(which ...int) {
	for _, i := range which {
		r.procs[i].kill()
		<-r.procs[i].exited
	}
	for _, i := range which {
		r.start(i)
	}
}

func TestJobsSurviveKillsOnPostgres(t *testing.T) {
	jobs, kills := crashSize()
	server := pgtest.Start(t, pgtest.Alone)
	newCrashRun(t, server.URL, 3).run(jobs, kills, func(r *crashRun) {
		switch rand.IntN(4) {
		case 0:
			r.restart(0, 1, 2)
		case 1:
			server.Kill()
			<-time.After(time.Duration(rand.IntN(500)) * time.Millisecond)
			server.Restart()
		default:
			r.restart(rand.IntN(3))
		}
	})
}

func TestJobsSurviveKillsOnSQLite(t *testing.T) {
	t.Parallel()
	jobs, kills := crashSize()
	newCrashRun(t, "", 1).run(jobs, kills, func(r *crashRun) { r.restart(0) })
}
