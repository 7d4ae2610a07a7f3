package service

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/secret/source"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
	"github.com/gatehouse-proxy/gatehouse/internal/wholefile"
)

// keyTimeout bounds the reading of a key from the database.
const keyTimeout = 10 * time.Second

// migrations are the tables of PostgreSQL, where the keys are common to all instances.
//
//go:embed migrations
var migrations embed.FS

func migrateKeys(ctx context.Context, db *sqldb.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	return db.Migrate(ctx, "service", files)
}

// keyring holds the generated keys that a node has opened.
type keyring struct {
	mu   sync.Mutex
	open map[string]*source.Handle
}

func (r *keyring) all() map[string]*source.Handle {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := maps.Clone(r.open)
	if all == nil {
		all = map[string]*source.Handle{}
	}
	return all
}

func (r *keyring) close() {
	for _, h := range r.all() {
		h.Close()
	}
}

// GeneratedKey is the key of that name under keys/ in the data directory; if there is none it is made
// by generate and stored with mode 0600 before it is used. With PostgreSQL the key is a row, so that
// all instances have the same; the key file, if there is one, becomes the first row, so that what it
// signed stays valid when the rows move to PostgreSQL. The set is kept up to date like a named
// one: it changes when the key is rotated, here or by another instance.
func (n *Node) GeneratedKey(name string, generate func() ([]byte, error)) (*secret.Set, error) {
	n.keys.mu.Lock()
	defer n.keys.mu.Unlock()
	if h, ok := n.keys.open[name]; ok {
		return h.Set(), nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), keyTimeout)
	defer cancel()
	h, err := n.openKey(ctx, name, generate)
	if err != nil {
		return nil, err
	}
	if err = h.Start(ctx); err != nil {
		h.Close()
		return nil, err
	}
	if n.keys.open == nil {
		n.keys.open = map[string]*source.Handle{}
	}
	n.keys.open[name] = h
	return h.Set(), nil
}

func (n *Node) openKey(ctx context.Context, name string, generate func() ([]byte, error)) (*source.Handle, error) {
	path := filepath.Join(n.Dir, "keys", name)
	if !n.DB.Postgres() {
		if _, err := keyFile(path, generate); err != nil {
			return nil, err
		}
		return source.OpenFile(name, path, n.log)
	}
	_, err := sharedKeyBytes(ctx, n.DB, name, func() ([]byte, error) {
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return generate()
		}
		return b, err
	})
	if err != nil {
		return nil, err
	}
	// The store works on this node's database, so no other node may share it.
	return source.OpenStore(ctx, name, fmt.Sprintf("%p", n), keyRow{n.DB, name}, n.log)
}

// SharedKey is the key of that name as it is now, for a command that works on a PostgreSQL without a
// data directory.
func SharedKey(ctx context.Context, db *sqldb.DB, name string, generate func() ([]byte, error)) (*secret.Set, error) {
	b, err := sharedKeyBytes(ctx, db, name, generate)
	if err != nil {
		return nil, err
	}
	return keySet(name, b)
}

func sharedKeyBytes(ctx context.Context, db *sqldb.DB, name string, generate func() ([]byte, error)) ([]byte, error) {
	err := migrateKeys(ctx, db)
	var b []byte
	if err == nil {
		b, err = sharedKey(ctx, db, name, generate)
	}
	if err != nil {
		return nil, fmt.Errorf("the key %s cannot be read from the database or made: %w", name, err)
	}
	return b, nil
}

const readKey = "SELECT value FROM service_keys WHERE name = $1"

func sharedKey(ctx context.Context, db *sqldb.DB, name string, generate func() ([]byte, error)) (b []byte, err error) {
	if err = db.Write.QueryRowContext(ctx, readKey, name).Scan(&b); !errors.Is(err, sql.ErrNoRows) {
		return b, err
	}
	if b, err = generate(); err != nil {
		return nil, err
	}
	// Where another instance was faster its key stays, and is the one read.
	if _, err = db.Write.ExecContext(ctx, "INSERT INTO service_keys (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING", name, b); err != nil {
		return nil, err
	}
	err = db.Write.QueryRowContext(ctx, readKey, name).Scan(&b)
	return b, err
}

// keyRow is a key in the database.
type keyRow struct {
	db   *sqldb.DB
	name string
}

// Fetch reads the row.
func (k keyRow) Fetch(ctx context.Context) ([]secret.Version, error) {
	var b []byte
	if err := k.db.Read.QueryRowContext(ctx, readKey, k.name).Scan(&b); err != nil {
		return nil, fmt.Errorf("reading the key from the database: %w", err)
	}
	return secret.Parse(k.name, b)
}

// Change writes the row, which no other instance changes meanwhile.
func (k keyRow) Change(ctx context.Context, by func([]secret.Version) ([]secret.Version, error)) error {
	return k.db.InTx(ctx, func(tx *sql.Tx) error {
		var b []byte
		if err := tx.QueryRowContext(ctx, readKey+" FOR UPDATE", k.name).Scan(&b); err != nil {
			return fmt.Errorf("reading the key from the database: %w", err)
		}
		old, err := secret.Parse(k.name, b)
		if err != nil {
			return err
		}
		next, err := by(old)
		if err != nil {
			return err
		}
		if b, err = secret.Format(next); err != nil {
			return err
		}
		if _, err = tx.ExecContext(ctx, "UPDATE service_keys SET value = $2 WHERE name = $1", k.name, b); err != nil {
			return fmt.Errorf("writing the key into the database: %w", err)
		}
		return nil
	})
}

// GeneratedKey is the key of that name as it is now, for a command that works on a data directory
// without opening it. It is safe when two processes do it at once: one of the keys wins and both use it.
func GeneratedKey(dir, name string, generate func() ([]byte, error)) (*secret.Set, error) {
	b, err := keyFile(filepath.Join(dir, "keys", name), generate)
	if err != nil {
		return nil, err
	}
	return keySet(name, b)
}

func keyFile(path string, generate func() ([]byte, error)) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		b, err = createKey(path, generate)
	}
	if err != nil {
		return nil, fmt.Errorf("the key %s cannot be read or made: %w", path, err)
	}
	return b, nil
}

func keySet(name string, b []byte) (*secret.Set, error) {
	versions, err := secret.Parse(name, b)
	if err != nil {
		return nil, fmt.Errorf("the key %s: %w", name, err)
	}
	return secret.NewSet(name, versions...), nil
}

func createKey(path string, generate func() ([]byte, error)) ([]byte, error) {
	b, err := generate()
	if err != nil {
		return nil, err
	}
	// A link fails where a rename would replace the key that another process has just made.
	if err = wholefile.Write(path, b, os.Link); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.ReadFile(path)
}
