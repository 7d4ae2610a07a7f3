package service

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/internal/secret/source"
)

// fake is a backend that records its life.
type fake struct {
	name   string
	needs  []string
	events *events
	serve  func()
	health error
}

type events struct {
	mu  sync.Mutex
	all []string
}

func (e *events) add(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, fmt.Sprintf(format, args...))
}

func (f *fake) Open(ctx context.Context, h *Host) (Service, error) {
	for _, n := range f.needs {
		if _, err := Need[*fake](ctx, h, n); err != nil {
			return nil, err
		}
	}
	f.events.add("open %s", f.name)
	return f, nil
}
func (f *fake) ServeHTTP(http.ResponseWriter, *http.Request) {
	if f.serve != nil {
		f.serve()
	}
}
func (f *fake) Run(ctx context.Context) error {
	<-ctx.Done()
	f.events.add("stop %s", f.name)
	return nil
}
func (f *fake) Check(context.Context) error { return f.health }
func (f *fake) Close() error                { f.events.add("close %s", f.name); return nil }

func host(t *testing.T, dir string, backends ...*fake) (*Host, *events) {
	t.Helper()
	ev := new(events)
	h, err := NewHost(t.Context(), Settings{DataDir: dir}, nil, func(name string) (Opener, error) {
		for _, b := range backends {
			if b.name == name {
				b.events = ev
				return b, nil
			}
		}
		return nil, errors.New("no such backend")
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h, ev
}

func TestDependenciesOpenFirstAndOnce(t *testing.T) {
	h, ev := host(t, t.TempDir(), &fake{name: "uploads", needs: []string{"jobs"}}, &fake{name: "webhooks", needs: []string{"jobs"}}, &fake{name: "jobs"})
	if err := h.Open(t.Context(), "uploads", "webhooks", "uploads"); err != nil {
		t.Fatal(err)
	}
	if want := []string{"open jobs", "open uploads", "open webhooks"}; !slices.Equal(ev.all, want) {
		t.Errorf("got %v, want %v", ev.all, want)
	}
	if h.Service("jobs") == nil || h.Service("cache") != nil {
		t.Error("Service does not say what is open")
	}
}

func TestOpenErrors(t *testing.T) {
	h, _ := host(t, t.TempDir(), &fake{name: "a", needs: []string{"b"}}, &fake{name: "b", needs: []string{"a"}}, &fake{name: "c", needs: []string{"missing"}})
	if err := h.Open(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "circle: a, b, a") {
		t.Errorf("got %v, want the circle", err)
	}
	if err := h.Open(t.Context(), "c"); err == nil || !strings.Contains(err.Error(), "opening backend c: no such backend") {
		t.Errorf("got %v", err)
	}
	if _, err := h.Handler("a"); err == nil {
		t.Error("a backend that failed to open has a handler")
	}
}

func TestCloseWaitsForRequestsInFlight(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	b := &fake{name: "b"}
	h, ev := host(t, t.TempDir(), b)
	b.serve = func() { close(entered); <-leave; ev.add("served") }
	if err := h.Open(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	handler, err := h.Handler("b")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)) })
	<-entered
	wg.Go(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	<-h.runCtx.Done()
	close(leave)
	wg.Wait()
	if got := ev.all[len(ev.all)-1]; got != "close b" {
		t.Errorf("the last event is %q, want the close after the request: %v", got, ev.all)
	}
}

func TestOneProcessPerDirectoryButManyHosts(t *testing.T) {
	dir := t.TempDir()
	one, _ := host(t, dir)
	two, _ := host(t, dir)
	if one.DB != two.DB {
		t.Error("two hosts of one directory have two databases")
	}
	if got := two.Memory("k", func() any { return 2 }); got != one.Memory("k", func() any { return 1 }) {
		t.Errorf("memory is not shared: %v", got)
	}
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	if err := two.DB.Write.Ping(); err != nil {
		t.Errorf("the first close took the database from the second host: %v", err)
	}
	if err := one.Close(); err != nil {
		t.Errorf("the second Close: %v", err)
	}
}

func TestDirectoryErrorsSayWhatToDo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewHost(t.Context(), Settings{DataDir: file}, nil, nil); err == nil || !strings.Contains(err.Error(), "data_dir "+file) {
		t.Errorf("got %v", err)
	}
	dir := filepath.Join(t.TempDir(), "made")
	host(t, dir)
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("data_dir has mode %v (%v), want 0700", fi.Mode(), err)
	}
}

func TestGeneratedKeyIsMadeOnce(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	keys := make([]string, 8)
	for i := range keys {
		wg.Go(func() {
			set, err := GeneratedKey(dir, "k", func() ([]byte, error) { return fmt.Appendf(nil, "key %d", i), nil })
			if err != nil {
				t.Error(err)
				return
			}
			keys[i] = string(set.Newest().Value.Reveal())
		})
	}
	wg.Wait()
	if len(slices.Compact(keys)) != 1 {
		t.Errorf("several keys are in use: %v", keys)
	}
	fi, err := os.Stat(filepath.Join(dir, "keys", "k"))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", fi.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "keys", ".new-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSecretsAndHealth(t *testing.T) {
	sick := errors.New("sick")
	t.Setenv("GATEHOUSE_TEST_A", "v")
	h, err := NewHost(t.Context(), Settings{DataDir: t.TempDir(), Secrets: map[string]source.Source{"a": {Env: "GATEHOUSE_TEST_A"}}}, nil,
		func(string) (Opener, error) { return &fake{name: "b", events: new(events), health: sick}, nil })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Close() }()
	if _, err = h.Secret("b"); err == nil || !strings.Contains(err.Error(), `no secret named "b", known are: a`) {
		t.Errorf("got %v", err)
	}
	if s, err := h.Secret("a"); err != nil || string(s.Newest().Value.Reveal()) != "v" {
		t.Errorf("got %v, %v", s, err)
	}
	if err = h.Open(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if got := h.Check(t.Context()); !errors.Is(got["b"], sick) || got["data_dir"] != nil {
		t.Errorf("got %v", got)
	}
	if err = os.RemoveAll(h.Dir); err != nil {
		t.Fatal(err)
	}
	if got := h.Check(t.Context())["data_dir"]; got == nil {
		t.Error("a removed data directory is healthy")
	}
}
