package jobs

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/riverqueue/river"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

// TestLostStartIsTakenBack: the fetch was committed, and its answer was lost with the connection.
func TestLostStartIsTakenBack(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true}}})
	post(t, s, `{"queue":"q","payload":1}`)
	post(t, s, `{"queue":"q","payload":2}`)
	rows, err := s.take(t.Context(), "q", 2, s.id)
	if err != nil || len(rows) != 2 {
		t.Fatalf("took %d jobs, %v", len(rows), err)
	}
	lost, at := rows[0].ID, rows[1].ID
	s.active.end(lost)
	states := func() (got [2]string) {
		for i, id := range []int64{lost, at} {
			var attempt int
			if err := s.db.Read.QueryRowContext(t.Context(), "SELECT state, attempt FROM river_job WHERE id = $1", id).Scan(&got[i], &attempt); err != nil {
				t.Fatal(err)
			}
			if got[i] == "available" && attempt != 0 {
				t.Errorf("the attempt that never was counts: %d", attempt)
			}
		}
		return got
	}
	suspects, err := s.reclaim(t.Context(), nil)
	if err != nil || len(suspects) != 1 || suspects[0].ID != lost {
		t.Fatalf("got suspects %v, %v, want %d", suspects, err, lost)
	}
	if got := states(); got != [2]string{"running", "running"} {
		t.Errorf("after one look the jobs are %v: one that begins in this moment would be taken back", got)
	}
	if suspects, err = s.reclaim(t.Context(), suspects); err != nil || len(suspects) != 0 {
		t.Errorf("got suspects %v, %v, want none left", suspects, err)
	}
	if got := states(); got != [2]string{"available", "running"} {
		t.Errorf("the jobs are %v, want the lost one available and the other running", got)
	}
}

// TestEndThatIsBeingStored: the engine stores ends late, and a job that waits for it is not lost.
func TestEndThatIsBeingStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newActive()
		a.begin(1, turnOf{queue: "q"})
		a.worked(1, "q")
		a.end(1)
		if !a.holds(1) || len(a.of("q")) != 0 {
			t.Error("a job whose end is not stored yet is given up, or keeps its slot")
		}
		<-time.After(endingMost + time.Second)
		if a.holds(1) {
			t.Error("an end that is never stored is waited for without end")
		}
		a.worked(2, "q")
		if a.stored(2); a.holds(2) || len(a.ending) != 0 {
			t.Error("a job whose end is stored is still held")
		}
	})
}

// TestRetryBeginsTheAgeAnew: a job that died of its age must not die of it again at once.
func TestRetryBeginsTheAgeAnew(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true}}})
	id := post(t, s, `{"queue":"q","payload":1,"max_age":"1m"}`).ID
	s.exec(t, "UPDATE river_job SET state = 'discarded', attempt = 1, finalized_at = "+s.q.now+" WHERE id = "+id)
	if w := send(s, "POST", "/jobs/"+id+"/retry", ""); w.Code != 202 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	rows, err := s.take(t.Context(), "q", 1, s.id)
	if err != nil || len(rows) != 1 {
		t.Fatalf("took %d jobs, %v", len(rows), err)
	}
	job := &river.Job[pushArgs]{JobRow: rows[0]}
	job.Args.MaxAge, job.CreatedAt = unit.Duration(time.Minute), time.Now().Add(-time.Hour)
	if left := time.Until(s.expires(job)); left < 50*time.Second || left > 70*time.Second {
		t.Errorf("the job is too old in %s, want its whole minute", left)
	}
}

// TestBlockedQueueIsLookedAtByOne: many workers that wait for the same full queue share the looks.
func TestBlockedQueueIsLookedAtByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &vain{last: map[string]time.Time{}}
		if !v.due("q") {
			t.Error("a queue that was not looked at is not due")
		}
		v.note("q")
		looks := 0
		for range 100 { // ten seconds
			<-time.After(leasePoll / 2)
			for range 50 {
				if v.due("q") {
					looks++
				}
			}
		}
		if looks != 50 {
			t.Errorf("50 workers looked %d times in 50 periods, want once in each", looks)
		}
		if v.cleared("q"); !v.due("q") {
			t.Error("a queue whose jobs may start is not due")
		}
	})
}

// TestFreedSlotGoesToAWaitingWorker: sharing the looks keeps no worker waiting for long.
func TestFreedSlotGoesToAWaitingWorker(t *testing.T) {
	s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true, Concurrency: 1}}})
	for range 3 {
		post(t, s, `{"queue":"q","payload":1}`)
	}
	first, err := s.lease(t.Context(), "q", 1, time.Minute, 0, "w")
	if err != nil || len(first) != 1 {
		t.Fatalf("leased %d, %v", len(first), err)
	}
	got := make(chan int)
	for range 10 {
		go func() {
			leases, _ := s.lease(t.Context(), "q", 1, time.Minute, 5*time.Second, "w")
			got <- len(leases)
		}()
	}
	<-time.After(2 * leasePoll)
	begin := time.Now()
	if w := send(s, "POST", "/jobs/"+first[0].ID+"/complete", fmt.Sprintf(`{"fence":%d}`, first[0].Fence)); w.Code >= 300 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	if n := <-got; n != 1 || time.Since(begin) > 3*time.Second {
		t.Errorf("the freed slot went to %d workers after %s", n, time.Since(begin))
	}
}
