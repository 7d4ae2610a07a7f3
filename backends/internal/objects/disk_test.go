package objects_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/objects"
)

// TestKeysAreNotPaths stores objects under keys that would escape, collide or overflow as paths.
func TestKeysAreNotPaths(t *testing.T) {
	s := start(t)
	keys := []string{"../../etc/passwd", "objects/../../x", "objects//x", "objects/x", "objects/x/y", "./x", "objects/\x00", "objects/a\nb",
		strings.Repeat("long/", 200), strings.Repeat("n", 400), "objects/ü", "objects/\xff", "tmp/x", "blobs/x", "CON", "%2e%2e/x", "objects/x?y#z"}
	for _, key := range keys {
		if resp := s.put(t, key, "text/plain", "is "+key, nil); resp.StatusCode != http.StatusOK {
			t.Errorf("PUT %q: %d %s", key, resp.StatusCode, body(t, resp))
		}
	}
	for _, key := range keys {
		if got := body(t, s.get(t, key, objects.GetSpec{}, nil)); got != "is "+key {
			t.Errorf("GET %q: %q", key, got)
		}
	}
	outside, err := os.ReadDir(filepath.Dir(s.root))
	if err != nil || len(outside) != 1 {
		t.Errorf("beside the store: %v, %v", outside, err)
	}
}

func TestFullDisk(t *testing.T) {
	s := start(t)
	s.SetFloor(1 << 62)
	wantError(t, s.put(t, "objects/a", "text/plain", "12345", nil), http.StatusInsufficientStorage, "InsufficientStorage")
	if err := s.Check(t.Context()); err == nil {
		t.Error("Check is healthy without room")
	}
	s.SetFloor(0)
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
	if resp := s.put(t, "objects/a", "text/plain", "12345", nil); resp.StatusCode != http.StatusOK {
		t.Errorf("PUT with room: %d", resp.StatusCode)
	}
}

func TestDamagedObjectIsNotServed(t *testing.T) {
	s := start(t)
	s.put(t, "objects/a", "text/plain", strings.Repeat("x", 1000), nil)
	files, err := filepath.Glob(filepath.Join(s.root, "blobs", "*", "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, size := range []int64{1100, 1000, 5, 0} {
		if err = os.Truncate(files[0], size); err != nil {
			t.Fatal(err)
		}
		wantError(t, s.get(t, "objects/a", objects.GetSpec{}, nil), http.StatusInternalServerError, "InternalError")
		if _, err = s.Stat(context.Background(), "objects/a"); err == nil || errors.Is(err, objects.ErrNotFound) {
			t.Errorf("Stat of %d bytes: %v, want an error", size, err)
		}
	}
}
