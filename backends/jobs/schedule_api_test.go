package jobs_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/jobs"
)

// send makes a request and reads the answer into v unless that is nil.
func send(t *testing.T, h http.Handler, status int, method, path, body string, v any) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, newRequest(method, path, strings.NewReader(body)))
	if w.Code != status {
		t.Fatalf("%s %s %s: got %d %s, want %d", method, path, body, w.Code, w.Body, status)
	}
	if v != nil {
		if err := json.Unmarshal(w.Body.Bytes(), v); err != nil {
			t.Fatalf("%s %s: %v in %s", method, path, err, w.Body)
		}
	}
	return w.Body.String()
}

// tickSink is a target that tells of the schedule headers of what is pushed to it.
type tickSink struct {
	*target
	ticks chan string
}

func newTickSink(t *testing.T) *tickSink {
	k := &tickSink{target: newTarget(t, false), ticks: make(chan string, 1000)}
	inner := k.Config.Handler
	k.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k.ticks <- r.Header.Get("Gatehouse-Schedule") + " " + r.Header.Get("Gatehouse-Scheduled-For")
		inner.ServeHTTP(w, r)
	})
	return k
}

func (k *tickSink) schedules(m map[string]jobs.Schedule) jobs.Config {
	c := k.config()
	c.Schedules = m
	return c
}

func names(t *testing.T, h http.Handler) (all []string) {
	t.Helper()
	var page struct{ Items []jobs.ScheduleView }
	send(t, h, http.StatusOK, http.MethodGet, "/schedules", "", &page)
	for _, v := range page.Items {
		all = append(all, fmt.Sprintf("%s %s %s %v", v.Name, v.Cron, v.Timezone, v.Configured))
	}
	return all
}

func TestScheduleAPI(t *testing.T) {
	k := newTickSink(t)
	s := start(t, t.TempDir(), k.schedules(map[string]jobs.Schedule{"nightly": {Cron: "30 2 * * *", Timezone: "Europe/Berlin", Queue: "q"}}))

	var v jobs.ScheduleView
	send(t, s, http.StatusCreated, http.MethodPut, "/schedules/often", `{"cron":"@every 150ms","queue":"q","payload":{"a":1}}`, &v)
	if v.Name != "often" || v.Missed != "once" || v.Timezone != "UTC" || v.NextAt == nil || len(v.Upcoming) != 5 || v.Configured {
		t.Errorf("got %+v", v)
	}
	var last time.Time
	seen := map[time.Time]bool{}
	for range 5 {
		name, at, _ := strings.Cut(<-k.ticks, " ")
		tick, err := time.Parse(time.RFC3339Nano, at)
		if err != nil || name != "often" || tick.UnixMilli()%150 != 0 || seen[tick] || time.Since(tick) > 5*time.Second {
			t.Fatalf("got a push of %q for %q after those for %v, %v", name, at, seen, err)
		}
		if seen[tick] = true; tick.After(last) {
			last = tick
		}
	}
	if k.count(`{"a":1}`) < 5 {
		t.Errorf("the payload was pushed %d times, want 5", k.count(`{"a":1}`))
	}
	until(t, "the newest tick is shown", func() bool {
		send(t, s, http.StatusOK, http.MethodGet, "/schedules/often", "", &v)
		return v.LastAt != nil && !v.LastAt.Before(last) && v.LastJob != ""
	})
	view(t, s, v.LastJob)

	send(t, s, http.StatusOK, http.MethodPut, "/schedules/often", `{"cron":"@yearly","queue":"q","timezone":"Asia/Tokyo","missed":"skip"}`, &v)
	if v.NextAt.Format("01-02T15:04") != "12-31T15:00" || string(v.Payload) != "null" {
		t.Errorf("got %+v, want the next year in Tokyo", v)
	}
	if got, want := names(t, s), []string{"nightly 30 2 * * * Europe/Berlin true", "often @yearly Asia/Tokyo false"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	var page struct {
		Items      []jobs.ScheduleView
		NextCursor string `json:"next_cursor"`
	}
	send(t, s, http.StatusOK, http.MethodGet, "/schedules?limit=1", "", &page)
	if page.NextCursor != "nightly" || len(page.Items) != 1 {
		t.Errorf("got %+v", page)
	}
	send(t, s, http.StatusOK, http.MethodGet, "/schedules?limit=1&cursor=nightly", "", &page)
	if page.Items[0].Name != "often" {
		t.Errorf("got %+v", page)
	}

	// What the configuration says is not changed over the API, but it can be run and paused.
	send(t, s, http.StatusConflict, http.MethodPut, "/schedules/nightly", `{"cron":"@daily","queue":"q"}`, nil)
	send(t, s, http.StatusConflict, http.MethodDelete, "/schedules/nightly", "", nil)
	for len(k.ticks) > 0 {
		<-k.ticks
	}
	var r jobs.Receipt
	send(t, s, http.StatusAccepted, http.MethodPost, "/schedules/nightly/run", "", &r)
	reach(t, s, r.ID, "completed")
	if got := <-k.ticks; got != "nightly " {
		t.Errorf("a run that was asked for was pushed as %q", got)
	}
	var paused, resumed jobs.ScheduleView
	send(t, s, http.StatusOK, http.MethodPost, "/schedules/nightly/pause", "", &paused)
	if !paused.Paused || paused.NextAt != nil {
		t.Errorf("got %+v, want it paused", paused)
	}
	send(t, s, http.StatusOK, http.MethodPost, "/schedules/nightly/resume", "", &resumed)
	if resumed.Paused || resumed.NextAt == nil || resumed.NextAt.Before(time.Now()) {
		t.Errorf("got %+v, want it to go on", resumed)
	}
	send(t, s, http.StatusNoContent, http.MethodDelete, "/schedules/often", "", nil)
	send(t, s, http.StatusNotFound, http.MethodGet, "/schedules/often", "", nil)
}

func TestScheduleOfADrainedQueueWaits(t *testing.T) {
	k := newTickSink(t)
	s := start(t, t.TempDir(), k.config())
	send(t, s, http.StatusOK, http.MethodPost, "/queues/q/drain", "", nil)
	send(t, s, http.StatusCreated, http.MethodPut, "/schedules/often", `{"cron":"@every 100ms","queue":"q"}`, nil)
	send(t, s, http.StatusServiceUnavailable, http.MethodPost, "/schedules/often/run", "", nil)
	<-time.After(500 * time.Millisecond) // nothing may happen; there is nothing to wait for
	if n := len(k.ticks); n != 0 {
		t.Errorf("%d jobs were pushed from a queue that takes none", n)
	}
	send(t, s, http.StatusOK, http.MethodPost, "/queues/q/resume", "", nil)
	<-k.ticks
}

func TestScheduleBadInput(t *testing.T) {
	k := newTickSink(t)
	s := start(t, t.TempDir(), k.config())
	for name, c := range map[string]struct {
		status       int
		method, path string
		body, want   string
	}{
		"no-cron":           {422, "PUT", "/schedules/a", `{"queue":"q"}`, "is missing"},
		"bad-cron":          {422, "PUT", "/schedules/a", `{"queue":"q","cron":"at noon"}`, "five fields"},
		"bad-zone":          {422, "PUT", "/schedules/a", `{"queue":"q","cron":"@daily","timezone":"Mars"}`, "IANA"},
		"bad-queue":         {422, "PUT", "/schedules/a", `{"queue":"x","cron":"@daily"}`, "no queue"},
		"our-queue":         {422, "PUT", "/schedules/a", `{"queue":"internal","cron":"@daily"}`, "no queue"},
		"no-target":         {422, "PUT", "/schedules/a", `{"cron":"@daily"}`, "no target"},
		"forbidden-target":  {422, "PUT", "/schedules/a", `{"cron":"@daily","target":"http://169.254.169.254/"}`, "not allowed"},
		"bad-target":        {422, "PUT", "/schedules/a", `{"cron":"@daily","target":"file:///etc/passwd"}`, "http or https"},
		"bad-policy":        {422, "PUT", "/schedules/a", `{"queue":"q","cron":"@daily","missed":"twice"}`, "skip, once or all"},
		"bad-name":          {422, "PUT", "/schedules/A.b", `{"queue":"q","cron":"@daily"}`, "lower-case"},
		"unknown-member":    {400, "PUT", "/schedules/a", `{"queue":"q","cron":"@daily","every":"5s"}`, "every"},
		"large-payload":     {422, "PUT", "/schedules/a", `{"queue":"q","cron":"@daily","payload":"` + strings.Repeat("x", 256<<10) + `"}`, "larger"},
		"get-unknown":       {404, "GET", "/schedules/a", "", "no schedule"},
		"run-unknown":       {404, "POST", "/schedules/a/run", "", "no schedule"},
		"pause-unknown":     {404, "POST", "/schedules/a/pause", "", "no schedule"},
		"delete-unknown":    {404, "DELETE", "/schedules/a", "", "no schedule"},
		"post-to-the-list":  {405, "POST", "/schedules", "", "not allowed"},
		"unknown-operation": {404, "POST", "/schedules/a/stop", "", "nothing at"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := send(t, s, c.status, c.method, c.path, c.body, nil); !strings.Contains(got, c.want) {
				t.Errorf("got %s, want %q in it", got, c.want)
			}
		})
	}
	if got := names(t, s); len(got) != 0 {
		t.Errorf("got %v, want none", got)
	}
}

func TestConfiguredSchedulesFollowTheConfiguration(t *testing.T) {
	dir, k := t.TempDir(), newTickSink(t)
	host, s := open(t, dir, k.schedules(map[string]jobs.Schedule{
		"a": {Cron: "@yearly", Queue: "q"}, "b": {Cron: "@every 24h", Queue: "q"}, "c": {Cron: "0 3 * * *", Queue: "q"},
	}))
	send(t, s, http.StatusCreated, http.MethodPut, "/schedules/mine", `{"cron":"@daily","queue":"q"}`, nil)
	send(t, s, http.StatusCreated, http.MethodPut, "/schedules/taken", `{"cron":"@monthly","queue":"q"}`, nil)
	send(t, s, http.StatusOK, http.MethodPost, "/schedules/c/pause", "", nil)
	if err := host.Close(); err != nil {
		t.Fatal(err)
	}
	_, s = open(t, dir, k.schedules(map[string]jobs.Schedule{
		"b": {Cron: "0 4 * * *", Queue: "q"}, "c": {Cron: "0 3 * * *", Queue: "q", Missed: "skip"}, "taken": {Cron: "@monthly", Queue: "q"},
	}))
	want := []string{"b 0 4 * * * UTC true", "c 0 3 * * * UTC true", "mine @daily UTC false", "taken @monthly UTC true"}
	if got := names(t, s); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	var v jobs.ScheduleView
	if send(t, s, http.StatusOK, http.MethodGet, "/schedules/b", "", &v); v.NextAt.Hour() != 4 {
		t.Errorf("got %+v, want the next tick by the new expression", v)
	}
	if send(t, s, http.StatusOK, http.MethodGet, "/schedules/c", "", &v); !v.Paused || v.Missed != "skip" {
		t.Errorf("got %+v, want it to stay paused", v)
	}
}

// TestScheduleOverTwoInstances: two services on one database, as at a reload, one of which comes and
// goes, fire each tick once, and what was missed while none ran is made up for.
func TestScheduleOverTwoInstances(t *testing.T) {
	dir, k := t.TempDir(), newTickSink(t)
	c := k.schedules(map[string]jobs.Schedule{"often": {Cron: "@every 200ms", Queue: "q", Missed: "all"}})
	hostA, _ := open(t, dir, c)
	got := map[string]int{}
	take := func(n int) {
		for range n {
			got[<-k.ticks]++
		}
	}
	take(5)
	for range 3 {
		hostB, _ := open(t, dir, c)
		take(5)
		if err := hostB.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := hostA.Close(); err != nil {
		t.Fatal(err)
	}
	<-time.After(time.Second) // missed
	_, a := open(t, dir, c)
	take(12)
	send(t, a, http.StatusOK, http.MethodPost, "/schedules/often/pause", "", nil)
	until(t, "all was pushed", func() bool {
		for len(k.ticks) > 0 {
			take(1)
		}
		var v jobs.ScheduleView
		send(t, a, http.StatusOK, http.MethodGet, "/schedules/often", "", &v)
		return view(t, a, v.LastJob).State == "completed"
	})
	var first, last time.Time
	for tick, n := range got {
		at, err := time.Parse(time.RFC3339Nano, strings.TrimPrefix(tick, "often "))
		if err != nil || n != 1 {
			t.Fatalf("the tick %q was pushed %d times, %v", tick, n, err)
		}
		if first.IsZero() || at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
	}
	if want := int(last.Sub(first)/(200*time.Millisecond)) + 1; len(got) != want {
		t.Errorf("got %d ticks from %s to %s, want %d", len(got), first, last, want)
	}
}
