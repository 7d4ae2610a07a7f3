package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// root is the top of the repository.
const root = ".."

// built are the binaries under test, made once.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "gatehouse-bin-")
	if err != nil {
		return "", err
	}
	args := []string{"build", "-pgo=off", "-o", dir + "/"} // the profile compiles every package anew, for speed alone
	if raceEnabled {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, module+"cmd/...")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building: %w\n%s", err, out)
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := built(); err == nil {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// binary is the path of a built command.
func binary(t testing.TB, name string) string {
	t.Helper()
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// freePort is a port of 127.0.0.1 that nothing listens on.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// process is a started binary.
type process struct {
	t      testing.TB
	cmd    *exec.Cmd
	stderr *lockedBuffer
	exited chan struct{}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs a built binary in dir and kills it when the test ends.
func start(t testing.TB, dir, name string, args ...string) *process {
	t.Helper()
	return startFile(t, dir, binary(t, name), args...)
}

// startFile is start for any binary.
func startFile(t testing.TB, dir, name string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(name, args...), stderr: new(lockedBuffer), exited: make(chan struct{})}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, p.stderr, p.stderr
	p.cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, tail(p.stderr.String(), 60))
		}
		if strings.Contains(p.stderr.String(), "DATA RACE") {
			t.Errorf("%s has a data race:\n%s", name, p.stderr.String())
		}
	})
	return p
}

func tail(s string, lines int) string {
	all := strings.Split(s, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// kill ends the process as a power cut does and waits for its end.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// terminate asks the process to end and waits, at most a minute.
func (p *process) terminate() {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(time.Minute):
		p.t.Error("the process did not end within a minute of SIGTERM")
		p.kill()
	}
}

// waitFor polls url until it answers with a status below 500, or fails the test.
func (p *process) waitFor(url string) {
	p.t.Helper()
	eventually(p.t, 30*time.Second, func() error {
		select {
		case <-p.exited:
			p.t.Fatalf("the process ended:\n%s", tail(p.stderr.String(), 60))
		default:
		}
		resp, err := http.Get(url)
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if resp.StatusCode >= 500 {
			return errors.New(resp.Status)
		}
		return nil
	})
}

// eventually polls check until it returns nil, or fails the test with its last error.
func eventually(t testing.TB, limit time.Duration, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("after %s: %v", limit, err)
		case <-tick.C:
		}
	}
}

// example is Caddyfile.example on free ports, with its state in dir.
type example struct {
	dir    string
	config string
	base   string // the gateway's URL
	admin  string // the admin endpoint's address
	ports  *strings.Replacer

	database string // the URL of its PostgreSQL, if that has its rows
}

func newExample(t testing.TB) *example {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "Caddyfile.example"))
	if err != nil {
		t.Fatal(err)
	}
	e := &example{dir: t.TempDir(), admin: "127.0.0.1:" + freePort(t)}
	gateway := freePort(t)
	e.base = "http://127.0.0.1:" + gateway
	_, admin, _ := net.SplitHostPort(e.admin)
	e.ports = strings.NewReplacer("8080", gateway, "9001", freePort(t), "9002", freePort(t), "2019", admin)
	text := "{\n\tadmin " + e.admin + "\n" + strings.SplitN(e.ports.Replace(string(b)), "{\n", 2)[1]
	e.config = filepath.Join(e.dir, "Caddyfile")
	if err = os.WriteFile(e.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err = os.CopyFS(filepath.Join(e.dir, "configs"), os.DirFS(filepath.Join(root, "configs"))); err != nil {
		t.Fatal(err)
	}
	return e
}

// run serves the example and returns when it answers.
func (e *example) run(t testing.TB) *process {
	t.Helper()
	p := start(t, e.dir, "gatehouse", "run", "--config", e.config, "--adapter", "caddyfile")
	p.waitFor(e.base + "/.well-known/jwks.json")
	return p
}

// gatehouse runs a command of the built binary to its end and returns its output.
func (e *example) gatehouse(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary(t, "gatehouse"), args...)
	cmd.Dir, cmd.Stdin = e.dir, strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("gatehouse %v: %v\n%s", args, err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// call makes a request and returns the status and the body.
func call(t testing.TB, method, url, token, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(r)
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
