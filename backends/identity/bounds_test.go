package identity

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

func TestAttemptsAreBounded(t *testing.T) {
	a, now := newAttempts(), time.Now()
	limits := [2]Attempts{{2, time.Hour}, {1_000_000, time.Hour}}
	addr := netip.MustParseAddr("192.0.2.1")
	for i := range attemptsKept + 5000 {
		if _, err := a.begin(fmt.Sprint("user", i), addr, limits, now); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(a.by[byAccount].counts); n != attemptsKept {
		t.Errorf("got %d accounts remembered, want %d", n, attemptsKept)
	}
	last := fmt.Sprint("user", attemptsKept+4999)
	if _, err := a.begin(last, addr, limits, now); err != nil {
		t.Fatal(err)
	}
	if _, err := a.begin(last, addr, limits, now); err == nil {
		t.Error("the newest account is forgotten")
	}
	// Those that come and go leave nothing either.
	for i := range 3 * attemptsKept {
		try, err := a.begin(fmt.Sprint("other", i), addr, limits, now)
		if err != nil {
			t.Fatal(err)
		}
		try.passed()
	}
	if n := len(a.by[byAccount].order); n > 2*attemptsKept {
		t.Errorf("got %d places for accounts, want at most %d", n, 2*attemptsKept)
	}
}

func TestRevocationsOfAnyOrderEndUpTheSame(t *testing.T) {
	first := newRevocation(KindSubject, "", "ada", 1000, 1)
	first.at = 1
	undone := first
	undone.undone, undone.at = true, 2
	again := newRevocation(KindSubject, "", "ada", 3000, 1)
	again.at = 3
	for _, c := range []struct {
		puts []Revocation
		want bool
	}{
		{[]Revocation{first}, true},
		{[]Revocation{first, undone}, false},
		{[]Revocation{undone, first}, false},
		{[]Revocation{first, undone, again}, true},
		{[]Revocation{again, undone, first}, true},
		{[]Revocation{undone, again, first, undone}, true},
	} {
		x := newIndex()
		for _, r := range c.puts {
			x.put(r)
		}
		if got := x.has(KindSubject, "i", "ada", 1000); got != c.want {
			t.Errorf("%+v: got %v, want %v", c.puts, got, c.want)
		}
		if got := x.live.Load() > 0; got != c.want {
			t.Errorf("%+v: got %d entries", c.puts, x.live.Load())
		}
		if x.expire(1); x.live.Load() != 0 || x.has(KindSubject, "", "ada", 0) {
			t.Error("an expired revocation is there")
		}
	}
}

func TestRoomForRevocationsIsBounded(t *testing.T) {
	v := &revocations{index: newIndex()}
	v.index.live.Store(MaxRevocations - 1)
	if err := v.room(); err != nil {
		t.Errorf("below the bound: %v", err)
	}
	v.index.live.Store(MaxRevocations)
	if err := v.room(); err == nil {
		t.Error("at the bound: got no error")
	}
}

func TestRevocationsInMemoryAreSmall(t *testing.T) {
	const n = 100_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	x := newIndex()
	for i := range n {
		x.put(newRevocation(KindToken, "", fmt.Sprint("token", i), 0, 1))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / n; each > 160 {
		t.Errorf("got %d bytes for each revocation, want at most 160", each)
	} else {
		t.Logf("%d bytes for each revocation", each)
	}
	runtime.KeepAlive(x)
}

func BenchmarkRevoked(b *testing.B) {
	for _, n := range []int{0, 1000, MaxRevocations} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := &Service{revoked: &revocations{index: newIndex()}}
			for i := range n {
				s.revoked.index.put(newRevocation(KindToken, "", fmt.Sprint("token", i), 0, 1))
			}
			b.ReportAllocs()
			for b.Loop() {
				s.Revoked("gatehouse", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "ses_abcdefghijklmnopqrstuvwxyz", "usr_abcdefghijklmnopqrstuvwxyz", 1)
			}
		})
	}
}
