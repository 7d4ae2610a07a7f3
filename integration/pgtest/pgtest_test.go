package pgtest

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestKillRestartStopCont(t *testing.T) {
	s := Start(t)
	db := s.DB()
	for _, statement := range []string{"CREATE TABLE t (a BIGINT)", "INSERT INTO t VALUES (1)"} {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	var fsync string
	if err := db.QueryRowContext(t.Context(), "SHOW fsync").Scan(&fsync); err != nil || fsync != "on" {
		t.Errorf("fsync is %s (%v), want on", fsync, err)
	}
	s.Kill()
	if err := db.PingContext(t.Context()); err == nil {
		t.Error("a killed server answers")
	}
	s.Restart()
	var n int
	if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM t").Scan(&n); err != nil || n != 1 {
		t.Errorf("after the restart there are %d rows (%v), want 1", n, err)
	}
	s.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := db.ExecContext(ctx, "SELECT 1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a frozen server: %v", err)
	}
	s.Cont()
	if err := db.PingContext(t.Context()); err != nil {
		t.Errorf("after Cont: %v", err)
	}
}

func TestEachStartHasItsOwnDatabase(t *testing.T) {
	one, two := Start(t, Fast), Start(t, Fast)
	if one.Addr() != two.Addr() {
		t.Error("two servers run")
	}
	for _, s := range []*Server{one, two} {
		if _, err := s.DB().ExecContext(t.Context(), "CREATE TABLE t (a BIGINT)"); err != nil {
			t.Error(err)
		}
	}
	if alone := Start(t, Alone); alone.Addr() == one.Addr() {
		t.Error("a server of its own is the shared one")
	}
}
