package sqldb

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

// scram makes the server ask the role app for its password, and returns the URL for it and what sets
// the password.
func scram(t *testing.T) (url string, alter func(password string)) {
	t.Helper()
	s := pgtest.Start(t, pgtest.Alone, pgtest.Fast)
	admin := s.DB()
	exec := func(statement string, args ...any) {
		t.Helper()
		if _, err := admin.ExecContext(t.Context(), statement, args...); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	var file string
	if err := admin.QueryRowContext(t.Context(), "SHOW hba_file").Scan(&file); err != nil {
		t.Fatal(err)
	}
	exec("SET password_encryption = 'scram-sha-256'")
	exec("CREATE ROLE app LOGIN PASSWORD 'one'")
	exec("COPY (SELECT unnest(ARRAY['host all app all scram-sha-256', 'host all all all trust'])) TO '" + file + "'")
	exec("SELECT pg_reload_conf()")
	return strings.Replace(s.URL, "gatehouse@", "app@", 1), func(password string) { exec("ALTER ROLE app PASSWORD '" + password + "'") }
}

// passwordSet is a set whose source gives what put said, when it is read again.
type passwordSet struct {
	*secret.Set
	mu   sync.Mutex
	next []secret.Version
}

func newPasswordSet(passwords ...string) *passwordSet {
	s := &passwordSet{Set: secret.NewSet("db")}
	s.Reread = func(context.Context) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.Replace(s.next)
		return nil
	}
	s.put(passwords...)
	s.Replace(s.next)
	return s
}

func (s *passwordSet) put(passwords ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = nil
	for _, p := range passwords {
		s.next = append(s.next, secret.Version{Label: "of " + p, Value: secret.NewValue([]byte(p))})
	}
}

func TestThePasswordChanges(t *testing.T) {
	url, alter := scram(t)
	set := newPasswordSet("one")
	db, err := OpenPostgresAs(t.Context(), url, set.Set)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if set.Newest().LastUsed().IsZero() {
		t.Error("the use of the password is not marked")
	}
	open, err := db.Write.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Close() }()
	check := func(when string) {
		t.Helper()
		if _, err := open.ExecContext(t.Context(), "SELECT 1"); err != nil {
			t.Errorf("%s an open connection: %v", when, err)
		}
		db.Read.SetMaxIdleConns(0) // so that each statement has a new one
		if _, err := db.Read.ExecContext(t.Context(), "SELECT 1"); err != nil {
			t.Errorf("%s a new connection: %v", when, err)
		}
		pool, err := db.Listener(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer pool.Close()
		if _, err = pool.Exec(t.Context(), "LISTEN x"); err != nil {
			t.Errorf("%s a listener: %v", when, err)
		}
	}
	check("at first")
	alter("two")
	set.put("two", "one")
	check("when the database changed before the set was read,")
	set.put("three", "two")
	if err = set.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("when the source changed before the database,")
	alter("three")
	check("when both have changed,")
	alter("sesame")
	for name, try := range map[string]func() error{
		"pool": func() error { _, err := db.Read.ExecContext(t.Context(), "SELECT 1"); return err },
		"listener": func() error {
			pool, err := db.Listener(t.Context())
			if err != nil {
				return err
			}
			defer pool.Close()
			return pool.Ping(t.Context())
		},
	} {
		err := try()
		if err == nil || !strings.Contains(err.Error(), "refuses every active version of the secret db") || !IsBusy(err) {
			t.Errorf("%s: got %v", name, err)
		}
		for _, leak := range []string{"two", "three", "sesame"} {
			if strings.Contains(fmt.Sprint(err), leak) {
				t.Errorf("%s: the error holds a password: %v", name, err)
			}
		}
	}
	if _, err := open.ExecContext(t.Context(), "SELECT 1"); err != nil {
		t.Errorf("in the end an open connection: %v", err)
	}
	if _, err = OpenPostgresAs(t.Context(), url, secret.NewSet("db")); err == nil || !strings.Contains(err.Error(), "holds no password that is active") {
		t.Errorf("an empty set: %v", err)
	}
}

// TestOtherErrorsAreNotTriedAgain holds that a server which is away is asked once.
func TestOtherErrorsAreNotTriedAgain(t *testing.T) {
	set := newPasswordSet("one", "two")
	n := 0
	_, err := withPassword(t.Context(), set.Set, func(string) (*pgx.Conn, error) {
		n++
		return nil, context.DeadlineExceeded
	})
	if n != 1 || err == nil {
		t.Errorf("%d tries, %v", n, err)
	}
}
