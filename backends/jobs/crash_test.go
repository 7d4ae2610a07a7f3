package jobs_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/jobs"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// crashEnv makes the test binary the process that will be killed: DIR and the target's URL.
const crashEnv = "GATEHOUSE_JOBS_TEST_CRASH"

func TestMain(m *testing.M) {
	if dir, url, ok := strings.Cut(os.Getenv(crashEnv), " "); ok {
		fmt.Fprintln(os.Stderr, enqueueUntilKilled(dir, url))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// enqueueUntilKilled works a queue and puts jobs into it, and says the number of each acknowledged.
func enqueueUntilKilled(dir, url string) error {
	c := crashConfig(url)
	h, err := service.NewHost(context.Background(), service.Settings{DataDir: dir}, nil,
		func(string) (service.Opener, error) { return c, nil })
	if err != nil {
		return err
	}
	if err = h.Open(context.Background(), "jobs"); err != nil {
		return err
	}
	for i := range 100_000 {
		w := httptest.NewRecorder()
		h.Service("jobs").ServeHTTP(w, newRequest(http.MethodPost, "/jobs", strings.NewReader(fmt.Sprintf(`{"queue":"q","payload":%d}`, i))))
		if w.Code != http.StatusAccepted {
			return fmt.Errorf("got %d %s", w.Code, w.Body)
		}
		_, _ = fmt.Fprintln(os.Stdout, i, strings.TrimPrefix(w.Header().Get("Location"), "/jobs/"))
	}
	return nil
}

// crashConfig gives each job one attempt, so that a lost one could not be made good by a retry.
func crashConfig(url string) jobs.Config {
	return jobs.Config{Queues: map[string]jobs.Queue{"q": {Target: url, Attempts: 1, Concurrency: 10}}}
}

func TestKilledProcessLosesNothing(t *testing.T) {
	const acknowledged = 200
	dir := t.TempDir()
	g := newTarget(t, false)
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.Config.Handler.ServeHTTP(w, r)
		<-time.After(20 * time.Millisecond) // the time that work takes, so that some is under way at the kill
	}))
	defer slow.Close()

	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), crashEnv+"="+dir+" "+slow.URL)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err = child.Start(); err != nil {
		t.Fatal(err)
	}
	ids := map[string]string{} // by payload
	for lines := bufio.NewScanner(out); lines.Scan(); {
		payload, id, _ := strings.Cut(lines.Text(), " ")
		ids[payload] = id
		if len(ids) == acknowledged {
			_ = child.Process.Kill()
		}
	}
	_ = child.Wait()
	if len(ids) < acknowledged {
		t.Fatalf("got %d jobs acknowledged before the end, want %d", len(ids), acknowledged)
	}

	h, s := open(t, dir, crashConfig(slow.URL))
	again := 0
	for payload, id := range ids {
		if v := reach(t, s, id, "completed"); v.Attempt != 1 {
			t.Errorf("got %+v, want the crash to use no attempt", v)
		}
		switch n := g.count(payload); {
		case n == 0:
			t.Errorf("job %s was never pushed", id)
		case n > 1:
			again++
		}
	}
	var left int
	until(t, "also what was not acknowledged is done", func() bool {
		err = h.DB.Read.QueryRowContext(t.Context(), "SELECT count(*) FROM river_job WHERE state <> 'completed'").Scan(&left)
		return err != nil || left == 0
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d jobs acknowledged, %d pushed again after the kill", len(ids), again)
}
