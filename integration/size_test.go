package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestExampleIsSmallWhenIdle holds the example to its memory. The start-up time is printed, not
// asserted: a test must not depend on how busy the machine is.
func TestExampleIsSmallWhenIdle(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "gatehouse")
	build := exec.CommandContext(t.Context(), "go", "build", "-pgo=off", "-trimpath", "-ldflags", "-w -s", "-tags", "nobadger,nomysql,nopgx",
		"-o", bin, module+"cmd/gatehouse") // as it ships: the race detector multiplies memory
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	e := newExample(t)
	began := time.Now()
	p := startFile(t, e.dir, bin, "run", "--config", e.config, "--adapter", "caddyfile")
	p.waitFor(e.base + "/.well-known/jwks.json")
	took := time.Since(began)
	rss := residentMiB(t, p.cmd.Process.Pid)
	t.Logf("answered after %s, resident %d MiB", took.Round(time.Millisecond), rss)
	if rss >= 120 {
		t.Errorf("resident memory is %d MiB, want less than 120", rss)
	}
}

func residentMiB(t testing.TB, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kb / 1024
		}
	}
	t.Fatal("no VmRSS")
	return 0
}
