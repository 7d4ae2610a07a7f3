package sqldb

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/internal/volume"
)

const (
	// mostReserve is the free space below which SQLite takes no new work, on a large disk. What is left is for
	// what ends work and frees room: completions, deletions, logins, locks, the WAL.
	mostReserve = 16 << 20
	// reserveShare is that space on a small one, as a part of the disk.
	reserveShare = 8
	// rowSize is what a row takes beside its content, with its indexes.
	rowSize = 2 << 10
)

// room is the free space on SQLite's disk.
type room struct {
	volume *volume.Volume
	floor  int64

	trial sync.Mutex // one trial at a time
	tried time.Time
	err   error // of the last trial
}

func newRoom(dir string) (*room, error) {
	v, err := volume.Of(dir)
	if err != nil {
		return nil, err
	}
	total, err := v.Total()
	if err != nil {
		return nil, err
	}
	return &room{volume: v, floor: min(mostReserve, total/reserveShare)}, nil
}

// Reserve takes room for new work of so many rows and bytes on SQLite's disk. It is volume.ErrFull, which
// IsFull knows, where the reserve that is kept for the end of work would be touched. stored is called
// when the work is committed or given up. On PostgreSQL the server looks after its disk.
func (db *DB) Reserve(rows, bytes int) (stored func(), err error) {
	if db.room == nil {
		return func() {}, nil
	}
	// Everything stands in the WAL first and then in the file.
	n := 2 * (int64(rows)*rowSize + int64(bytes))
	r, err := db.room.volume.Reserve(n, db.room.floor)
	if err != nil {
		return nil, fmt.Errorf("storing new work: %w", err)
	}
	return func() {
		r.Written(n)
		r.Release()
	}, nil
}

// trialEvery is the least time between two trials.
const trialEvery = time.Second

// Room describes the free space on SQLite's disk: low is empty while there is enough for new work, else it
// says what is left. err says that nothing at all can be written, which it then tries.
func (db *DB) Room(ctx context.Context) (low string, err error) {
	if db.room == nil {
		return "", nil
	}
	free, err := db.room.volume.Room()
	if err != nil || free >= db.room.floor {
		return "", err
	}
	if err = db.tryWrite(ctx); err != nil {
		return "", fmt.Errorf("the disk is full, nothing can be written: %w", err)
	}
	return fmt.Sprintf("the disk is almost full: %s are free, and below %s no new jobs, events and files are taken",
		unit.Size(free), unit.Size(db.room.floor)), nil
}

// tryWrite commits a write that changes nothing, once a second at most. That it had no time is no failure.
func (db *DB) tryWrite(ctx context.Context) error {
	r := db.room
	r.trial.Lock()
	defer r.trial.Unlock()
	if time.Since(r.tried) < trialEvery {
		return r.err
	}
	err := db.InTx(ctx, func(tx *sql.Tx) error {
		var version int
		if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "PRAGMA user_version = "+strconv.Itoa(version))
		return err
	})
	if ctx.Err() != nil {
		return nil
	}
	r.tried, r.err = time.Now(), err
	return err
}
