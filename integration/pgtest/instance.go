package pgtest

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// instance is one PostgreSQL server and its directory.
type instance struct {
	dir      string
	port     int
	fast     bool
	programs map[string]string
	as       *syscall.Credential // nil for this process's own user
	guard    *os.File            // open until this process ends

	cmd    *exec.Cmd
	done   chan struct{}
	frozen bool
}

// newInstance makes a directory with an empty server in it.
func newInstance(fast bool) (*instance, error) {
	in := &instance{fast: fast, programs: map[string]string{}}
	for _, name := range []string{"initdb", "postgres"} {
		path, err := find(name)
		if err != nil {
			return nil, err
		}
		in.programs[name] = path
	}
	var err error
	if in.dir, err = os.MkdirTemp("", "pgtest-"); err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 { // which PostgreSQL refuses
		if in.as, err = unprivileged(); err != nil {
			return nil, err
		}
		if err = os.Chown(in.dir, int(in.as.Uid), int(in.as.Gid)); err != nil {
			return nil, err
		}
	}
	if err = in.watch(); err != nil {
		return nil, err
	}
	out, err := in.command("initdb", "--no-sync", "--auth=trust", "--username=gatehouse", "--encoding=UTF8", "--locale=C", "--pgdata="+in.data()).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	in.port, err = freePort()
	return in, err
}

// find looks where Debian puts PostgreSQL, too; the newest version wins.
func find(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) == 0 {
		return "", fmt.Errorf("%s is missing, in PATH and in /usr/lib/postgresql/*/bin: run `make deps`, which installs PostgreSQL", name)
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(strings.Split(path, "/")[4])
		return n
	}
	return slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) }), nil
}

func unprivileged() (*syscall.Credential, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, err
	}
	return nil, fmt.Errorf("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")
}

func freePort() (int, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

func (in *instance) data() string { return filepath.Join(in.dir, "data") }

func (in *instance) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(in.programs[name], args...) // it outlives the test that starts it
	cmd.Dir = in.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TZ=UTC", "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: in.as}
	return cmd
}

// watch starts a shell that ends the server and removes the directory when this process has ended:
// the last test of a binary does not know that it is the last, and a binary may be killed.
func (in *instance) watch() error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = read.Close() }()
	in.guard = write
	cmd := exec.Command("sh", "-c", `read -r _
read -r pid < "$0/data/postmaster.pid" && kill -QUIT "$pid" && while kill -0 "$pid"; do sleep 0.1; done
rm -rf "$0"`, in.dir)
	cmd.Stdin = read
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // not ended with the terminal's group
	if err = cmd.Start(); err != nil {
		return fmt.Errorf("starting sh: %w", err)
	}
	go func() { _ = cmd.Wait() }()
	return nil
}

// start starts the server and waits until it answers.
func (in *instance) start() error {
	log, err := os.OpenFile(filepath.Join(in.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	args := []string{"-D", in.data(), "-p", strconv.Itoa(in.port)}
	for _, setting := range []string{"listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=400", "shared_buffers=64MB",
		"restart_after_crash=off"} {
		args = append(args, "-c", setting)
	}
	if in.fast {
		args = append(args, "-c", "fsync=off")
	}
	cmd := in.command("postgres", args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err = cmd.Start(); err != nil {
		return fmt.Errorf("starting postgres: %w", err)
	}
	done := make(chan struct{})
	in.cmd, in.done = cmd, done
	go func() {
		defer close(done)
		_ = cmd.Wait() // it is killed
	}()
	return in.await()
}

func (in *instance) await() error {
	db, err := sql.Open("pgx", in.url("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if err = db.PingContext(ctx); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-in.done:
			return fmt.Errorf("postgres ended at once:\n%s", in.said())
		case <-ctx.Done():
			return fmt.Errorf("waiting for postgres: %w\n%s", err, in.said())
		}
	}
}

// pids are the server's processes, the first that of the postmaster.
func (in *instance) pids() []int {
	parent := in.cmd.Process.Pid
	pids := []int{parent}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		_, after, _ := strings.Cut(string(b), ") ") // pid (name) state ppid …
		if fields := strings.Fields(after); len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// kill ends every process of the server. The postmaster is frozen first, so that it starts no more.
func (in *instance) kill() error {
	if in.cmd == nil {
		return nil
	}
	_ = syscall.Kill(in.cmd.Process.Pid, syscall.SIGSTOP)
	pids := in.pids()
	slices.Reverse(pids)
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone
	}
	<-in.done
	in.cmd, in.frozen = nil, false
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); slices.ContainsFunc(pids, alive); <-tick.C {
		if time.Now().After(deadline) {
			return fmt.Errorf("processes of the server are still there: %v", pids)
		}
	}
	return nil
}

// alive is false for a zombie, too: nothing runs in it.
func alive(pid int) bool {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	_, after, _ := strings.Cut(string(b), ") ")
	return err == nil && !strings.HasPrefix(after, "Z")
}

// end stops the server for good; the directory goes with the guard.
func (in *instance) end() {
	_ = in.kill()
	_ = in.guard.Close()
}
