package sqldb_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

// TestRoom fills the disk beside the database in two steps, and makes room again.
func TestRoom(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a small file system can only be mounted by root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=32m"); err != nil {
		t.Fatalf("a tmpfs could not be mounted on %s: %v. This test needs a disk that it can fill: run it where root may mount, in a container with CAP_SYS_ADMIN", dir, err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	db, err := sqldb.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err = db.Write.ExecContext(t.Context(), "CREATE TABLE rows (id INTEGER PRIMARY KEY, body TEXT)"); err != nil {
		t.Fatal(err)
	}
	insert := func() error {
		_, err := db.Write.ExecContext(t.Context(), "INSERT INTO rows (body) VALUES ($1)", strings.Repeat("x", 64<<10))
		return err
	}
	reserve := func() error {
		stored, err := db.Reserve(1, 1000)
		if err == nil {
			stored()
		}
		return err
	}
	await := func(when string, check func() error) { // free space is believed for a second
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; <-time.After(50 * time.Millisecond) {
			err := check()
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v", when, err)
			}
		}
	}
	room := func(state string) func() error {
		return func() error {
			low, err := db.Room(t.Context())
			got := "enough"
			switch {
			case err != nil:
				got = "none"
			case low != "":
				got = "low"
			}
			if got != state {
				return fmt.Errorf("room is %s (%s, %v), want %s", got, low, err, state) //nolint:errorlint // it may be nil
			}
			return nil
		}
	}
	refused := func() error {
		if err := reserve(); !sqldb.IsFull(err) || !sqldb.IsBusy(err) {
			return fmt.Errorf("reserving: %w", err)
		}
		return nil
	}

	await("in the beginning", room("enough"))
	await("in the beginning", reserve)

	filler := filepath.Join(dir, "filler")
	fill(t, filler, 29<<20) // of 32, of which 4 are the floor
	await("below the floor", refused)
	await("below the floor", room("low"))
	if err = insert(); err != nil {
		t.Errorf("a small write below the floor: %v", err)
	}

	fill(t, filler, 64<<20)
	for err = nil; err == nil; err = insert() { // the WAL may have room of its own for a while
	}
	if !sqldb.IsFull(err) || !sqldb.IsBusy(err) {
		t.Errorf("a write on the full disk: %v, want one that IsFull knows", err)
	}
	await("on the full disk", refused)

	if err = os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	await("with room again", room("enough"))
	await("with room again", reserve)
	await("with room again", insert)
}

// fill makes the file as large as the disk lets it, at most size.
func fill(t *testing.T, name string, size int) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 4<<10)
	for n := 0; n < size && err == nil; n += len(block) {
		_, err = f.Write(block)
	}
	_ = f.Close()
}
