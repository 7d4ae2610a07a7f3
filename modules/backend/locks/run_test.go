package locks

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatehouse-proxy/gatehouse/backends/locks"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// gateway is the locks' API, and what stands in front of it.
type gateway struct {
	*httptest.Server
	refuse atomic.Int32 // the status of every answer, 0 for the API's own
	bearer atomic.Pointer[string]
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	h, err := service.NewHost(t.Context(), service.Settings{DataDir: t.TempDir()}, nil, func(string) (service.Opener, error) { return locks.Config{}, nil })
	if err != nil {
		t.Fatal(err)
	}
	if err = h.Open(t.Context(), "locks"); err != nil {
		t.Fatal(err)
	}
	g := &gateway{}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status := int(g.refuse.Load()); status != 0 {
			w.WriteHeader(status)
			return
		}
		if token := g.bearer.Load(); token != nil && r.Header.Get("Authorization") != "Bearer "+*token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		r.Header.Set(service.RankHeader, service.RankService)
		h.Service("locks").ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		g.Close()
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// take has another hold the lock.
func (g *gateway) take(t *testing.T, name, ttl string) (release func()) {
	t.Helper()
	a, err := remote(g.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	var l held
	if err = a.do(t.Context(), http.MethodPost, pathOf(name), map[string]string{"ttl": ttl}, &l); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := a.release(t.Context(), l); err != nil {
			t.Error(err)
		}
	}
}

func (g *gateway) isHeld(t *testing.T, name string) bool {
	t.Helper()
	a, err := remote(g.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	var l struct{ Held bool }
	if err = a.do(t.Context(), http.MethodGet, pathOf(name), nil, &l); err != nil {
		t.Fatal(err)
	}
	return l.Held
}

// output is what is said meanwhile.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// execute runs one of the commands as main does, and returns its exit code as far as its error tells.
func execute(build func(*cobra.Command), args ...string) (code int, out, errs string) {
	cmd := &cobra.Command{Use: "lock"}
	build(cmd)
	var stdout, stderr output
	cmd.SetOut(&stdout)
	cmd.SetErr(&stderr)
	root := &cobra.Command{Use: "gatehouse"}
	root.AddCommand(cmd)
	root.SetArgs(append([]string{"lock"}, args...))
	err := root.ExecuteContext(context.Background())
	switch {
	case err == nil:
	case strings.HasPrefix(err.Error(), "exiting with status "):
		_, _ = fmt.Sscanf(err.Error(), "exiting with status %d", &code)
	default:
		code = 1
	}
	return code, stdout.String(), stderr.String()
}

func TestRunHoldsTheLockForTheCommand(t *testing.T) {
	g := newGateway(t)
	file := filepath.Join(t.TempDir(), "out")
	code, _, errs := execute(lockCommand, "run", "daily/report", "--url", g.URL, "--ttl", "300ms", "--", "sh", "-c",
		`sleep 1; curl -s `+g.URL+`/locks/daily%2Freport > `+file+`; echo "$GATEHOUSE_LOCK_NAME $GATEHOUSE_LOCK_FENCE" >> `+file+`; exit 7`)
	if code != 7 || errs != "" {
		t.Errorf("got %d %s, want the command's 7", code, errs)
	}
	b, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(b), `"held":true,"fence":1`) || !strings.Contains(string(b), "daily/report 1\n") {
		t.Errorf("the command saw %s (%v)", b, err)
	}
	if g.isHeld(t, "daily/report") {
		t.Error("the lock is held after the command")
	}
}

func TestRunExitCodes(t *testing.T) {
	g := newGateway(t)
	g.take(t, "held", "60s")
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		args []string
		code int
		says string
	}{
		"done":            {[]string{"run", "n", "--", "true"}, 0, ""},
		"failed":          {[]string{"run", "n", "--", "false"}, 1, ""},
		"signalled":       {[]string{"run", "n", "--", "sh", "-c", "kill -9 $$"}, 137, ""},
		"held":            {[]string{"run", "held", "--", "false"}, 75, "the lock held is held by another until "},
		"held-json":       {[]string{"run", "held", "--json", "--", "false"}, 75, `{"error":"the lock held is held by another until `},
		"skipped":         {[]string{"run", "held", "--skip-ok", "--", "false"}, 0, "the command was not run"},
		"waited-in-vain":  {[]string{"run", "held", "--wait", "100ms", "--", "false"}, 75, "held by another"},
		"not-found":       {[]string{"run", "n", "--", "no-such-command"}, 127, "cannot be run"},
		"not-executable":  {[]string{"run", "n", "--", text}, 126, "cannot be run"},
		"no-command":      {[]string{"run", "n"}, 2, "with -- between them"},
		"no-dashes":       {[]string{"run", "n", "true"}, 2, "with -- between them"},
		"no-name":         {[]string{"run", "--", "true"}, 2, "with -- between them"},
		"two-names":       {[]string{"run", "n", "m", "--", "true"}, 2, "with -- between them"},
		"bad-name":        {[]string{"run", "a\nb", "--", "true"}, 2, "printable UTF-8"},
		"bad-ttl":         {[]string{"run", "n", "--ttl", "3", "--", "true"}, 2, `--ttl: "3" is not a duration`},
		"short-ttl":       {[]string{"run", "n", "--ttl", "1ms", "--", "true"}, 2, "at least 100ms"},
		"bad-wait":        {[]string{"run", "n", "--wait", "x", "--", "true"}, 2, "--wait"},
		"long-ttl":        {[]string{"run", "n", "--ttl", "25h", "--", "true"}, 1, "refused with 400: ttl must be a duration"},
		"unknown-flag":    {[]string{"run", "n", "--tll", "1s", "--", "true"}, 2, "unknown flag"},
		"unknown-command": {[]string{"rnu"}, 2, "there is no command lock rnu"},
		"two-addresses":   {[]string{"run", "n", "--address", "localhost:1", "--", "true"}, 2, "give one of them"},
		"no-token":        {[]string{"run", "n", "--token-file", text + "x", "--", "true"}, 2, "--token-file"},
	} {
		t.Run(name, func(t *testing.T) {
			dash := len(tt.args)
			for i, a := range tt.args {
				if a == "--" {
					dash = i
				}
			}
			args := append(append(append([]string{}, tt.args[:dash]...), "--url", g.URL), tt.args[dash:]...)
			if name == "unknown-command" {
				args = tt.args
			}
			code, _, errs := execute(lockCommand, args...)
			if code != tt.code || !strings.Contains(errs, tt.says) || tt.says == "" && errs != "" {
				t.Errorf("got %d %s, want %d with %q", code, errs, tt.code, tt.says)
			}
		})
	}
	for name, args := range map[string][]string{
		"no-gateway": {"--url", "http://127.0.0.1:1"}, "no-admin": {"--address", "127.0.0.1:1"},
	} {
		if code, _, errs := execute(lockCommand, append(append([]string{"run", "n"}, args...), "--", "true")...); code != 3 || !strings.Contains(errs, "no gateway answers") {
			t.Errorf("%s: got %d %s, want 3", name, code, errs)
		}
	}
	for _, bad := range [][]string{{"--url", "ftp://x"}, {"--url", "x"}, {"--url", "http://u:p@x"}, {"--address", "::::"}, {"--token-file", text}} {
		if code, _, errs := execute(lockCommand, append(append([]string{"run", "n"}, bad...), "--", "true")...); code != 2 {
			t.Errorf("%v: got %d %s, want 2", bad, code, errs)
		}
	}
}

func TestRunWaits(t *testing.T) {
	g := newGateway(t)
	release := g.take(t, "n", "60s")
	done := make(chan string, 1)
	began := time.Now()
	go func() {
		code, _, errs := execute(lockCommand, "run", "n", "--url", g.URL, "--ttl", "500ms", "--wait", "20s", "--", "true")
		done <- fmt.Sprint(code, errs)
	}()
	<-time.After(500 * time.Millisecond)
	release()
	if got := <-done; got != "0" || time.Since(began) > 10*time.Second {
		t.Errorf("got %s after %s", got, time.Since(began))
	}
	// A gateway that is away is waited for as well.
	g.refuse.Store(http.StatusServiceUnavailable)
	go func() {
		code, _, errs := execute(lockCommand, "run", "n", "--url", g.URL, "--wait", "20s", "--", "true")
		done <- fmt.Sprint(code, errs)
	}()
	<-time.After(300 * time.Millisecond)
	g.refuse.Store(0)
	if got := <-done; got != "0" {
		t.Errorf("got %s", got)
	}
	if code, _, errs := execute(lockCommand, "run", "n", "--url", g.URL+"/elsewhere", "--wait", "20s", "--", "true"); code != 1 || !strings.Contains(errs, "refused with 404") {
		t.Errorf("got %d %s for a wrong URL", code, errs)
	}
}

func TestRunStopsTheCommandWhenTheLockIsLost(t *testing.T) {
	for name, tt := range map[string]struct {
		script string
		least  time.Duration // of grace
		says   string
	}{
		"obeys":   {`trap 'echo stopped >> $OUT; exit 0' TERM; echo started >> $OUT; while :; do sleep 0.05; done`, 0, "stopping the command"},
		"ignores": {`trap '' TERM; echo started >> $OUT; while :; do sleep 0.05; done`, 300 * time.Millisecond, "killing the command"},
		"leaves-others": {`trap 'exit 0' TERM; (trap '' TERM; while :; do sleep 0.05; echo alive >> $OUT; done) & echo started >> $OUT; wait`,
			300 * time.Millisecond, "killing the command"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "leaves-others" && atTerminal() {
				t.Skip("at a terminal only the command itself is signalled")
			}
			g := newGateway(t)
			out := filepath.Join(t.TempDir(), "out")
			t.Setenv("OUT", out)
			done := make(chan string, 1)
			go func() {
				code, _, errs := execute(lockCommand, "run", "n", "--url", g.URL, "--ttl", "600ms", "--grace", "300ms", "--", "sh", "-c", tt.script)
				done <- fmt.Sprint(code, " ", errs)
			}()
			for deadline := time.Now().Add(10 * time.Second); ; <-time.After(10 * time.Millisecond) {
				if b, err := os.ReadFile(out); err == nil && strings.Contains(string(b), "started") {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("the command does not start")
				}
			}
			g.refuse.Store(http.StatusBadGateway)
			began := time.Now()
			got := <-done
			if !strings.HasPrefix(got, "76 ") || !strings.Contains(got, tt.says) {
				t.Errorf("got %s, want 76", got)
			}
			if took := time.Since(began); took < tt.least {
				t.Errorf("it ended after %s", took)
			}
			before, _ := os.ReadFile(out)
			<-time.After(200 * time.Millisecond)
			if after, _ := os.ReadFile(out); len(after) != len(before) {
				t.Error("something of it goes on")
			}
		})
	}
}

func TestLocksLs(t *testing.T) {
	g := newGateway(t)
	if code, out, errs := execute(locksCommand, "ls", "--url", g.URL, "--json"); code != 0 || out != "{\"items\":[]}\n" {
		t.Errorf("got %d %s %s", code, out, errs)
	}
	g.take(t, "b", "90s")
	g.take(t, "a", "3600s")
	code, out, errs := execute(locksCommand, "ls", "--url", g.URL)
	if rows := strings.Split(out, "\n"); code != 0 || len(rows) != 4 || !strings.HasPrefix(rows[0], "NAME  FENCE  ENDS IN") || !strings.HasPrefix(rows[1], "b     1      1m") || !strings.HasPrefix(rows[2], "a     2      59m") {
		t.Errorf("got %d %s %s", code, out, errs)
	}
	if code, out, _ = execute(locksCommand, "ls", "--url", g.URL, "--json"); code != 0 || !strings.HasPrefix(out, `{"items":[{"name":"b","fence":1,"expires_at":"`) {
		t.Errorf("got %d %s", code, out)
	}
	if code, _, errs = execute(locksCommand, "ls", "x"); code != 2 {
		t.Errorf("got %d %s", code, errs)
	}
	if code, _, errs = execute(locksCommand, "ls", "--url", "http://127.0.0.1:1"); code != 3 {
		t.Errorf("got %d %s", code, errs)
	}
}

func TestTokenFileIsReadAnew(t *testing.T) {
	g := newGateway(t)
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		g.bearer.Store(&token)
	}
	write("one")
	a, err := remote(g.URL+"/locks/", file)
	if err != nil {
		t.Fatal(err)
	}
	l, _, err := a.acquire(t.Context(), "n", time.Minute, 0)
	if err != nil {
		t.Fatal(err)
	}
	write("two")
	if err = a.renew(t.Context(), l, time.Minute); err != nil {
		t.Error(err)
	}
	if err = a.release(t.Context(), l); err != nil {
		t.Error(err)
	}
}
