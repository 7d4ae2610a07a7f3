package service

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
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

// GeneratedKey reads the key file of that name under keys/ in the data directory; if there is none
// it is made by generate and stored with mode 0600 before it is used. With PostgreSQL the key is a
// row, so that all instances have the same; the key file, if there is one, becomes the first row, so
// that what it signed stays valid when the rows move to PostgreSQL.
func (n *Node) GeneratedKey(name string, generate func() ([]byte, error)) (*secret.Set, error) {
	if !n.DB.Postgres() {
		return GeneratedKey(n.Dir, name, generate)
	}
	ctx, cancel := context.WithTimeout(context.Background(), keyTimeout)
	defer cancel()
	return SharedKey(ctx, n.DB, name, func() ([]byte, error) {
		b, err := os.ReadFile(filepath.Join(n.Dir, "keys", name))
		if errors.Is(err, fs.ErrNotExist) {
			return generate()
		}
		return b, err
	})
}

// SharedKey is Node.GeneratedKey for a command that works on a PostgreSQL without a data directory.
func SharedKey(ctx context.Context, db *sqldb.DB, name string, generate func() ([]byte, error)) (*secret.Set, error) {
	err := migrateKeys(ctx, db)
	var b []byte
	if err == nil {
		b, err = sharedKey(ctx, db, name, generate)
	}
	if err != nil {
		return nil, fmt.Errorf("the key %s cannot be read from the database or made: %w", name, err)
	}
	return keySet(name, b), nil
}

func sharedKey(ctx context.Context, db *sqldb.DB, name string, generate func() ([]byte, error)) (b []byte, err error) {
	const read = "SELECT value FROM service_keys WHERE name = $1"
	if err = db.Write.QueryRowContext(ctx, read, name).Scan(&b); !errors.Is(err, sql.ErrNoRows) {
		return b, err
	}
	if b, err = generate(); err != nil {
		return nil, err
	}
	// Where another instance was faster its key stays, and is the one read.
	if _, err = db.Write.ExecContext(ctx, "INSERT INTO service_keys (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING", name, b); err != nil {
		return nil, err
	}
	err = db.Write.QueryRowContext(ctx, read, name).Scan(&b)
	return b, err
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
	return keySet(name, b), nil
}

func keySet(name string, b []byte) *secret.Set {
	return secret.NewSet(name, secret.Version{Label: name, Value: secret.NewValue(b)})
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
