package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// fencedStore is a store that refuses a write whose fence is less than one that it has seen.
type fencedStore struct {
	mu      sync.Mutex
	fence   int64
	value   string
	refused int
}

func (f *fencedStore) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	fence, err := strconv.ParseInt(r.Header.Get("Fence"), 10, 64)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err != nil:
		w.WriteHeader(http.StatusBadRequest)
	case fence < f.fence:
		f.refused++
		w.WriteHeader(http.StatusPreconditionFailed)
	default:
		f.fence, f.value = fence, string(b)
		w.WriteHeader(http.StatusNoContent)
	}
}

// startLocks runs a gateway that hosts the locks, and mounts them too.
func startLocks(t *testing.T) (p *process, base, admin string) {
	t.Helper()
	dir, port := t.TempDir(), freePort(t)
	admin = "127.0.0.1:" + freePort(t)
	config := fmt.Sprintf("{\n\tadmin %s\n\tauto_https off\n\tpersist_config off\n\tgatehouse {\n\t\tdata_dir %s\n\t\tprofile off\n\t}\n}\nhttp://127.0.0.1:%s {\n\tbackend locks as operator\n}\n",
		admin, filepath.Join(dir, "data"), port)
	if err := os.WriteFile(filepath.Join(dir, "Caddyfile"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p = start(t, dir, "gatehouse", "run", "--config", "Caddyfile", "--adapter", "caddyfile")
	p.waitFor("http://" + admin + "/startupz")
	return p, "http://127.0.0.1:" + port, admin
}

// holder is a `gatehouse lock run` and its command, without a terminal.
type holder struct {
	t    *testing.T
	cmd  *exec.Cmd
	dir  string // where the command works
	errs *lockedBuffer
	done chan struct{}
}

// lockRun starts gatehouse lock run report with a script, which calls started when its traps are set.
func lockRun(t *testing.T, flags []string, script string, env ...string) *holder {
	t.Helper()
	args := append(append([]string{"lock", "run", "report"}, flags...), "--", "sh", "-c", "started() { echo $$ > pid.new; mv pid.new pid; }; "+script)
	h := &holder{t: t, cmd: exec.Command(binary(t, "gatehouse"), args...), dir: t.TempDir(), errs: new(lockedBuffer), done: make(chan struct{})}
	h.cmd.Dir, h.cmd.Stdout, h.cmd.Stderr = h.dir, h.errs, h.errs
	h.cmd.Env = append(append(os.Environ(), "XDG_CONFIG_HOME="+h.dir, "XDG_DATA_HOME="+h.dir), env...)
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = h.cmd.Wait()
		close(h.done)
	}()
	t.Cleanup(func() {
		if b, err := os.ReadFile(filepath.Join(h.dir, "pid")); err == nil { // it may have lived on
			if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
				_ = syscall.Kill(-pid, syscall.SIGKILL)
			}
		}
		_ = h.cmd.Process.Kill()
		<-h.done
		if t.Failed() {
			t.Logf("lock run said:\n%s", h.errs)
		}
		if strings.Contains(h.errs.String(), "DATA RACE") {
			t.Errorf("lock run has a data race:\n%s", h.errs)
		}
	})
	return h
}

// child is the pid of the command, once it runs.
func (h *holder) child() (pid int) {
	h.t.Helper()
	eventually(h.t, 20*time.Second, func() error {
		b, err := os.ReadFile(filepath.Join(h.dir, "pid"))
		if err != nil {
			return fmt.Errorf("%w; it said %s", err, h.errs)
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
		return err
	})
	return pid
}

// touch makes the file that the script waits for.
func (h *holder) touch(name string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), nil, 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *holder) file(name string) string {
	b, _ := os.ReadFile(filepath.Join(h.dir, name))
	return string(b)
}

func (h *holder) wait() int {
	h.t.Helper()
	select {
	case <-h.done:
	case <-time.After(30 * time.Second):
		h.t.Fatal("lock run does not end")
	}
	return h.cmd.ProcessState.ExitCode()
}

// write is the script that waits for the file go, and then writes its name to the store with its fence.
const write = `started; while [ ! -e go ]; do sleep 0.02; done; curl -s -o body -w '%{http_code}' -X PUT -H "Fence: $GATEHOUSE_LOCK_FENCE" -d "$WHO" "$STORE" > status.new; mv status.new status`

// TestAPausedHolderCannotOverwrite stops a holder past the end of its lock, lets another take the lock and
// write, and has the first one go on: the store that checks the fence refuses what it writes.
func TestAPausedHolderCannotOverwrite(t *testing.T) {
	t.Parallel()
	_, base, admin := startLocks(t)
	for _, test := range []struct {
		name string
		// stopped says whether the command is stopped too, or gatehouse alone, which then renews no more.
		stopped bool
		flags   []string
	}{
		{"both-stopped", true, []string{"--address", admin}},
		{"gatehouse-stopped", false, []string{"--url", base}},
	} {
		t.Run(test.name, func(t *testing.T) {
			store := &fencedStore{}
			srv := httptest.NewServer(store)
			t.Cleanup(srv.Close)
			first := lockRun(t, append([]string{"--ttl", "1s", "--grace", "5s"}, test.flags...), "trap '' TERM; "+write+"; touch late", "WHO=first", "STORE="+srv.URL)
			pid := first.child()
			signal := func(s syscall.Signal) {
				t.Helper()
				err := syscall.Kill(first.cmd.Process.Pid, s)
				if test.stopped {
					err = errors.Join(err, syscall.Kill(-pid, s))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			signal(syscall.SIGSTOP)
			began := time.Now()
			second := lockRun(t, append([]string{"--ttl", "10s", "--wait", "20s"}, test.flags...), write, "WHO=second", "STORE="+srv.URL)
			second.child()
			if took := time.Since(began); took < 300*time.Millisecond {
				t.Errorf("the lock of 1s went to another after %s", took)
			}
			second.touch("go")
			if code := second.wait(); code != 0 || second.file("status") != "204" {
				t.Fatalf("the second: got %d, and %s from the store", code, second.file("status"))
			}
			first.touch("go")
			signal(syscall.SIGCONT)
			if code := first.wait(); code != 76 || !strings.Contains(first.errs.String(), "the lock is lost") {
				t.Errorf("the first: got %d %s, want 76", code, first.errs)
			}
			if got := first.file("status"); got != "412" {
				t.Errorf("the store answered the first %s, want 412", got)
			}
			store.mu.Lock()
			defer store.mu.Unlock()
			if store.value != "second" || store.refused != 1 {
				t.Errorf("the store has %q of fence %d and refused %d writes", store.value, store.fence, store.refused)
			}
		})
	}
}

// TestOneOfThreeMachinesRunsTheReport is what lock run is for.
func TestOneOfThreeMachinesRunsTheReport(t *testing.T) {
	_, _, admin := startLocks(t)
	report := filepath.Join(t.TempDir(), "report")
	var machines []*holder
	for range 3 {
		machines = append(machines, lockRun(t, []string{"--address", admin}, "echo run >> "+report+"; while [ ! -e "+report+".done ]; do sleep 0.02; done"))
	}
	ended := func() (n int) {
		for _, m := range machines {
			select {
			case <-m.done:
				n++
			default:
			}
		}
		return n
	}
	eventually(t, 30*time.Second, func() error {
		if n := ended(); n != 2 {
			return fmt.Errorf("%d have ended", n)
		}
		return nil
	})
	if err := os.WriteFile(report+".done", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var ends []int
	for _, m := range machines {
		ends = append(ends, m.wait())
	}
	if slices.Sort(ends); !slices.Equal(ends, []int{0, 75, 75}) {
		t.Errorf("got %v, want 0 for who ran it and 75 for the others", ends)
	}
	if b, err := os.ReadFile(report); err != nil || string(b) != "run\n" {
		t.Errorf("got %q (%v), want one run", b, err)
	}
}

func TestLockRunPassesSignalsOnAndReleases(t *testing.T) {
	p, base, admin := startLocks(t)
	flags := []string{"--address", admin, "--ttl", "60s"}
	h := lockRun(t, flags, "trap 'exit 9' TERM; trap 'echo usr1 >> got' USR1; started; while :; do sleep 0.02; done")
	h.child()
	if err := h.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, func() error {
		if got := h.file("got"); got != "usr1\n" {
			return fmt.Errorf("the command got %q", got)
		}
		return nil
	})
	out, err := exec.CommandContext(t.Context(), binary(t, "gatehouse"), "locks", "ls", "--address", admin, "--json").Output()
	if err != nil || !strings.Contains(string(out), `"name":"report"`) {
		t.Errorf("locks ls: got %s (%v)", out, err)
	}
	_ = h.cmd.Process.Signal(syscall.SIGTERM)
	if code := h.wait(); code != 9 {
		t.Errorf("got %d, want the command's 9", code)
	}
	// A wait ends with a signal, and nobody has the lock afterwards.
	first := lockRun(t, flags, "started; while [ ! -e go ]; do sleep 0.02; done") // which shows that the lock was released
	first.child()
	second := lockRun(t, append(flags, "--wait", "60s"), "true")
	pause(500 * time.Millisecond)
	_ = second.cmd.Process.Signal(syscall.SIGTERM)
	if code := second.wait(); code != 128+15 {
		t.Errorf("got %d, want 143", code)
	}
	first.touch("go")
	if code := first.wait(); code != 0 {
		t.Errorf("got %d", code)
	}
	if status, body := call(t, "GET", base+"/locks/report", "", ""); status != http.StatusOK || !strings.Contains(body, `"held":false`) {
		t.Errorf("got %d %s after all have ended", status, body)
	}
	p.terminate()
}

// TestLockRunOutlivesARestartOfTheGateway kills the gateway while a lock is held.
func TestLockRunOutlivesARestartOfTheGateway(t *testing.T) {
	t.Parallel()
	p, base, admin := startLocks(t)
	h := lockRun(t, []string{"--address", admin, "--ttl", "12s"}, "started; while [ ! -e go ]; do sleep 0.02; done; exit 4")
	h.child()
	p.kill()
	pause(time.Second)
	again := start(t, p.cmd.Dir, "gatehouse", "run", "--config", "Caddyfile", "--adapter", "caddyfile")
	again.waitFor(base + "/locks")
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 13*time.Second)
	defer cancel()
	<-ctx.Done() // longer than the lock lasts without being renewed
	if status, body := call(t, "GET", base+"/locks/report", "", ""); status != http.StatusOK || !strings.Contains(body, `"held":true`) {
		t.Errorf("got %d %s after %s", status, body, time.Since(began))
	}
	h.touch("go")
	if code := h.wait(); code != 4 {
		t.Errorf("got %d, want the command's 4", code)
	}
}

// TestTheCommandEndsWithItsGatehouse kills lock run itself.
func TestTheCommandEndsWithItsGatehouse(t *testing.T) {
	_, _, admin := startLocks(t)
	h := lockRun(t, []string{"--address", admin}, "trap 'echo stopped > end; exit 0' TERM; started; while :; do sleep 0.02; done")
	h.child()
	_ = h.cmd.Process.Kill()
	eventually(t, 10*time.Second, func() error {
		if got := h.file("end"); got != "stopped\n" {
			return fmt.Errorf("the command goes on (%q)", got)
		}
		return nil
	})
}
