package source

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

func TestAReloadGoesOnWithTheSet(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s")
	put(t, file, "one")
	p := newPool(t)
	p.linger = time.Minute
	source := Source{File: file, Overlap: unit.Duration(time.Hour), At: "Caddyfile:3"}
	first, err := p.open("x", source, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err = first.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	first.Set().Newest().Used(time.Now())
	put(t, file, "two")
	within(t, first, "two", "one")

	source.At = "Caddyfile:4"
	second, err := p.open("x", source, nil)
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	first.Close() // once is enough
	if err = second.Start(t.Context()); err != nil || second.Set() != first.Set() {
		t.Fatalf("another set after a reload, %v", err)
	}
	second.Close()
	third := open(t, p, source) // within the time for which it lingers
	if third.Set() != first.Set() || third.Set().Versions()[1].LastUsed().IsZero() {
		t.Error("the uses are lost")
	}
	put(t, file, "three")
	within(t, third, "three", "two", "one")
	if other := open(t, p, Source{File: file}); other.Set() == third.Set() {
		t.Error("other settings share the set")
	}
}

func TestASetEndsAfterItLingered(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s")
	put(t, file, "one")
	p := newPool(t)
	h := started(t, p, Source{File: file})
	before, ended := h.Set(), h.live.ended
	h.Close()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("the watch goes on")
	}
	if again := open(t, p, Source{File: file}); again.Set() == before {
		t.Error("a set that ended is used again")
	}
}

func TestNothingRunsBeforeStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s")
	put(t, file, "one")
	p := newPool(t)
	h := open(t, p, Source{File: file})
	if h.live.stop != nil {
		t.Error("it is watched")
	}
	h.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.lives) != 0 {
		t.Error("a set that was only looked at stays")
	}
}

func TestSetsOfOneDirectoryShareItsWatch(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	put(t, a, "one")
	put(t, b, "one")
	p := newPool(t)
	first, second := started(t, p, Source{File: a, Poll: unit.Duration(time.Minute)}), started(t, p, Source{File: b, Poll: unit.Duration(time.Minute)})
	for _, next := range []string{"two", "three"} {
		put(t, a, next)
		put(t, b, next)
		within(t, first, next)
		within(t, second, next)
	}
	ended := first.live.ended
	first.Close()
	<-ended
	put(t, b, "four")
	within(t, second, "four")
}

// TestASourceIsReadOnceForAll opens as a configuration does, and then its host.
func TestASourceIsReadOnceForAll(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s")
	put(t, file, "one")
	p := newPool(t)
	first := open(t, p, Source{File: file})
	put(t, file, "two")
	second := open(t, p, Source{File: file})
	if got := values(second); !slices.Equal(got, []string{"one"}) {
		t.Errorf("it is read again before the start: %q", got)
	}
	if err := second.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	within(t, first, "two")
	if err := os.WriteFile(file, []byte(" \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if h, err := p.open("x", Source{File: file}, nil); err == nil { // as in a reload
		h.Close()
		t.Error("a source that is watched is not read when it is opened")
	}
}

func TestAFileOfItsOwnerEndsWithIt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "k")
	put(t, file, "one")
	h, err := OpenFile("x", file, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err = h.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended := h.live.ended
	h.Close()
	select {
	case <-ended:
	default:
		t.Error("it is watched after the last user has closed it")
	}
	if _, err = OpenFile("x", file+"-other", nil); err == nil {
		t.Error("no error for a file that is not there")
	}
}
