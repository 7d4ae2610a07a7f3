package integration

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
)

// cronGateway has a schedule that makes up for all of its ticks.
const cronGateway = `{
	admin 127.0.0.1:%[1]s
	gatehouse {
		data_dir %[2]s/data
		database %[3]s
		backend jobs {
			queue ticks {
				target      %[4]s
				concurrency 20
			}
			schedule tick "@every %[5]s" {
				queue  ticks
				missed all
			}
		}
	}
}
http://127.0.0.1:%[6]s {
	backend jobs as operator
}
`

// TestCronOutlivesKills: three gateways on one PostgreSQL, killed at random, fire each tick exactly
// once, and each is pushed.
func TestCronOutlivesKills(t *testing.T) {
	const every = 250 * time.Millisecond
	ticks := 40
	if os.Getenv("GATEHOUSE_LONG") != "" {
		ticks = 240
	}
	var mu sync.Mutex
	pushed := map[string]int{}
	sink := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		defer mu.Unlock()
		pushed[r.Header.Get("Gatehouse-Schedule")+" "+r.Header.Get("Gatehouse-Scheduled-For")]++
	}))
	defer sink.Close()
	server := pgtest.Start(t)
	db := server.DB()
	type instance struct {
		*process
		dir, url string
	}
	instances := make([]instance, 3)
	run := func(i int) {
		in := &instances[i]
		if in.dir == "" {
			port := freePort(t)
			in.dir, in.url = t.TempDir(), "http://127.0.0.1:"+port
			text := fmt.Sprintf(cronGateway, freePort(t), in.dir, server.URL, sink.URL, every, port)
			if err := os.WriteFile(filepath.Join(in.dir, "Caddyfile"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		in.process = start(t, in.dir, "gatehouse", "run", "--config", "Caddyfile", "--adapter", "caddyfile")
	}
	for i := range instances {
		run(i)
		instances[i].waitFor(instances[i].url + "/queues")
	}
	count := func(query string) (n int) {
		if err := db.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	const made = "SELECT count(*) FROM river_job WHERE args ->> 'schedule' = 'tick'"
	kills := 0
	for deadline := time.Now().Add(10 * time.Minute); count(made) < ticks; {
		if time.Now().After(deadline) {
			t.Fatalf("got %d ticks in 10 minutes, want %d", count(made), ticks)
		}
		<-time.After(rand.N(time.Second))
		first := rand.N(len(instances))
		for n := range 1 + rand.N(len(instances)) { // one, or some, or all at once
			instances[(first+n)%len(instances)].kill()
			kills++
		}
		for i := range instances {
			select {
			case <-instances[i].exited:
				run(i)
			default:
			}
		}
		if i := rand.N(len(instances)); rand.N(3) > 0 { // else they are killed while they start
			instances[i].waitFor(instances[i].url + "/queues")
		}
	}
	for i := range instances {
		instances[i].waitFor(instances[i].url + "/queues")
	}
	if status, body := call(t, http.MethodPost, instances[0].url+"/schedules/tick/pause", "", ""); status != http.StatusOK {
		t.Fatalf("pausing the schedule: %d %s", status, body)
	}

	rows, err := db.QueryContext(t.Context(), `SELECT (args ->> 'scheduled_for')::timestamptz AS tick, count(*) FROM river_job
		WHERE args ->> 'schedule' = 'tick' GROUP BY tick ORDER BY tick`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var last time.Time
	n := 0
	for ; rows.Next(); n++ {
		var tick time.Time
		var jobs int
		if err = rows.Scan(&tick, &jobs); err != nil {
			t.Fatal(err)
		}
		if jobs != 1 || n > 0 && tick.Sub(last) != every {
			t.Errorf("the tick %s, %s after the one before, has %d jobs", tick, tick.Sub(last), jobs)
		}
		last = tick
	}
	if err = rows.Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() error {
		if left := count("SELECT count(*) FROM river_job WHERE state <> 'completed'"); left > 0 {
			return fmt.Errorf("%d jobs are not done", left)
		}
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	twice := 0
	for _, times := range pushed {
		twice += times - 1
	}
	if len(pushed) != n {
		t.Errorf("%d ticks were pushed, want %d", len(pushed), n)
	}
	t.Logf("%d ticks over %d kills, %d pushes came twice", n, kills, twice)
}
