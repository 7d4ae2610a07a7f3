package uploads

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

// state is where an upload stands.
type state string

const (
	// pending: the URL was given out; from presign.
	pending state = "pending"
	// processing: the object is there and the job has to look at it; from confirm.
	processing state = "processing"
	// ready: the object is what it was declared to be; from the job.
	ready state = "ready"
	// rejected: the object was not what it was declared to be and is deleted; from confirm or the job.
	rejected state = "rejected"
	// expired: it was never confirmed; from the sweep.
	expired state = "expired"
	// deleted: its owner deleted it; the row stays until the sweep, nobody sees it.
	deleted state = "deleted"
)

// file is one row of uploads_files. Times are zero where it has not happened.
type file struct {
	id, owner, key, filename, contentType string
	size                                  int64
	state                                 state
	reason, etag                          string
	created, expires, ready               time.Time
}

const columns = "id, owner, object_key, filename, content_type, size, state, reason, etag, created_at, expires_at, ready_at"

func scanFile(row interface{ Scan(...any) error }) (*file, error) {
	f := new(file)
	var created, expires, readyAt int64
	err := row.Scan(&f.id, &f.owner, &f.key, &f.filename, &f.contentType, &f.size, &f.state, &f.reason, &f.etag, &created, &expires, &readyAt)
	if err != nil {
		return nil, err
	}
	f.created, f.expires = time.UnixMilli(created), time.UnixMilli(expires)
	if readyAt != 0 {
		f.ready = time.UnixMilli(readyAt)
	}
	return f, nil
}

// byID is the row, or nil if there is none.
func (s *Service) byID(ctx context.Context, id string) (*file, error) {
	return one(s.DB.Read.QueryRowContext(ctx, "SELECT "+columns+" FROM uploads_files WHERE id = $1", id))
}

// byKey is the row, or nil if there is none.
func (s *Service) byKey(ctx context.Context, key string) (*file, error) {
	return one(s.DB.Read.QueryRowContext(ctx, "SELECT "+columns+" FROM uploads_files WHERE object_key = $1", key))
}

func one(row *sql.Row) (*file, error) {
	f, err := scanFile(row)
	if sqldb.NoRow(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading an upload: %w", err)
	}
	return f, nil
}

func insert(ctx context.Context, tx *sql.Tx, f *file) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO uploads_files
		(id, owner, object_key, filename, content_type, size, state, created_at, expires_at, sweep_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
		f.id, f.owner, f.key, f.filename, f.contentType, f.size, pending, f.created.UnixMilli(), f.expires.UnixMilli(), f.expires.Add(grace).UnixMilli())
	if err != nil {
		return fmt.Errorf("storing an upload: %w", err)
	}
	return nil
}

// openURLs counts the owner's uploads that wait for their bytes, and those that were deleted while they did
// and whose URLs have not expired. first is when the first URL ends.
func openURLs(ctx context.Context, tx *sql.Tx, owner string, now time.Time) (n int, first time.Time, err error) {
	var ms sql.NullInt64
	err = tx.QueryRowContext(ctx, `SELECT count(*), min(expires_at) FROM uploads_files
		WHERE owner = $1 AND (state = $2 OR state = $3 AND etag = '') AND expires_at > $4`,
		owner, pending, deleted, now.UnixMilli()).Scan(&n, &ms)
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("counting uploads: %w", err)
	}
	return n, time.UnixMilli(ms.Int64), nil
}

// bytesOf adds up what counts against the owner's quota.
func bytesOf(ctx context.Context, tx *sql.Tx, owner string, now time.Time) (n int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT coalesce(sum(size), 0) FROM uploads_files
		WHERE owner = $1 AND (state IN ($2, $3, $4) OR expires_at > $5)`,
		owner, pending, processing, ready, now.UnixMilli()).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("adding up uploads: %w", err)
	}
	return n, nil
}

// toProcessing pins the ETag of a pending upload. It is false if the upload is not pending any more.
func toProcessing(ctx context.Context, tx *sql.Tx, f *file, etag string, now time.Time) (bool, error) {
	return changed(tx.ExecContext(ctx, "UPDATE uploads_files SET state = $1, etag = $2, sweep_at = $3 WHERE id = $4 AND state = $5",
		processing, etag, now.Add(jobTime).UnixMilli(), f.id, pending))
}

// toReady ends the processing of the pinned object. It is false if that is over already.
func (s *Service) toReady(ctx context.Context, f *file, now time.Time) (bool, error) {
	return changed(s.DB.Write.ExecContext(ctx, "UPDATE uploads_files SET state = $1, ready_at = $2, sweep_at = NULL WHERE id = $3 AND state = $4 AND etag = $5",
		ready, now.UnixMilli(), f.id, processing, f.etag))
}

// toEnded moves the upload from the state that f was read in to one in which it has no object. It
// is false if the upload is not in that state any more.
func (s *Service) toEnded(ctx context.Context, f *file, to state, reason string) (bool, error) {
	return changed(s.DB.Write.ExecContext(ctx, "UPDATE uploads_files SET state = $1, reason = $2, sweep_at = $3 WHERE id = $4 AND state = $5 AND etag = $6",
		to, reason, f.expires.Add(lastSweep).UnixMilli(), f.id, f.state, f.etag))
}

func changed(res sql.Result, err error) (bool, error) {
	if err != nil {
		return false, fmt.Errorf("changing an upload: %w", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return false, fmt.Errorf("changing an upload: %w", err)
	}
	return n > 0, nil
}
