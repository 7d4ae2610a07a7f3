// Package sqldb opens the SQL database: SQLite in the data directory. It loses nothing at a power
// cut (WAL, synchronous=FULL) and writes through one connection, which SQLite does fastest.
package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"sync"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// File is the database's name in the data directory.
const File = "gatehouse.db"

// DB is an open database. Write has one connection: a caller that holds a transaction on it must
// run every statement through that transaction, or it waits for itself. Read has several and
// refuses to write; it sees what was committed before its statement began.
type DB struct {
	Write *sql.DB
	Read  *sql.DB

	mu sync.Mutex // one migration at a time
}

// Open opens the database in dir, creating it if it is not there. The caller closes it.
func Open(ctx context.Context, dir string) (*DB, error) {
	path := filepath.Join(dir, File)
	write, err := open(path, "_txlock=immediate", 1)
	if err != nil {
		return nil, err
	}
	// The first write creates the file and its WAL; a second pool that only reads needs both.
	if _, err = write.ExecContext(ctx, "PRAGMA user_version"); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the database %s: %w", path, err), write.Close())
	}
	read, err := open(path, "_pragma=query_only(1)", 4)
	if err != nil {
		return nil, errors.Join(err, write.Close())
	}
	return &DB{Write: write, Read: read}, nil
}

func open(path, mode string, conns int) (*sql.DB, error) {
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() +
		"?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)&" + mode
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("opening the database %s: %w", path, err)
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// Close closes both pools.
func (db *DB) Close() error { return errors.Join(db.Read.Close(), db.Write.Close()) }

// Migrate brings the tables of one owner to its newest version. The files are goose migrations
// (NNNNN_name.sql) at the root of files; the versions applied are kept in the table goose_<owner>.
func (db *DB) Migrate(ctx context.Context, owner string, files fs.FS) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	p, err := goose.NewProvider(goose.DialectSQLite3, db.Write, files, goose.WithTableName("goose_"+owner), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("reading the migrations of %s: %w", owner, err)
	}
	if _, err = p.Up(ctx); err != nil {
		return fmt.Errorf("migrating the tables of %s: %w", owner, err)
	}
	return nil
}

// InTx runs fn in a transaction on the writing connection and commits it, or rolls back if fn fails.
func (db *DB) InTx(ctx context.Context, fn func(tx *sql.Tx) error) error {
	tx, err := db.Write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("beginning a transaction: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	if err = fn(tx); err != nil {
		return err
	}
	if err = tx.Commit(); err != nil {
		return fmt.Errorf("committing: %w", err)
	}
	return nil
}

// IsBusy says whether err means that the database cannot write now, but may later: another writer
// holds it, or the disk is full.
func IsBusy(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && (e.Code()&0xff == sqlite3.SQLITE_BUSY || e.Code()&0xff == sqlite3.SQLITE_FULL)
}

// IsUnique says whether err is a violation of a UNIQUE or PRIMARY KEY constraint.
func IsUnique(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && (e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}
