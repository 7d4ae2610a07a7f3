package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const xcaddy = "github.com/caddyserver/xcaddy/cmd/xcaddy@v0.4.5"

// TestXcaddyBuildsOneModule builds Caddy with one directive alone from this checkout, as the README
// says, and sees that it has its place in the order without an `order` line.
func TestXcaddyBuildsOneModule(t *testing.T) {
	checkout, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	out := filepath.Join(dir, "caddy")
	cmd := exec.CommandContext(t.Context(), "go", "run", xcaddy, "build", "v2.11.9",
		"--with", module+"modules/limit", "--replace", strings.TrimSuffix(module, "/")+"="+checkout, "--output", out)
	cmd.Dir = dir
	// The go command asks the proxy whether the package's own path is a module, before it looks at
	// the replacement. A proxy may refuse what it does not know; |off takes every refusal for a no.
	proxy, _, _ := strings.Cut(goEnv(t, "GOPROXY"), ",")
	cmd.Env = append(os.Environ(), "GOPROXY="+proxy+"|off")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("xcaddy: %v\n%s", err, tail(string(b), 30))
	}
	for name, tc := range map[string]struct {
		config, want string
		ok           bool
	}{
		"the-module":     {":80 {\n\tlimit 5/1s\n\trespond ok\n}\n", `"handler":"limit"`, true},
		"another-module": {":80 {\n\tjwt_auth\n}\n", "unrecognized directive: jwt_auth", false},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "Caddyfile")
			if err := os.WriteFile(file, []byte(tc.config), 0o600); err != nil {
				t.Fatal(err)
			}
			b, err := exec.CommandContext(t.Context(), out, "adapt", "--config", file, "--validate").CombinedOutput()
			if (err == nil) != tc.ok || !strings.Contains(string(b), tc.want) {
				t.Errorf("got %v, %s, want %q", err, b, tc.want)
			}
		})
	}
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
