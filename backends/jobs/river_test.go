package jobs

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// What has gone wrong in the engine at some time, in its own fetch, rescue and listener, is tried here on
// those that stand in their place.

// endsIn is within for a job that must be seen in a state.
func endsIn(t *testing.T, s *Service, id string, within time.Duration, state string) {
	t.Helper()
	begin := time.Now()
	reached(t, s, id, state)
	if took := time.Since(begin); took > within {
		t.Errorf("the job was %s after %s, want it within %s", state, took, within)
	}
}

// hanging is a target that answers when it is called off, or at once after release.
func hanging(t *testing.T) (url string, begun <-chan struct{}) {
	t.Helper()
	started := make(chan struct{}, 100)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then it is seen that the client goes away
		started <- struct{}{}
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	return server.URL, started
}

// TestRiverLostNotifications: what is written without a word to the listeners is seen nevertheless.
func TestRiverLostNotifications(t *testing.T) {
	slow, begun := hanging(t)
	fast := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer fast.Close()
	s := still(t, Config{Queues: map[string]Queue{"slow": {Target: slow}, "q": {Target: fast.URL}}})
	working(t, s)
	id := post(t, s, `{"queue":"slow","payload":1}`).ID
	<-begun
	s.exec(t, "UPDATE river_job SET metadata = "+s.q.withCancel("$1")+" WHERE id = "+id, time.Now().UTC().Format(time.RFC3339Nano))
	endsIn(t, s, id, 10*time.Second, stateCancelled)

	s.exec(t, "UPDATE river_queue SET paused_at = "+s.q.now+" WHERE name = 'q'")
	id = post(t, s, `{"queue":"q","payload":1}`).ID
	<-time.After(2*controlEvery + time.Second) // long enough for the fetcher to hear of the pause
	if v, err := s.job(t.Context(), parseID(id)); err != nil || v.State != stateQueued {
		t.Errorf("got %+v, %v, want the job of a paused queue to wait", v, err)
	}
	s.exec(t, "UPDATE river_queue SET paused_at = NULL WHERE name = 'q'")
	endsIn(t, s, id, 10*time.Second, stateCompleted)
}

// TestRiverRescueLeavesWhatGoesOn: between the look for the dead and the change, the job may end, or be
// begun by another that is alive.
func TestRiverRescueLeavesWhatGoesOn(t *testing.T) {
	for name, tc := range map[string]struct{ change, state string }{
		"ended":       {"state = 'completed', finalized_at = now()", "completed"},
		"begun-again": {"attempt = 2, attempted_by = ARRAY['alive']", "running"},
		"dead":        {"priority = 2", "available"},
	} {
		t.Run(name, func(t *testing.T) {
			s := still(t, Config{Queues: map[string]Queue{"q": {Target: "http://127.0.0.1:1"}}})
			if !s.q.pg {
				t.Skip("SQLite has one writer")
			}
			id := post(t, s, `{"queue":"q","payload":1}`).ID
			s.exec(t, "UPDATE river_job SET state = 'running', attempt = 1, attempted_at = now(), attempted_by = ARRAY['dead']")
			s.exec(t, "INSERT INTO jobs_instances (id, seen_at) VALUES ('alive', "+s.q.millis()+" + 60000)")
			tx, err := s.db.Write.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err = tx.ExecContext(t.Context(), "UPDATE river_job SET "+tc.change); err != nil {
				t.Fatal(err)
			}
			rescued := make(chan error)
			go func() { rescued <- s.rescue(context.WithoutCancel(t.Context())) }()
			deadline := time.Now().Add(time.Minute)
			for waiting := 0; waiting == 0; <-time.After(5 * time.Millisecond) {
				err = s.db.Read.QueryRowContext(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()").Scan(&waiting)
				if err != nil || time.Now().After(deadline) {
					t.Fatal("the rescue does not wait for the row:", err)
				}
			}
			if err = tx.Commit(); err != nil {
				t.Fatal(err)
			}
			if err = <-rescued; err != nil {
				t.Fatal(err)
			}
			var state string
			if err = s.db.Read.QueryRowContext(t.Context(), "SELECT state::text FROM river_job WHERE id = "+id).Scan(&state); err != nil || state != tc.state {
				t.Errorf("got %s, %v, want %s", state, err, tc.state)
			}
		})
	}
}

// TestRiverBadRowStopsNoQueue: a row that somebody has changed by hand is dead, and the others start.
func TestRiverBadRowStopsNoQueue(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true}}})
	changes := []string{"tags = jsonb_object('a', 1)", "errors = jsonb('5')", "errors = jsonb('[5, {\"at\":1,\"attempt\":\"x\"}]')", "args = 'no json'", "args = jsonb('[1]')"}
	if s.q.pg {
		changes = []string{"errors = ARRAY['5'::jsonb]", `errors = ARRAY['{"at":1,"attempt":"x","error":{}}'::jsonb]`, "args = '[1]'"}
	}
	for _, change := range changes {
		t.Run(change, func(t *testing.T) {
			bad, good := post(t, s, `{"queue":"q","payload":1}`).ID, post(t, s, `{"queue":"q","payload":2}`).ID
			s.exec(t, "UPDATE river_job SET "+change+" WHERE id = "+bad)
			leases, err := s.leaseNow(t.Context(), "q", 10, time.Minute, "w")
			if err != nil || len(leases) == 0 || leases[len(leases)-1].ID != good {
				t.Fatalf("leased %+v, %v, want the good job %s", leases, err, good)
			}
			for _, path := range []string{"/jobs", "/jobs/" + bad, "/jobs?state=dead", "/queues", "/jobs/groups"} {
				if w := send(s, "GET", path, ""); w.Code != 200 {
					t.Errorf("%s: got %d %s", path, w.Code, w.Body)
				}
			}
			if left := unfinished(t, s); len(leases) == 1 && len(left) != 1 {
				t.Errorf("got %v unfinished, want the good job alone", left)
			}
			s.exec(t, "DELETE FROM river_job")
			s.exec(t, "DELETE FROM jobs_leases")
		})
	}
}

// TestRiverIDsAreNotReused: what somebody remembers by its id is never another job.
func TestRiverIDsAreNotReused(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true}}})
	first := post(t, s, `{"queue":"q","payload":1}`).ID
	s.exec(t, "DELETE FROM river_job")
	if second := post(t, s, `{"queue":"q","payload":1}`).ID; parseID(second) <= parseID(first) {
		t.Errorf("got the id %s after %s was deleted", second, first)
	}
}

// TestRiverRetriesAreAhead: however often a job has failed, its next time is in the future and near.
func TestRiverRetriesAreAhead(t *testing.T) {
	for _, text := range []string{"exponential 1ns", "exponential 2s", "exponential 1h", "fixed 5s", "schedule 1s 5m"} {
		b, err := ParseBackoff(text)
		if err != nil {
			t.Fatal(err)
		}
		for attempt := range 2 * maxAttempts {
			if wait := b.wait(attempt); wait < 0 || wait > maxBackoff {
				t.Fatalf("%s: got a wait of %s after attempt %d", text, wait, attempt)
			}
		}
	}
}

// TestRiverRetryForgetsTheCancel: a job that was cancelled, and is retried, is not cancelled again.
func TestRiverRetryForgetsTheCancel(t *testing.T) {
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer target.Close()
	s := still(t, Config{Queues: map[string]Queue{"q": {Target: target.URL}}})
	id := post(t, s, `{"queue":"q","payload":1}`).ID
	if w := send(s, "DELETE", "/jobs/"+id, ""); w.Code != 200 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	if w := send(s, "POST", "/jobs/"+id+"/retry", ""); w.Code != 202 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	var marks sql.NullString
	if err := s.db.Read.QueryRowContext(t.Context(), "SELECT metadata ->> 'cancel_attempted_at' FROM river_job").Scan(&marks); err != nil || marks.Valid {
		t.Errorf("still asked to stop: %v, %v", marks, err)
	}
	working(t, s)
	reached(t, s, id, stateCompleted)
}

// TestRiverMissedRunsAreBounded: after a year without a scheduler, one job is made up for by default.
func TestRiverMissedRunsAreBounded(t *testing.T) {
	s := planned(t, Queue{}, "")
	s.exec(t, "UPDATE jobs_schedules SET next_at = $1", time.Now().AddDate(-1, 0, 0).Truncate(time.Hour).UnixMilli())
	for range 3 {
		if _, err := s.schedules.fireDue(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(unfinished(t, s)); n != 1 {
		t.Errorf("got %d jobs, want one for all that was missed", n)
	}
	if w := send(s, "GET", "/schedules/s", ""); strings.Contains(w.Body.String(), fmt.Sprint(time.Now().Year()-1, "-")) {
		t.Errorf("the next tick is in the past: %s", w.Body)
	}
}
