// Package sqldb opens the SQL database: SQLite in the data directory, or PostgreSQL. SQLite loses
// nothing at a power cut (WAL, synchronous=FULL) and writes through one connection, which it does
// fastest. Statements have the placeholders $1, $2…, which both understand.
package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/gatehouse-proxy/gatehouse/internal/volume"
)

// File is the database's name in the data directory.
const File = "gatehouse.db"

// walKept is the size to which the WAL is cut after a burst has made it larger. The file is written anew from
// its beginning, so that it also is room that stays ours when the disk is full.
const walKept = 8 << 20

// DB is an open database. On SQLite Write has one connection: a caller that holds a transaction on it
// must run every statement through that transaction, or it waits for itself. Read has several and
// refuses to write; it sees what was committed before its statement began. On PostgreSQL both are
// pools of some connections, and it is the code that keeps writes out of Read.
type DB struct {
	Write *sql.DB
	Read  *sql.DB

	room     *room           // nil on PostgreSQL
	postgres *pgxpool.Config // nil on SQLite
	pooled   bool
	mu       sync.Mutex // one migration at a time
}

// Open opens the database in dir, creating it if it is not there. The caller closes it.
func Open(ctx context.Context, dir string) (*DB, error) {
	path := filepath.Join(dir, File)
	if err := private(path); err != nil {
		return nil, fmt.Errorf("opening the database %s: %w", path, err)
	}
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
	room, err := newRoom(dir)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the database %s: %w", path, err), read.Close(), write.Close())
	}
	return &DB{Write: write, Read: read, room: room}, nil
}

// private creates the file for its owner alone, and takes it from others where it is there: it holds
// password hashes. What SQLite puts beside it has its mode.
func private(path string) error {
	const owner, others = 0o600, 0o007
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, owner)
	if err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	for _, name := range []string{path, path + "-wal", path + "-shm"} {
		info, err := os.Stat(name)
		if err != nil || info.Mode()&others == 0 {
			continue
		}
		if err = os.Chmod(name, info.Mode().Perm()&^others); err != nil {
			return err
		}
	}
	return nil
}

func open(path, mode string, conns int) (*sql.DB, error) {
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() +
		"?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)&_pragma=journal_size_limit(" +
		strconv.Itoa(walKept) + ")&" + mode
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

// Postgres says whether this is PostgreSQL, which several instances may share, and not SQLite.
func (db *DB) Postgres() bool { return db.postgres != nil }

// Pooled says whether a pooler such as PgBouncer stands before PostgreSQL, so that two statements outside
// a transaction may run on two connections: nothing may rest on the state of one, such as LISTEN, SET or
// a lock that outlives its transaction.
func (db *DB) Pooled() bool { return db.pooled }

// InTx runs fn in a transaction for writing and commits it, or rolls back if fn fails. On SQLite no
// other write happens meanwhile. On PostgreSQL (READ COMMITTED) others do: what must not change
// between a read and a write is locked first, by an UPDATE of its row or by LockInTx.
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

// expiredBatch bounds one deletion, so that it holds the writing connection for a moment only.
const expiredBatch = 1000

// DeleteExpired deletes the rows of table whose expires_at, in unix milliseconds, is not after now, in
// small batches. key is the column that identifies a row. A row that is given a later end meanwhile stays,
// and on PostgreSQL one that another transaction holds: waiting for it could end in a deadlock.
func (db *DB) DeleteExpired(ctx context.Context, table, key string, now time.Time) error {
	expired := `SELECT ` + key + ` FROM ` + table + ` WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2`
	if db.Postgres() {
		expired += ` FOR UPDATE SKIP LOCKED`
	}
	for {
		res, err := db.Write.ExecContext(ctx, `DELETE FROM `+table+` WHERE expires_at <= $1 AND `+key+` IN (`+expired+`)`, now.UnixMilli(), expiredBatch)
		if err != nil {
			return fmt.Errorf("deleting expired rows of %s: %w", table, err)
		}
		if n, err := res.RowsAffected(); err != nil || n < expiredBatch {
			return err
		}
	}
}

// LockInTx makes transactions that call it with the same name happen one after the other, over all
// instances: it waits for the others, and holds until tx ends. On SQLite that is so anyway.
func (db *DB) LockInTx(ctx context.Context, tx *sql.Tx, name string) error {
	if !db.Postgres() {
		return nil
	}
	if _, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", "gatehouse "+name); err != nil {
		return fmt.Errorf("waiting for %s: %w", name, err)
	}
	return nil
}

// IsBusy says whether err means that the database cannot do this now, but may later: another writer
// holds it, the disk is full or does not work, it was too slow, or it cannot be reached.
func IsBusy(err error) bool {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN:
			return true
		}
		return e.Code() == sqlite3.SQLITE_READONLY_DBMOVED
	}
	return errors.Is(err, context.DeadlineExceeded) || volume.IsFull(err) || isBusyPostgres(err)
}

// IsFull says whether err means that the disk of the database has no room. It is a case of IsBusy.
func IsFull(err error) bool {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code()&0xff == sqlite3.SQLITE_FULL
	}
	return volume.IsFull(err) || isFullPostgres(err)
}

// IsAborted says whether err means that PostgreSQL gave up the transaction for the sake of another one,
// such as for a deadlock. Nothing of it was done, and it may be tried again at once.
func IsAborted(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (e.Code == "40001" || e.Code == "40P01")
}

// IsUnique says whether err is a violation of a UNIQUE or PRIMARY KEY constraint.
func IsUnique(err error) bool {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY
	}
	return isUniquePostgres(err)
}
