package source

import (
	"os"
	"path/filepath"
	"testing"
)

// TestAFileIsMadeAtTheFirstStart: a look at the configuration makes nothing, the start does, and no later one changes it.
func TestAFileIsMadeAtTheFirstStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data", "orders")
	s := Source{File: path, Generate: true}
	h := open(t, newPool(t), s)
	if !missing(path) || len(h.Set().Versions()) != 0 {
		t.Fatal("it was made before the start")
	}
	if err := h.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("got %v (%v), want mode 0600", info, err)
	}
	made := string(h.Set().Newest().Value.Reveal())
	if len(made) != 64 {
		t.Errorf("got %d bytes, want 32 random ones in hexadecimal", len(made))
	}
	again := open(t, newPool(t), s)
	if err = again.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if string(again.Set().Newest().Value.Reveal()) != made {
		t.Error("a second start changed it")
	}
}

func TestOnlyAFileIsMade(t *testing.T) {
	if err := (&Source{Env: "X", Generate: true}).Validate(); err == nil {
		t.Error("a variable was accepted")
	}
	h, err := newPool(t).open("x", Source{File: "/dev/null/x", Generate: true}, nil)
	if err == nil {
		err = h.Start(t.Context())
		h.Close()
	}
	if err == nil {
		t.Error("a place where nothing can be made was accepted")
	}
}
