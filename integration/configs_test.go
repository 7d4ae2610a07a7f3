package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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
