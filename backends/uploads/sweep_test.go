package uploads_test

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/uploads"
	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
)

const life = 5 * time.Minute

func (b *bench) rows(t testing.TB) int {
	t.Helper()
	var n int
	noError(t, b.db.Read.QueryRowContext(t.Context(), "SELECT count(*) FROM uploads_files").Scan(&n))
	return n
}

func TestSweepExpiresWhatWasNotConfirmed(t *testing.T) {
	pgtest.Each(t, testSweepExpiresWhatWasNotConfirmed)
}

func testSweepExpiresWhatWasNotConfirmed(t *testing.T, url string) {
	b := start(t, uploads.Config{}, nil, url)
	unused, unconfirmed := b.presign("ann", "a.png", 8), b.presign("ann", "b.png", 8)
	b.put(unconfirmed, png)
	b.at(life + 59*time.Minute)
	b.sweep(t)
	if b.state("ann", unused) != "pending" || !b.exists(unconfirmed) {
		t.Fatal("swept within the hour of grace")
	}
	b.at(life + time.Hour + time.Second)
	b.sweep(t)
	for _, tk := range []ticket{unused, unconfirmed} {
		if got := b.state("ann", tk); got != "expired" || b.exists(tk) {
			t.Errorf("state %s, object there %v; want it expired and gone", got, b.exists(tk))
		}
		if status, doc := b.confirm("ann", tk); status != http.StatusGone {
			t.Errorf("confirm: %d %v, want 410", status, doc)
		}
	}
	// A slow upload ends after the first sweep: its object goes with the second.
	b.replace(unused, png, "image/png")
	b.at(life + 25*time.Hour + time.Second)
	b.sweep(t)
	if b.exists(unused) || b.state("ann", unused) != "expired" {
		t.Errorf("object there %v, state %s; want it gone and still expired", b.exists(unused), b.state("ann", unused))
	}
	b.at(life + 30*24*time.Hour + time.Second)
	b.sweep(t)
	if n := b.rows(t); n != 0 {
		t.Errorf("%d rows are left after 30 days, want none", n)
	}
}

func TestSweepKeepsWhatIsReady(t *testing.T) { pgtest.Each(t, testSweepKeepsWhatIsReady) }

func testSweepKeepsWhatIsReady(t *testing.T, url string) {
	b := start(t, uploads.Config{}, nil, url)
	tk := b.presign("ann", "a.png", 8)
	b.put(tk, png)
	b.confirm("ann", tk)
	b.work(t)
	b.at(365 * 24 * time.Hour)
	b.sweep(t)
	if got := b.state("ann", tk); got != "ready" || !b.exists(tk) {
		t.Errorf("state %s, object there %v; want it ready", got, b.exists(tk))
	}
}

func TestSweepForgetsWhatWasDeleted(t *testing.T) { pgtest.Each(t, testSweepForgetsWhatWasDeleted) }

func testSweepForgetsWhatWasDeleted(t *testing.T, url string) {
	b := start(t, uploads.Config{}, nil, url)
	tk := b.presign("ann", "a.png", 8)
	if status, _ := b.call("ann", http.MethodDelete, "/uploads/"+tk.ID, nil); status != http.StatusNoContent {
		t.Fatalf("DELETE: %d", status)
	}
	if status := b.put(tk, png); status != http.StatusForbidden {
		t.Errorf("PUT to the URL of what was deleted: %d, want 403", status)
	}
	b.replace(tk, png, "image/png") // as another instance's disk may have it
	if status, _ := b.confirm("ann", tk); status != http.StatusNotFound {
		t.Errorf("confirm: %d, want 404", status)
	}
	b.at(life + 25*time.Hour + time.Second)
	b.sweep(t)
	if b.exists(tk) || b.rows(t) != 0 {
		t.Errorf("object there %v, %d rows; want nothing left", b.exists(tk), b.rows(t))
	}
}

func TestSweepRevivesALostJob(t *testing.T) { pgtest.Each(t, testSweepRevivesALostJob) }

func testSweepRevivesALostJob(t *testing.T, url string) {
	b := start(t, uploads.Config{}, nil, url)
	tk := b.presign("ann", "a.png", 8)
	b.put(tk, png)
	b.confirm("ann", tk)
	_, err := b.db.Write.ExecContext(t.Context(), "DELETE FROM test_jobs")
	noError(t, err)
	b.at(59 * time.Minute)
	b.sweep(t)
	if jobs := b.queue.jobs(t); len(jobs) != 0 {
		t.Fatalf("jobs %v within the hour", jobs)
	}
	b.at(time.Hour + time.Second)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if err := b.Sweep(context.Background(), b.now()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if jobs := b.queue.jobs(t); len(jobs) != 1 {
		t.Fatalf("jobs %v, want one", jobs)
	}
	b.work(t)
	if got := b.state("ann", tk); got != "ready" {
		t.Errorf("state %s, want ready", got)
	}
}

func TestSweepsAtOnceAndInBatches(t *testing.T) { pgtest.Each(t, testSweepsAtOnceAndInBatches) }

func testSweepsAtOnceAndInBatches(t *testing.T, url string) {
	b := start(t, uploads.Config{}, nil, url)
	_, err := b.db.Write.ExecContext(t.Context(), `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 250)
		INSERT INTO uploads_files (id, owner, object_key, filename, content_type, size, state, created_at, expires_at, sweep_at)
		SELECT 'id'||i, 'ann', 'key'||i, 'a.png', 'image/png', 1, CASE i%2 WHEN 0 THEN 'pending' ELSE 'deleted' END, 0, $1, 1 FROM n`, b.now().UnixMilli())
	noError(t, err)
	tk := b.presign("ann", "a.png", 8)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if err := b.Sweep(context.Background(), b.now()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var gone, open int
	noError(t, b.db.Read.QueryRowContext(t.Context(), "SELECT count(*) FROM uploads_files WHERE state = 'expired'").Scan(&gone))
	noError(t, b.db.Read.QueryRowContext(t.Context(), "SELECT count(*) FROM uploads_files WHERE state IN ('pending', 'deleted')").Scan(&open))
	if gone != 125 || open != 1 || b.state("ann", tk) != "pending" {
		t.Errorf("%d expired, %d open, want 125 and the one that is not due", gone, open)
	}
}

func TestRunSweepsUntilItIsToldToStop(t *testing.T) {
	b := start(t, uploads.Config{}, nil)
	tk := b.presign("ann", "a.png", 8)
	b.at(life + 2*time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	waitFor(t, "the sweep", func() bool { return b.state("ann", tk) == "expired" })
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}
