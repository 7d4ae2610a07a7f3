package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// clients are the programs of the README's section on jobs: the language of their block, the file that
// they are put in, and what runs it.
var clients = []struct {
	language, file string
	run            []string
}{
	{"sh", "job.sh", []string{"bash", "job.sh"}},
	{"js", "job.mjs", []string{"node", "job.mjs"}},
	{"python", "job.py", []string{"python3", "job.py"}},
	{"go", "job.go", []string{"go", "run", "job.go"}},
}

// block is the first block of the language in text.
func block(text, language string) string {
	_, rest, _ := strings.Cut(text, "\n```"+language+"\n")
	program, _, _ := strings.Cut(rest, "\n```\n")
	return program
}

// TestReadmeClients runs the README's client of each language: its job must be done.
func TestReadmeClients(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(b), "\n## Jobs\n")
	if !ok {
		t.Fatal("the README has no section on jobs")
	}
	text, _, _ = strings.Cut(text, "\n## ")
	e := newExample(t)
	e.run(t)
	token := e.gatehouse(t, "", "token", "mint", "--sub", "clients")
	for _, c := range clients {
		t.Run(c.language, func(t *testing.T) {
			program := block(text, c.language)
			if program == "" {
				t.Fatalf("the README has no %s block in its section on jobs", c.language)
			}
			if _, err := exec.LookPath(c.run[0]); err != nil {
				t.Fatalf("%v: `make deps` installs it", err)
			}
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, c.file), []byte(e.ports.Replace(program)+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), c.run[0], c.run[1:]...)
			cmd.Dir, cmd.Env, cmd.WaitDelay = dir, append(os.Environ(), "TOKEN="+token), time.Second
			out, err := cmd.CombinedOutput()
			if err != nil || strings.TrimSpace(string(out)) != "completed" {
				t.Errorf("the %s client: %v\n%s", c.language, err, out)
			}
		})
	}
}
