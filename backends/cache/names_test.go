package cache

import (
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

func FuzzKey(f *testing.F) {
	for _, s := range []string{"/cache/", "/cache/a", "/cache/a%2Fb/c", "/cache/%", "/cache/%ff", "/cache/a%00", "/cache/" + strings.Repeat("%41", 513), "", "/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, escaped string) {
		key, err := parseKey(escaped)
		if err != nil {
			if problem.From(err).Code != problem.InvalidRequest {
				t.Errorf("%q: got %v, want invalid-request", escaped, err)
			}
			return
		}
		if key == "" || len(key) > maxKey || !utf8.ValidString(key) {
			t.Errorf("%q: got key %q", escaped, key)
		}
		if again, err := parseKey(prefix + url.PathEscape(key)); err != nil || again != key {
			t.Errorf("%q: escaped anew it is %q, %v", key, again, err)
		}
	})
}

func FuzzTTL(f *testing.F) {
	for _, s := range []string{"", "60s", "30d", "1h30m", "-1s", "0", "9999999d", "NaN", "1e9h", "1d1d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ttl, err := parseTTL(s, time.Minute)
		if err == nil && (ttl < minTTL || ttl > maxTTL) {
			t.Errorf("%q: got %v", s, ttl)
		}
		if err != nil && problem.From(err).Code != problem.InvalidRequest {
			t.Errorf("%q: got %v, want invalid-request", s, err)
		}
	})
}

func FuzzTags(f *testing.F) {
	f.Add("a", "b, c")
	f.Add("", ",,")
	f.Add("a b", "\xff")
	f.Fuzz(func(t *testing.T, query, header string) {
		tags, err := parseTags([]string{query}, []string{header})
		if err != nil {
			return
		}
		for _, tag := range tags {
			if !ValidTag(tag) || strings.ContainsAny(tag, ", \t\n") {
				t.Errorf("got tag %q", tag)
			}
		}
	})
}

func TestConfig(t *testing.T) {
	for name, c := range map[string]struct {
		config Config
		want   string // part of the error, "" for none
	}{
		"zero":        {Config{}, ""},
		"hosts":       {Config{FillAllow: []string{"a.example", "A.example:80", "[::1]", "[::1]:8080", "127.0.0.1"}}, ""},
		"memory":      {Config{Memory: 1000}, "memory"},
		"disk":        {Config{Disk: 1 << 20}, "disk"},
		"max-value":   {Config{MaxValue: 128 << 20}, "disk"},
		"default-ttl": {Config{DefaultTTL: 1}, "default_ttl"},
		"scheme":      {Config{FillAllow: []string{"http://a"}}, "fill_allow"},
		"path":        {Config{FillAllow: []string{"a/b", "a:80/b/"}}, ""},
		"path-twice":  {Config{FillAllow: []string{"a/b/../c"}}, "fill_allow"},
		"user":        {Config{FillAllow: []string{"u@a"}}, "fill_allow"},
		"empty-host":  {Config{FillAllow: []string{""}}, "fill_allow"},
		"bad-port":    {Config{FillAllow: []string{"a:99999"}}, "fill_allow"},
		"empty-port":  {Config{FillAllow: []string{"a:"}}, "fill_allow"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.config.Validate()
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error on %q", err, c.want)
			}
		})
	}
}

func TestTargets(t *testing.T) {
	s, _, stop := start(t, t.TempDir(), Config{FillAllow: []string{"any.example", "One.example:8080", "tls.example:443", "[::1]:80"}})
	defer stop()
	for raw, want := range map[string]problem.Code{
		"http://any.example/":         "",
		"https://ANY.example:444/x#f": "",
		"http://one.example:8080/":    "",
		"https://tls.example/":        "",
		"http://[::1]/":               "",
		"http://one.example/":         problem.Unprocessable,
		"http://tls.example/":         problem.Unprocessable,
		"http://sub.any.example/":     problem.Unprocessable,
		"http://any.example.evil/":    problem.Unprocessable,
		"http://any.example@evil/":    problem.Unprocessable,
		"http://evil#@any.example/":   problem.Unprocessable,
		"ftp://any.example/":          problem.InvalidRequest,
		"//any.example/":              problem.InvalidRequest,
		"any.example":                 problem.InvalidRequest,
		"":                            problem.InvalidRequest,
		"http://":                     problem.InvalidRequest,
		"http://a b/":                 problem.InvalidRequest,
		"http://any.example/" + strings.Repeat("x", 5000): problem.InvalidRequest,
	} {
		_, err := s.target(raw)
		if (err == nil) != (want == "") || err != nil && problem.From(err).Code != want {
			t.Errorf("%.60q: got %v, want %q", raw, err, want)
		}
	}
}
