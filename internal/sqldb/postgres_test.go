package sqldb

import (
	"context"
	"database/sql"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/integration/await"
	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
)

func openPostgres(t *testing.T, dsn string) *DB {
	t.Helper()
	db, err := OpenPostgres(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func TestPostgresURLs(t *testing.T) {
	for dsn, want := range map[string]string{
		"postgres://u@h/d":                           "",
		"postgresql://u@h:5433/d":                    "",
		"postgres://u:SECRET@h/d":                    "",
		"postgres:///d?host=/run/postgresql":         "",
		"postgres://u@h/d?sslmode=require":           "",
		"mysql://u:SECRET@h/d":                       "does not begin with postgres://",
		"u:SECRET@h/d":                               "does not begin with postgres://",
		"host=h password=SECRET":                     "does not begin with postgres://",
		"postgres:u:SECRET@h/d":                      "no // after",
		"postgres://u:SECRET@/d":                     "has no host",
		"postgres://u:SECRET@h":                      "names no database",
		"postgres://u:SECRET@h/":                     "names no database",
		"postgres://u:SECRET@h/d#x":                  "a # part",
		"postgres://u:SECRET@h:port/d":               "is not a URL",
		"postgres://u:SECRET@h:99999/d":              "cannot be understood",
		"postgres://u:SECRET@h/d?sslmode=often":      "cannot be understood",
		"postgres://u@h/d?sslmode=x&password=SECRET": "cannot be understood",
		"postgres://u:SEC/RET@h/d":                   "is not a URL",
	} {
		err := CheckPostgres(dsn)
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", dsn, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: got %v, want that it %s", dsn, err, want)
		case err != nil && (strings.Contains(err.Error(), "SEC") || strings.Contains(err.Error(), "RET@")):
			t.Errorf("%s: the error shows the password: %v", dsn, err)
		}
	}
}

func TestPasswords(t *testing.T) {
	for dsn, want := range map[string]bool{
		"postgres://u@h/d": false, "postgres://u:p@h/d": true, "postgres://u:@h/d": true, "postgres://u@h/d?password=p": true, "postgres://h/d?sslmode=disable": false,
	} {
		if HasPassword(dsn) != want {
			t.Errorf("%s: got %v", dsn, !want)
		}
	}
}

func TestPostgresOutOfReach(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for _, dsn := range []string{
		"postgres://u:SECRET@127.0.0.1:1/d",
		"postgres://u:SECRET@" + l.Addr().String() + "/d?connect_timeout=1",
	} {
		start := time.Now()
		_, err = OpenPostgres(t.Context(), dsn)
		if err == nil || !strings.Contains(err.Error(), "127.0.0.1") || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("got %v, want an error with the host and no password", err)
		}
		if !IsBusy(err) {
			t.Errorf("%v is not busy", err)
		}
		if took := time.Since(start); took > 4*time.Second {
			t.Errorf("it took %s", took)
		}
	}
}

func TestPostgresMigratesOnceAndTogether(t *testing.T) {
	s := pgtest.Start(t)
	files := fstest.MapFS{
		"00001_first.sql":          {Data: []byte("-- +goose Up\nCREATE TABLE x_t (a BLOB PRIMARY KEY);\n")},
		"postgres/00001_first.sql": {Data: []byte("-- +goose Up\nSELECT pg_sleep(0.1);\nCREATE TABLE x_t (a BYTEA PRIMARY KEY);\n")},
		"00002_second.sql":         {Data: []byte("-- +goose Up\nALTER TABLE x_t ADD COLUMN b BIGINT;\n")},
	}
	var wg sync.WaitGroup
	for range 4 {
		db := openPostgres(t, s.URL) // as four instances have
		wg.Go(func() {
			if err := db.Migrate(t.Context(), "x", files); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	db := openPostgres(t, s.URL)
	insert := func(tx *sql.Tx) error {
		_, err := tx.Exec("INSERT INTO x_t (a, b) VALUES ($1, $2)", []byte{0, 1}, int64(1)<<40)
		return err
	}
	if err := db.InTx(t.Context(), insert); err != nil {
		t.Fatal(err)
	}
	if err := db.InTx(t.Context(), insert); !IsUnique(err) || IsBusy(err) {
		t.Errorf("got %v, want a unique violation", err)
	}
	for _, text := range []string{"\x00", "\xff"} {
		var got string
		if err := db.Read.QueryRow("SELECT COALESCE($1, '')", text).Scan(&got); !IsNotText(err) || IsBusy(err) {
			t.Errorf("%q: got %v, want that it is no text", text, err)
		}
	}
	files["postgres/00003_third.sql"] = files["00002_second.sql"]
	if err := db.Migrate(t.Context(), "x", files); err == nil || !strings.Contains(err.Error(), "stands in for no file") {
		t.Errorf("a file that SQLite does not have: %v", err)
	}
}

func TestPostgresGoesAndComes(t *testing.T) {
	s := pgtest.Start(t)
	db := openPostgres(t, s.URL)
	ping := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		return db.InTx(ctx, func(tx *sql.Tx) error { _, err := tx.ExecContext(ctx, "SELECT 1"); return err })
	}
	running := make(chan error, 1)
	go func() {
		_, err := db.Write.ExecContext(t.Context(), "SELECT pg_sleep(60)")
		running <- err
	}()
	await.For(t, "the statement to run", func() error {
		var n int
		return db.Read.QueryRowContext(t.Context(), "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'").Scan(&n)
	})
	s.Kill()
	if err := <-running; !IsBusy(err) {
		t.Errorf("a statement that was running: %v is not busy", err)
	}
	for range 3 {
		if err := ping(); !IsBusy(err) {
			t.Errorf("a killed server: %v is not busy", err)
		}
	}
	s.Restart()
	if err := ping(); err != nil {
		t.Errorf("after the restart: %v", err)
	}
	s.Stop()
	for range 3 {
		if err := ping(); !IsBusy(err) {
			t.Errorf("a frozen server: %v is not busy", err)
		}
	}
	s.Cont()
	if err := ping(); err != nil {
		t.Errorf("after the pause: %v", err)
	}
	if _, err := db.Write.ExecContext(t.Context(), "SELECT pg_terminate_backend(pg_backend_pid())"); !IsBusy(err) {
		t.Errorf("a terminated connection: %v is not busy", err)
	}
}

func TestPoolsAndListener(t *testing.T) {
	s := pgtest.Start(t, pgtest.Fast)
	if db := openPostgres(t, s.URL); db.Write.Stats().MaxOpenConnections != 16 || db.Read.Stats().MaxOpenConnections != 16 {
		t.Error("a pool has not 16 connections")
	}
	db := openPostgres(t, s.URL+"&pool_max_conns=3")
	if got := db.Write.Stats().MaxOpenConnections; got != 3 {
		t.Errorf("pool_max_conns=3 gives a pool of %d", got)
	}
	pool, err := db.Listener(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if _, err = conn.Exec(t.Context(), "LISTEN x"); err != nil {
		t.Fatal(err)
	}
	if _, err = db.Write.ExecContext(t.Context(), "SELECT pg_notify($1, $2)", "x", "hello"); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Conn().WaitForNotification(t.Context()); err != nil || n.Payload != "hello" {
		t.Errorf("got %v, %v", n, err)
	}
}

func TestLockInTx(t *testing.T) {
	s := pgtest.Start(t)
	one, two := openPostgres(t, s.URL), openPostgres(t, s.URL)
	if _, err := one.Write.ExecContext(t.Context(), "CREATE TABLE t (a BIGINT)"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, db := range []*DB{one, two} {
		for range 8 {
			wg.Go(func() {
				if err := db.InTx(t.Context(), func(tx *sql.Tx) error {
					if err := db.LockInTx(t.Context(), tx, "t"); err != nil {
						return err
					}
					_, err := tx.ExecContext(t.Context(), "INSERT INTO t SELECT count(*) FROM t")
					return err
				}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	var n int
	if err := one.Read.QueryRowContext(t.Context(), "SELECT count(DISTINCT a) FROM t").Scan(&n); err != nil || n != 16 {
		t.Errorf("of 16 transactions %d saw what was before (%v)", n, err)
	}
}
