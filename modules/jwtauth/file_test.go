package jwtauth

import (
	"bytes"
	"crypto/ed25519"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// replace puts content in the place of a file in one step, as those do who renew keys.
func replace(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+"~", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+"~", path); err != nil {
		t.Fatal(err)
	}
}

func TestKeysOfAFileAreLive(t *testing.T) {
	firstPublic, first, _ := ed25519.GenerateKey(nil)
	secondPublic, second, _ := ed25519.GenerateKey(nil)
	path := filepath.Join(t.TempDir(), "keys.json")
	replace(t, path, setOf(edMember("k1", firstPublic)))
	var log bytes.Buffer
	f, err := newFile(path, slog.New(slog.NewTextHandler(&log, nil)), func(raw []byte) (*keySet, error) { return parseJWKS(raw, true) })
	if err != nil {
		t.Fatal(err)
	}
	v := testVerifier(Trusted{}, Policy{}, f)
	now := time.Now()
	code := func(kid string, private ed25519.PrivateKey) problem.Code {
		t.Helper()
		if _, _, err := v.check(t.Context(), ed(t, kid, private, nil), now); err != nil {
			return problem.From(err).Code
		}
		return ""
	}
	if got := code("k1", first); got != "" {
		t.Fatalf("the first key: got %s", got)
	}
	both := f.set.Load()

	replace(t, path, setOf(edMember("k1", firstPublic), edMember("k2", secondPublic)))
	if got := code("k2", second); got != problem.InvalidToken {
		t.Errorf("a new key, read a moment ago: got %q", got)
	}
	now = now.Add(lookSoonest)
	if got := code("k2", second); got != "" {
		t.Errorf("a new key: got %s", got)
	}
	if f.set.Load() == both {
		t.Error("the set is still the same")
	}

	both = f.set.Load()
	replace(t, path, "{")
	now = now.Add(lookEvery)
	_, _ = f.newer(t.Context(), now, nil, unknownKid)
	for range 3 {
		now = now.Add(lookEvery)
		_, _ = f.newer(t.Context(), now, nil, unknownKid)
	}
	if got := code("k1", first); got != "" || f.set.Load() != both {
		t.Errorf("with a broken file: got %q", got)
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 1 {
		t.Errorf("a file that stays broken is told of %d times, want once:\n%s", n, log.String())
	}

	replace(t, path, setOf(edMember("k2", secondPublic)))
	now = now.Add(lookEvery)
	code("k1", first) // begins a look that it does not wait for
	for tick, n := time.NewTicker(time.Millisecond), 0; f.set.Load() == both && n < 5000; n++ {
		<-tick.C
	}
	if got := code("k1", first); got != problem.InvalidToken {
		t.Errorf("the key that was taken out: got %q", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	now = now.Add(lookEvery)
	_, _ = f.newer(t.Context(), now, nil, unknownKid)
	if got := code("k2", second); got != "" {
		t.Errorf("without the file: got %s", got)
	}
}

func TestAPipeIsNotWaitedFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Skip(err)
	}
	if _, err := newFile(path, slog.New(slog.DiscardHandler), publicKey); err == nil || !strings.Contains(err.Error(), "is not a file") {
		t.Errorf("got %v", err)
	}
}

func TestAFileThatSaysTheSameKeepsItsSet(t *testing.T) {
	public, _, _ := ed25519.GenerateKey(nil)
	path := filepath.Join(t.TempDir(), "keys.json")
	replace(t, path, setOf(edMember("k1", public)))
	f, err := newFile(path, slog.New(slog.DiscardHandler), func(raw []byte) (*keySet, error) { return parseJWKS(raw, true) })
	if err != nil {
		t.Fatal(err)
	}
	set := f.set.Load()
	replace(t, path, setOf(edMember("k1", public)))
	_, _ = f.newer(t.Context(), time.Now().Add(lookEvery), nil, unknownKid)
	if f.set.Load() != set {
		t.Error("tokens that were verified would be verified again")
	}
}
