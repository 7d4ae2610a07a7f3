package jobs

import (
	"database/sql"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// TestUpgradeFromEverySchema opens a database as an earlier version left it, with a job that waits, one
// that ran when that version was killed, and one that holds a unique key, for each step of our tables.
func TestUpgradeFromEverySchema(t *testing.T) {
	entries, err := fs.ReadDir(migrations, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	for i, name := range names {
		t.Run(name, func(t *testing.T) {
			old := fstest.MapFS{}
			for _, earlier := range names[:i+1] {
				for _, dir := range []string{"", "postgres/"} {
					if b, err := fs.ReadFile(migrations, "migrations/"+dir+earlier); err == nil {
						old[dir+earlier] = &fstest.MapFile{Data: b}
					}
				}
			}
			dir := t.TempDir()
			before := open(t, dir)
			if err := prepareEngine(t.Context(), before.DB, slog.New(slog.DiscardHandler)); err != nil {
				t.Fatal(err)
			}
			if err := before.DB.Migrate(t.Context(), "jobs", old); err != nil {
				t.Fatal(err)
			}
			q := dialectOf(before.DB)
			args, owner, now := `'{"body":"MQ=="}'`, "ARRAY['gone']", "now()"
			if !q.pg {
				args, owner, now = "jsonb("+args+")", `jsonb('["gone"]')`, q.now
			}
			err := before.DB.InTx(t.Context(), func(tx *sql.Tx) error {
				for _, statement := range []string{
					"INSERT INTO river_job (kind, queue, state, args, max_attempts) VALUES ('push', 'q', 'available', " + args + ", 5)",
					"INSERT INTO river_job (kind, queue, state, args, max_attempts, attempt, attempted_at, attempted_by) VALUES ('push', 'q', 'running', " + args + ", 5, 1, " + now + ", " + owner + ")",
					"INSERT INTO river_job (kind, queue, state, args, max_attempts, finalized_at) VALUES ('push', 'q', 'completed', " + args + ", 5, " + now + ")",
					"INSERT INTO jobs_keys (queue, unique_key, job_id) SELECT 'q', 'k', max(id) FROM river_job",
				} {
					if _, err := tx.ExecContext(t.Context(), statement); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if err = before.Close(); err != nil {
				t.Fatal(err)
			}

			sink := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			defer sink.Close()
			after := open(t, dir)
			c := Config{Queues: map[string]Queue{"q": {Target: sink.URL}}}
			opened, err := c.Open(t.Context(), after)
			if err != nil {
				t.Fatal(err)
			}
			s := opened.(*Service)
			if q.pg { // whoever ran it is not there, which shows after a while
				if err = s.rescue(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if r := post(t, s, `{"queue":"q","payload":1,"unique_key":"k"}`); !r.Duplicate {
				t.Errorf("got %+v, want the key to be remembered", r)
			}
			if got := len(mustTake(t, s, "q", 10)); got != 2 {
				t.Errorf("%d jobs of the earlier version can start, want 2", got)
			}
		})
	}
}

func mustTake(t *testing.T, s *Service, queue string, n int) []int64 {
	t.Helper()
	s.breakers = fast()
	var ids []int64
	for deadline := time.Now().Add(5 * time.Second); len(ids) < 2 && time.Now().Before(deadline); {
		rows, err := s.take(t.Context(), queue, n, s.id)
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			ids = append(ids, row.ID)
		}
	}
	return ids
}

func open(t *testing.T, dir string) *service.Host {
	t.Helper()
	h, err := service.NewHost(t.Context(), SettingsOn(t, dir), nil, func(string) (service.Opener, error) { return nil, errors.New("none") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}
