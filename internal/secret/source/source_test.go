package source

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/integration/await"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

// TestMain sees to it that no watch outlives its set.
func TestMain(m *testing.M) {
	code := m.Run()
	stacks := make([]byte, 1<<20)
	for range 50 {
		all := string(stacks[:runtime.Stack(stacks, true)])
		if !strings.Contains(all, "source.(*keeper)") && !strings.Contains(all, "fsnotify") {
			os.Exit(code)
		}
		<-time.After(20 * time.Millisecond)
	}
	_, _ = os.Stderr.WriteString("goroutines are left\n" + string(stacks))
	os.Exit(1)
}

// newPool is a pool of the test's own, whose sets end with it.
func newPool(t *testing.T) *pool {
	p := &pool{linger: time.Millisecond, lives: map[string]*live{}}
	t.Cleanup(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, l := range p.lives {
			if l.stop != nil {
				l.stop()
				<-l.ended
			}
		}
	})
	return p
}

func open(t *testing.T, p *pool, s Source) *Handle {
	t.Helper()
	h, err := p.open("x", s, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

func started(t *testing.T, p *pool, s Source) *Handle {
	t.Helper()
	h := open(t, p, s)
	if err := h.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return h
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".tmp", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		t.Fatal(err)
	}
}

func values(h *Handle) (all []string) {
	for _, v := range h.Set().Versions() {
		all = append(all, string(v.Value.Reveal()))
	}
	return all
}

// within waits for the values for a second, which is how soon a change must be seen.
func within(t *testing.T, h *Handle, want ...string) {
	t.Helper()
	deadline := time.Now().Add(time.Second)
	for !slices.Equal(values(h), want) {
		if time.Now().After(deadline) {
			t.Fatalf("after a second the values are %q, want %q", values(h), want)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "s")
	put(t, file, "one\ntwo\r\n")
	empty := filepath.Join(dir, "empty")
	put(t, empty, "\n")
	versions := filepath.Join(dir, "versions")
	if err := os.Mkdir(versions, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"v1", "v2", "v10", ".hidden"} {
		put(t, filepath.Join(versions, name), name+"\n")
	}
	retired := filepath.Join(dir, "retired")
	put(t, retired, `{"versions":[{"label":"a","value":"sesame","retire_at":"2020-01-01T00:00:00Z"}]}`)
	coming := filepath.Join(dir, "coming")
	put(t, coming, `{"versions":[{"label":"a","value":"sesame","active_from":"2999-01-01T00:00:00Z"}]}`)
	large := filepath.Join(dir, "large")
	put(t, large, strings.Repeat("sesame", secret.MaxContent))
	t.Setenv("GATEHOUSE_TEST_SECRET", "from-env")
	for name, tc := range map[string]struct {
		source  Source
		want    []string
		wantErr string
	}{
		"file":         {Source{File: file}, []string{"one\ntwo"}, ""},
		"env":          {Source{Env: "GATEHOUSE_TEST_SECRET"}, []string{"from-env"}, ""},
		"dir":          {Source{Dir: versions}, []string{"v10", "v2", "v1"}, ""},
		"no-such-file": {Source{File: "/does/not/exist", At: "Caddyfile:3"}, nil, "secret x: the file cannot be read, create it or correct the path: open /does/not/exist: no such file or directory, at Caddyfile:3"},
		"empty-file":   {Source{File: empty}, nil, "it is empty, write the secret into it"},
		"large":        {Source{File: large}, nil, "more than 64 KiB"},
		"a-directory":  {Source{File: dir}, nil, "not a regular file, name a file with the secret, or a directory with dir PATH"},
		"no-such-dir":  {Source{Dir: "/does/not/exist"}, nil, "the directory cannot be read, create it"},
		"dir-is-file":  {Source{Dir: file}, nil, "the directory cannot be read"},
		"env-not-set":  {Source{Env: "GATEHOUSE_TEST_NOT_SET"}, nil, "GATEHOUSE_TEST_NOT_SET is not set, set it before the start"},
		"both":         {Source{File: file, Env: "A"}, nil, "give one source, not both file and env"},
		"none":         {Source{}, nil, "give its source: file PATH, dir PATH"},
		"fast-poll":    {Source{File: file, Poll: unit.Duration(time.Millisecond)}, nil, "poll must be from 1s to 1m, not 1ms"},
		"slow-poll":    {Source{File: file, Poll: unit.Duration(time.Hour)}, nil, "poll must be from 1s to 1m"},
		"long-overlap": {Source{File: file, Overlap: unit.Duration(1 << 62)}, nil, "overlap must be from 0 to 10 years"},
		"env-poll":     {Source{Env: "A", Poll: unit.Duration(time.Minute)}, nil, "leave out poll or use file"},
		"all-retired":  {Source{File: retired}, nil, "all versions were to retire before"},
		"all-coming":   {Source{File: coming}, nil, "no version is active before 2999-01-01T00:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			h, err := newPool(t).open("x", tc.source, nil)
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) || strings.Contains(err.Error(), "sesame") {
					t.Fatalf("got %v, want an error with %q", err, tc.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			if got := values(h); !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestNatural(t *testing.T) {
	want := []string{"", "a", "a1", "a01", "a2", "a02b", "a10", "b", "v2", "v10", "v10.pem"}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, natural)
	for i := range got {
		if strings.ReplaceAll(got[i], "0", "") != strings.ReplaceAll(want[i], "0", "") {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	for _, pair := range [][2]string{{"2026-09", "2026-10"}, {"2026-10", "2026-11"}, {"2026-11", "2026-11-02"}, {"v2", "v10"}, {"99999999999999999998", "99999999999999999999"}} {
		if natural(pair[0], pair[1]) >= 0 || natural(pair[1], pair[0]) <= 0 || natural(pair[0], pair[0]) != 0 {
			t.Errorf("%s is not before %s", pair[0], pair[1])
		}
	}
}

func TestAFileIsSeenToChange(t *testing.T) {
	for name, write := range map[string]func(t *testing.T, path, content string){
		"renamed": put,
		"in-place": func(t *testing.T, path, content string) {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "s")
			put(t, file, "one")
			h := started(t, newPool(t), Source{File: file, Poll: unit.Duration(time.Minute)})
			for _, next := range []string{"two", "three", "four"} {
				write(t, file, next)
				within(t, h, next)
			}
		})
	}
}

func TestAReplacedDirectoryIsSeenByPolls(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "d")
	fill := func(value string) {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		put(t, filepath.Join(dir, "v1"), value)
	}
	fill("one")
	h := started(t, newPool(t), Source{Dir: dir, Poll: unit.Duration(time.Second)})
	within(t, h, "one")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	fill("two")
	await.For(t, "the poll", func() error {
		if got := values(h); !slices.Equal(got, []string{"two"}) {
			return errorf("%q", got)
		}
		return nil
	})
	put(t, filepath.Join(dir, "v2"), "three") // and it is watched again
	within(t, h, "three", "two")
}

func TestAFailedReadKeepsTheLastGood(t *testing.T) {
	var out lockedBuffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	file := filepath.Join(t.TempDir(), "s")
	put(t, file, "one")
	p := newPool(t)
	h, err := p.open("x", Source{File: file}, log)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err = h.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	used := h.Set().Newest()
	used.Used(time.Now())
	for _, bad := range []string{" \n", "", `{"versions":[{"label":"a","value":"sesame`} {
		put(t, file, bad)
		await.For(t, "the error", func() error {
			if h.Status().Error == "" {
				return errorf("none")
			}
			return nil
		})
		if got := values(h); !slices.Equal(got, []string{"one"}) {
			t.Errorf("after %q the values are %q", bad, got)
		}
		put(t, file, "one")
		await.For(t, "the recovery", func() error { return errorf("%s", h.Status().Error) })
	}
	if err = os.Remove(file); err != nil {
		t.Fatal(err)
	}
	await.For(t, "the error", func() error {
		if s := h.Status(); !strings.Contains(s.Error, "create it or correct the path") || s.AgeSeconds <= 0 || s.ReadAt == nil {
			return errorf("%+v", s)
		}
		return nil
	})
	put(t, file, "two")
	within(t, h, "two")
	text := out.String()
	for _, want := range []string{"what was read last stays in force", "can be read again", "a secret has changed"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log does not say %q: %s", want, text)
		}
	}
	if strings.Contains(text, "sesame") || strings.Contains(text, "two") {
		t.Errorf("the log holds a value: %s", text)
	}
}

func TestAReplacedValueGoesOnVerifyingForTheOverlap(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s")
	put(t, file, "one")
	h := open(t, newPool(t), Source{File: file, Overlap: unit.Duration(time.Second)})
	read := func() {
		t.Helper()
		if err := h.live.read(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	h.Set().Newest().Used(time.Now())
	put(t, file, "two")
	read()
	put(t, file, "three")
	read()
	if got := values(h); !slices.Equal(got, []string{"three", "two", "one"}) {
		t.Fatalf("got %q", got)
	}
	seen := map[string]bool{}
	for i, v := range h.Status().Versions {
		if seen[v.Label] {
			t.Errorf("the label %s is given twice", v.Label)
		}
		seen[v.Label] = true
		if i > 0 && (v.State != "retiring" || v.RetireAt == nil || v.ReplacedAt == nil || v.SafeToRetire) {
			t.Errorf("got %+v", v)
		}
	}
	if h.Set().Versions()[2].LastUsed().IsZero() {
		t.Error("the replaced value has lost its last use")
	}
	put(t, file, "one") // back again
	read()
	if got := values(h); !slices.Equal(got, []string{"one", "three", "two"}) {
		t.Errorf("got %q", got)
	}
	await.For(t, "the end of the overlap", func() error {
		if got := values(h); !slices.Equal(got, []string{"one"}) {
			return errorf("%q", got)
		}
		return nil
	})
}

func TestWithoutOverlapAReplacedValueIsGone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s")
	put(t, file, "one")
	h := open(t, newPool(t), Source{File: file})
	put(t, file, "two")
	if err := h.live.read(t.Context()); err != nil || !slices.Equal(values(h), []string{"two"}) {
		t.Errorf("got %q, %v", values(h), err)
	}
}

func TestRefresh(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s")
	put(t, file, "one")
	h := open(t, newPool(t), Source{File: file})
	put(t, file, "two")
	if err := h.Set().Refresh(t.Context()); err != nil || !slices.Equal(values(h), []string{"two"}) {
		t.Errorf("got %q, %v", values(h), err)
	}
	put(t, file, "three")
	if err := h.Refresh(t.Context()); err != nil || !slices.Equal(values(h), []string{"two"}) {
		t.Errorf("a second one within a second has read: %q, %v", values(h), err)
	}
}

func TestWarnings(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	t.Setenv("GATEHOUSE_TEST_SECRET", "from-env")
	file := filepath.Join(t.TempDir(), "s")
	put(t, file, "one")
	p := newPool(t)
	for range 2 {
		for _, s := range []Source{{File: file}, {Env: "GATEHOUSE_TEST_SECRET"}} {
			h, err := p.open("x", s, log)
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
		}
	}
	if got := strings.Count(out.String(), "keep it in a file, secret x file PATH"); got != 1 || strings.Contains(out.String(), "chmod") {
		t.Errorf("of env is warned %d times: %s", got, &out)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	h, err := p.open("x", Source{File: file}, log)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	_ = h.live.read(t.Context())
	if got := strings.Count(out.String(), "chmod o-r "+file); got != 1 {
		t.Errorf("of the mode is warned %d times: %s", got, &out)
	}
	for _, leak := range []string{"one", "from-env"} {
		if strings.Contains(out.String(), "="+leak) {
			t.Errorf("a value is logged: %s", &out)
		}
	}
}

// lockedBuffer is a log that goroutines write to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
