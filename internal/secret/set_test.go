package secret

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var start = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// clock is a set's time, which a test moves.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = t
}

func newTestSet(versions ...Version) (*Set, *clock) {
	c := &clock{t: start}
	s := &Set{Name: "s", now: c.now}
	s.Replace(versions)
	return s, c
}

func version(label string) Version {
	return Version{Label: label, Value: NewValue([]byte("value of " + label))}
}

func labels(versions []Version) (all []string) {
	for _, v := range versions {
		all = append(all, v.Label)
	}
	return all
}

func TestVersionsComeAndGoByTheClock(t *testing.T) {
	coming, now, old := version("coming"), version("now"), version("old")
	coming.ActiveFrom = start.Add(time.Hour)
	old.RetireAt = start.Add(2 * time.Hour)
	s, c := newTestSet(coming, now, old)
	for _, step := range []struct {
		at             time.Duration
		active, coming []string
	}{
		{0, []string{"now", "old"}, []string{"coming"}},
		{time.Hour - 1, []string{"now", "old"}, []string{"coming"}},
		{time.Hour, []string{"coming", "now", "old"}, nil},
		{2*time.Hour - 1, []string{"coming", "now", "old"}, nil},
		{2 * time.Hour, []string{"coming", "now"}, nil},
		{1000 * time.Hour, []string{"coming", "now"}, nil},
	} {
		c.set(start.Add(step.at))
		snap := s.Current()
		if got := labels(snap.Versions); !slices.Equal(got, step.active) {
			t.Errorf("after %s: active are %v, want %v", step.at, got, step.active)
		}
		if got := labels(snap.Coming); !slices.Equal(got, step.coming) {
			t.Errorf("after %s: coming are %v, want %v", step.at, got, step.coming)
		}
		if newest := s.Newest(); newest.Label != step.active[0] {
			t.Errorf("after %s: %s signs, want %s", step.at, newest.Label, step.active[0])
		}
		if s.Current() != snap {
			t.Errorf("after %s: two snapshots of the same", step.at)
		}
	}
}

func TestAnEmptySetHasNothing(t *testing.T) {
	s, _ := newTestSet()
	if _, ok := s.Current().Newest(); ok || !s.Newest().Value.Empty() || len(s.Versions()) != 0 {
		t.Error("a set without versions has one")
	}
	s.Newest().Used(start) // of no version
	if err := s.Refresh(t.Context()); err != nil {
		t.Errorf("a set without a source: %v", err)
	}
}

func TestReplaceKeepsTheLastUse(t *testing.T) {
	s, _ := newTestSet(version("a"))
	s.Newest().Used(start)
	renamed := version("a")
	renamed.Label = "a before today"
	s.Replace([]Version{version("b"), renamed})
	all := s.Versions()
	if got := all[1].LastUsed(); !got.Equal(start) {
		t.Errorf("the value's last use is %v after it was replaced, want %v", got, start)
	}
	if got := all[0].LastUsed(); !got.IsZero() {
		t.Errorf("a new value was used at %v", got)
	}
	all[1].Used(start.Add(500 * time.Millisecond))
	if got := all[1].LastUsed(); !got.Equal(start) {
		t.Errorf("used twice in a second the time is %v", got)
	}
	all[1].Used(start.Add(time.Second))
	if got := s.Versions()[1].LastUsed(); !got.Equal(start.Add(time.Second)) {
		t.Errorf("got %v", got)
	}
}

func TestReplaceWithTheSameIsNoChange(t *testing.T) {
	s, _ := newTestSet(version("a"), version("b"))
	before := s.Current()
	s.Replace([]Version{version("a"), version("b")})
	if s.Current() != before {
		t.Error("the same versions are another snapshot")
	}
	s.Replace([]Version{version("b"), version("a")})
	if s.Current() == before {
		t.Error("another order is the same snapshot")
	}
}

func TestRefreshAsksTheSource(t *testing.T) {
	s, _ := newTestSet()
	s.Reread = func(context.Context) error { s.Replace([]Version{version("a")}); return nil }
	if err := s.Refresh(t.Context()); err != nil || s.Newest().Label != "a" {
		t.Errorf("got %v, %v", s.Newest().Label, err)
	}
}

func TestDerivedKeepsTheLastGood(t *testing.T) {
	s, c := newTestSet(version("a"))
	made, failed := 0, 0
	d := &Derived[string]{
		Set: s,
		Make: func(snap *Snapshot) (string, error) {
			made++
			v, ok := snap.Newest()
			if !ok || v.Label == "bad" {
				return "", errors.New("bad")
			}
			return v.Label, nil
		},
		Failed: func(error) { failed++ },
	}
	get := func(want string) {
		t.Helper()
		for range 3 {
			if got, err := d.Get(); got != want || err != nil {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		}
	}
	get("a")
	coming := version("b")
	coming.ActiveFrom = start.Add(time.Hour)
	s.Replace([]Version{coming, version("a")})
	get("a")
	c.set(start.Add(time.Hour))
	get("b")
	s.Replace([]Version{version("bad")})
	get("b")
	s.Replace([]Version{version("c")})
	get("c")
	if made != 5 || failed != 1 {
		t.Errorf("made %d times and failed %d times, want 5 and 1", made, failed)
	}
}

func TestDerivedThatNeverSucceeded(t *testing.T) {
	s, _ := newTestSet(version("bad"))
	d := &Derived[string]{Set: s, Make: func(snap *Snapshot) (string, error) {
		if v, _ := snap.Newest(); v.Label == "bad" {
			return "", errors.New("bad")
		}
		return "good", nil
	}}
	if _, err := d.Get(); err == nil {
		t.Error("no error")
	}
	s.Replace([]Version{version("a")})
	if got, err := d.Get(); err != nil || got != "good" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestDerivedEndsWithItsVersions is about versions that end while nothing can be made of the others.
func TestDerivedEndsWithItsVersions(t *testing.T) {
	until := version("a")
	until.RetireAt = start.Add(time.Hour)
	s, c := newTestSet()
	failed := 0
	// All versions must be good, as for most who derive something.
	d := &Derived[string]{Set: s, Failed: func(error) { failed++ }, Make: func(snap *Snapshot) (string, error) {
		for _, v := range snap.Versions {
			if strings.HasPrefix(v.Label, "bad") {
				return "", errors.New(v.Label + " is of no use")
			}
		}
		return strings.Join(labels(snap.Versions), " "), nil
	}}
	get := func(want, fault string) {
		t.Helper()
		for range 2 {
			got, err := d.Get()
			if got != want || (want == "") != (err != nil) {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
			if f := s.Fault(); f == nil && fault != "" || f != nil && f.Error() != fault {
				t.Errorf("got the fault %v, want %q", f, fault)
			}
		}
	}
	s.Replace([]Version{version("a")})
	get("a", "")
	s.Replace([]Version{version("bad"), version("bad2"), until})
	get("a", "bad is of no use; bad2 is of no use")
	c.set(until.RetireAt)
	get("", "bad is of no use; bad2 is of no use")
	s.Replace([]Version{version("b")})
	get("b", "")

	// Of what the source has lost, the end that it was given last counts, also if nobody asked then.
	until = version("b")
	until.RetireAt = c.now().Add(time.Hour)
	s.Replace([]Version{version("c"), until})
	s.Replace([]Version{version("bad")})
	get("b", "bad is of no use")
	c.set(until.RetireAt)
	get("", "bad is of no use")
	if failed != 3 {
		t.Errorf("told %d times, want 3", failed)
	}

	s.Replace([]Version{version("d"), version("e")})
	get("d e", "")
	until = version("e")
	until.RetireAt = c.now().Add(time.Hour)
	s.Replace([]Version{version("d"), until})
	get("d e", "")
	s.Replace([]Version{version("bad")})
	get("d e", "bad is of no use")
	c.set(until.RetireAt)
	get("d", "bad is of no use")
}

func TestConcurrentUse(t *testing.T) {
	s, c := newTestSet(version("a"))
	d := &Derived[string]{Set: s, Make: func(snap *Snapshot) (string, error) { v, _ := snap.Newest(); return v.Label, nil }}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 2000 {
				s.Newest().Used(c.now())
				if got, err := d.Get(); got == "" || err != nil {
					t.Errorf("got %q, %v", got, err)
				}
			}
		})
	}
	wg.Go(func() {
		for i := range 500 {
			next := version(string(rune('a' + i%3)))
			next.ActiveFrom = c.now().Add(time.Second)
			s.Replace([]Version{next, version("z")})
			c.set(c.now().Add(time.Duration(i%3) * time.Second))
		}
	})
	wg.Wait()
}
