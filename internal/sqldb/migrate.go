package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
)

// Migrate brings the tables of one owner to its newest version. The files are goose migrations
// (NNNNN_name.sql) at the root of files; the versions applied are kept in the table goose_<owner>.
// A file in the folder postgres stands in for the one of the same name on PostgreSQL. Instances that
// start together on one database migrate one after the other.
func (db *DB) Migrate(ctx context.Context, owner string, files fs.FS) error {
	dialect := goose.DialectSQLite3
	if db.Postgres() {
		dialect = goose.DialectPostgres
		o, err := newOverlay(files)
		if err != nil {
			return fmt.Errorf("reading the migrations of %s: %w", owner, err)
		}
		files = o
	}
	p, err := goose.NewProvider(dialect, db.Write, files, goose.WithTableName("goose_"+owner), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("reading the migrations of %s: %w", owner, err)
	}
	err = db.Alone(ctx, "migrations", func() error {
		_, err := p.Up(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("migrating the tables of %s: %w", owner, err)
	}
	return nil
}

// Alone runs fn while nobody else runs one under the same name on this database, in this process or
// in another: it waits for the others. It holds one connection, and no row. fn must not call it, nor Migrate.
func (db *DB) Alone(ctx context.Context, name string, fn func() error) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if !db.Postgres() {
		return fn()
	}
	return db.InTx(ctx, func(tx *sql.Tx) error {
		if err := db.LockInTx(ctx, tx, name); err != nil {
			return err
		}
		return fn()
	})
}

const postgresFolder = "postgres"

// overlay is a folder of migrations in which those for PostgreSQL hide their namesakes.
type overlay struct{ common, postgres fs.FS }

func newOverlay(files fs.FS) (fs.FS, error) {
	entries, err := fs.ReadDir(files, postgresFolder)
	if errors.Is(err, fs.ErrNotExist) {
		return files, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if _, err = fs.Stat(files, e.Name()); err != nil {
			return nil, fmt.Errorf("%s/%s stands in for no file: %w", postgresFolder, e.Name(), err)
		}
	}
	postgres, err := fs.Sub(files, postgresFolder)
	return overlay{files, postgres}, err
}

// Open opens the file for PostgreSQL if there is one, and else the common one.
func (o overlay) Open(name string) (fs.File, error) {
	if name != "." {
		if f, err := o.postgres.Open(name); err == nil {
			return f, nil
		}
	}
	return o.common.Open(name)
}
