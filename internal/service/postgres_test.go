package service

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
	"github.com/gatehouse-proxy/gatehouse/internal/secret/source"
)

func postgresHost(t *testing.T, dir, dsn string) *Host {
	t.Helper()
	h, err := NewHost(t.Context(), Settings{DataDir: dir, Database: dsn}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

func TestANodeBelongsToDirectoryAndDatabase(t *testing.T) {
	dir := t.TempDir()
	a, b := pgtest.Start(t, pgtest.Fast), pgtest.Start(t, pgtest.Fast)
	sqlite := postgresHost(t, dir, "")
	one, again, other := postgresHost(t, dir, a.URL), postgresHost(t, dir, a.URL), postgresHost(t, dir, b.URL)
	if one.Node != again.Node {
		t.Error("two hosts of one directory and database have two nodes")
	}
	if one.Node == other.Node || one.Node == sqlite.Node {
		t.Error("another database is the same node")
	}
	if sqlite.DB.Postgres() || !one.DB.Postgres() {
		t.Error("Postgres does not say which database it is")
	}
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	if err := again.DB.Write.PingContext(t.Context()); err != nil {
		t.Errorf("the first close took the database from the second host: %v", err)
	}
	if got := again.Check(t.Context())["data_dir"]; got != nil {
		t.Errorf("the data directory is not healthy: %v", got)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if got := again.Check(t.Context())["data_dir"]; got == nil {
		t.Error("a removed data directory is healthy")
	}
}

func TestAllInstancesHaveTheSameKey(t *testing.T) {
	s := pgtest.Start(t, pgtest.Fast)
	var wg sync.WaitGroup
	keys := make([]string, 6)
	for i := range keys {
		dir := t.TempDir()
		wg.Go(func() {
			h, err := NewHost(t.Context(), Settings{DataDir: dir, Database: s.URL}, nil, nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = h.Close() }()
			set, err := h.GeneratedKey("k", func() ([]byte, error) { return fmt.Appendf(nil, "key %d\x00", i), nil })
			if err != nil {
				t.Error(err)
				return
			}
			keys[i] = string(set.Newest().Value.Reveal())
		})
	}
	wg.Wait()
	for _, k := range keys {
		if k == "" || k != keys[0] {
			t.Fatalf("several keys are in use: %q", keys)
		}
	}
}

func TestTheKeyFileMovesToPostgreSQL(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "keys", "k"), []byte("of SQLite's time"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := pgtest.Start(t, pgtest.Fast)
	for _, dir := range []string{dir, t.TempDir()} {
		set, err := postgresHost(t, dir, s.URL).GeneratedKey("k", func() ([]byte, error) { return []byte("new"), nil })
		if err != nil || string(set.Newest().Value.Reveal()) != "of SQLite's time" {
			t.Errorf("got %v, %v", set, err)
		}
	}
}

func TestDatabaseErrorsSayWhatToDo(t *testing.T) {
	t.Setenv("GATEHOUSE_TEST_DB", "hunter2")
	secrets := map[string]source.Source{"db": {Env: "GATEHOUSE_TEST_DB"}}
	for name, c := range map[string]struct {
		settings Settings
		want     string
	}{
		"out-of-reach":      {Settings{Database: "postgres://u@127.0.0.1:1/d", DatabasePassword: "db", Secrets: secrets}, "the PostgreSQL database d on 127.0.0.1 cannot be reached"},
		"password-in-url":   {Settings{Database: "postgres://u:hunter2@127.0.0.1:1/d"}, "put it into a secret"},
		"password-in-query": {Settings{Database: "postgres://u@127.0.0.1:1/d?password=hunter2"}, "put it into a secret"},
		"no-such-secret":    {Settings{Database: "postgres://u@127.0.0.1:1/d", DatabasePassword: "x", Secrets: secrets}, `no secret named "x" for its password, known are: db`},
		"password-alone":    {Settings{DatabasePassword: "db", Secrets: secrets}, "database_password is for database"},
		"no-url":            {Settings{Database: "mysql://u:hunter2@h/d"}, "does not begin with postgres://"},
	} {
		t.Run(name, func(t *testing.T) {
			c.settings.DataDir = t.TempDir()
			_, err := NewHost(t.Context(), c.settings, nil, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestThePasswordIsOfASecret(t *testing.T) {
	t.Setenv("GATEHOUSE_TEST_DB", "p@ss:/?#%\u00fc")
	s := pgtest.Start(t, pgtest.Fast) // which lets everybody in
	settings := Settings{DataDir: t.TempDir(), Database: s.URL, DatabasePassword: "db", Secrets: map[string]source.Source{"db": {Env: "GATEHOUSE_TEST_DB"}}}
	h, err := NewHost(t.Context(), settings, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Close() }()
	if got := string(h.key.password.Newest().Value.Reveal()); got != "p@ss:/?#%\u00fc" || strings.Contains(h.key.database, "p@ss") {
		t.Errorf("got %s in %s", got, h.key.database)
	}
	again, err := NewHost(t.Context(), settings, nil, nil)
	if err != nil || again.Node != h.Node {
		t.Fatalf("a second host has another node, %v", err)
	}
	if err = again.Close(); err != nil {
		t.Error(err)
	}
}
