package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

// Node is what one process has open for one data directory: the database, the generated keys and
// the state in memory. It outlives the configurations that use it.
type Node struct {
	Dir string
	DB  *sqldb.DB

	lock *os.File
	mu   sync.Mutex
	mem  map[string]any
	refs int
}

var (
	nodesMu sync.Mutex
	nodes   = map[string]*Node{}
)

// openNode opens the data directory, or takes one more reference on it if this process has it open.
func openNode(ctx context.Context, dir string) (*Node, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("data_dir %s: %w", dir, err)
	}
	nodesMu.Lock()
	defer nodesMu.Unlock()
	if n, ok := nodes[abs]; ok {
		n.refs++
		return n, nil
	}
	if err = os.MkdirAll(abs, 0o700); err != nil {
		return nil, fmt.Errorf("data_dir %s cannot be created, choose another or correct the permissions: %w", dir, err)
	}
	lock, err := lockDir(abs)
	if err != nil {
		return nil, err
	}
	db, err := sqldb.Open(ctx, abs)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("data_dir %s: %w", dir, err), lock.Close())
	}
	n := &Node{Dir: abs, DB: db, lock: lock, mem: map[string]any{}, refs: 1}
	nodes[abs] = n
	return n, nil
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
	delete(nodes, n.Dir)
	return errors.Join(n.DB.Close(), n.lock.Close())
}

// checkDir says whether the data directory is still the one that was opened: a removed one goes on
// taking rows into files that nobody will find again.
func (n *Node) checkDir() error {
	opened, err := n.lock.Stat()
	if err != nil {
		return fmt.Errorf("data_dir %s: %w", n.Dir, err)
	}
	now, err := os.Stat(filepath.Join(n.Dir, "lock"))
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

// GeneratedKey reads the key file of that name under keys/ in the data directory; if there is none
// it is made by generate and stored with mode 0600 before it is used.
func (n *Node) GeneratedKey(name string, generate func() ([]byte, error)) (*secret.Set, error) {
	return GeneratedKey(n.Dir, name, generate)
}

// GeneratedKey is Node.GeneratedKey for a command that works on a data directory without opening it.
// It is safe when two processes do it at once: one of the keys wins and both use it.
func GeneratedKey(dir, name string, generate func() ([]byte, error)) (*secret.Set, error) {
	path := filepath.Join(dir, "keys", name)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		b, err = createKey(path, generate)
	}
	if err != nil {
		return nil, fmt.Errorf("the key %s cannot be read or made: %w", path, err)
	}
	return secret.NewSet(name, secret.Version{Label: name, Value: secret.NewValue(b)}), nil
}

func createKey(path string, generate func() ([]byte, error)) ([]byte, error) {
	b, err := generate()
	if err != nil {
		return nil, err
	}
	// A link fails where a rename would replace the key that another process has just made.
	if err = WriteFile(path, b, os.Link); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.ReadFile(path)
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
