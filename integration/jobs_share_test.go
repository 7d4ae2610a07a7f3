package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
)

// shareRun is three instances on one PostgreSQL, and a target that notes when each push came.
type shareRun struct {
	ports []string
	mu    sync.Mutex
	came  map[string][]time.Time // by the payload's first word
}

func newShareRun(t *testing.T, queue map[string]any) *shareRun {
	t.Helper()
	r := &shareRun{came: map[string][]time.Time{}}
	sink := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		word, _, _ := strings.Cut(strings.Trim(string(b), `"`), " ")
		r.mu.Lock()
		r.came[word] = append(r.came[word], time.Now())
		r.mu.Unlock()
	}))
	t.Cleanup(sink.Close)
	queue["target"] = sink.URL
	database := pgtest.Start(t).URL
	dir := t.TempDir()
	for i := range 3 {
		r.ports = append(r.ports, freePort(t))
		config, err := json.Marshal(map[string]any{
			"listen": "127.0.0.1:" + r.ports[i], "data_dir": filepath.Join(dir, strconv.Itoa(i)), "database": database,
			"backends": map[string]any{"jobs": map[string]any{"queues": map[string]any{"q": queue}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, fmt.Sprintf("config%d.json", i))
		if err = os.WriteFile(file, config, 0o600); err != nil {
			t.Fatal(err)
		}
		start(t, dir, "backends", "--config", file, "jobs").waitFor("http://127.0.0.1:" + r.ports[i] + "/livez")
	}
	return r
}

// put enqueues n jobs of a key, if one is given, whose payload begins with word.
func (r *shareRun) put(t *testing.T, key, word string, n int) {
	t.Helper()
	if key != "" {
		key = `"key":"` + key + `",`
	}
	for from := 0; from < n; from += 1000 {
		var b strings.Builder
		for i := from; i < min(from+1000, n); i++ {
			_, _ = fmt.Fprintf(&b, `,{"queue":"q",%s"payload":"%s %d"}`, key, word, i)
		}
		body := strings.NewReader(`{"jobs":[` + b.String()[1:] + `]}`)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1:"+r.ports[from/1000%3]+"/jobs/batch", body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Gatehouse-Rank", "service")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusAccepted {
			t.Fatal(resp.Status)
		}
	}
}

func (r *shareRun) arrivals(word string) []time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.came[word])
}

// TestRateIsSharedByInstances holds 100/1m against the clock of the target, in every window of a minute.
// The short form is the same pace for a twelfth of the time.
func TestRateIsSharedByInstances(t *testing.T) {
	window, number := 5*time.Second, 50
	rate, observe := "50/5s", 2
	if os.Getenv("GATEHOUSE_LONG") != "" {
		window, number, rate, observe = time.Minute, 100, "100/1m", 3
	}
	r := newShareRun(t, map[string]any{"rate": rate, "concurrency": 50})
	r.put(t, "", "a", number*(observe+2))
	eventually(t, time.Minute, func() error {
		if len(r.arrivals("a")) == 0 {
			return fmt.Errorf("nothing came")
		}
		return nil
	})
	<-time.After(time.Duration(observe)*window + 2*time.Second)
	all := r.arrivals("a")
	for i, at := range all {
		n := slices.IndexFunc(all[i:], func(b time.Time) bool { return b.Sub(at) >= window })
		if n > number+1 {
			t.Errorf("%d starts in %s from number %d on", n, window, i)
			break
		}
	}
	for w := range observe {
		from := all[0].Add(time.Duration(w) * window)
		n := 0
		for _, at := range all {
			if !at.Before(from) && at.Before(from.Add(window)) {
				n++
			}
		}
		slack := 1
		if raceEnabled {
			slack = 5 // a busy machine misses its turn by more than half a gap
		}
		if n < number-slack || n > number+1 {
			t.Errorf("window %d: %d started at the rate %s", w, n, rate)
		}
		t.Logf("window %d of %s: %d started", w, window, n)
	}
}

// TestATenantDoesNotWaitForAnother has one with many jobs, and another with a single one.
func TestATenantDoesNotWaitForAnother(t *testing.T) {
	crowd := 5000
	if os.Getenv("GATEHOUSE_LONG") != "" {
		crowd = 100_000
	}
	r := newShareRun(t, map[string]any{"concurrency": 20})
	r.put(t, "big", "big", crowd)
	var worst time.Duration
	for i := range 20 {
		began := time.Now()
		word := "small" + strconv.Itoa(i)
		r.put(t, "small", word, 1)
		eventually(t, 30*time.Second, func() error {
			if len(r.arrivals(word)) == 0 {
				return fmt.Errorf("the single job has not come")
			}
			return nil
		})
		worst = max(worst, r.arrivals(word)[0].Sub(began))
	}
	if done := len(r.arrivals("big")); done >= crowd {
		t.Errorf("the crowd of %d was gone before the end", done)
	}
	if worst > 2*time.Second {
		t.Errorf("a single job waited %s", worst)
	}
	t.Logf("beside %d jobs of another the single ones waited %s at most", crowd, worst)
}
