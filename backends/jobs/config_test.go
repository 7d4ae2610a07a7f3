package jobs

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestConfigSaysWhatIsWrong(t *testing.T) {
	negative := -1
	for name, c := range map[string]struct {
		config Config
		want   string // part of the error; empty for none
	}{
		"zero":              {Config{}, ""},
		"default-with-url":  {Config{Queues: map[string]Queue{"default": {Target: "http://127.0.0.1:3000/"}}}, ""},
		"name":              {Config{Queues: map[string]Queue{"E mail": {}}}, "is not a queue name"},
		"name-empty":        {Config{Queues: map[string]Queue{"": {}}}, "is not a queue name"},
		"name-long":         {Config{Queues: map[string]Queue{strings.Repeat("q", 65): {}}}, "is not a queue name"},
		"internal":          {Config{Queues: map[string]Queue{"internal": {}}}, "choose another"},
		"target":            {Config{Queues: map[string]Queue{"q": {Target: "127.0.0.1:3000"}}}, "queue q: target"},
		"target-user":       {Config{Queues: map[string]Queue{"q": {Target: "http://a:b@host/"}}}, "user name or password"},
		"concurrency":       {Config{Queues: map[string]Queue{"q": {Concurrency: 10001}}}, "concurrency must be from 1 to 10000, not 10001"},
		"attempts":          {Config{Queues: map[string]Queue{"q": {Attempts: -1}}}, "attempts must be from 1 to 1000, not -1"},
		"backoff":           {Config{Queues: map[string]Queue{"q": {Backoff: Backoff{Base: 2 * time.Hour}}}}, "backoff must be above 0 and at most 1h0m0s"},
		"timeout":           {Config{Queues: map[string]Queue{"q": {Timeout: -1}}}, "timeout must be at most"},
		"keep":              {Config{Queues: map[string]Queue{"q": {Keep: Keep{Failed: &negative}}}}, "keep must not be negative"},
		"allow-url":         {Config{Allow: []string{"http://a"}}, "it has a scheme"},
		"allow-empty":       {Config{Allow: []string{""}}, "allow"},
		"allow-port":        {Config{Allow: []string{"a:b"}}, "no valid port"},
		"allow-path":        {Config{Allow: []string{"a/../b"}}, "more than one way"},
		"allow-ipv6":        {Config{Allow: []string{"::1", "[::1]", "[::1]:80"}}, ""},
		"allow-garbled":     {Config{Allow: []string{"a:b:c"}}, "HOST:PORT"},
		"several-at-a-time": {Config{Queues: map[string]Queue{"q": {Attempts: -1, Concurrency: -1}}}, "; attempts"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.config.Validate()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestConfigJSONRoundTrip(t *testing.T) {
	const text = `{"queues":{"email":{"target":"http://127.0.0.1:3000/t","concurrency":5,"attempts":3,"backoff":"fixed 10s","timeout":"45s","keep":{"completed":0}},"q":{}},"allow":["a"]}`
	var c Config
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(c)
	if diff := cmp.Diff(text, string(got)); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestDefaults(t *testing.T) {
	q := Config{}.queues()["default"]
	if q.Concurrency != 10 || q.Attempts != 5 || q.Backoff.String() != "exponential 2s" || q.Timeout.String() != "30s" ||
		q.Keep.completed() != 1000 || q.Keep.failed() != 5000 {
		t.Errorf("got %+v", q)
	}
}

func TestBackoff(t *testing.T) {
	for _, c := range []struct {
		text    string
		attempt int
		bound   time.Duration
	}{
		{"fixed 10s", 1, 10 * time.Second},
		{"fixed 10s", 999, 10 * time.Second},
		{"exponential 2s", 1, 2 * time.Second},
		{"exponential 2s", 2, 4 * time.Second},
		{"exponential 2s", 5, 32 * time.Second},
		{"exponential 2s", 12, time.Hour},
		{"exponential 2s", 1000, time.Hour},
		{"exponential 1h", 1, time.Hour},
	} {
		b, err := ParseBackoff(c.text)
		if err != nil {
			t.Fatal(err)
		}
		if got := b.bound(c.attempt); got != c.bound {
			t.Errorf("%s after attempt %d: got %s, want %s", c.text, c.attempt, got, c.bound)
		}
		low, high := c.bound, time.Duration(0)
		for range 200 {
			d := b.wait(c.attempt)
			low, high = min(low, d), max(high, d)
		}
		if high > c.bound || b.Fixed && low != c.bound || !b.Fixed && (low > c.bound/4 || high < c.bound*3/4) {
			t.Errorf("%s after attempt %d: waits from %s to %s, want them spread up to %s", c.text, c.attempt, low, high, c.bound)
		}
	}
	for _, text := range []string{"", "exponential", "2s", "fixed 0s", "fixed 61m", "exponential -1s", "fixed  1s", "linear 1s", "fixed 1s 2s"} {
		if b, err := ParseBackoff(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, b)
		}
	}
}

func FuzzParseBackoff(f *testing.F) {
	for _, s := range []string{"exponential 2s", "fixed 1h", "fixed 1.5m", "fixed", "exponential \x00", "fixed 9999999999999h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := ParseBackoff(s)
		if err != nil {
			return
		}
		again, err := ParseBackoff(b.String())
		if err != nil || again != b || b.Base <= 0 || b.Base > time.Hour {
			t.Errorf("%q: got %+v, again %+v, %v", s, b, again, err)
		}
	})
}

func TestAllowList(t *testing.T) {
	l := placesOf(Config{
		Queues: map[string]Queue{"q": {Target: "https://Queue.example.com/tasks"}},
		Allow:  []string{"127.0.0.1", "Worker.example.com:8080", "[::1]:9000", "2001:db8::1"},
	})
	for target, want := range map[string]bool{
		"http://127.0.0.1/":                      true,
		"http://127.0.0.1:22/":                   true,
		"http://127.0.0.2/":                      false,
		"http://worker.example.com:8080/a?b=c":   true,
		"http://WORKER.example.com.:8080/":       true,
		"http://worker.example.com/":             false,
		"https://queue.example.com/tasks":        true,
		"https://queue.example.com:443/tasks/a":  true,
		"https://queue.example.com/tasksandmore": false,
		"https://queue.example.com/tasks/../x":   false,
		"https://queue.example.com/other":        false,
		"http://queue.example.com/":              false,
		"http://[::1]:9000/":                     true,
		"http://[0:0:0:0:0:0:0:1]:9000/":         true,
		"http://[::1]/":                          false,
		"http://[2001:db8::1]:1/":                true,
		"http://127.0.0.1.example.com/":          false,
		"http://localhost/":                      false,
		"http://[::ffff:169.254.169.254]/":       false,
		"http://2130706433/":                     false,
		"http://worker.example.com:8080@evil.x/": false,
	} {
		u, err := parseTarget(target)
		if got := err == nil && l.Check(u) == nil; got != want {
			t.Errorf("%s: got %v (%v), want %v", target, got, err, want)
		}
	}
}

func FuzzTarget(f *testing.F) {
	for _, s := range []string{"http://127.0.0.1/", "http://127.0.0.1@evil/", "http://evil\\@127.0.0.1/", "http://[::1%25eth0]/", "http://127.0.0.1:080/", "HTTP://127.1/", "http://127.0.0.1\x00.evil/", "//127.0.0.1"} {
		f.Add(s)
	}
	l := placesOf(Config{Allow: []string{"127.0.0.1:80"}})
	f.Fuzz(func(t *testing.T, s string) {
		u, err := parseTarget(s)
		if err == nil && l.Check(u) == nil && (u.Hostname() != "127.0.0.1" && u.Hostname() != "127.0.0.1." && u.Hostname() != "::ffff:127.0.0.1") {
			t.Errorf("%q dials %q", s, u.Host)
		}
	})
}
