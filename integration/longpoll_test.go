package integration

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const pollGateway = `{
	admin 127.0.0.1:%[1]s
	auto_https off
	persist_config off
	gatehouse {
		data_dir %[2]s/data
		profile  off
		backend jobs {
			queue work {
				pull
			}
		}
	}
}
http://127.0.0.1:%[3]s {
	encode gzip
	admission {
		zone          door
		max_in_flight 2
		adaptive      off
		queue         off
		cpu           off
		scheduler     off
	}
	backend jobs as operator
}
`

// TestLongPollsHoldNoPlaces: workers that wait for jobs, and who waits for the end of one, give their places
// in admission back while they do.
func TestLongPollsHoldNoPlaces(t *testing.T) {
	dir, admin, port := t.TempDir(), freePort(t), freePort(t)
	base := "http://127.0.0.1:" + port
	if err := os.WriteFile(filepath.Join(dir, "Caddyfile"), []byte(fmt.Sprintf(pollGateway, admin, dir, port)), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, dir, "gatehouse", "run", "--config", "Caddyfile", "--adapter", "caddyfile")
	p.waitFor(base + "/queues")
	const polls = 10
	answers := make(chan string, polls+1)
	ask := func(method, path, body string) {
		r, err := http.NewRequest(method, base+path, strings.NewReader(body))
		if err != nil {
			answers <- err.Error()
			return
		}
		r.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			answers <- err.Error()
			return
		}
		_ = resp.Body.Close()
		answers <- resp.Status
	}
	inFlight := func() string {
		_, metrics := call(t, http.MethodGet, "http://127.0.0.1:"+admin+"/metrics", "", "")
		for line := range strings.Lines(metrics) {
			if name, n, _ := strings.Cut(strings.TrimSpace(line), "} "); strings.HasPrefix(name, "gatehouse_admission_in_flight") && strings.Contains(name, `zone="door"`) {
				return n
			}
		}
		return "none"
	}
	parked := func() {
		t.Helper()
		eventually(t, 10*time.Second, func() error {
			if n := inFlight(); n != "0" {
				return fmt.Errorf("%s requests have a place", n)
			}
			return nil
		})
	}
	// One after the other: what is about to wait has a place for a moment, and two would be all.
	for range polls {
		go ask(http.MethodPost, "/queues/work/lease", `{"wait":"20s"}`)
		eventually(t, 10*time.Second, func() error {
			status, body := call(t, http.MethodGet, base+"/queues", "", "")
			if status != http.StatusOK {
				return fmt.Errorf("got %d %s", status, body)
			}
			return nil
		})
		parked()
	}
	if len(answers) > 0 {
		t.Errorf("a poll was answered before there was a job: %s", <-answers)
	}
	status, body := call(t, http.MethodPost, base+"/jobs", "", `{"queue":"work","payload":1,"delay":"1h"}`)
	if status != http.StatusAccepted {
		t.Fatalf("got %d %s", status, body)
	}
	go ask(http.MethodGet, "/jobs/"+field(t, body, "id")+"?wait=60s", "")
	for range 20 {
		if status, body := call(t, http.MethodGet, base+"/queues", "", ""); status != http.StatusOK {
			t.Errorf("while others wait: got %d %s", status, body)
		}
	}
	// Those whose wait is over have places again for a moment, and nobody else may be let in then.
	finally := func(method, path, body string, want int) {
		eventually(t, 10*time.Second, func() error {
			if status, answer := call(t, method, base+path, "", body); status != want {
				return fmt.Errorf("%s %s: got %d %s", method, path, status, answer)
			}
			return nil
		})
	}
	for range polls {
		finally(http.MethodPost, "/jobs", `{"queue":"work","payload":1}`, http.StatusAccepted)
	}
	finally(http.MethodDelete, "/jobs/"+field(t, body, "id"), "", http.StatusOK)
	for range polls + 1 {
		select {
		case got := <-answers:
			if got != "200 OK" {
				t.Errorf("a poll got %s", got)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("a poll has no answer")
		}
	}
	parked()
}
