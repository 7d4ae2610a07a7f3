package source

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

func TestRotateAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s")
	put(t, file, "one\n")
	h := started(t, newPool(t), Source{File: file})
	h.Set().Newest().Used(time.Now())
	done, err := h.Rotate(t.Context(), time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := values(h)
	if len(got) != 2 || len(got[0]) != 64 || got[1] != "one" {
		t.Fatalf("the values are %q", got)
	}
	if len(done.Retiring) != 1 || done.Retiring[0].Label != "s" || time.Until(*done.Retiring[0].RetireAt) < 59*time.Minute || done.Newest != h.Set().Newest().Label {
		t.Errorf("got %+v", done)
	}
	if h.Set().Versions()[1].LastUsed().IsZero() {
		t.Error("the last use is lost")
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the mode is %v, %v", info.Mode(), err)
	}
	if _, err = h.Rotate(t.Context(), 2*time.Hour, []byte("mine\n")); err != nil {
		t.Fatal(err)
	}
	if got := values(h); len(got) != 3 || got[0] != "mine" || got[2] != "one" {
		t.Errorf("the values are %q", got)
	}
	again := open(t, newPool(t), Source{File: file}) // as after a restart
	if got := values(again); len(got) != 3 || got[0] != "mine" {
		t.Errorf("after a restart the values are %q", got)
	}
	if first := again.Set().Versions()[2]; time.Until(first.RetireAt) > time.Hour {
		t.Errorf("a second rotation lets the first value live until %s", first.RetireAt)
	}
	if _, err = h.Rotate(t.Context(), 0, nil); err != nil || len(values(h)) != 1 {
		t.Errorf("without an overlap: %q, %v", values(h), err)
	}
	for want, value := range map[string]string{"it is empty": " \n", "more than 64 KiB": strings.Repeat("x", 1<<17), "one that the secret already has": values(h)[0]} {
		_, err := h.Rotate(t.Context(), time.Hour, []byte(value))
		if _, ok := errors.AsType[*NotRotatedError](err); !ok || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// TestRotateWithoutAnOverlap retires at once what the overlap of the source would keep.
func TestRotateWithoutAnOverlap(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "file"), "one")
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "d", "v1"), "one")
	for _, s := range []Source{{File: filepath.Join(dir, "file")}, {Dir: filepath.Join(dir, "d")}} {
		s.Overlap = unit.Duration(time.Hour)
		h := started(t, newPool(t), s)
		if done, err := h.Rotate(t.Context(), 0, nil); err != nil || len(done.Retiring) != 0 || len(values(h)) != 1 {
			t.Errorf("got %+v, %q, %v", done, values(h), err)
		}
	}
}

func TestRotateADirectory(t *testing.T) {
	for last, want := range map[string]string{
		"v9": "v10", "v09": "v10", "key.pem": "key.pem-2", "jwt-1.pem": "jwt-2.pem", "stripe": "stripe-2",
		"2020-11": time.Now().UTC().Format("2006-01"), "2020-11-05": time.Now().UTC().Format("2006-01-02"),
	} {
		t.Run(last, func(t *testing.T) {
			dir := t.TempDir()
			put(t, filepath.Join(dir, last), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
			h := started(t, newPool(t), Source{Dir: dir})
			done, err := h.Rotate(t.Context(), time.Hour, nil)
			if err != nil || done.Newest != want {
				t.Fatalf("got %+v, %v", done, err)
			}
			got := values(h)
			if len(got) != 2 || !strings.HasPrefix(got[0], "whsec_") || got[1] != "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" {
				t.Errorf("the values are %q", got)
			}
			if versions := h.Set().Versions(); versions[1].RetireAt.IsZero() || !versions[0].RetireAt.IsZero() {
				t.Errorf("got %+v", versions)
			}
			if _, err = h.Rotate(t.Context(), 0, nil); err != nil || len(values(h)) != 1 {
				t.Errorf("again: %q, %v", values(h), err)
			}
		})
	}
}

func TestRotateRefuses(t *testing.T) {
	t.Setenv("GATEHOUSE_TEST_SECRET", "from-env")
	dir := t.TempDir()
	for name, content := range map[string]string{
		"jwk": `{"kty":"oct","k":"sesame"}`, "public": "-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n",
		"broken": "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n", "cut": "-----BEGIN PRIVATE KEY-----\nsesame",
	} {
		put(t, filepath.Join(dir, name), content)
	}
	for name, tc := range map[string]struct {
		source Source
		want   string
	}{
		"env":    {Source{Env: "GATEHOUSE_TEST_SECRET"}, "it is the environment variable GATEHOUSE_TEST_SECRET"},
		"jwk":    {Source{File: filepath.Join(dir, "jwk")}, "JSON, such as a JWK: a new one of its kind is made by whoever owns it: give the value with --value -"},
		"public": {Source{File: filepath.Join(dir, "public")}, `a PEM block of the type "PUBLIC KEY"`},
		"broken": {Source{File: filepath.Join(dir, "broken")}, "a private key that cannot be read"},
		"cut":    {Source{File: filepath.Join(dir, "cut")}, "PEM that cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, newPool(t), tc.source)
			before := values(h)
			_, err := h.Rotate(t.Context(), time.Hour, nil)
			if _, ok := errors.AsType[*NotRotatedError](err); !ok || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "sesame") {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if !slices.Equal(values(h), before) {
				t.Error("something has changed")
			}
		})
	}
}

func TestNewKeysAreLikeTheOld(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8 := func(key any) []byte {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	sec1, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	for name, old := range map[string][]byte{
		"ed25519": pkcs8(ed), "p256": pkcs8(ec), "rsa": pkcs8(rs),
		"sec1":  pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}),
		"pkcs1": pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rs)}),
	} {
		got, err := newLike(old)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		a, _ := pem.Decode(old)
		b, _ := pem.Decode(got)
		if b == nil || a.Type != b.Type || slices.Equal(a.Bytes, b.Bytes) {
			t.Errorf("%s: got %q", name, got)
			continue
		}
		was, _, _ := parseKey(a)
		is, _, err := parseKey(b)
		if err != nil || kindOf(was) != kindOf(is) {
			t.Errorf("%s: %s became %s, %v", name, kindOf(was), kindOf(is), err)
		}
	}
}

func kindOf(key any) string {
	switch key := key.(type) {
	case ed25519.PrivateKey:
		return "ed25519"
	case *ecdsa.PrivateKey:
		return key.Curve.Params().Name
	case *rsa.PrivateKey:
		return "rsa " + string(rune('0'+key.N.BitLen()/1024))
	}
	return "?"
}

func TestSafeToRetire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		put(t, filepath.Join(dir, "v1"), "one")
		h := open(t, newPool(t), Source{Dir: dir})
		old := h.Set().Newest()
		safe := func(label string) bool {
			for _, v := range h.Status().Versions {
				if v.Label == label {
					return v.SafeToRetire
				}
			}
			t.Fatalf("no version %s", label)
			return false
		}
		<-time.After(48 * time.Hour)
		if safe("v1") {
			t.Error("the newest is safe to retire")
		}
		old.Used(time.Now())
		put(t, filepath.Join(dir, "v2"), "two")
		if err := h.live.read(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-time.After(23 * time.Hour)
		if safe("v1") {
			t.Error("used 23 hours ago it is safe to retire")
		}
		<-time.After(2 * time.Hour)
		if !safe("v1") || safe("v2") {
			t.Error("used 25 hours ago it is not safe to retire")
		}
		put(t, filepath.Join(dir, "v0"), "zero") // not known for long
		if err := h.live.read(t.Context()); err != nil {
			t.Fatal(err)
		}
		if safe("v0") {
			t.Error("known for no time it is safe to retire")
		}
	})
}

func TestTimeLabels(t *testing.T) {
	now := time.Date(2026, 11, 24, 1, 2, 3, 0, time.UTC)
	old := []secret.Version{{Label: "2026-11-24T01:02:03Z"}}
	if got := timeLabel(old, now); got != "2026-11-24T01:02:03Z-2" {
		t.Errorf("got %s", got)
	}
}

func TestWhatIsLeftAfterARotation(t *testing.T) {
	now := time.Now().UTC().Truncate(time.Second)
	version := func(label string, from, until time.Duration) secret.Version {
		v := secret.Version{Label: label, Value: secret.NewValue([]byte("value of " + label))}
		if from != 0 {
			v.ActiveFrom = now.Add(from)
		}
		if until != 0 {
			v.RetireAt = now.Add(until)
		}
		return v
	}
	ended := version("a", 0, 0)
	ended.RetireAt = now
	for name, tc := range map[string]struct {
		lead, overlap time.Duration
		old, want     []secret.Version
	}{
		"at-once": {0, time.Hour, []secret.Version{version("a", 0, 0)}, []secret.Version{version("new", 0, 0), version("a", 0, time.Hour)}},
		"later":   {time.Minute, time.Hour, []secret.Version{version("a", 0, 0)}, []secret.Version{version("new", time.Minute, 0), version("a", 0, time.Hour)}},
		"an-end-is-not-moved": {0, time.Hour, []secret.Version{version("a", 0, time.Minute), version("b", -time.Hour, 2*time.Hour)},
			[]secret.Version{version("new", 0, 0), version("a", 0, time.Minute), version("b", -time.Hour, time.Hour)}},
		"what-comes-stays": {time.Minute, time.Hour, []secret.Version{version("next", time.Hour, 0), version("a", 0, 0)},
			[]secret.Version{version("next", time.Hour, 0), version("new", time.Minute, 0), version("a", 0, time.Hour)}},
		"twice-within-the-lead": {time.Minute, time.Hour, []secret.Version{version("just-made", 50*time.Second, 0), version("a", 0, time.Hour)},
			[]secret.Version{version("new", time.Minute, 0), version("just-made", 50*time.Second, time.Hour), version("a", 0, time.Hour)}},
		"what-is-over-goes": {0, 0, []secret.Version{version("a", 0, 0), version("b", 0, -time.Hour)}, []secret.Version{version("new", 0, 0), ended}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := rotated(tc.old, now, tc.lead, tc.overlap, "new", []byte("value of new"))
			if err != nil || len(got) != len(tc.want) {
				t.Fatalf("got %v, %v", labels(got), err)
			}
			for i, w := range tc.want {
				if g := got[i]; g.Label != w.Label || !g.ActiveFrom.Equal(w.ActiveFrom) || !g.RetireAt.Equal(w.RetireAt) {
					t.Errorf("%d: got %s from %s until %s, want %s from %s until %s", i, g.Label, g.ActiveFrom, g.RetireAt, w.Label, w.ActiveFrom, w.RetireAt)
				}
			}
			content, err := secret.Format(got)
			if err != nil {
				t.Fatal(err)
			}
			if _, err = secret.Parse("", content); err != nil {
				t.Errorf("it is not read back: %v", err)
			}
		})
	}
}

// TestRotationsAtOnce loses no version, from one holder of the set and from another one, as in another process.
func TestRotationsAtOnce(t *testing.T) {
	for kind, of := range map[string]func(path string) Source{
		"file": func(path string) Source { return Source{File: filepath.Join(path, "v1")} },
		"dir":  func(path string) Source { return Source{Dir: path} },
	} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			put(t, filepath.Join(dir, "v1"), "one")
			handles := []*Handle{open(t, newPool(t), of(dir)), open(t, newPool(t), of(dir))}
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					if _, err := handles[i%2].Rotate(t.Context(), time.Hour, nil); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if got := values(open(t, newPool(t), of(dir))); len(got) != 9 || got[8] != "one" {
				t.Errorf("got %d versions, want 9: %q", len(got), got)
			}
		})
	}
}

func TestARefusedRotationOfADirectoryChangesNothing(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "v1"), strings.Repeat("\xff\x01", 16))
	h := open(t, newPool(t), Source{Dir: dir})
	for range 2 {
		_, err := h.Rotate(t.Context(), time.Hour, nil)
		if _, ok := errors.AsType[*NotRotatedError](err); !ok || !strings.Contains(err.Error(), "is no text") {
			t.Errorf("got %v", err)
		}
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("got the files %v, %v", files, err)
	}
	if err := os.Mkdir(filepath.Join(dir, "v2"), 0o700); err != nil { // in the way of the next version
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "v1"), "one")
	if _, err := h.Rotate(t.Context(), time.Hour, nil); err == nil || !strings.Contains(err.Error(), "v2 is there already") {
		t.Errorf("got %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "v1")); err != nil || string(got) != "one" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestRotationKeepsTheModeAndTidies(t *testing.T) {
	dir := t.TempDir()
	file, left, young, other := filepath.Join(dir, "s"), filepath.Join(dir, ".new-123"), filepath.Join(dir, ".new-124"), filepath.Join(dir, ".new-mine")
	for _, path := range []string{file, left, young, other} {
		put(t, path, "one")
	}
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	before := time.Now().Add(-time.Hour)
	for _, path := range []string{left, other} {
		if err := os.Chtimes(path, before, before); err != nil {
			t.Fatal(err)
		}
	}
	h := open(t, newPool(t), Source{File: file})
	if _, err := h.Rotate(t.Context(), time.Hour, nil); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the mode is %v, %v, want 0640", info.Mode(), err)
	}
	for path, want := range map[string]bool{left: false, young: true, other: true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: there is one: %v, want %v", path, err == nil, want)
		}
	}
}

// TestAFaultIsInTheStatus is about a version that was read and is of no use.
func TestAFaultIsInTheStatus(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s")
	put(t, file, "one")
	h := open(t, newPool(t), Source{File: file})
	d := &secret.Derived[int]{Set: h.Set(), Make: func(*secret.Snapshot) (int, error) { return 0, errors.New("too short") }}
	if _, err := d.Get(); err == nil || h.Status().Error != "too short" {
		t.Errorf("got %v, and the status %+v", err, h.Status())
	}
	put(t, file, "two")
	if err := h.live.read(t.Context()); err != nil || h.Status().Error != "" {
		t.Errorf("got %v, and the status %+v", err, h.Status())
	}
}
