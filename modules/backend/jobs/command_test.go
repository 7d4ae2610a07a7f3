package jobs_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

// TestMain lets the test binary be the gateway's command line.
func TestMain(m *testing.M) { modtest.Main(m) }

// cli is a running gateway and its command line.
type cli struct {
	t     *testing.T
	admin string
	url   string
	fails *httptest.Server // answers 422 and why
	down  atomic.Bool      // it answers 500 below /down
}

// newCLI serves the jobs backend. The queue broken pushes to a target that refuses, the queue good to
// one that takes, and the queue down to one that may be down.
func newCLI(t *testing.T) *cli {
	t.Helper()
	c := &cli{t: t, admin: "127.0.0.1:" + modtest.FreePort(t)}
	c.fails = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if r.URL.Path == "/broken" {
			w.WriteHeader(http.StatusUnprocessableEntity)
			_, _ = fmt.Fprintf(w, "no account %s", b)
		}
		if r.URL.Path == "/down" && c.down.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	t.Cleanup(c.fails.Close)
	port := modtest.FreePort(t)
	c.url = "http://127.0.0.1:" + port
	modtest.Serve(t, fmt.Sprintf(`{
	admin %s
	auto_https off
	persist_config off
	gatehouse {
		data_dir %s
		profile off
		backend jobs {
			queue broken {
				target %[4]s/broken
			}
			queue good {
				target %[4]s/good
				rate 1000/s
			}
			queue down {
				target %[4]s/down
				backoff fixed 1h
				breaker {
					trip  1
					pause 1h max 1h
				}
			}
			schedule nightly "30 2 * * *" {
				queue good
				timezone Europe/Berlin
			}
			allow 127.0.0.1
		}
	}
}
http://127.0.0.1:%[3]s {
	backend jobs as operator
}
`, c.admin, t.TempDir(), port, c.fails.URL))
	return c
}

// run runs a command and returns its output, its errors and its exit code.
func (c *cli) run(in string, args ...string) (out, errs string, code int) {
	c.t.Helper()
	return modtest.Command(c.t, in, append(args, "--address", c.admin)...)
}

// want runs a command of space-separated words that must print what the expression says.
func (c *cli) want(pattern, words string, more ...string) string {
	c.t.Helper()
	out, errs, code := c.run("", append(strings.Fields(words), more...)...)
	if code != 0 || !regexp.MustCompile(pattern).MatchString(out) {
		c.t.Errorf("gatehouse %s %q: exit code %d, got\n%s%s\nwant %s", words, more, code, out, errs, pattern)
	}
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "{") && len([]rune(line)) > 101 {
			c.t.Errorf("gatehouse %s: a line has %d characters: %s", words, len([]rune(line)), line)
		}
	}
	return out
}

// eventually repeats a command until it prints what the expression says.
func (c *cli) eventually(pattern, words string) {
	c.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(100 * time.Millisecond) {
		out, errs, _ := c.run("", strings.Fields(words)...)
		if regexp.MustCompile(pattern).MatchString(out) {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("gatehouse %s: got\n%s%s\nwant %s", words, out, errs, pattern)
		}
	}
}

func TestJobsCommands(t *testing.T) {
	c := newCLI(t)
	c.want(`^The job 1 is queued\.\n$`, "jobs enqueue --queue broken 4711")
	if out, errs, code := c.run(`{"a": "long"}`, "jobs", "enqueue", "--queue", "broken", "--key", "acme", "-"); code != 0 {
		t.Errorf("got %d %s %s", code, out, errs)
	}
	c.want(`^The job 3 is scheduled\.\n$`, "jobs enqueue --queue good --delay 1h --unique-key k --priority 1 --attempts 2 null")
	c.want(`^Nothing was enqueued: the job 3, which is scheduled, has that unique key\.\n$`, "jobs enqueue --queue good --unique-key k null")
	c.eventually(`(?m)^broken .* 2 +0$`, "jobs stats")

	c.want(`(?s)^ID +QUEUE +STATE +TRIES +CREATED +LAST ERROR\n3 +good +scheduled +0/2 .*\n1 +broken +dead +1/5 +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +422 no account 4711\n$`, "jobs ls")
	c.want(`(?s)^ID.*\n2 .*There are more: --cursor 2\n$`, "jobs ls --queue broken -n 1")
	c.want(`^ID[^\n]*\n1 [^\n]*\n$`, "jobs ls --error 4711 --since 1h")
	c.want(`(?s)^id +1\nqueue +broken\nstate +dead\n.*payload +4711\n.*TRY +AT +STATUS +ERROR\n1 .*422 +no account 4711\n$`, "jobs show 1")
	c.want(`(?s)^JOBS +QUEUE +STATUS +LAST +EXAMPLE +MESSAGE\n.*1 +broken +422 .*no account <n>\n`, "jobs groups --queue broken")
	c.want(`^1 job would be queued again\.\n$`, "jobs retry --queue broken --state dead --dry-run --error", "account 4711")
	c.want(`^2 jobs are queued again\.\n$`, "jobs retry --queue broken --state dead")
	c.eventually(`(?m)^broken .* 2 +0$`, "jobs stats")
	c.want(`^The job 3 is queued\.\n$`, "jobs retry 3")
	c.eventually(`(?m)^state +completed$`, "jobs show 3")
	c.want(`^The job 1 is queued\.\n$`, "jobs retry 1 --payload", `{"other": 1}`)
	c.eventually(`(?s)\{"other":.*account \{"other`, "jobs show 1")
	c.want(`^The job 4 is scheduled`, "jobs enqueue --queue good --delay 1h null")
	c.want(`^The job 5 is scheduled`, "jobs enqueue --queue good --delay 1h null")
	c.want(`^The job 4 is cancelled\.\n$`, "jobs cancel 4")
	c.want(`^1 job is cancelled\.\n$`, "jobs cancel --queue good --state scheduled")

	var list struct{ Items []struct{ ID, State string } }
	if err := json.Unmarshal([]byte(c.want(`^\{.*\}\n$`, "jobs ls --json --state cancelled")), &list); err != nil || len(list.Items) != 2 {
		t.Errorf("got %+v, %v", list, err)
	}
	for _, e := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"jobs", "show", "99"}, 1, "There is no job 99"},
		{[]string{"jobs", "show"}, 2, "usage: gatehouse jobs show ID"},
		{[]string{"jobs", "enqueue", "{a"}, 2, "the payload is not JSON"},
		{[]string{"jobs", "enqueue", "--queue", "x", "1"}, 1, "no queue"},
		{[]string{"jobs", "retry"}, 2, "name the jobs to retry, or choose them by a flag"},
		{[]string{"jobs", "retry", "1", "--queue", "broken"}, 2, "not both"},
		{[]string{"jobs", "retry", "--payload", "1"}, 2, "--payload needs the job"},
		{[]string{"jobs", "ls", "--since", "yesterday"}, 2, "neither a time"},
		{[]string{"jobs", "ls", "--state", "lost"}, 1, "state must be one of"},
		{[]string{"jobs", "boost"}, 2, "there is no command jobs boost"},
		{[]string{"jobs", "tail", "--interval", "1ms"}, 2, "at least 100ms"},
		{[]string{"queues", "pause", "x"}, 1, "no queue"},
		{[]string{"schedules", "rm", "nightly"}, 1, "is one of the configuration"},
		{[]string{"schedules", "set", "x"}, 2, "--cron is missing"},
		{[]string{"schedules", "set", "x", "--cron", "at noon"}, 2, "five fields"},
		{[]string{"schedules", "show", "x"}, 1, "no schedule"},
	} {
		if out, errs, code := c.run("", e.args...); code != e.code || !strings.Contains(errs, e.want) {
			t.Errorf("gatehouse %v: exit code %d, %s%s; want %d and %q", e.args, code, out, errs, e.code, e.want)
		}
	}
	nobody := &cli{t: t, admin: "127.0.0.1:" + modtest.FreePort(t)}
	if _, errs, code := nobody.run("", "jobs", "ls", "--json"); code != 3 || !strings.HasPrefix(errs, `{"error":"no gateway answers`) {
		t.Errorf("without a gateway: exit code %d, %s", code, errs)
	}
}

func TestQueuesAndSchedulesCommands(t *testing.T) {
	c := newCLI(t)
	c.want(`(?s)^QUEUE +STATE +AT ONCE +RATE +WAITING +OLDEST +RUNNING +DEAD\nbroken +active +10 .*good +active +10 +1000/1s +0 `, "queues ls")
	c.want(`^The queue good is paused\.\n$`, "queues pause good")
	c.want(`(?s)^queue +good\nstate +paused\ntarget +http.*\n.*STATE +JOBS\nscheduled +0\n`, "queues show good")
	c.want(`^The queue good goes on\.\n$`, "queues resume good")
	c.want(`^The queue good takes no new jobs\.\n$`, "queues drain good")
	if _, errs, code := c.run("", "jobs", "enqueue", "--queue", "good", "1"); code != 1 || errs == "" {
		t.Errorf("a drained queue took a job: %d %s", code, errs)
	}
	c.want(`^The queue good goes on\.\n$`, "queues resume good")

	c.want(`(?s)^NAME +CRON +TIMEZONE +QUEUE +STATE +NEXT \(UTC\)\nnightly +30 2 \* \* \* +Europe/Berlin +good +active +\d{4}.*\n$`, "schedules ls")
	c.want(`^The schedule often runs next at .* UTC\.\n$`, "schedules set often --queue good --missed skip --cron", "@every 200ms", "--payload", `{"a":1}`)
	c.eventually(`last job +\d+\n`, "schedules show often")
	c.want(`(?s)^name +often\ncron +@every 200ms\n.*payload +\{"a":1\}\nmissed +skip\noverlap +allow\nmade by +the API\nstate +active\n.*next ticks +\d{4}`, "schedules show often")
	c.want(`^The schedule often is paused\.\n$`, "schedules pause often")
	c.want(`often .* paused +-\n$`, "schedules ls")
	c.want(`^The schedule often goes on\.\n$`, "schedules resume often")
	c.want(`^The job \d+ is queued\.\n$`, "schedules run nightly")
	c.want(`^\{"id":"\d+","state":"queued"\}\n$`, "schedules run nightly --json")
	c.want(`^The schedule often is removed\.\n$`, "schedules rm often")
	c.want(`^\{"name":"x",.*"cron":"@daily".*\}\n$`, "schedules set x --cron @daily --queue good --json")
	c.want(`^\{"name":"x","removed":true\}\n$`, "schedules rm x --json")
}

func TestBreakerCommands(t *testing.T) {
	c := newCLI(t)
	c.down.Store(true)
	c.want(`^QUEUE +TARGET +CAUSE +SINCE +NEXT PROBE\n$`, "queues breaker ls")
	c.want(`^0 targets are no longer held back\.\n$`, "queues breaker reset")
	c.want(`queued`, "jobs enqueue --queue down null")
	at := regexp.QuoteMeta(c.fails.URL + "/down")
	c.eventually(`(?s)^QUEUE [^\n]*\ndown +`+at+` +failing +\d{4}-.* \d{4}-.*\n$`, "queues breaker ls down")
	c.want(`queued`, "jobs enqueue --queue down null")
	c.want(`(?m)^waiting for +breaker `+at+`, failing, next probe \d{4}`, "jobs show 2")
	c.want(`^QUEUE[^\n]*\n$`, "queues breaker ls good")
	var list struct {
		Items []struct{ Queue, Target, Cause string }
	}
	err := json.Unmarshal([]byte(c.want(`^\{.*\}\n$`, "queues breaker ls --json")), &list)
	if err != nil || len(list.Items) != 1 || list.Items[0].Queue != "down" || list.Items[0].Cause != "failing" || list.Items[0].Target != c.fails.URL+"/down" {
		t.Errorf("got %+v, %v", list, err)
	}
	c.down.Store(false)
	c.want(`^0 targets are no longer held back\.\n$`, "queues breaker reset down --target http://127.0.0.1:1/other")
	c.want(`^1 target is no longer held back\.\n$`, "queues breaker reset", "--target", c.fails.URL+"/down")
	c.eventually(`(?m)^state +completed$`, "jobs show 2")
	c.want(`^\{"reset":0\}\n$`, "queues breaker reset --json")
	for _, e := range []struct{ words, want string }{{"queues breaker reset none", "no queue"}, {"queues breaker trip", "there is no command queues breaker trip"}} {
		if out, errs, code := c.run("", strings.Fields(e.words)...); code == 0 || !strings.Contains(errs, e.want) {
			t.Errorf("gatehouse %s: exit code %d, %s%s; want %q", e.words, code, out, errs, e.want)
		}
	}
}

func TestJobsTail(t *testing.T) {
	c := newCLI(t)
	c.want(`scheduled`, "jobs enqueue --queue good --delay 1h null")
	cmd := modtest.Process(t, "jobs", "tail", "--interval", "100ms", "--for", "1m", "--address", c.admin)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err = cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	lines := make(chan string, 1000)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	// seen does something until the tail prints a line; what came before its first look is not printed.
	seen := func(pattern string, do func()) {
		t.Helper()
		for deadline := time.Now().Add(40 * time.Second); time.Now().Before(deadline); {
			do()
			for more := true; more; {
				select {
				case line := <-lines:
					if strings.Contains(line, "scheduled") {
						t.Errorf("a job that did not change was printed: %s", line)
					}
					if regexp.MustCompile(pattern).MatchString(line) {
						return
					}
				case <-time.After(500 * time.Millisecond):
					more = false
				}
			}
		}
		t.Errorf("no line was %s", pattern)
	}
	seen(`^\d\d:\d\d:\d\d +\d+ +broken +dead +1/5 +422 no account 5$`, func() { c.want(`queued`, "jobs enqueue --queue broken 5") })
	c.want(`queued`, "jobs retry 1")
	seen(`^\d\d:\d\d:\d\d +1 +good +completed +1/5 +-$`, func() {})
}

func TestJobsBench(t *testing.T) {
	c := newCLI(t)
	out := c.want(`^\{"clients":4,`, "jobs bench --json --queue good --jobs 60 --pushes 40 --idle 3 --clients 4")
	var m struct {
		Enqueue, Batch, Push struct {
			Jobs      int
			PerSecond float64 `json:"per_second"`
		}
		Idle struct {
			Jobs int
			P99  float64 `json:"p99_ms"`
		}
	}
	if err := json.Unmarshal([]byte(out), &m); err != nil || m.Enqueue.Jobs != 60 || m.Batch.PerSecond <= 0 || m.Push.Jobs != 40 || m.Idle.P99 <= 0 {
		t.Errorf("got %+v, %v", m, err)
	}
	c.want(`(?m)^good +0 +0 +0 +0 +43 +0 +120$`, "jobs stats")
	c.want(`(?s)^ +JOBS +TIME +PER SECOND\nenqueued singly by 2 clients +4 .*An idle gateway starts a job after`,
		"jobs bench --queue good --jobs 4 --pushes 2 --idle 1 --clients 2 --url", c.url)
	if _, errs, code := c.run("", "jobs", "bench", "--url", "nowhere"); code != 2 || !strings.Contains(errs, "--url must be such as") {
		t.Errorf("got %d %s", code, errs)
	}
}
