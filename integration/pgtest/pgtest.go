// Package pgtest starts real PostgreSQL servers for tests. They listen on free ports of loopback, let
// everybody in without a password, and end with the test binary, however that ends.
package pgtest

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// patience bounds every wait for a server.
const patience = 30 * time.Second

// Server is a database of its own on a PostgreSQL server.
type Server struct {
	// URL is its DSN.
	URL string

	t        testing.TB
	instance *instance
}

// Option changes what Start starts.
type Option int

const (
	// Fast is for tests that lose no power: the server does not wait for its disk (fsync=off).
	Fast Option = 1 << iota
	// Alone is a server of the test's own, for one that kills it while others run in parallel.
	Alone
)

var (
	sharedMu sync.Mutex
	shared   = map[Option]*instance{}
	number   atomic.Int64
)

// Start makes a new, empty database. The server is one for the whole test binary, unless Alone is
// given. It is running again when the test ends, whatever the test did to it.
func Start(t testing.TB, options ...Option) *Server {
	t.Helper()
	var o Option
	for _, option := range options {
		o |= option
	}
	in := get(t, o)
	name := "test" + strconv.FormatInt(number.Add(1), 10)
	s := &Server{URL: in.url(name), t: t, instance: in}
	s.exec("CREATE DATABASE " + name)
	t.Cleanup(func() {
		if o&Alone != 0 {
			in.end()
			return
		}
		if in.frozen {
			s.Cont()
		}
		if in.cmd == nil {
			s.Restart()
		}
		s.exec("DROP DATABASE " + name + " WITH (FORCE)")
	})
	return s
}

func get(t testing.TB, o Option) *instance {
	t.Helper()
	sharedMu.Lock()
	defer sharedMu.Unlock()
	if in := shared[o]; in != nil {
		return in
	}
	in, err := newInstance(o&Fast != 0)
	if err == nil {
		err = in.start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if o&Alone == 0 {
		shared[o] = in
	}
	return in
}

// Addr is the server's host:port.
func (s *Server) Addr() string { return "127.0.0.1:" + strconv.Itoa(s.instance.port) }

// DB is a pool on the database until the test ends.
func (s *Server) DB() *sql.DB {
	s.t.Helper()
	db, err := sql.Open("pgx", s.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = db.Close() })
	return db
}

// Kill ends all processes of the server at once, as a power cut does, and waits until they are gone.
func (s *Server) Kill() {
	s.t.Helper()
	if err := s.instance.kill(); err != nil {
		s.t.Fatal(err)
	}
}

// Restart starts the server after Kill, on the same port, and waits until it answers.
func (s *Server) Restart() {
	s.t.Helper()
	if err := s.instance.start(); err != nil {
		s.t.Fatal(err)
	}
}

// Stop freezes the server: connections are accepted by the kernel and nothing answers.
func (s *Server) Stop() {
	s.instance.frozen = true
	s.signal(syscall.SIGSTOP)
}

// Cont ends Stop.
func (s *Server) Cont() {
	s.instance.frozen = false
	s.signal(syscall.SIGCONT)
}

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	for _, pid := range s.instance.pids() {
		if err := syscall.Kill(pid, sig); err != nil && err != syscall.ESRCH {
			s.t.Fatalf("signalling %s: %v", s.Addr(), err)
		}
	}
}

// exec runs a statement on the server's own database.
func (s *Server) exec(statement string) {
	s.t.Helper()
	db, err := sql.Open("pgx", s.instance.url("postgres"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), patience) // the test's own has ended in its cleanup
	defer cancel()
	if _, err = db.ExecContext(ctx, statement); err != nil {
		s.t.Fatalf("%s: %v\n%s", statement, err, s.instance.said())
	}
}

func (in *instance) url(database string) string {
	return fmt.Sprintf("postgres://gatehouse@127.0.0.1:%d/%s?sslmode=disable", in.port, database)
}

// said is the end of the server's log.
func (in *instance) said() []byte {
	b, _ := os.ReadFile(filepath.Join(in.dir, "log"))
	b = bytes.TrimSpace(b)
	return b[max(0, len(b)-2000):]
}

// Each runs test twice: with no URL, for SQLite, and with that of a new database, on a Fast server.
func Each(t *testing.T, test func(t *testing.T, url string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { test(t, "") })
	t.Run("postgres", func(t *testing.T) { test(t, Start(t, Fast).URL) })
}
