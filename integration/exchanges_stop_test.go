package integration

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// stopLimit is far below the timeouts of what hangs, and above the 3 s that the gateway drains for.
const stopLimit = 20 * time.Second

// hanging are the targets whose exchanges the timeout alone would end.
func hanging(t *testing.T) (targets []*scripted) {
	for _, s := range scripts {
		if s.hangs {
			targets = append(targets, s.start(t))
		}
	}
	return targets
}

// hangingGateway is one whose exchanges take a minute at least.
func hangingGateway(t *testing.T, targets []*scripted, healthy *scripted) *sending {
	var queues strings.Builder
	for _, s := range targets {
		_, _ = fmt.Fprintf(&queues, "queue %s {\n target %s/push\n timeout 2m\n}\n", s.name, s.url)
	}
	_, _ = fmt.Fprintf(&queues, "queue told {\n target %s/done\n}\n", healthy.url)
	return newSending(t, time.Minute, queues.String())
}

// TestStopWhileTargetsHang: SIGTERM ends the process in its grace, and what was under way comes again.
func TestStopWhileTargetsHang(t *testing.T) {
	for kind, send := range map[string]func(g *sending, s *scripted){
		"push": func(g *sending, s *scripted) {
			g.post(t, "/jobs", fmt.Sprintf(`{"queue":%q,"payload":1}`, s.name), "id")
		},
		"delivery": func(g *sending, s *scripted) {
			g.post(t, "/endpoints", fmt.Sprintf(`{"url":"%s/hook","types":["walk.%s"]}`, s.url, s.name), "id")
			g.post(t, "/events", fmt.Sprintf(`{"type":"walk.%s","payload":1}`, s.name), "id")
		},
		"callback": func(g *sending, s *scripted) {
			g.post(t, "/jobs", fmt.Sprintf(`{"queue":"told","payload":1,"callback":"%s/told"}`, s.url), "id")
		},
		"fill": func(g *sending, s *scripted) {
			go func() {
				resp, err := http.Post(g.base+"/cache/"+s.name+"/fill", "application/json", strings.NewReader(fmt.Sprintf(`{"url":"%s/value"}`, s.url)))
				if err == nil {
					_ = resp.Body.Close()
				}
			}()
		},
	} {
		t.Run(kind, func(t *testing.T) {
			targets, healthy := hanging(t), script{}.start(t)
			healthy.well.Store(true)
			g := hangingGateway(t, targets, healthy)
			for _, s := range targets {
				send(g, s)
			}
			for _, s := range targets {
				eventually(t, walkLimit, func() error {
					if s.count(func(asked) bool { return true }) == 0 {
						return errors.New(s.name + " was not asked")
					}
					return nil
				})
			}
			begun := time.Now()
			g.terminate()
			if code, took := g.cmd.ProcessState.ExitCode(), time.Since(begun); code != 0 || took > stopLimit {
				t.Errorf("the process ended with %d after %s", code, took)
			}
			if kind == "fill" {
				return // who asked for it asks again
			}
			for _, s := range targets {
				s.well.Store(true)
			}
			g.run(t)
			for _, s := range targets {
				eventually(t, walkLimit, func() error {
					again := s.count(func(a asked) bool { return kind == "delivery" || a.header.Get("Gatehouse-Job-Redelivered") == "true" })
					if want := map[bool]int{true: 2, false: 1}[kind == "delivery"]; again < want {
						return fmt.Errorf("%s: it did not come again", s.name)
					}
					return nil
				})
				if n := s.count(func(a asked) bool { return a.header.Get("Gatehouse-Job-Attempt") > "1" }); n > 0 {
					t.Errorf("%s: being cut off used up an attempt", s.name)
				}
				if ids := s.ids(); len(ids) != 1 {
					t.Errorf("%s: got %v, want the same one again", s.name, ids)
				}
			}
		})
	}
}

// ids are the jobs and events that the target was asked to take.
func (s *scripted) ids() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := map[string]bool{}
	for _, a := range s.asked {
		ids[a.header.Get("Gatehouse-Job-Id")+a.header.Get("Webhook-Id")] = true
	}
	return ids
}

// TestCancelWhileTargetsHang: a push that hangs ends when its job is cancelled.
func TestCancelWhileTargetsHang(t *testing.T) {
	targets, healthy := hanging(t), script{}.start(t)
	g := hangingGateway(t, targets, healthy)
	ids := map[*scripted]string{}
	for _, s := range targets {
		ids[s] = g.post(t, "/jobs", fmt.Sprintf(`{"queue":%q,"payload":1}`, s.name), "id")
	}
	for _, s := range targets {
		eventually(t, walkLimit, func() error {
			if s.count(func(asked) bool { return true }) == 0 {
				return errors.New(s.name + " was not asked")
			}
			return nil
		})
		if status, body := call(t, http.MethodDelete, g.base+"/jobs/"+ids[s], "", ""); status >= 300 {
			t.Errorf("%s: got %d %s", s.name, status, body)
		}
	}
	for _, s := range targets {
		if j := g.ended(t, ids[s], stopLimit); j.State != "cancelled" {
			t.Errorf("%s: got %+v", s.name, j)
		}
		eventually(t, stopLimit, func() error {
			if n := s.connections(); n > 0 {
				return fmt.Errorf("%s: %d connections are left", s.name, n)
			}
			return nil
		})
	}
}
