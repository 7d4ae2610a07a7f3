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

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/secret/source"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

// Node is what one process has open for one data directory and one database: the database, the
// generated keys and the state in memory. It outlives the configurations that use it.
type Node struct {
	Dir string
	DB  *sqldb.DB

	key      nodeKey
	mark     *os.File // the lock in the directory; on PostgreSQL the directory itself
	password *source.Handle
	log      *slog.Logger
	keys     keyring
	mu       sync.Mutex
	mem      map[string]any
	refs     int
}

// nodeKey tells the nodes of a process apart. database is empty for SQLite; password is the set of its
// source, so it is another one for another source, and the same one whatever its versions are.
type nodeKey struct {
	dir, database string
	password      *secret.Set
}

var (
	nodesMu sync.Mutex
	nodes   = map[nodeKey]*Node{}
)

// openNode opens the data directory and the database, or takes one more reference on them if this
// process has them open. password is a hold on the password's set, nil
// if there is none; the node gives it back.
func openNode(ctx context.Context, dir, database string, password *source.Handle, log *slog.Logger) (*Node, error) {
	n, taken, err := takeNode(ctx, dir, database, password, log)
	if !taken && password != nil {
		password.Close()
	}
	return n, err
}

// takeNode is openNode; taken says that the node has kept password.
func takeNode(ctx context.Context, dir, database string, password *source.Handle, log *slog.Logger) (n *Node, taken bool, err error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, false, fmt.Errorf("data_dir %s: %w", dir, err)
	}
	key := nodeKey{dir: abs, database: database}
	if password != nil {
		key.password = password.Set()
	}
	nodesMu.Lock()
	defer nodesMu.Unlock()
	if n, ok := nodes[key]; ok {
		n.refs++
		return n, false, nil
	}
	if err = os.MkdirAll(abs, 0o700); err != nil {
		return nil, false, fmt.Errorf("data_dir %s cannot be created, choose another or correct the permissions: %w", dir, err)
	}
	n = &Node{Dir: abs, key: key, password: password, log: logger(log), mem: map[string]any{}, refs: 1}
	if err = n.open(ctx); err != nil {
		return nil, false, err
	}
	nodes[key] = n
	return n, true, nil
}

// open opens what the node stands for. SQLite is for one process, PostgreSQL for many.
func (n *Node) open(ctx context.Context) (err error) {
	if n.key.database != "" {
		if n.mark, err = os.Open(n.Dir); err != nil {
			return fmt.Errorf("data_dir %s is not readable, correct its permissions: %w", n.Dir, err)
		}
		if n.DB, err = sqldb.OpenPostgresAs(ctx, n.key.database, n.key.password); err != nil {
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
	n.keys.close()
	if n.password != nil {
		n.password.Close()
	}
	return errors.Join(n.DB.Close(), n.mark.Close())
}

// checkDir says whether the data directory is still the one that was opened: a removed one goes on
// taking rows into files that nobody will find again. One that is almost full is degraded, and failed
// when nothing can be written.
func (n *Node) checkDir(ctx context.Context) error {
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
	low, err := n.DB.Room(ctx)
	if err == nil && low != "" {
		err = Degraded(errors.New(low))
	}
	return err
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

// logger is the host's logger, or one that drops everything.
func logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
