package sqldb

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/fstest"
	"time"
)

func TestOpenIsDurable(t *testing.T) {
	db, err := Open(t.Context(), filepath.Join(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "10000"} {
		var got string
		if err = db.Write.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s (%v), want %s", pragma, got, err, want)
		}
	}
	if _, err = db.Read.Exec("CREATE TABLE t (a)"); err == nil {
		t.Error("the reading pool wrote")
	}
}

func TestDirectoryNamesAreNotURLs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a?b#c%20d e")
	if _, err := Open(t.Context(), dir); err == nil {
		t.Fatal("a directory that is not there was opened")
	}
	db, err := Open(t.Context(), mkdir(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	if err = db.Close(); err != nil {
		t.Fatal(err)
	}
	if got, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), "*", File)); len(got) != 1 {
		t.Errorf("the database is at %v", got)
	}
}

func TestMigrateOnceAndTogether(t *testing.T) {
	db, err := Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	files := fstest.MapFS{"00001_first.sql": {Data: []byte("-- +goose Up\nCREATE TABLE x_t (a TEXT PRIMARY KEY);\n")}}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := db.Migrate(t.Context(), "x", files); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()

	rollback := errors.New("no")
	err = db.InTx(t.Context(), func(tx *sql.Tx) error {
		_, _ = tx.Exec("INSERT INTO x_t VALUES ('1')")
		return rollback
	})
	if !errors.Is(err, rollback) {
		t.Errorf("got %v", err)
	}
	insert := func(tx *sql.Tx) error { _, err := tx.Exec("INSERT INTO x_t VALUES ('1')"); return err }
	if err = db.InTx(t.Context(), insert); err != nil {
		t.Errorf("the row of the rolled back transaction is there: %v", err)
	}
	if err = db.InTx(t.Context(), insert); !IsUnique(err) {
		t.Errorf("got %v, want a unique violation", err)
	}
	if IsUnique(sql.ErrNoRows) || IsUnique(nil) {
		t.Error("another error counts as a unique violation")
	}
}

func TestIsBusy(t *testing.T) {
	db, err := Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var path string
	if err = db.Write.QueryRow("SELECT file FROM pragma_database_list").Scan(&path); err != nil {
		t.Fatal(err)
	}
	impatient, err := sql.Open("sqlite", "file:"+path+"?_txlock=immediate") // no busy_timeout
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = impatient.Close() }()
	err = db.InTx(t.Context(), func(*sql.Tx) error {
		_, err := impatient.ExecContext(t.Context(), "CREATE TABLE t (a)")
		return err
	})
	if !IsBusy(err) {
		t.Errorf("got %v, want a busy database", err)
	}
	if IsBusy(nil) || IsBusy(sql.ErrNoRows) {
		t.Error("another error counts as busy")
	}
}

func TestDeleteExpired(t *testing.T) {
	db, err := Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	now := time.UnixMilli(1_000_000)
	for _, statement := range []string{
		"CREATE TABLE things (id INTEGER PRIMARY KEY, expires_at INTEGER NOT NULL)",
		"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2 * 1000 + 7) INSERT INTO things (expires_at) SELECT 1000000 - i % 2 FROM n",
		"INSERT INTO things (expires_at) VALUES (1000001), (2000000)",
	} {
		if _, err = db.Write.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	if err = db.DeleteExpired(t.Context(), "things", "id", now); err != nil {
		t.Fatal(err)
	}
	var left, soonest int
	if err = db.Read.QueryRowContext(t.Context(), "SELECT count(*), min(expires_at) FROM things").Scan(&left, &soonest); err != nil {
		t.Fatal(err)
	}
	if left != 2 || soonest != 1000001 {
		t.Errorf("%d rows are left, the soonest of %d, want the 2 that have not expired", left, soonest)
	}
}

// A data directory that others may enter, as service managers make them, shows them no password hashes.
func TestFilesAreTheOwners(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	modes := func() (modes []os.FileMode) {
		t.Helper()
		db, err := Open(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = db.Close() }()
		if _, err = db.Write.ExecContext(t.Context(), "CREATE TABLE IF NOT EXISTS t (x)"); err != nil {
			t.Fatal(err)
		}
		files, _ := filepath.Glob(filepath.Join(dir, File+"*"))
		for _, f := range files {
			info, err := os.Stat(f)
			if err != nil {
				t.Fatal(err)
			}
			modes = append(modes, info.Mode().Perm())
		}
		return modes
	}
	for _, m := range modes() {
		if m != 0o600 {
			t.Errorf("a new file has the mode %v", m)
		}
	}
	if err := os.Chmod(filepath.Join(dir, File), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, m := range modes() {
		if m != 0o640 {
			t.Errorf("an old file has the mode %v", m)
		}
	}
}
