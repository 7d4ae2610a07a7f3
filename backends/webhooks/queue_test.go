package webhooks

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

const (
	queueAttempts = 5
	queueBackoff  = 5 * time.Millisecond
)

// queue is a small jobs backend: rows in the same database, so that they come and go with the
// caller's transaction, worked one after the other after Poke.
type queue struct {
	db    *sqldb.DB
	kinds sync.Map
	poke  chan struct{}
}

type queued struct {
	id       int64
	kind     string
	payload  []byte
	attempts int
}

func newQueue(t *testing.T, db *sqldb.DB) *queue {
	t.Helper()
	id, bytes := "INTEGER", "BLOB"
	if db.Postgres() {
		id, bytes = "BIGSERIAL", "BYTEA"
	}
	_, err := db.Write.ExecContext(t.Context(), `CREATE TABLE queue (id `+id+` PRIMARY KEY, kind TEXT NOT NULL, payload `+bytes+` NOT NULL,
		header TEXT NOT NULL DEFAULT '{}', attempts BIGINT NOT NULL DEFAULT 0, not_before BIGINT NOT NULL DEFAULT 0)`)
	if err != nil {
		t.Fatal(err)
	}
	q := &queue{db: db, poke: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { q.run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return q
}

func (q *queue) EnqueueKeyedTx(ctx context.Context, tx *sql.Tx, kind, _ string, payload []byte) (string, error) {
	_, err := tx.ExecContext(ctx, "INSERT INTO queue (kind, payload) VALUES ($1, $2)", kind, payload)
	return "job", err
}

func (q *queue) EnqueuePushTx(ctx context.Context, tx *sql.Tx, name string, body []byte, header http.Header) (string, error) {
	h, err := json.Marshal(header)
	if err != nil {
		return "", err
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO queue (kind, payload, header) VALUES ($1, $2, $3)", "push:"+name, append([]byte{}, body...), string(h))
	return "push", err
}

func (q *queue) HandleKeyed(kind string, _, _ int, work func(ctx context.Context, payload []byte) error) {
	q.kinds.Store(kind, work)
}

func (q *queue) Poke() {
	select {
	case q.poke <- struct{}{}:
	default:
	}
}

func (q *queue) QueueTarget(name string) (string, bool) { return "http://127.0.0.1:1/", name == "in" }

func (q *queue) run(ctx context.Context) {
	for ctx.Err() == nil {
		for q.work(ctx) {
		}
		select {
		case <-ctx.Done():
		case <-q.poke:
		case <-time.After(queueBackoff):
		}
	}
}

// work runs one job that is due and says whether there was one.
func (q *queue) work(ctx context.Context) bool {
	var j queued
	err := q.db.Read.QueryRowContext(ctx, "SELECT id, kind, payload, attempts FROM queue WHERE kind NOT LIKE 'push:%' AND not_before <= $1 ORDER BY id LIMIT 1",
		time.Now().UnixMilli()).Scan(&j.id, &j.kind, &j.payload, &j.attempts)
	if err != nil {
		return false
	}
	work, ok := q.kinds.Load(j.kind)
	if !ok {
		return false
	}
	err = work.(func(context.Context, []byte) error)(ctx, j.payload)
	if ctx.Err() != nil {
		return false
	}
	later, isLater := errors.AsType[interface {
		error
		RetryAfter() time.Duration
	}](err)
	permanent, isPermanent := errors.AsType[interface {
		error
		Permanent() bool
	}](err)
	switch {
	case err == nil:
		q.exec(ctx, "DELETE FROM queue WHERE id = $1", j.id)
	case isLater:
		q.exec(ctx, "UPDATE queue SET not_before = $1 WHERE id = $2", time.Now().Add(later.RetryAfter()).UnixMilli(), j.id)
	case isPermanent && permanent.Permanent(), j.attempts+1 >= queueAttempts:
		q.exec(ctx, "DELETE FROM queue WHERE id = $1", j.id)
	default:
		q.exec(ctx, "UPDATE queue SET attempts = attempts + 1, not_before = $1 WHERE id = $2", time.Now().Add(queueBackoff).UnixMilli(), j.id)
	}
	return true
}

func (q *queue) exec(ctx context.Context, statement string, args ...any) {
	if _, err := q.db.Write.ExecContext(ctx, statement, args...); err != nil && ctx.Err() == nil {
		panic(err)
	}
}

// pushes are the pushes in the queue, which nobody works.
func (q *queue) pushes(t *testing.T) (bodies []string, headers []http.Header) {
	t.Helper()
	rows, err := q.db.Read.QueryContext(t.Context(), "SELECT payload, header FROM queue WHERE kind LIKE 'push:%' ORDER BY id")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var body, text string
		var h http.Header
		if err = rows.Scan(&body, &text); err != nil {
			t.Fatal(err)
		}
		if err = json.Unmarshal([]byte(text), &h); err != nil {
			t.Fatal(err)
		}
		bodies, headers = append(bodies, body), append(headers, h)
	}
	if err = rows.Err(); err != nil {
		t.Fatal(err)
	}
	return bodies, headers
}
