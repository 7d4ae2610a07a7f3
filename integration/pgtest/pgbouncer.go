package pgtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Bouncer starts a PgBouncer before the database, in transaction mode: each transaction may have another
// connection to the server. It returns its URL; it ends with the test, or with the test binary.
func (s *Server) Bouncer() (url string) {
	s.t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer"
	}
	if _, err = os.Stat(program); err != nil {
		s.t.Fatal("pgbouncer is missing: run `make deps`, which installs it")
	}
	dir, err := os.MkdirTemp("", "pgbouncer-")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	port, err := freePort()
	if err != nil {
		s.t.Fatal(err)
	}
	config := filepath.Join(dir, "pgbouncer.ini")
	text := fmt.Sprintf(`[databases]
* = host=127.0.0.1 port=%d user=gatehouse
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 10
max_client_conn = 200
`, s.instance.port, port)
	if err = os.WriteFile(config, []byte(text), 0o644); err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	// The shell ends it when the pipe is closed, which also the end of this process does.
	read, write, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `"$0" "$1" & pid=$!; read -r _; kill -INT $pid; wait $pid`, program, config)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = read, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.instance.as} // it refuses to run as root
	err = cmd.Start()
	_, _ = read.Close(), log.Close()
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = write.Close()
		_ = cmd.Wait()
	})
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		conn, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", addr)
		if err == nil {
			_ = conn.Close()
			return strings.Replace(s.URL, s.Addr(), addr, 1)
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(filepath.Join(dir, "log"))
			s.t.Fatalf("waiting for pgbouncer: %v\n%s", err, said)
		}
	}
}
