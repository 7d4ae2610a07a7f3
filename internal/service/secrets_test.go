package service

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/integration/await"
	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/secret/source"
)

func reveal(set *secret.Set) (all []string) {
	for _, v := range set.Versions() {
		all = append(all, string(v.Value.Reveal()))
	}
	return all
}

func TestAGeneratedKeyIsRotated(t *testing.T) {
	pgtest.Each(t, func(t *testing.T, url string) {
		settings := Settings{DataDir: t.TempDir(), Database: url}
		h, err := NewHost(t.Context(), settings, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = h.Close() }()
		set, err := h.GeneratedKey("k", func() ([]byte, error) { return []byte("one"), nil })
		if err != nil {
			t.Fatal(err)
		}
		if again, err := h.GeneratedKey("k", nil); err != nil || again != set {
			t.Errorf("asked for again it is another set, %v", err)
		}
		done, err := h.RotateSecret(t.Context(), "k", time.Hour, []byte("two"))
		if err != nil || len(done.Retiring) != 1 {
			t.Fatalf("got %+v, %v", done, err)
		}
		all := func(set *secret.Set) []string {
			snap := set.Current()
			var all []string
			for _, v := range slices.Concat(snap.Coming, snap.Versions) {
				all = append(all, string(v.Value.Reveal()))
			}
			return all
		}
		if got := all(set); !slices.Equal(got, []string{"two", "one"}) {
			t.Errorf("the set holds %q", got)
		}
		// Other instances must know a version before it signs.
		if later := done.ActiveFrom != nil && time.Until(*done.ActiveFrom) > 50*time.Second; later != (url != "") {
			t.Errorf("it signs from %v", done.ActiveFrom)
		}
		status := h.SecretStatus()
		if len(status) != 1 || status[0].Name != "k" || len(status[0].Versions) != 2 || status[0].Error != "" {
			t.Errorf("the status is %+v", status)
		}
		for _, v := range []string{"one", "two"} {
			if slices.ContainsFunc(status[0].Versions, func(s source.VersionStatus) bool { return s.Label == v }) {
				t.Errorf("the value %s is a label", v)
			}
		}
		_, err = h.RotateSecret(t.Context(), "kk", time.Hour, nil)
		if unknown, ok := errors.AsType[*UnknownSecretError](err); !ok || !strings.Contains(unknown.Error(), "known are: k") {
			t.Errorf("got %v", err)
		}
		if err = h.Close(); err != nil {
			t.Fatal(err)
		}
		next, err := NewHost(t.Context(), settings, nil, nil) // as after a restart
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = next.Close() }()
		set, err = next.GeneratedKey("k", nil)
		if err != nil || !slices.Equal(all(set), []string{"two", "one"}) {
			t.Errorf("after a restart the set holds %q, %v", all(set), err)
		}
	})
}

func TestACommandSeesARotatedKey(t *testing.T) {
	dir := t.TempDir()
	one := func() ([]byte, error) { return []byte("one"), nil }
	if _, err := GeneratedKey(dir, "k", one); err != nil {
		t.Fatal(err)
	}
	h, err := NewHost(t.Context(), Settings{DataDir: dir}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Close() }()
	if _, err = h.GeneratedKey("k", nil); err != nil {
		t.Fatal(err)
	}
	if _, err = h.RotateSecret(t.Context(), "k", time.Hour, nil); err != nil {
		t.Fatal(err)
	}
	set, err := GeneratedKey(dir, "k", one)
	if got := reveal(set); err != nil || len(got) != 2 || got[1] != "one" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestAKeyIsSeenByTheOtherInstance rotates on one instance of two.
func TestAKeyIsSeenByTheOtherInstance(t *testing.T) {
	s := pgtest.Start(t, pgtest.Fast)
	one, two := postgresHost(t, t.TempDir(), s.URL), postgresHost(t, t.TempDir(), s.URL)
	generate := func() ([]byte, error) { return []byte("first"), nil }
	mine, err := one.GeneratedKey("k", generate)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := two.GeneratedKey("k", generate)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = one.RotateSecret(t.Context(), "k", time.Hour, nil); err != nil {
		t.Fatal(err)
	}
	if err = theirs.Refresh(t.Context()); err != nil { // what the poll does within 30 s
		t.Fatal(err)
	}
	a, b := mine.Current(), theirs.Current()
	if len(a.Coming) != 1 || len(b.Coming) != 1 || !slices.Equal(a.Coming[0].Value.Reveal(), b.Coming[0].Value.Reveal()) {
		t.Error("the instances have different keys")
	}
}

func TestASecretChangesWhileItIsUsed(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "s")
	if err := os.WriteFile(file, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	settings := Settings{DataDir: filepath.Join(dir, "data"), Secrets: map[string]source.Source{"s": {File: file}}}
	h, err := NewHost(t.Context(), settings, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Close() }()
	set, err := h.Secret("s")
	if err != nil {
		t.Fatal(err)
	}
	if err = os.WriteFile(file, []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	await.For(t, "the change", func() error {
		if got := reveal(set); !slices.Equal(got, []string{"two"}) {
			return errors.New(strings.Join(got, " "))
		}
		return nil
	})
	again, err := NewHost(t.Context(), settings, nil, nil) // as in a reload
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	if other, err := again.Secret("s"); err != nil || other != set {
		t.Errorf("a reload has another set, %v", err)
	}
}
