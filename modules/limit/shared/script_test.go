package shared

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/integration/await"
	"github.com/gatehouse-proxy/gatehouse/integration/redistest"
	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

// TestVectors are those of the generic cell rate algorithm and of the sliding window, worked by hand.
func TestVectors(t *testing.T) {
	s := redistest.Start(t)
	if err := eternal.Load(t.Context(), s.Client()).Err(); err != nil {
		t.Fatal(err)
	}
	l := patientLink(t, open(t, s.URL()))
	const n0 = 1767225600000000
	rates := compile(t, "10/1m burst 3")
	for i, step := range []struct {
		at                int64 // µs after n0
		granted, left     int64
		wait, ttl         int64 // µs; ttl until the bucket is full
		key               string
		cost              int64
		neverFits, denied bool
	}{
		{0, 1, 2, 0, 6_000_000, "a", 1, false, false},
		{0, 1, 1, 0, 12_000_000, "a", 1, false, false},
		{0, 1, 0, 0, 18_000_000, "a", 1, false, false},
		{0, 0, 0, 6_000_000, 18_000_000, "a", 1, false, true},
		{100_000, 0, 0, 5_900_000, 17_900_000, "a", 1, false, true},
		{3_000_000, 0, 0, 3_000_000, 15_000_000, "a", 1, false, true},
		{6_000_000, 1, 0, 0, 18_000_000, "a", 1, false, false},
		{0, 0, 3, 0, 0, "b", 4, true, true},
	} {
		v, r := l.at(t, (n0+step.at)*1000, "take", step.key, rates, step.cost, step.cost)
		state := r.state
		if r.granted > 0 {
			policy.Charge(r.now, rates, state[:], r.granted)
		}
		got := fmt.Sprint(r.granted, v.Answers[0].Remaining, v.Wait.Microseconds(), (state[0]-r.now)/1000, v.Never, !v.Allowed)
		if want := fmt.Sprint(step.granted, step.left, step.wait, step.ttl, step.neverFits, step.denied); got != want {
			t.Errorf("step %d: got %s, want %s", i, got, want)
		}
	}

	sliding := compile(t, "10/1m sliding")
	base := int64(n0 - n0%60_000_000)
	at := func(ms int64) string {
		v, r := l.at(t, (base+ms*1000)*1000, "take", "s", sliding, 1, 1)
		return fmt.Sprint(r.granted, v.Answers[0].Remaining, v.Wait.Milliseconds())
	}
	for left := int64(9); left >= 2; left-- {
		if got, want := at(30_000), fmt.Sprint(1, left, 0); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	for i, step := range []struct {
		ms   int64
		want string
	}{
		{75_000, "1 3 0"}, {75_000, "1 2 0"}, {75_000, "1 1 0"}, {75_000, "1 0 0"},
		{75_000, "0 0 7500"}, {82_499, "0 0 1"}, {82_500, "1 0 0"},
	} {
		if got := at(step.ms); got != step.want {
			t.Errorf("step %d: got %s, want %s", i, got, step.want)
		}
	}
}

func TestAllPoliciesAreCheckedBeforeAnyIsCharged(t *testing.T) {
	l := patientLink(t, open(t, redistest.Start(t).URL()))
	rates := compile(t, "100/1m", "5/1m sliding", "1/1m")
	if v, err := l.Take(t.Context(), "z", idOf("a"), rates, 1); err != nil || !v.Allowed {
		t.Fatalf("got %+v, %v", v, err)
	}
	for range 20 {
		v, err := l.Take(t.Context(), "z", idOf("a"), rates, 1)
		if err != nil || v.Allowed || v.Answers[0].Remaining != 99 || v.Answers[1].Remaining != 4 || !v.Answers[2].Violated || v.Wait < 50*time.Second {
			t.Fatalf("got %+v, %v", v, err)
		}
	}
}

func TestChargeShowReset(t *testing.T) {
	s := redistest.Start(t)
	l := patientLink(t, open(t, s.URL()))
	client := s.Client()
	rates := compile(t, "10/1h", "20/1h sliding")
	id := idOf("a")
	left := func() string {
		v, err := l.Show(t.Context(), "z", id, rates)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(v.Answers[0].Remaining, v.Answers[1].Remaining)
	}
	if got := left(); got != "10 20" || client.Exists(t.Context(), Key("z", id)).Val() != 0 {
		t.Errorf("a key that was never used has %s left, or was written", got)
	}
	for i, step := range []struct {
		cost int64
		want string
	}{{7, "3 13"}, {0, "3 13"}, {-2, "5 15"}, {9, "0 6"}, {-50, "6 20"}, {-4, "10 20"}} {
		if err := l.Charge(t.Context(), "z", id, rates, step.cost); err != nil {
			t.Fatal(err)
		}
		if got := left(); got != step.want {
			t.Errorf("step %d: %s left, want %s", i, got, step.want)
		}
	}
	if client.Exists(t.Context(), Key("z", id)).Val() != 0 {
		t.Error("a key with nothing to remember is kept")
	}
	if err := l.Charge(t.Context(), "z", id, rates, 5); err != nil {
		t.Fatal(err)
	}
	if err := l.Reset(t.Context(), "z", id); err != nil || left() != "10 20" {
		t.Errorf("after a reset %s is left: %v", left(), err)
	}
}

func TestKeysExpireWhenTheyAreIdle(t *testing.T) {
	s := redistest.Start(t)
	l := patientLink(t, open(t, s.URL()))
	client := s.Client()
	for i, c := range []struct {
		specs []string
		cost  int64
		least time.Duration
		most  time.Duration
	}{
		{[]string{"10/1m"}, 1, 5 * time.Second, 6*time.Second + 2*time.Millisecond},
		{[]string{"10/1m", "1/1h"}, 1, 59 * time.Minute, time.Hour + 2*time.Millisecond},
		{[]string{"10/1m sliding"}, 1, time.Minute, 2*time.Minute + 2*time.Millisecond},
		{[]string{"3333333/1s"}, 1, 0, 3 * time.Millisecond},
	} {
		rates, id := compile(t, c.specs...), idOf(fmt.Sprint(i))
		if _, err := l.Take(t.Context(), "z", id, rates, c.cost); err != nil {
			t.Fatal(err)
		}
		got := client.PTTL(t.Context(), Key("z", id)).Val()
		if got == -1 || got > c.most || got < c.least && got != -2 {
			t.Errorf("%v: the key expires in %s", c.specs, got)
		}
	}
	rates := compile(t, "1/50ms")
	if _, err := l.Take(t.Context(), "z", idOf("soon"), rates, 1); err != nil {
		t.Fatal(err)
	}
	await.For(t, "the key to expire", func() error {
		if client.Exists(t.Context(), Key("z", idOf("soon"))).Val() != 0 {
			return errors.New("it is there")
		}
		return nil
	})
}

func TestAForgottenScriptIsSentAgain(t *testing.T) {
	s := redistest.Start(t)
	l := patientLink(t, open(t, s.URL()))
	rates := compile(t, "100/1h")
	for i := range int64(5) {
		if err := s.Client().ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		v, err := l.Take(t.Context(), "z", idOf("a"), rates, 1)
		if err != nil || v.Answers[0].Remaining != 99-i {
			t.Fatalf("got %+v, %v", v, err)
		}
	}
	if s := l.Stats(); s.Opened != 0 {
		t.Errorf("got %+v", s)
	}
}

func TestAStrangeValueIsNoUseAndNoOutage(t *testing.T) {
	s := redistest.Start(t)
	l := patientLink(t, open(t, s.URL()))
	client := s.Client()
	rates := compile(t, "10/1h", "10/1h sliding")
	for _, value := range []string{"", " ", "x", "1", "1 2 3 4 5", "nan inf", "-1 -1n -1:-1:-1", "1e999 1e999n 1e9:1:1", "1 0x10n 1:2", strings.Repeat("9 ", 1000)} {
		if err := client.Set(t.Context(), Key("z", idOf("a")), value, 0).Err(); err != nil {
			t.Fatal(err)
		}
		if v, err := l.Take(t.Context(), "z", idOf("a"), rates, 1); err != nil || !v.Allowed {
			t.Errorf("%.30q: got %+v, %v", value, v, err)
		}
	}
	client.Del(t.Context(), Key("z", idOf("a")))
	client.LPush(t.Context(), Key("z", idOf("a")), 1)
	if _, err := l.Take(t.Context(), "z", idOf("a"), rates, 1); !errors.Is(err, ErrDown) {
		t.Errorf("a list for a state: %v", err)
	}
	if up, _ := l.Up(); !up {
		t.Error("one key's value is taken for an outage")
	}
}

func TestAFullRedisIsAnOutage(t *testing.T) {
	s := redistest.Start(t, "--maxmemory", "1")
	l := patientLink(t, open(t, s.URL()))
	if _, err := l.Take(t.Context(), "z", idOf("a"), compile(t, "10/1h"), 1); !errors.Is(err, ErrDown) {
		t.Errorf("got %v", err)
	}
	if up, _ := l.Up(); up {
		t.Error("redis is said to be up")
	}
}

func TestKeyIsOfTheZoneAndTheID(t *testing.T) {
	if got, want := Key("site api}{", ID{1, 0xff}), "gatehouse:limit:site api}{:01ff0000000000000000000000000000"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	l := patientLink(t, open(t, redistest.Start(t).URL()))
	rates := compile(t, "1/1h")
	for _, zone := range []string{"", "a", "a:b", "\x00\r\n$5\r\n", "{a}", "ü", strings.Repeat("z", 10_000)} {
		for _, id := range []ID{{}, {0: '\r', 1: '\n'}, {15: 0xff}} {
			if v, err := l.Take(t.Context(), zone, id, rates, 1); err != nil || !v.Allowed {
				t.Errorf("zone %.20q: %+v, %v", zone, v, err)
			}
		}
	}
}

func TestRepliesThatAreNone(t *testing.T) {
	rates := compile(t, "10/1m", "10/1m sliding")
	for _, s := range []string{"", "1", "1 2", "x 2 3 4:5:6", "1 x 3 4:5:6", "1 2 x 4:5:6", "1 2 3 4", "1 2 3 4:x:6", "1 2 3 4:-1:6", "1 2 3 4:5:99999999999", "1 99999999999999999999 3 4:5:6", "1 -5 3 4:5:6"} {
		var r reply
		if err := r.parse(s, rates); !errors.Is(err, errReply) {
			t.Errorf("%q: got %v", s, err)
		}
	}
	var r reply
	if err := r.parse("1 2000 7 4:5:6", rates); err != nil || r.granted != 1 || r.now != 2_000_000 || r.state[0] != 2_007_000 || r.state[1] != 4 || r.state[2] != 5<<32|6 {
		t.Errorf("got %+v, %v", r, err)
	}
}

func FuzzReply(f *testing.F) {
	f.Add("1 1767225600000000 6000000 29453760:3:4")
	f.Add("0 0 0 0:0:0")
	rates := compile(f, "10/1m", "10/1m sliding")
	f.Fuzz(func(t *testing.T, s string) {
		var r reply
		if r.parse(s, rates) == nil {
			r.verdict(rates, 1)
		}
	})
}
