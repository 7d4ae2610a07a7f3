package capture

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/pressure"
)

// load is a sampler that always says the same, now.
type load struct{ cpu *atomic.Int64 }

func (l load) Last() pressure.Sample {
	return pressure.Sample{CPU: float64(l.cpu.Load()) / 100, At: time.Now()}
}
func (load) Close() {}

// watched is a pool under a load in percent, whose profiles take their time and hold nothing.
func watched() (p *pool, percent *atomic.Int64, profiles *atomic.Int32, busy *atomic.Bool) {
	percent, profiles, busy = new(atomic.Int64), new(atomic.Int32), new(atomic.Bool)
	return &pool{
		sampler: func() Sampler { return load{percent} },
		profile: func(ctx context.Context, length time.Duration) ([]byte, bool) {
			if busy.Load() {
				return nil, false
			}
			profiles.Add(1)
			select {
			case <-time.After(length):
			case <-ctx.Done():
			}
			return []byte("no profile"), true
		},
	}, percent, profiles, busy
}

func hold(t *testing.T, p *pool, c *Config, dir string) (*Hold, *bytes.Buffer, chan Captured) {
	t.Helper()
	var b bytes.Buffer
	events := make(chan Captured, 10)
	h := p.hold(&Hold{c.settings(dir), slog.New(slog.NewTextHandler(&b, nil)), func(c Captured) { events <- c }})
	t.Cleanup(func() { p.release(h) })
	return h, &b, events
}

func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // synthetic time
	synctest.Wait()
}

func captures(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestCapture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, percent, profiles, _ := watched()
		dir := filepath.Join(t.TempDir(), "profiles")
		h, log, events := hold(t, p, nil, dir)
		pass(time.Hour)
		if got := captures(t, dir); got != nil {
			t.Fatalf("without load: got %v", got)
		}
		percent.Store(95)
		pass(61 * time.Second)
		got := captures(t, dir)
		if len(got) != 1 || !isCapture(got[0]) {
			t.Fatalf("got %v, want one capture", got)
		}
		if diff := cmp.Diff([]string{"cpu.pprof", "goroutines.txt", "routes.txt", "top.txt"}, captures(t, filepath.Join(dir, got[0]))); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		want := Captured{Path: filepath.Join(dir, got[0]), Cause: "cpu over 90% for 30s", CPU: 0.95}
		if diff := cmp.Diff(want, <-events); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}

		pass(9 * time.Minute)
		if n := profiles.Load(); n != 1 {
			t.Errorf("in the cool-down: got %d profiles, want 1", n)
		}
		pass(2 * time.Minute)
		if n := profiles.Load(); n != 2 {
			t.Errorf("after the cool-down, still under load: got %d profiles, want 2", n)
		}
		p.release(h)
		if n := strings.Count(log.String(), "\n"); n != 2 {
			t.Errorf("got %d lines, want one for each capture:\n%s", n, log)
		}
	})
}

func TestReloadKeepsTheWatcherAndItsCooldown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, percent, profiles, _ := watched()
		percent.Store(100)
		first, second := t.TempDir(), t.TempDir()
		old, _, _ := hold(t, p, nil, first)
		pass(40 * time.Second) // in the middle of a capture
		now, _, _ := hold(t, p, nil, second)
		p.release(old)
		p.release(old)
		pass(5 * time.Minute)
		if n := profiles.Load(); n != 1 || len(captures(t, second)) != 1 || len(captures(t, first)) != 0 {
			t.Errorf("got %d profiles, %v and %v, want one in the new directory", n, captures(t, first), captures(t, second))
		}
		p.release(now) // all are gone, and another comes
		hold(t, p, nil, second)
		pass(5 * time.Minute)
		if n := profiles.Load(); n != 1 {
			t.Errorf("the cool-down was forgotten: got %d profiles", n)
		}
		pass(time.Minute)
		if n := profiles.Load(); n != 2 {
			t.Errorf("after the cool-down: got %d profiles, want 2", n)
		}
	})
}

func TestRefusedReloadGivesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, percent, _, _ := watched()
		kept, refused := t.TempDir(), t.TempDir()
		hold(t, p, nil, kept)
		h, _, _ := hold(t, p, nil, refused)
		p.release(h)
		percent.Store(100)
		pass(2 * time.Minute)
		if len(captures(t, kept)) != 1 || len(captures(t, refused)) != 0 {
			t.Errorf("got %v and %v, want one capture in the first directory", captures(t, kept), captures(t, refused))
		}
	})
}

func TestBusyProfilerIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, percent, profiles, busy := watched()
		dir := t.TempDir()
		_, log, _ := hold(t, p, nil, dir)
		busy.Store(true)
		percent.Store(100)
		pass(time.Minute)
		if profiles.Load() != 0 || log.Len() > 0 {
			t.Errorf("got %d profiles and %q", profiles.Load(), log)
		}
		busy.Store(false)
		pass(busyWait + 31*time.Second)
		if got := captures(t, dir); len(got) != 1 {
			t.Errorf("got %v, want one capture", got)
		}
	})
}

func TestReleaseGivesUpTheCapture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, percent, profiles, _ := watched()
		dir := t.TempDir()
		h, _, _ := hold(t, p, nil, dir)
		percent.Store(100)
		pass(40 * time.Second)
		began := time.Now()
		p.release(h)
		if n := profiles.Load(); n != 1 || time.Since(began) != 0 || len(captures(t, dir)) != 0 {
			t.Errorf("got %d profiles, %s, %v", n, time.Since(began), captures(t, dir))
		}
	})
}

func TestWhatCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, percent, profiles, _ := watched()
		percent.Store(100)
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		h, log, events := hold(t, p, nil, file)
		pass(10 * time.Minute)
		p.release(h)
		if n := profiles.Load(); n != 1 || len(events) != 0 || strings.Count(log.String(), "level=ERROR") != 1 {
			t.Errorf("got %d profiles, %d events, and the log:\n%s", n, len(events), log)
		}
	})
}

func TestSaveKeepsTheNewest(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"mine-cpu", ".new-left", "notes"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	for i := range 5 {
		if _, err := save(dir, 2, now.Add(time.Duration(i)*time.Second), map[string][]byte{"a": nil}); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"20270301T120003.000Z-cpu", "20270301T120004.000Z-cpu", "mine-cpu", "notes"}
	if diff := cmp.Diff(want, captures(t, dir)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// burnForCapture uses a processor until stop is closed.
//
//go:noinline
func burnForCapture(stop <-chan struct{}) (sum uint64) {
	for {
		select {
		case <-stop:
			return sum
		default:
		}
		for i := range uint64(1 << 16) {
			sum = sum*31 + i
		}
	}
}

// TestRealOverload lets a function use a processor and finds it named in what is captured.
func TestRealOverload(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "profiles")
	events := make(chan Captured, 1)
	stop := make(chan struct{})
	burnt := make(chan struct{})
	go func() {
		defer close(burnt)
		burnForCapture(stop)
	}()
	defer func() { close(stop); <-burnt }()
	h := Watch(&Config{CPU: &CPU{Over: 0.02, For: unit.Duration(time.Second / 2)}, Length: unit.Duration(time.Second), Keep: 1}, dir,
		slog.New(slog.DiscardHandler), func(c Captured) { events <- c })
	defer h.Release()
	var got Captured
	select {
	case got = <-events:
	case <-time.After(time.Minute):
		t.Fatal("nothing was captured in a minute")
	}
	if !strings.HasSuffix(got.Top, "burnForCapture") {
		t.Errorf("the top function is %q", got.Top)
	}
	text, err := os.ReadFile(filepath.Join(got.Path, "top.txt"))
	if err != nil || strings.Count(string(text), ".burnForCapture\n") != 2 {
		t.Errorf("%v, want the function in both tables:\n%s", err, text)
	}
	for name, want := range map[string]string{"goroutines.txt": "burnForCapture", "routes.txt": "none"} {
		b, err := os.ReadFile(filepath.Join(got.Path, name))
		if err != nil || !bytes.Contains(b, []byte(want)) {
			t.Errorf("%s: %v, want %s in:\n%s", name, err, want, b)
		}
	}
	t.Logf("%+v\n%s", got, text)
}
