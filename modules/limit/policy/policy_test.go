package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

func TestParseRate(t *testing.T) {
	for in, want := range map[string]Policy{
		"300/1m":             {Quota: 300, Window: unit.Duration(time.Minute)},
		"10/s":               {Quota: 10, Window: unit.Duration(time.Second)},
		"1000/h":             {Quota: 1000, Window: unit.Duration(time.Hour)},
		"5/d":                {Quota: 5, Window: unit.Duration(24 * time.Hour)},
		"50000/24h":          {Quota: 50000, Window: unit.Duration(24 * time.Hour)},
		"7/1h30m":            {Quota: 7, Window: unit.Duration(90 * time.Minute)},
		"10/ms":              {Quota: 10, Window: unit.Duration(time.Millisecond)},
		"1000000000/366d":    {Quota: 1_000_000_000, Window: unit.Duration(366 * 24 * time.Hour)},
		"0000000000000001/s": {Quota: 1, Window: unit.Duration(time.Second)},
	} {
		got, err := ParseRate(in)
		if err != nil || got != want {
			t.Errorf("ParseRate(%q) = %+v, %v, want %+v", in, got, err, want)
		}
	}
}

func TestParseRateRefuses(t *testing.T) {
	for _, in := range []string{
		"", "/", "300", "300/", "/1m", "300/1", "-3/1m", "+3/1m", "3.5/1m", "1e3/1m", "0/1m", "1000000001/1m", "99999999999999999999/1m",
		"3/-1m", "3/+1m", "3/0s", "3/367d", "3/1ns", "3/1500us", "3/1m/1m", " 3/1m", "3/1m\n", "3/ 1m", "3/1x", "３/1m", "3/\xff", "3/NaN",
		strings.Repeat("9", 1<<20) + "/1m", "3/" + strings.Repeat("1", 1<<20),
	} {
		if got, err := ParseRate(in); err == nil {
			t.Errorf("ParseRate(%.40q) = %+v, want an error", in, got)
		} else if len(err.Error()) > 300 {
			t.Errorf("ParseRate(%.40q): the error has %d bytes", in, len(err.Error()))
		}
	}
}

func TestAdvertisedIsTheSameRateInWholeSeconds(t *testing.T) {
	for in, want := range map[string][2]int64{
		"300/1m": {300, 60}, "10/500ms": {20, 1}, "1/1500ms": {2, 3}, "10/333ms": {10000, 333}, "1/1ms": {1000, 1}, "7/366d": {7, 31622400},
	} {
		p, err := ParseRate(in)
		if err != nil {
			t.Fatal(err)
		}
		if q, w := p.Advertised(); [2]int64{q, w} != want {
			t.Errorf("%s is advertised as q=%d;w=%d, want %v", in, q, w, want)
		}
	}
}

func FuzzParseRate(f *testing.F) {
	for _, s := range []string{"300/1m", "10/s", "1000/h", "5/1.5d", "3/1h30m", "0/0", "\xff/\n", "1/1d1d", "9999999999/1ms"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseRate(s)
		if err != nil {
			return
		}
		p.Name = "x"
		if err = p.Check(); err != nil {
			t.Fatalf("ParseRate(%q) = %+v, which is refused: %v", s, p, err)
		}
		q, w := p.Advertised()
		if q < 1 || w < 1 || q > 999_999_999_999_999 || w > 999_999_999_999_999 {
			t.Fatalf("ParseRate(%q) is advertised as q=%d;w=%d", s, q, w)
		}
		// q per w is the same rate as quota per window, checked without rounding.
		if got, want := q*int64(p.Window.Std()/time.Millisecond), int64(p.Quota)*w*1000; got != want && q < 1<<20 {
			t.Fatalf("%q is advertised as q=%d;w=%d", s, q, w)
		}
	})
}

func TestShareKeepsTheRate(t *testing.T) {
	for _, sliding := range []bool{false, true} {
		for _, n := range []int{1, 2, 3, 7, 1000} {
			p := Policy{Name: "a", Quota: 5000, Window: unit.Duration(MaxWindow), Sliding: sliding}
			got := p.Share(n)
			whole, part := float64(p.Quota)/float64(p.Window), float64(got.Quota)/float64(got.Window)*float64(n)
			if part > whole*1.001 || part < whole*0.99 || got.Size() < 1 || got.Size() > 5000/n {
				t.Errorf("sliding=%v: one of %d instances has %+v", sliding, n, got)
			}
			if r := got.Compile(); !sliding && (r.Room <= 0 || r.Interval <= 0) {
				t.Errorf("one of %d instances has %+v", n, r)
			}
		}
	}
}

func TestABurstThatNeverComesBackIsRefused(t *testing.T) {
	p := Policy{Name: "a", Quota: 1, Window: unit.Duration(MaxWindow), Burst: MaxQuota}
	if err := p.Check(); err == nil || !strings.Contains(err.Error(), "centuries") {
		t.Errorf("got %v", err)
	}
}
