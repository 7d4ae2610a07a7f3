//go:build unix

package jobs_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/jobs"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// workerEnv makes TestPullWorkerProcess a pull worker of the jobs backend under that URL.
const workerEnv = "GATEHOUSE_JOBS_TEST_WORKER"

// call posts a body to the jobs backend under base.
func call(t *testing.T, base, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(service.RankHeader, service.RankService)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// leaseOf takes one job.
func leaseOf(t *testing.T, base, body string) jobs.Lease {
	t.Helper()
	var page struct{ Items []jobs.Lease }
	code, answer := call(t, base, "/queues/q/lease", body)
	if err := json.Unmarshal([]byte(answer), &page); err != nil || code != http.StatusOK || len(page.Items) != 1 {
		t.Fatalf("got %d %s, want one job on lease", code, answer)
	}
	return page.Items[0]
}

// TestPullWorkerProcess is the worker of the test below: it leases a job for a second, works half of it,
// and completes it.
func TestPullWorkerProcess(t *testing.T) {
	base := os.Getenv(workerEnv)
	if base == "" {
		return
	}
	l := leaseOf(t, base, `{"visibility":"1s","wait":"10s","worker":"first"}`)
	_, _ = fmt.Fprintln(os.Stdout, "leased", l.ID)
	<-time.After(500 * time.Millisecond)
	code, answer := call(t, base, "/jobs/"+l.ID+"/complete", fmt.Sprintf(`{"fence":%d,"result":"first"}`, l.Fence))
	_, _ = fmt.Fprintln(os.Stdout, "answered", code, answer)
}

// A worker that was stopped for longer than its lease says that the job is done while another one works
// on it: that is refused, and the other one's word counts.
func TestStoppedWorkerIsFencedOff(t *testing.T) {
	s := start(t, t.TempDir(), jobs.Config{Queues: map[string]jobs.Queue{"q": {Pull: true, Backoff: jobs.Backoff{Fixed: true, Base: time.Millisecond}}}})
	server := httptest.NewServer(s)
	defer server.Close()
	id := post(t, s, `{"queue":"q","payload":1}`)

	worker := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPullWorkerProcess$", "-test.timeout=1m")
	worker.Env = append(os.Environ(), workerEnv+"="+server.URL)
	out, err := worker.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err = worker.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = worker.Process.Kill() }()
	lines := bufio.NewScanner(out)
	said := func(word string) string {
		t.Helper()
		for lines.Scan() {
			if rest, ok := strings.CutPrefix(lines.Text(), word+" "); ok {
				return rest
			}
		}
		t.Fatalf("the worker ended before it said %q", word)
		return ""
	}
	if got := said("leased"); got != id {
		t.Fatalf("the worker has job %s, want %s", got, id)
	}
	if err = worker.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	second := leaseOf(t, server.URL, `{"visibility":"1m","wait":"15s","worker":"second"}`)
	if second.ID != id || second.Attempt != 2 {
		t.Fatalf("got %+v, want the second attempt of job %s", second, id)
	}
	if err = worker.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if got := said("answered"); !strings.HasPrefix(got, "409 ") || !strings.Contains(got, "/lease-lost") {
		t.Errorf("the late completion was answered %s, want 409 lease-lost", got)
	}
	if v := view(t, s, id); v.State != "running" || v.Worker != "second" || v.Result != nil {
		t.Errorf("got %+v, want the second worker to have it still", v)
	}
	if code, answer := call(t, server.URL, "/jobs/"+id+"/complete", fmt.Sprintf(`{"fence":%d,"result":"second"}`, second.Fence)); code != http.StatusOK {
		t.Errorf("got %d %s, want the second worker's word to count", code, answer)
	}
	if v := view(t, s, id); v.State != "completed" || string(v.Result) != `"second"` || len(v.Errors) != 1 {
		t.Errorf("got %+v, want the second worker's result", v)
	}
	if err = worker.Wait(); err != nil {
		t.Error(err)
	}
}

// A restart of the gateway does not end the leases: the workers are elsewhere.
func TestLeasesOutliveARestart(t *testing.T) {
	dir, c := t.TempDir(), jobs.Config{Queues: map[string]jobs.Queue{"q": {Pull: true}}}
	h, s := open(t, dir, c)
	server := httptest.NewServer(s)
	id := post(t, s, `{"queue":"q","payload":1}`)
	l := leaseOf(t, server.URL, `{"wait":"5s"}`)
	server.Close()
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	s = start(t, dir, c)
	if v := view(t, s, id); v.State != "running" || v.Attempt != 1 {
		t.Errorf("got %+v, want it on lease still", v)
	}
	server = httptest.NewServer(s)
	defer server.Close()
	if code, answer := call(t, server.URL, "/jobs/"+id+"/heartbeat", fmt.Sprintf(`{"fence":%d}`, l.Fence)); code != http.StatusOK {
		t.Errorf("got %d %s", code, answer)
	}
	if code, answer := call(t, server.URL, "/jobs/"+id+"/complete", fmt.Sprintf(`{"fence":%d}`, l.Fence)); code != http.StatusOK {
		t.Errorf("got %d %s", code, answer)
	}
	again := post(t, s, `{"queue":"q","payload":2}`)
	if next := leaseOf(t, server.URL, `{"wait":"5s"}`); next.ID != again || next.Fence <= l.Fence {
		t.Errorf("got %+v after fence %d, want a higher one", next, l.Fence)
	}
}

// A stop does not wait for requests that wait for jobs.
func TestStopEndsLongPolls(t *testing.T) {
	h, s := open(t, t.TempDir(), jobs.Config{Queues: map[string]jobs.Queue{"q": {Pull: true}}})
	server := httptest.NewServer(s)
	defer server.Close()
	polled := make(chan string, 1)
	go func() {
		_, answer := call(t, server.URL, "/queues/q/lease", `{"wait":"20s"}`)
		polled <- answer
	}()
	<-time.After(200 * time.Millisecond) // so that it waits
	begun := time.Now()
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if answer := <-polled; time.Since(begun) > 5*time.Second || answer != "{\"items\":[]}\n" {
		t.Errorf("got %s after %s, want an empty answer at once", answer, time.Since(begun))
	}
}
