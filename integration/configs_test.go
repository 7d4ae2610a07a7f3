package integration

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
)

// TestConfigsAreValid validates every ready configuration and the example as they are, with only the
// paths of a real machine replaced.
func TestConfigsAreValid(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "configs", "*", "Caddyfile"))
	if err != nil || len(files) < 3 {
		t.Fatalf("got %d configurations, %v", len(files), err)
	}
	for _, file := range append(files, filepath.Join(root, "Caddyfile.example")) {
		t.Run(strings.TrimPrefix(file, root+"/"), func(t *testing.T) {
			dir := t.TempDir()
			secret := filepath.Join(dir, "jwt")
			if err := os.WriteFile(secret, []byte("0123456789abcdef0123456789abcdef"), 0o600); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			copied := filepath.Join(dir, "Caddyfile")
			if err = os.WriteFile(copied, []byte(strings.ReplaceAll(string(b), "/run/secrets/gatehouse/jwt", secret)), 0o600); err != nil {
				t.Fatal(err)
			}
			if err = os.CopyFS(filepath.Join(dir, "configs"), os.DirFS(filepath.Join(root, "configs"))); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), binary(t, "gatehouse"), "validate", "--config", copied, "--adapter", "caddyfile")
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, tail(string(out), 10))
			}
			if _, err := os.Stat(filepath.Join(dir, "data")); err == nil {
				t.Error("validating made the data directory")
			}
		})
	}
}

// TestSplit runs the gateway and the backends of configs/split as they are, from one folder, with only the addresses
// replaced: what the backends revoke ends at the gateway.
func TestSplit(t *testing.T) {
	t.Parallel()
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(app.Close)
	e := &example{dir: t.TempDir(), admin: "127.0.0.1:" + freePort(t), database: pgtest.Start(t, pgtest.Fast).URL}
	gateway, backends := freePort(t), freePort(t)
	e.base = "http://127.0.0.1:" + gateway
	addresses := strings.NewReplacer("postgres://gatehouse@127.0.0.1:5432/gatehouse", e.database,
		":8080", ":"+gateway, ":8081", ":"+backends, "127.0.0.1:3000", app.Listener.Addr().String())
	for _, name := range []string{"Caddyfile", "backends.json"} {
		b, err := os.ReadFile(filepath.Join(root, "configs", "split", name))
		if err != nil {
			t.Fatal(err)
		}
		text := addresses.Replace(string(b))
		if name == "Caddyfile" {
			text = strings.Replace(text, "\n{\n", "\n{\n\tadmin "+e.admin+"\n", 1)
		}
		if err = os.WriteFile(filepath.Join(e.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	e.config = filepath.Join(e.dir, "Caddyfile")
	p := start(t, e.dir, "backends", "--config", "backends.json", "identity", "jobs", "uploads", "cache", "locks")
	p.waitFor("http://127.0.0.1:" + backends + "/readyz")
	e.run(t)

	user := e.gatehouse(t, "correct horse battery\n", "users", "add", "ada@example.com", "--database", e.database)
	login := func() (access, refresh string) {
		t.Helper()
		status, body := call(t, "POST", e.base+"/login", "", `{"email":"ada@example.com","password":"correct horse battery"}`)
		if status != http.StatusOK {
			t.Fatalf("login: got %d %s", status, body)
		}
		return field(t, body, "token"), field(t, body, "refresh_token")
	}
	for _, act := range []struct {
		name string
		do   func(access string)
	}{
		{"logout", func(access string) {
			if status, body := call(t, "POST", e.base+"/logout", access, ""); status != http.StatusNoContent {
				t.Errorf("got %d %s, want 204", status, body)
			}
		}},
		{"revoke", func(string) { e.gatehouse(t, "", "tokens", "revoke", "--sub", user, "--address", e.admin) }},
		{"disable", func(string) {
			e.gatehouse(t, "", "users", "disable", "ada@example.com", "--database", e.database)
		}},
	} {
		access, refresh := login()
		for _, path := range []string{"/", "/jobs?queue=email"} {
			if status, body := call(t, "GET", e.base+path, access, ""); status != http.StatusOK {
				t.Errorf("before %s: %s: got %d %s, want 200", act.name, path, status, body)
			}
		}
		act.do(access)
		eventually(t, 5*time.Second, func() error {
			if status, _ := call(t, "GET", e.base+"/", access, ""); status != http.StatusUnauthorized {
				return fmt.Errorf("after %s: the access token: got %d, want 401", act.name, status)
			}
			return nil
		})
		if status, _ := call(t, "POST", e.base+"/refresh", "", `{"refresh_token":"`+refresh+`"}`); status != http.StatusUnauthorized {
			t.Errorf("after %s: the refresh token: got %d, want 401", act.name, status)
		}
	}
	for _, dir := range []string{"gateway", "backends"} {
		if _, err := os.Stat(filepath.Join(e.dir, "data", dir)); err != nil {
			t.Error(err)
		}
	}
}
