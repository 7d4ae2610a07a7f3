package jobs

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// planned is a still service with the schedule s as given.
func planned(t *testing.T, q Queue, members string) *Service {
	t.Helper()
	q.Pull = true
	s := still(t, Config{Queues: map[string]Queue{"q": q}})
	if w := send(s, "PUT", "/schedules/s", `{"queue":"q","cron":"0 * * * *"`+members+`}`); w.Code != 201 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	return s
}

// tick fires the schedule as if its next tick had come, and returns the ids of its unfinished jobs.
func tick(t *testing.T, s *Service) []int64 {
	t.Helper()
	if err := tickErr(t, s); err != nil {
		t.Fatal(err)
	}
	return unfinished(t, s)
}

func tickErr(t *testing.T, s *Service) error {
	t.Helper()
	sc, err := readSchedule(t.Context(), s.db.Read, "s")
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.fire(t.Context(), &sc, sc.next.Add(time.Hour), []time.Time{sc.next})
	return err
}

func unfinished(t *testing.T, s *Service) []int64 {
	t.Helper()
	ids, err := column[int64](s.db.Read.QueryContext(t.Context(), "SELECT id FROM river_job WHERE finalized_at IS NULL ORDER BY id"))
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func TestScheduleOverlap(t *testing.T) {
	for _, tc := range []struct {
		policy     string
		waiting    int
		firstStays bool
	}{{"allow", 2, true}, {"skip", 1, true}, {"cancel", 1, false}} {
		t.Run(tc.policy, func(t *testing.T) {
			s := planned(t, Queue{}, `,"overlap":"`+tc.policy+`"`)
			first := tick(t, s)
			if len(first) != 1 {
				t.Fatalf("got %v after the first tick", first)
			}
			second := tick(t, s)
			if len(second) != tc.waiting || (second[0] == first[0]) != tc.firstStays {
				t.Errorf("got %v after the second tick, the first was %v", second, first)
			}
			s.exec(t, "UPDATE river_job SET state = 'completed', finalized_at = "+s.q.now)
			if third := tick(t, s); len(third) != 1 {
				t.Errorf("got %v after the run before was finished, want one", third)
			}
		})
	}
}

// TestScheduleCancelsARunningOne: the run before is asked to stop.
func TestScheduleCancelsARunningOne(t *testing.T) {
	s := planned(t, Queue{}, `,"overlap":"cancel"`)
	first := tick(t, s)
	if _, err := s.take(t.Context(), "q", 1, pullOwner+"w"); err != nil {
		t.Fatal(err)
	}
	if second := tick(t, s); len(second) != 2 {
		t.Fatalf("got %v", second)
	}
	if v, err := s.job(t.Context(), first[0]); err != nil || !v.Cancelling {
		t.Errorf("got %+v, %v, want it to be asked to stop", v, err)
	}
}

func TestScheduleWaitsForRoom(t *testing.T) {
	s := planned(t, Queue{Waiting: 2}, "")
	tick(t, s)
	tick(t, s)
	before, _ := readSchedule(t.Context(), s.db.Read, "s")
	if err := tickErr(t, s); !errors.Is(err, errQueueFull) {
		t.Fatalf("got %v, want that the queue is full", err)
	}
	after, _ := readSchedule(t.Context(), s.db.Read, "s")
	if n := len(unfinished(t, s)); n != 2 || !before.next.Equal(after.next) {
		t.Errorf("%d jobs wait, and the next tick went from %s to %s", n, before.next, after.next)
	}
	if w := send(s, "POST", "/schedules/s/run", ""); w.Code != 429 {
		t.Errorf("a run by hand: got %d %s", w.Code, w.Body)
	}
	s.exec(t, "UPDATE river_job SET state = 'completed', finalized_at = "+s.q.now)
	s.tallies.Set(lot{queue: "q"}, 1)
	// Three ticks and room for one: the others stay due.
	ticks := []time.Time{after.next, after.next.Add(time.Hour), after.next.Add(2 * time.Hour)}
	if _, err := s.fire(t.Context(), &after, after.next.Add(3*time.Hour), ticks); err != nil {
		t.Fatal(err)
	}
	left, _ := readSchedule(t.Context(), s.db.Read, "s")
	if n := len(unfinished(t, s)); n != 1 || !left.next.Equal(ticks[1]) {
		t.Errorf("%d jobs wait, and the next tick is %s, want one and %s", n, left.next, ticks[1])
	}
}

func TestScheduleGivesItsJobsOptions(t *testing.T) {
	s := planned(t, Queue{}, `,"key":"tenant","unique_key":"u","priority":3,"attempts":9,"timeout":"7s","jitter":"1h"`)
	id := tick(t, s)[0]
	v, err := s.job(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if v.Key != "tenant" || v.UniqueKey != "u" || v.Priority != 3 || v.MaxAttempts != 9 || v.Schedule != "s" {
		t.Errorf("got %+v", v)
	}
	if late := time.Until(v.RunAt); late < 0 || late > 2*time.Hour {
		t.Errorf("it runs in %s, want up to an hour after its tick", late)
	}
	var timeout string
	if err = s.db.Read.QueryRowContext(t.Context(), "SELECT j.args ->> 'timeout' FROM river_job j").Scan(&timeout); err != nil || timeout != "7s" {
		t.Errorf("got the timeout %q, %v", timeout, err)
	}
	if again := tick(t, s); len(again) != 1 || again[0] != id {
		t.Errorf("got %v while the unique key was held, want %d alone", again, id)
	}
}

func TestScheduleWindow(t *testing.T) {
	at := func(s string) time.Time {
		t.Helper()
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	sc := Schedule{Cron: "0 * * * *"}
	sc.Start, sc.End = "2027-01-01T10:00:00Z", "2027-01-01T12:00:00Z"
	c, err := sc.ticks()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for next := c.next(at("2026-01-01T00:00:00Z")); !next.IsZero(); next = c.next(next) {
		got = append(got, next.UTC().Format(time.TimeOnly))
	}
	if want := "10:00:00 11:00:00 12:00:00"; strings.Join(got, " ") != want {
		t.Errorf("got ticks at %v, want %s", got, want)
	}
	if due := c.due(at("2027-01-01T10:00:00Z"), at("2027-01-02T00:00:00Z"), 100); len(due) != 3 {
		t.Errorf("got %v due after the end, want three", due)
	}
	for members, want := range map[string]string{
		`"start":"soon"`:    "start must be a time",
		`"overlap":"never"`: "overlap must be allow, skip or cancel",
		`"jitter":"25h"`:    "jitter must be at most",
		`"priority":5`:      "priority must be from 1",
		`"attempts":-1`:     "attempts must be from 1",
		`"timeout":"25h"`:   "timeout must be at most",
		`"key":"a\u0000"`:   "control characters",
		`"start":"2027-01-02T00:00:00Z","end":"2027-01-01T00:00:00Z"`: "end must not be before start",
		`"start":"2027-01-01T00:01:00Z","end":"2027-01-01T00:59:00Z"`: "no tick from start to end",
	} {
		s := still(t, Config{Queues: map[string]Queue{"q": {Pull: true}}})
		w := send(s, "PUT", "/schedules/s", fmt.Sprintf(`{"queue":"q","cron":"0 * * * *",%s}`, members))
		if w.Code != 422 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: got %d %s, want 422 with %q", members, w.Code, w.Body, want)
		}
	}
}
