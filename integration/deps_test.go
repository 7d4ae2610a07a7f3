// Package integration tests the built binaries and the whole tree: who may import whom, the README's
// commands, reloads under load, crashes, and the same examiners on every way to deploy.
package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/gatehouse-proxy/gatehouse/"

// rule says what the non-test files of some folders may import of ours. A pattern ends in /... for
// a folder and all below it; SELF stands for the importing folder's own name, or its first part.
type rule struct {
	from   string
	may    []string
	reason string
}

// rules are read top to bottom; the first that fits a package holds.
var rules = []rule{
	{"cmd/gatehouse", []string{"modules/standard"}, "main has nothing to decide: the parts list is modules/standard"},
	{"cmd/backends", []string{"backends/...", "internal/..."}, "the backends run without Caddy"},
	{"integration", []string{"modules/...", "backends/...", "internal/..."}, "it tests all of it"},
	{"modules/standard", []string{"modules/..."}, "the parts list"},
	{"modules/gatehouse", []string{"internal/...", "modules/internal/..."}, "the app sees the service contract; its guests bring the backends"},
	{"modules/internal/...", []string{"internal/...", "modules/internal/..."}, "what all modules share knows none of them"},
	{"modules/backend", []string{"internal/...", "modules/gatehouse", "modules/internal/..."}, "the directive serves any backend"},
	{"modules/backend/webhooks", []string{"backends/webhooks", "internal/...", "modules/gatehouse", "modules/internal/...", "modules/backend/jobs"}, "a guest brings its backend and those it needs"},
	{"modules/backend/uploads", []string{"backends/uploads", "internal/...", "modules/gatehouse", "modules/internal/...", "modules/backend/jobs"}, "a guest brings its backend and those it needs"},
	{"modules/backend/...", []string{"backends/SELF", "internal/...", "modules/gatehouse", "modules/internal/..."}, "a guest brings its own backend"},
	{"modules/jwtauth", []string{"backends/identity", "modules/backend/identity", "internal/...", "modules/gatehouse", "modules/internal/..."}, "a directive knows its own backend"},
	{"modules/webhookverify", []string{"backends/webhooks", "modules/backend/webhooks", "internal/...", "modules/gatehouse", "modules/internal/..."}, "a directive knows its own backend"},
	{"modules/httpcache", []string{"backends/cache", "modules/backend/cache", "internal/...", "modules/gatehouse", "modules/internal/..."}, "a directive knows its own backend"},
	{"modules/flags", []string{"backends/flags", "modules/backend/flags", "internal/...", "modules/gatehouse", "modules/internal/..."}, "a directive knows its own backend"},
	{"integration/await", nil, "it waits, and knows nothing of ours"},
	{"integration/pgtest", []string{"integration/await"}, "it starts servers and knows nothing of ours"},
	{"integration/redistest", []string{"integration/await"}, "it starts servers and knows nothing of ours"},
	{"modules/limit/...", []string{"modules/limit/...", "internal/...", "modules/gatehouse", "modules/internal/..."}, "a directive knows its own parts"},
	{"modules/...", []string{"internal/...", "modules/gatehouse", "modules/internal/..."}, "no directive knows another: their order is the journey's, their meeting point is the request"},
	{"backends/internal/...", []string{"internal/...", "backends/internal/..."}, "what all backends share knows none of them"},
	{"backends/...", []string{"internal/...", "backends/internal/...", "backends/SELF/..."}, "a backend knows no other: the wiring hands it what it needs"},
	{"internal/...", []string{"internal/..."}, "never upward"},
}

// caddyFiles are the files of a module that may import Caddy, and caddyfile_*.go where the grammar takes
// several: the rest of it is decisions, which are tested without a server. modules/internal and modules/gatehouse are Caddy's side by nature.
var caddyFiles = []string{"module.go", "caddyfile.go", "command.go", "admin.go", "serve.go"}

const caddyPath = "github.com/caddyserver/caddy/v2"

type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-pgo=off", "-json=ImportPath,Dir,GoFiles,Imports", module+"...") // or each package has a variant for the profile
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("listing the packages: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err = dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func TestImports(t *testing.T) {
	used := map[string]bool{}
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		r := ruleFor(from)
		if r == nil {
			t.Errorf("%s: no rule says what it may import; add one to rules with its reason", from)
			continue
		}
		used[r.from] = true
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, module)
			if ours && !slices.ContainsFunc(r.may, func(m string) bool { return fits(strings.ReplaceAll(m, "SELF", self(from)), to) }) {
				t.Errorf("%s imports %s, but %s may import only %v: %s", from, to, r.from, r.may, r.reason)
			}
			if strings.HasPrefix(imp, caddyPath) && !strings.HasPrefix(from, "modules/") && from != "cmd/gatehouse" && from != "integration" {
				t.Errorf("%s imports %s: only modules and cmd/gatehouse know Caddy", from, imp)
			}
		}
	}
	for _, r := range rules {
		if !used[r.from] {
			t.Errorf("the rule for %s fits no package: remove it", r.from)
		}
	}
}

func ruleFor(from string) *rule {
	for i := range rules {
		if fits(rules[i].from, from) {
			return &rules[i]
		}
	}
	return nil
}

func fits(pattern, path string) bool {
	if folder, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == folder || strings.HasPrefix(path, folder+"/")
	}
	return path == pattern
}

// self is the backend's name in backends/NAME/… and modules/backend/NAME.
func self(from string) string {
	parts := strings.Split(from, "/")
	if parts[0] == "modules" {
		return parts[len(parts)-1]
	}
	return parts[min(1, len(parts)-1)]
}

func TestOnlyTheDoorsOfAModuleImportCaddy(t *testing.T) {
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		if !strings.HasPrefix(from, "modules/") || strings.HasPrefix(from, "modules/internal/") {
			continue
		}
		for _, file := range p.GoFiles {
			if slices.Contains(caddyFiles, file) || strings.HasPrefix(file, "caddyfile_") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, parser.ImportsOnly)
			if err != nil {
				t.Fatal(err)
			}
			for _, imp := range f.Imports {
				if path, _ := strconv.Unquote(imp.Path.Value); strings.HasPrefix(path, caddyPath) {
					t.Errorf("%s/%s imports %s: only %v may", from, file, path, caddyFiles)
				}
			}
		}
	}
}

// TestInternalIsShared holds internal/ to its purpose: what modules and backends both need.
// TestEveryHandlerHasAFrontDoor: a site with a directive of ours is guarded without anyone having to think of
// it, so each package with a handler puts the front door up. The directive problem answers in handle_errors,
// where nothing is left to guard.
func TestEveryHandlerHasAFrontDoor(t *testing.T) {
	handlers := 0
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		if !strings.HasPrefix(from, "modules/") || strings.HasPrefix(from, "modules/internal/") || from == "modules/problem" {
			continue
		}
		var text strings.Builder
		for _, f := range p.GoFiles {
			b, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			text.Write(b)
		}
		if !strings.Contains(text.String(), `ID: "http.handlers.`) {
			continue
		}
		handlers++
		if !strings.Contains(text.String(), "frontdoor.Stand(ctx)") {
			t.Errorf("%s has a handler whose Provision does not call frontdoor.Stand", from)
		}
	}
	if handlers < 10 {
		t.Errorf("found %d packages with handlers, want all", handlers)
	}
}

func TestInternalIsShared(t *testing.T) {
	importers := map[string][]string{}
	var internals []string
	all := packages(t)
	for _, p := range all {
		from := strings.TrimPrefix(p.ImportPath, module)
		if strings.HasPrefix(from, "internal/") {
			internals = append(internals, from)
		}
		for _, imp := range p.Imports {
			if to, ok := strings.CutPrefix(imp, module+"internal/"); ok {
				importers["internal/"+to] = append(importers["internal/"+to], from)
			}
		}
	}
	// A package that another of internal/ builds on counts with that one's importers.
	reaches := func(name, side string) bool {
		seen := map[string]bool{}
		var walk func(string) bool
		walk = func(n string) bool {
			if seen[n] {
				return false
			}
			seen[n] = true
			for _, from := range importers[n] {
				if strings.HasPrefix(from, side) || strings.HasPrefix(from, "internal/") && walk(from) {
					return true
				}
			}
			return false
		}
		return walk(name)
	}
	for _, name := range internals {
		for _, side := range []string{"modules/", "backends/"} {
			if !reaches(name, side) {
				t.Errorf("%s has no importer in %s: move it to the side that uses it", name, side)
			}
		}
	}
}

// TestBackendsLinkNoCaddy looks at what cmd/backends really links.
func TestBackendsLinkNoCaddy(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", module+"cmd/backends").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.Lines(string(out)) {
		if strings.HasPrefix(dep, caddyPath) {
			t.Errorf("cmd/backends links %s", strings.TrimSpace(dep))
		}
	}
}

// TestEachFolderHasOnePackageComment keeps the door plate of every package in one place.
func TestEachFolderHasOnePackageComment(t *testing.T) {
	for _, p := range packages(t) {
		var with []string
		for _, file := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc != nil {
				with = append(with, file)
			}
		}
		if len(p.GoFiles) > 0 && len(with) != 1 {
			t.Errorf("%s has a package comment in %v, want exactly one file", p.ImportPath, with)
		}
	}
}
