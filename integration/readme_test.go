package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// step is one command of the README and what it prints.
type step struct {
	line    int
	command string
	want    string
}

// steps reads the ```console blocks: a line that begins with "$ " is a command, lines that begin
// with "> " continue it, and the lines up to the next command are what it prints.
func steps(text string) []step {
	var all []step
	inside := false
	for i, line := range strings.Split(text, "\n") {
		switch {
		case line == "```console":
			inside = true
		case strings.HasPrefix(line, "```"):
			inside = false
		case !inside:
		case strings.HasPrefix(line, "$ "):
			all = append(all, step{line: i + 1, command: line[2:]})
		case strings.HasPrefix(line, "> ") && all[len(all)-1].want == "":
			all[len(all)-1].command += "\n" + line[2:]
		default:
			all[len(all)-1].want += line + "\n"
		}
	}
	return all
}

// pattern is what a step prints as a regular expression: … stands for anything within a line.
func pattern(want string) *regexp.Regexp {
	return regexp.MustCompile(`^` + strings.ReplaceAll(regexp.QuoteMeta(want), "…", `[^\n]*`) + `$`)
}

// caddyfiles are the ```caddyfile blocks of a text.
func caddyfiles(text string) (all []string) {
	for _, block := range strings.Split(text, "```caddyfile\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		all = append(all, block)
	}
	return all
}

// runSteps runs the commands in one shell, so that variables set by one are there for the next, and
// returns the steps that printed something else.
func runSteps(t *testing.T, page string, all []step, e *example) []string {
	t.Helper()
	const mark = "----step----"
	var script strings.Builder
	for _, s := range all {
		fmt.Fprintf(&script, "%s\nprintf '%%s\\n' '%s'\n", e.ports.Replace(s.command), mark)
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script.String())
	cmd.Dir = e.dir
	cmd.Env = append(os.Environ(), "CADDY_ADMIN="+e.admin) // where the commands find the gateway
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(bin, filepath.Join(e.dir, "bin")); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the shell: %v\n%s", err, out)
	}
	var wrong []string
	printed := strings.Split(strings.ReplaceAll(string(out), "\r\n", "\n"), mark+"\n") // header lines end in CRLF
	for i, s := range all {
		if got := printed[i]; !pattern(strings.TrimSuffix(e.ports.Replace(s.want), "\n")).MatchString(strings.TrimSuffix(got, "\n")) {
			wrong = append(wrong, fmt.Sprintf("%s:%d: $ %s\nprints\n%s\nbut it says\n%s", page, s.line, s.command, got, s.want))
		}
	}
	return wrong
}

// TestReadme executes every command of the README's tour against the built binary.
func TestReadme(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	all := steps(string(b))
	if len(all) < 15 {
		t.Fatalf("the tour has %d steps, want at least 15", len(all))
	}
	e := newExample(t)
	e.run(t)
	for _, w := range runSteps(t, "README.md", all, e) {
		t.Error(w)
	}
}

// TestDocs executes the commands of the pages against the example, and adapts their Caddyfiles.
func TestDocs(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil || len(pages) < 3 {
		t.Fatal(pages, err)
	}
	for _, path := range pages {
		page := "docs/" + filepath.Base(path)
		t.Run(page, func(t *testing.T) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			e := newExample(t)
			for _, text := range caddyfiles(string(b)) {
				file := filepath.Join(e.dir, "page.caddyfile")
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				e.gatehouse(t, "", "adapt", "--config", file, "--adapter", "caddyfile")
			}
			if all := steps(string(b)); len(all) > 0 {
				e.run(t)
				for _, w := range runSteps(t, page, all, e) {
					t.Error(w)
				}
			}
		})
	}
}

// TestReadmeTestSeesAChangedLine is the test of the test: any expected line that changes is noticed.
func TestReadmeTestSeesAChangedLine(t *testing.T) {
	e := newExample(t)
	text := "```console\n$ echo one; echo two\none\ntwo\n$ A=3\n$ echo $A …\n3 …\n```\n"
	if wrong := runSteps(t, "the text", steps(text), e); len(wrong) != 0 {
		t.Errorf("a true text was found wrong: %v", wrong)
	}
	for _, change := range [][2]string{{"\ntwo", "\ntwo!"}, {"\none\n", "\n"}, {"\n3 …", "\n4 …"}, {"\n$ A=3", "\n$ A=3\nx"}} {
		if wrong := runSteps(t, "the text", steps(strings.Replace(text, change[0], change[1], 1)), e); len(wrong) != 1 {
			t.Errorf("with %q in place of %q: got %d wrong steps, want 1", change[1], change[0], len(wrong))
		}
	}
}

// TestReadmeSaysWhyEachDependency: a direct dependency without its line in the table is a mistake.
func TestReadmeSaysWhyEachDependency(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(readme), "## Dependencies, and why")
	if !ok {
		t.Fatal("the README has no section on dependencies")
	}
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{if not (or .Indirect .Main)}}{{.Path}}{{end}}", "all").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range strings.Fields(string(out)) {
		name := path[strings.LastIndex(regexp.MustCompile(`/v\d+$`).ReplaceAllString(path, ""), "/")+1:]
		if !strings.Contains(table, name) {
			t.Errorf("README.md does not say why %s is a dependency", path)
		}
	}
}
