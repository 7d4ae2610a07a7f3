package identity_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend/identity"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
	_ "github.com/gatehouse-proxy/gatehouse/modules/jwtauth"
)

// TestMain lets the test binary be the gateway's command line.
func TestMain(m *testing.M) { modtest.Main(m) }

type result struct {
	stdout, stderr string
	code           int
}

func gatehouse(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	out, errs, code := modtest.Command(t, stdin, args...)
	return result{out, errs, code}
}

func TestGolden(t *testing.T) { modtest.Golden(t, "testdata") }

const gateway = `{
	gatehouse {
		data_dir @@data@@
	}
}
:80 {
	backend identity
}
`

func login(g *modtest.Gateway, email, password string) int {
	r := httptest.NewRequest(http.MethodPost, "/login", strings.NewReader(`{"email":"`+email+`","password":"`+password+`"}`))
	return g.Do(r).StatusCode
}

func TestUsersCommandWorksBesideARunningGateway(t *testing.T) {
	g := modtest.Start(t, gateway)
	dir := []string{"--data-dir", g.Dir}
	add := gatehouse(t, "correct horse\nignored\n", append([]string{"users", "add", "ada@example.com", "--role", "admin"}, dir...)...)
	if add.code != 0 || !regexp.MustCompile(`^usr_[a-z2-7]{26}\n$`).MatchString(add.stdout) || add.stderr != "" {
		t.Fatalf("got %+v", add)
	}
	if got := login(g, "ada@example.com", "correct horse"); got != http.StatusOK {
		t.Errorf("login: got %d, want 200", got)
	}
	if got := gatehouse(t, "another one", append([]string{"users", "passwd", "ADA@example.com"}, dir...)...); got.code != 0 {
		t.Errorf("passwd: got %+v", got)
	}
	if got := login(g, "ada@example.com", "correct horse"); got != http.StatusUnauthorized {
		t.Errorf("login with the old password: got %d, want 401", got)
	}
	if got := gatehouse(t, "", append([]string{"users", "disable", "ada@example.com", "--json"}, dir...)...); got.code != 0 || !strings.Contains(got.stdout, `"disabled":true`) {
		t.Errorf("disable: got %+v", got)
	}
	if got := login(g, "ada@example.com", "another one"); got != http.StatusUnauthorized {
		t.Errorf("login of a disabled user: got %d, want 401", got)
	}
	ls := gatehouse(t, "", append([]string{"users", "ls", "--json"}, dir...)...)
	var list struct {
		Items []struct {
			ID, Email, Role string
			Disabled        bool
		}
	}
	if err := json.Unmarshal([]byte(ls.stdout), &list); err != nil || len(list.Items) != 1 {
		t.Fatalf("ls: got %+v (%v)", ls, err)
	}
	if u := list.Items[0]; u.ID != strings.TrimSpace(add.stdout) || u.Email != "ada@example.com" || u.Role != "admin" || !u.Disabled {
		t.Errorf("ls: got %+v", u)
	}
	if got := gatehouse(t, "", append([]string{"users", "ls"}, dir...)...); !strings.Contains(got.stdout, "disabled") {
		t.Errorf("ls: got %+v", got)
	}
}

func TestCommandsFailWithASentenceAndACode(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	gatehouse(t, "correct horse\n", "users", "add", "ada@example.com", "--data-dir", dir)
	for name, c := range map[string]struct {
		stdin string
		args  []string
		code  int
		want  string
	}{
		"no-subject":         {"", []string{"token", "mint"}, 2, "--sub is missing"},
		"sub-and-service":    {"", []string{"token", "mint", "--sub", "a", "--service", "app", "--scope", "s"}, 2, "not both"},
		"service-no-scope":   {"", []string{"token", "mint", "--service", "app"}, 2, "--scope is missing"},
		"sub-of-a-service":   {"", []string{"token", "mint", "--sub", "service:app"}, 2, "--service"},
		"bad-ttl":            {"", []string{"token", "mint", "--sub", "a", "--ttl", "soon"}, 2, "not a duration"},
		"endless-ttl":        {"", []string{"token", "mint", "--sub", "a", "--ttl", "1000d"}, 1, "366d"},
		"unknown-flag":       {"", []string{"token", "mint", "--password", "a"}, 2, "unknown flag"},
		"unknown-command":    {"", []string{"users", "remove"}, 2, "no command users remove"},
		"no-email":           {"12345678\n", []string{"users", "add"}, 2, "usage"},
		"no-password":        {"", []string{"users", "add", "a@b.c"}, 2, "standard input"},
		"short-password":     {"1234567\n", []string{"users", "add", "a@b.c"}, 1, "at least 8"},
		"long-password":      {strings.Repeat("x", 2000) + "\n", []string{"users", "add", "a@b.c"}, 1, "at most 1024"},
		"bad-email":          {"12345678\n", []string{"users", "add", "abc"}, 1, "email address"},
		"taken-email":        {"12345678\n", []string{"users", "add", "ADA@example.com"}, 1, "already"},
		"unknown-user":       {"12345678\n", []string{"users", "passwd", "eve@example.com"}, 1, "no user"},
		"data-dir-is-a-file": {"", []string{"users", "ls", "--data-dir", file}, 1, "file"},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{}, c.args...)
			if name != "data-dir-is-a-file" {
				args = append(args, "--data-dir", dir)
			}
			got := gatehouse(t, c.stdin, args...)
			if got.code != c.code || !strings.Contains(got.stderr, c.want) || got.stdout != "" || strings.Count(got.stderr, "\n") != 1 {
				t.Errorf("got %+v, want code %d and one line with %q", got, c.code, c.want)
			}
		})
	}
}

func TestErrorsAreJSONWhereAsked(t *testing.T) {
	got := gatehouse(t, "", "users", "disable", "eve@example.com", "--json", "--data-dir", t.TempDir())
	var e map[string]string
	if err := json.Unmarshal([]byte(got.stderr), &e); err != nil || got.code != 1 || !strings.Contains(e["error"], "no user") {
		t.Errorf("got %+v (%v)", got, err)
	}
}

func TestMintPrintsOnlyTheToken(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	one := gatehouse(t, "", "token", "mint", "--sub", "ada", "--scope", "a b", "--data-dir", dir)
	if one.code != 0 || !regexp.MustCompile(`^[\w-]+\.[\w-]+\.[\w-]+\n$`).MatchString(one.stdout) || one.stderr != "" {
		t.Fatalf("got code %d, %d bytes, stderr %q", one.code, len(one.stdout), one.stderr)
	}
	info, err := os.Stat(filepath.Join(dir, "keys", "identity-signing.pem"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v (%v), want mode 0600", info, err)
	}
	two := gatehouse(t, "", "token", "mint", "--sub", "ada", "--json", "--ttl", "5m", "--data-dir", dir)
	if !strings.Contains(two.stdout, `"expires_in":300`) {
		t.Errorf("with --json: code %d, stderr %q", two.code, two.stderr)
	}
}

func TestCommandsWorkOnPostgres(t *testing.T) {
	url := pgtest.Start(t, pgtest.Fast).URL
	g := modtest.Start(t, strings.Replace(gateway, "@@data@@", "@@data@@\n\t\tdatabase "+url, 1))
	if got := gatehouse(t, "correct horse\n", "users", "add", "ada@example.com", "--database", url); got.code != 0 {
		t.Fatalf("add: got %+v", got)
	}
	if got := login(g, "ada@example.com", "correct horse"); got != http.StatusOK {
		t.Errorf("login: got %d, want 200", got)
	}
	if got := gatehouse(t, "", "users", "ls", "--database", url); !strings.Contains(got.stdout, "ada@example.com") {
		t.Errorf("ls: got %+v", got)
	}
	mint := gatehouse(t, "", "token", "mint", "--sub", "ada", "--database", url)
	again := gatehouse(t, "", "token", "mint", "--sub", "ada", "--database", url)
	kid := func(token string) string { header, _, _ := strings.Cut(token, "."); return header }
	if mint.code != 0 || kid(mint.stdout) != kid(again.stdout) {
		t.Errorf("mint: got %+v and %+v, want one key", mint, again)
	}
	if left, err := filepath.Glob(filepath.Join(g.Dir, "*.db")); err != nil || len(left) > 0 {
		t.Errorf("there is an SQLite file beside PostgreSQL: %v, %v", left, err)
	}
	secret := strings.Replace(url, "gatehouse@", "gatehouse:hunter2@", 1)
	for _, args := range [][]string{{"users", "ls", "--database", secret}, {"token", "mint", "--sub", "ada", "--database", secret}} {
		if got := gatehouse(t, "", args...); got.code != 2 || !strings.Contains(got.stderr, "PGPASSWORD") || strings.Contains(got.stderr, "hunter2") {
			t.Errorf("%v: got %+v, want code 2 and the remedy", args[:2], got)
		}
	}
}
