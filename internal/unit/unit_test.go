package unit

import (
	"encoding/json"
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"5s": 5 * time.Second, "1h30m": 90 * time.Minute, "30d": 720 * time.Hour, "1d12h": 36 * time.Hour, "0s": 0, "1.5d": 36 * time.Hour,
	} {
		if got, err := ParseDuration(in); err != nil || got.Std() != want {
			t.Errorf("%s: got %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "5", "s", "-5s", "5 s", "1w", "5s5", "dd", "99999999999999d"} {
		if got, err := ParseDuration(in); err == nil {
			t.Errorf("%q: got %v, want an error", in, got)
		}
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]Size{"10MiB": 10 << 20, "5MB": 5e6, "512KiB": 512 << 10, "7": 7, "0": 0} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "MiB", "-1", "10 apples", "1e30GiB", "9EiB"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("%q: got %d, want an error", in, got)
		}
	}
}

func TestJSON(t *testing.T) {
	var v struct {
		D Duration
		S Size
		N Size
	}
	if err := json.Unmarshal([]byte(`{"D":"2m","S":"1KiB","N":3}`), &v); err != nil {
		t.Fatal(err)
	}
	if v.D.Std() != 2*time.Minute || v.S != 1024 || v.N != 3 {
		t.Errorf("got %+v", v)
	}
	back, err := json.Marshal(v)
	if err != nil || string(back) != `{"D":"2m0s","S":1024,"N":3}` {
		t.Errorf("got %s, %v", back, err)
	}
	for _, bad := range []string{`{"D":5}`, `{"D":"x"}`, `{"S":"x"}`, `{"S":-1}`, `{"S":1.5e3}`} {
		if err := json.Unmarshal([]byte(bad), &v); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"5s", "1.5d", "10MiB", "", "d", "9999999999999999999d", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := ParseDuration(s); err == nil && d < 0 {
			t.Errorf("%q is %v", s, d)
		}
		if n, err := ParseSize(s); err == nil && n < 0 {
			t.Errorf("%q is %d", s, n)
		}
	})
}
