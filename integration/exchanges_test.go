package integration

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	// walkTimeout is that of the pushes and deliveries; callbacks have 30 s and fills 10 s.
	walkTimeout = 2 * time.Second
	// walkLimit is how late a verdict may be.
	walkLimit = 90 * time.Second
)

// walk is one gateway and a target for each script, to all of which everything is sent at once.
type walk struct {
	*sending
	targets []*scripted
	healthy *scripted

	pushes    map[*scripted][]string // ids of jobs
	after     map[*scripted]string   // the last job, behind them
	endpoints map[*scripted]string
	events    map[*scripted][]string
	fills     map[*scripted]chan string // the statuses
}

// TestWhateverTheTargetSends sends pushes, deliveries, callbacks and fills to each of the scripts.
func TestWhateverTheTargetSends(t *testing.T) {
	w := &walk{
		targets: starts(t, scripts...), healthy: script{name: "healthy"}.start(t), pushes: map[*scripted][]string{},
		after: map[*scripted]string{}, endpoints: map[*scripted]string{}, events: map[*scripted][]string{}, fills: map[*scripted]chan string{},
	}
	w.healthy.well.Store(true)
	var queues strings.Builder
	for _, s := range w.targets {
		_, _ = fmt.Fprintf(&queues, "queue %s {\n target %s/push\n concurrency 2\n attempts 1\n timeout %s\n}\n", s.name, s.url, walkTimeout)
	}
	_, _ = fmt.Fprintf(&queues, "queue told {\n target %s/done\n concurrency 100\n}\n", w.healthy.url)
	w.sending = newSending(t, walkTimeout, queues.String())
	for _, s := range w.targets {
		w.begin(t, s)
	}
	for kind, look := range map[string]func(*testing.T, *scripted){"push": w.pushed, "delivery": w.delivered, "fill": w.filled} {
		for _, s := range w.targets {
			t.Run(kind+"-"+s.name, func(t *testing.T) { look(t, s) })
		}
	}
	for _, s := range w.targets {
		t.Run("callback-"+s.name, func(t *testing.T) { w.calledBack(t, s) })
	}
	if t.Failed() { // what hangs would be waited for again
		return
	}
	for _, s := range w.targets {
		w.beginAgain(t, s)
	}
	for _, s := range w.targets {
		t.Run("afterwards-"+s.name, func(t *testing.T) { w.goesOn(t, s) })
	}
}

// begin sends all that goes to one target.
func (w *walk) begin(t *testing.T, s *scripted) {
	for range 3 {
		w.pushes[s] = append(w.pushes[s], w.post(t, "/jobs", fmt.Sprintf(`{"queue":%q,"payload":1}`, s.name), "id"))
	}
	w.after[s] = w.post(t, "/jobs", fmt.Sprintf(`{"queue":%q,"payload":1,"target":"%s/after/%s"}`, s.name, w.healthy.url, s.name), "id")
	w.endpoints[s] = w.post(t, "/endpoints", fmt.Sprintf(`{"url":"%s/hook","types":["walk.%s"]}`, s.url, s.name), "id")
	for range 3 {
		w.events[s] = append(w.events[s], w.post(t, "/events", fmt.Sprintf(`{"type":"walk.%s","payload":1}`, s.name), "id"))
	}
	w.post(t, "/jobs", fmt.Sprintf(`{"queue":"told","payload":1,"callback":"%s/told"}`, s.url), "id")
	got := make(chan string, 1)
	w.fills[s] = got
	go func() {
		resp, err := http.Post(w.base+"/cache/"+s.name+"/fill", "application/json", strings.NewReader(fmt.Sprintf(`{"url":"%s/value"}`, s.url)))
		if err != nil {
			got <- err.Error()
			return
		}
		_ = resp.Body.Close()
		got <- strconv.Itoa(resp.StatusCode)
	}()
}

func (w *walk) pushed(t *testing.T, s *scripted) {
	for _, id := range w.pushes[s] {
		j := w.ended(t, id, walkLimit)
		if s.taken && j.State != "completed" || !s.taken && (j.State != "dead" || len(j.Errors) != 1) || j.Attempt != 1 {
			t.Errorf("got %+v, want taken %v", j, s.taken)
		}
		if s.name == "switches" && !strings.Contains(fmt.Sprint(j.Errors), "101") {
			t.Errorf("got %+v, want the reason", j.Errors)
		}
	}
	if j := w.ended(t, w.after[s], walkLimit); j.State != "completed" || j.Attempt != 1 {
		t.Errorf("the job behind them is %+v", j)
	}
}

func (w *walk) delivered(t *testing.T, s *scripted) {
	for _, id := range w.events[s] {
		d := w.attempted(t, w.endpoints[s], id, walkLimit)
		if want := map[bool]string{true: "delivered", false: "retrying"}[s.taken]; d.State != want || (d.LastError == "") != s.taken {
			t.Errorf("got %+v, want %s", d, want)
		}
	}
}

func (w *walk) filled(t *testing.T, s *scripted) {
	select {
	case got := <-w.fills[s]:
		if failed := got == "502" || got == "504"; failed == s.filled || !failed && got != "200" {
			t.Errorf("got %s, want a value %v", got, s.filled)
		}
	case <-time.After(walkLimit):
		t.Error("no answer")
	}
}

// calledBack looks for the second attempt of a callback, which only a failure has.
func (w *walk) calledBack(t *testing.T, s *scripted) {
	told := func(attempt string) int {
		return s.count(func(a asked) bool { return a.path == "/told" && a.header.Get("Gatehouse-Job-Attempt") == attempt })
	}
	eventually(t, walkLimit, func() error {
		if told("1") == 0 || !s.taken && told("2") == 0 {
			return fmt.Errorf("it was called %d and %d times", told("1"), told("2"))
		}
		return nil
	})
	if told("1") != 1 || s.taken && told("2") != 0 {
		t.Errorf("it was called %d and %d times, want taken %v", told("1"), told("2"), s.taken)
	}
}

// beginAgain has the target take everything from now on, and sends it one of each.
func (w *walk) beginAgain(t *testing.T, s *scripted) {
	s.well.Store(true)
	w.after[s] = w.post(t, "/jobs", fmt.Sprintf(`{"queue":%q,"payload":1}`, s.name), "id")
	w.events[s] = []string{w.post(t, "/events", fmt.Sprintf(`{"type":"walk.%s","payload":2}`, s.name), "id")}
	w.post(t, "/jobs", fmt.Sprintf(`{"queue":"told","payload":1,"callback":"%s/again"}`, s.url), "id")
	if status, body := call(t, http.MethodPost, w.base+"/cache/"+s.name+"-again/fill", "", fmt.Sprintf(`{"url":"%s/value"}`, s.url)); status != http.StatusOK {
		t.Errorf("%s: got %d %s", s.name, status, body)
	}
}

// goesOn looks whether a target that is well again gets all, and that nothing is left of the exchanges.
func (w *walk) goesOn(t *testing.T, s *scripted) {
	if j := w.ended(t, w.after[s], walkLimit); j.State != "completed" {
		t.Errorf("got %+v", j)
	}
	if d := w.attempted(t, w.endpoints[s], w.events[s][0], walkLimit); d.State != "delivered" {
		t.Errorf("got %+v", d)
	}
	eventually(t, walkLimit, func() error {
		if s.count(func(a asked) bool { return a.path == "/again" }) == 0 {
			return errors.New("the callback has not come")
		}
		return nil
	})
	eventually(t, walkLimit, func() error {
		if n := s.connections(); n > 0 {
			return fmt.Errorf("%d connections are left", n)
		}
		return nil
	})
}

// TestStaleConnections: where a target closes a kept-alive connection as a request comes, that is sent once
// more on a new one, and is no failure.
func TestStaleConnections(t *testing.T) {
	for kind, path := range map[string]string{"push": "/push", "delivery": "/hook", "callback": "/told", "fill": "/value"} {
		t.Run(kind, func(t *testing.T) {
			s, healthy := stale.start(t), script{}.start(t)
			healthy.well.Store(true)
			g := newSending(t, walkLimit, fmt.Sprintf("queue stale {\n target %s/push\n}\nqueue told {\n target %s/done\n}\n", s.url, healthy.url))
			endpoint := g.post(t, "/endpoints", fmt.Sprintf(`{"url":"%s/hook","types":["a"]}`, s.url), "id")
			answered := func() int { return s.count(func(a asked) bool { return a.nth == 1 }) }
			closed := func() int { return s.count(func(a asked) bool { return a.nth > 1 }) }
			send := map[string]func(n int){
				"push": func(int) {
					if j := g.ended(t, g.post(t, "/jobs", `{"queue":"stale","payload":1}`, "id"), walkLimit); j.State != "completed" || j.Attempt != 1 || len(j.Errors) > 0 {
						t.Errorf("got %+v", j)
					}
				},
				"delivery": func(int) {
					if d := g.attempted(t, endpoint, g.post(t, "/events", `{"type":"a","payload":1}`, "id"), walkLimit); d.State != "delivered" || d.Attempts != 1 {
						t.Errorf("got %+v", d)
					}
				},
				"callback": func(n int) {
					g.post(t, "/jobs", fmt.Sprintf(`{"queue":"told","payload":1,"callback":"%s/told"}`, s.url), "id")
					eventually(t, walkLimit, func() error {
						if answered() < n {
							return errors.New("the callback has not come")
						}
						return nil
					})
				},
				"fill": func(n int) {
					if status, body := call(t, http.MethodPost, fmt.Sprintf("%s/cache/%d/fill", g.base, n), "", fmt.Sprintf(`{"url":"%s/value"}`, s.url)); status != http.StatusOK {
						t.Errorf("got %d %s", status, body)
					}
				},
			}[kind]
			sent := 0
			// A connection that was idle for 3 s is not used again, so it may take more than two.
			for ; sent < 30 && closed() == 0; sent++ {
				send(sent + 1)
			}
			if closed() == 0 || answered() != sent {
				t.Errorf("%d were sent, %d were answered, %d met a close", sent, answered(), closed())
			}
			if n := s.count(func(a asked) bool { return a.path != path || a.header.Get("Gatehouse-Job-Attempt") > "1" }); n > 0 {
				t.Errorf("%d requests were made besides", n)
			}
		})
	}
}
