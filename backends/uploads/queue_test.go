package uploads_test

import (
	"context"
	"database/sql"
	"net/http"
	"strconv"
	"sync"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

// queue is a small job queue in a table: a job is there with its transaction's commit, and runs
// until its worker has no error.
type queue struct {
	db   *sqldb.DB
	poke chan struct{}

	mu   sync.Mutex
	work map[string]func(context.Context, []byte) error
}

func newQueue(t testing.TB, db *sqldb.DB) *queue {
	t.Helper()
	columns := "id INTEGER PRIMARY KEY, kind TEXT, payload BLOB"
	if db.Postgres() {
		columns = "id BIGSERIAL PRIMARY KEY, kind TEXT, payload BYTEA"
	}
	if _, err := db.Write.ExecContext(t.Context(), "CREATE TABLE IF NOT EXISTS test_jobs ("+columns+")"); err != nil {
		t.Fatal(err)
	}
	return &queue{db: db, poke: make(chan struct{}, 1), work: map[string]func(context.Context, []byte) error{}}
}

func (q *queue) EnqueueTx(ctx context.Context, tx *sql.Tx, kind string, payload []byte) (string, error) {
	var id int64
	err := tx.QueryRowContext(ctx, "INSERT INTO test_jobs (kind, payload) VALUES ($1, $2) RETURNING id", kind, payload).Scan(&id)
	return strconv.FormatInt(id, 10), err
}

func (q *queue) Handle(kind string, work func(context.Context, []byte) error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.work[kind] = work
}

func (q *queue) Poke() {
	select {
	case q.poke <- struct{}{}:
	default:
	}
}

// Run works until ctx ends.
func (q *queue) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-q.poke:
			if err := q.drain(ctx); err != nil {
				return err
			}
		}
	}
}

// drain runs every job that is committed.
func (q *queue) drain(ctx context.Context) error {
	for {
		var id int64
		var kind string
		var payload []byte
		err := q.db.Read.QueryRowContext(ctx, "SELECT id, kind, payload FROM test_jobs ORDER BY id").Scan(&id, &kind, &payload)
		if err != nil {
			return ignoreNoRows(err)
		}
		q.mu.Lock()
		work := q.work[kind]
		q.mu.Unlock()
		if err = work(ctx, payload); err != nil {
			return err
		}
		if _, err = q.db.Write.ExecContext(ctx, "DELETE FROM test_jobs WHERE id = $1", id); err != nil {
			return err
		}
	}
}

func ignoreNoRows(err error) error {
	if err == sql.ErrNoRows { //nolint:errorlint // it comes straight from Scan
		return nil
	}
	return err
}

// jobs are the payloads of the committed jobs.
func (q *queue) jobs(t testing.TB) []string {
	t.Helper()
	rows, err := q.db.Read.QueryContext(t.Context(), "SELECT payload FROM test_jobs ORDER BY id")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var payloads []string
	for rows.Next() {
		var p []byte
		if err = rows.Scan(&p); err != nil {
			t.Fatal(err)
		}
		payloads = append(payloads, string(p))
	}
	if err = rows.Err(); err != nil {
		t.Fatal(err)
	}
	return payloads
}

func (q *queue) ServeHTTP(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }
func (q *queue) Check(context.Context) error                      { return nil }
