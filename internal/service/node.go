package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

// Node is what one process has open for one data directory and one database: the database, the
// generated keys and the state in memory. It outlives the configurations that use it.
type Node struct {
	Dir string
	DB  *sqldb.DB

	key  nodeKey
	mark *os.File // the lock in the directory; on PostgreSQL the directory itself
	mu   sync.Mutex
	mem  map[string]any
	refs int
}

// nodeKey tells the nodes of a process apart. dsn is empty for SQLite.
type nodeKey struct{ dir, dsn string }

var (
	nodesMu sync.Mutex
	nodes   = map[nodeKey]*Node{}
)

// openNode opens the data directory and the database, or takes one more reference on them if this
// process has them open.
func openNode(ctx context.Context, dir, dsn string) (*Node, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("data_dir %s: %w", dir, err)
	}
	key := nodeKey{abs, dsn}
	nodesMu.Lock()
	defer nodesMu.Unlock()
	if n, ok := nodes[key]; ok {
		n.refs++
		return n, nil
	}
	if err = os.MkdirAll(abs, 0o700); err != nil {
		return nil, fmt.Errorf("data_dir %s cannot be created, choose another or correct the permissions: %w", dir, err)
	}
	n := &Node{Dir: abs, key: key, mem: map[string]any{}, refs: 1}
	if err = n.open(ctx); err != nil {
		return nil, err
	}
	nodes[key] = n
	return n, nil
}

// open opens what the node stands for. SQLite is for one process, PostgreSQL for many.
func (n *Node) open(ctx context.Context) (err error) {
	if n.key.dsn != "" {
		if n.mark, err = os.Open(n.Dir); err != nil {
			return fmt.Errorf("data_dir %s is not readable, correct its permissions: %w", n.Dir, err)
		}
		if n.DB, err = sqldb.OpenPostgres(ctx, n.key.dsn); err != nil {
			return errors.Join(err, n.mark.Close())
		}
		return nil
	}
	if n.mark, err = lockDir(n.Dir); err != nil {
		return err
	}
	if n.DB, err = sqldb.Open(ctx, n.Dir); err != nil {
		return errors.Join(fmt.Errorf("data_dir %s: %w", n.Dir, err), n.mark.Close())
	}
	return nil
}

// lockDir makes sure that one process alone works on the directory. The kernel drops the lock
// when the process ends, however it ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data_dir %s is not writable, correct its permissions: %w", dir, err)
	}
	if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		pid, _ := os.ReadFile(f.Name())
		return nil, errors.Join(fmt.Errorf("data_dir %s is in use by another process (pid %s), stop it or choose another data_dir",
			dir, bytes.TrimSpace(pid)), f.Close())
	}
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return f, nil
}

// release gives one reference back; the last one closes the node.
func (n *Node) release() error {
	nodesMu.Lock()
	defer nodesMu.Unlock()
	if n.refs--; n.refs > 0 {
		return nil
	}
	delete(nodes, n.key)
	return errors.Join(n.DB.Close(), n.mark.Close())
}

// checkDir says whether the data directory is still the one that was opened: a removed one goes on
// taking rows into files that nobody will find again.
func (n *Node) checkDir() error {
	opened, err := n.mark.Stat()
	if err != nil {
		return fmt.Errorf("data_dir %s: %w", n.Dir, err)
	}
	now, err := os.Stat(n.mark.Name())
	if err != nil {
		return fmt.Errorf("data_dir %s: %w", n.Dir, err)
	}
	if !os.SameFile(opened, now) {
		return fmt.Errorf("data_dir %s was replaced while it was in use, restart", n.Dir)
	}
	return nil
}

// Memory is the state under key, made by create when it is not there yet. It survives changes of
// configuration and ends with the process: caches, lock tables, breakers.
func (n *Node) Memory(key string, create func() any) any {
	n.mu.Lock()
	defer n.mu.Unlock()
	v, ok := n.mem[key]
	if !ok {
		v = create()
		n.mem[key] = v
	}
	return v
}

// WriteFile writes a file of mode 0600, all of it or nothing: it is in a new place and synced before
// publish, os.Rename or os.Link, gives it its name. The folder is made where there is none.
func WriteFile(path string, b []byte, publish func(from, to string) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return publish(tmp.Name(), path)
}

// logger is the host's logger, or one that drops everything.
func logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
