package jobs_test

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/jobs"
	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// TestCronOnThreeInstances: of 200 ticks each has exactly one job, although three instances share the
// database and come and go.
func TestCronOnThreeInstances(t *testing.T) {
	t.Parallel()
	const every, ticks = 100 * time.Millisecond, 200
	k, server := newTickSink(t), pgtest.Start(t, pgtest.Fast)
	c := k.config()
	c.Queues["q"] = jobs.Queue{Target: k.URL, Concurrency: 10}
	c.Schedules = map[string]jobs.Schedule{"often": {Cron: "@every " + every.String(), Queue: "q", Missed: "all"}}
	start := func() *service.Host {
		h, err := service.NewHost(t.Context(), service.Settings{DataDir: t.TempDir(), Database: server.URL}, nil,
			func(string) (service.Opener, error) { return c, nil })
		if err != nil {
			t.Fatal(err)
		}
		if err = h.Open(t.Context(), "jobs"); err != nil {
			t.Fatal(err)
		}
		return h
	}
	hosts := []*service.Host{start(), start(), start()}
	db := server.DB()
	fired := func() (n int) {
		if err := db.QueryRow("SELECT count(*) FROM river_job WHERE args ->> 'schedule' = 'often'").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	changes := 0
	for fired() < ticks {
		<-time.After(rand.N(500 * time.Millisecond))
		i := rand.N(len(hosts))
		if err := hosts[i].Close(); err != nil {
			t.Error(err)
		}
		hosts[i] = start()
		changes++
	}
	for _, h := range hosts {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
	n, err := oncePerTick(db, every)
	if err != nil || n < ticks {
		t.Errorf("got %d ticks, %v", n, err)
	}
	t.Logf("%d ticks over %d restarts", n, changes)
}

// oncePerTick counts the ticks of the schedule, each of which must have one job, without a gap.
func oncePerTick(db *sql.DB, every time.Duration) (n int, err error) {
	rows, err := db.Query(`SELECT (args ->> 'scheduled_for')::timestamptz AS tick, count(*) FROM river_job
		WHERE args ->> 'schedule' = 'often' GROUP BY tick ORDER BY tick`)
	if err != nil {
		return 0, err
	}
	defer func() { _ = rows.Close() }()
	var last time.Time
	for ; rows.Next(); n++ {
		var tick time.Time
		var jobs int
		if err = rows.Scan(&tick, &jobs); err != nil {
			return n, err
		}
		if jobs != 1 || n > 0 && tick.Sub(last) != every {
			return n, fmt.Errorf("the tick %s, %s after the one before, has %d jobs", tick, tick.Sub(last), jobs)
		}
		last = tick
	}
	return n, rows.Err()
}
