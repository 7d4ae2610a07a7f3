package source

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

func errorf(format string, args ...any) error {
	if s := fmt.Sprintf(format, args...); s != "" {
		return fmt.Errorf("%s", s)
	}
	return nil
}

// mount is a secret as Kubernetes mounts it: files are links through ..data, which is replaced at once.
type mount struct {
	t   *testing.T
	dir string
	n   int
}

func newMount(t *testing.T, files map[string]string) *mount {
	m := &mount{t: t, dir: t.TempDir()}
	m.swap(files)
	return m
}

// swap does what kubelet does (pkg/volume/util/atomic_writer.go).
func (m *mount) swap(files map[string]string) {
	m.t.Helper()
	must := func(err error) {
		m.t.Helper()
		if err != nil {
			m.t.Fatal(err)
		}
	}
	m.n++
	old, _ := os.Readlink(filepath.Join(m.dir, kubeLink))
	now := fmt.Sprintf("..2026_11_24_%d", m.n)
	must(os.Mkdir(filepath.Join(m.dir, now), 0o755))
	for name, content := range files {
		must(os.WriteFile(filepath.Join(m.dir, now, name), []byte(content), 0o644))
	}
	must(os.Symlink(now, filepath.Join(m.dir, "..data_tmp")))
	must(os.Rename(filepath.Join(m.dir, "..data_tmp"), filepath.Join(m.dir, kubeLink)))
	for name := range files {
		if _, err := os.Lstat(filepath.Join(m.dir, name)); err != nil {
			must(os.Symlink(filepath.Join(kubeLink, name), filepath.Join(m.dir, name)))
		}
	}
	if old != "" {
		entries, err := os.ReadDir(filepath.Join(m.dir, old))
		must(err)
		for _, e := range entries {
			if _, ok := files[e.Name()]; !ok {
				must(os.Remove(filepath.Join(m.dir, e.Name())))
			}
		}
		must(os.RemoveAll(filepath.Join(m.dir, old)))
	}
}

func TestASwapIsSeen(t *testing.T) {
	m := newMount(t, map[string]string{"v1": "one", "other": "x"})
	p := newPool(t)
	file := started(t, p, Source{File: filepath.Join(m.dir, "v1"), Poll: unit.Duration(time.Minute)})
	elsewhere := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Join(m.dir, "v1"), elsewhere); err != nil {
		t.Fatal(err)
	}
	linked := started(t, p, Source{File: elsewhere, Poll: unit.Duration(time.Minute)})
	for _, next := range []string{"two", "three", "four"} {
		m.swap(map[string]string{"v1": next, "other": "x"})
		start := time.Now()
		within(t, file, next)
		within(t, linked, next)
		t.Logf("seen after %s", time.Since(start))
	}
	if _, err := file.Rotate(t.Context(), time.Hour, nil); err == nil || !strings.Contains(err.Error(), "mounted by Kubernetes: change the Secret there") {
		t.Errorf("rotating gives %v", err)
	}
	dir := open(t, p, Source{Dir: m.dir})
	if _, err := dir.Rotate(t.Context(), time.Hour, nil); err == nil || !strings.Contains(err.Error(), "mounted by Kubernetes") {
		t.Errorf("rotating the directory gives %v", err)
	}
}

// TestNoReadIsAMix swaps while many read: every read has all of one time.
func TestNoReadIsAMix(t *testing.T) {
	content := func(generation int) map[string]string {
		files := map[string]string{}
		for i := range 5 {
			files[fmt.Sprintf("v%d", generation+i)] = fmt.Sprintf("generation %d", generation)
		}
		return files
	}
	m := newMount(t, content(0))
	p := newPool(t)
	h := started(t, p, Source{Dir: m.dir, Poll: unit.Duration(time.Minute)})
	done := make(chan struct{})
	var wg sync.WaitGroup
	check := func(got []string) {
		if len(got) != 5 || len(slices.Compact(got)) != 1 {
			t.Errorf("a read saw %q", got)
		}
	}
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := h.live.read(t.Context()); err != nil {
					t.Errorf("a read failed: %v", err)
				}
				check(values(h))
			}
		})
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					check(values(h))
				}
			}
		})
	}
	for generation := range 30 {
		m.swap(content(generation + 1))
		<-time.After(5 * time.Millisecond)
	}
	close(done)
	wg.Wait()
	if got := values(h); got[0] != "generation 30" {
		t.Errorf("in the end the values are %q", got)
	}
}
