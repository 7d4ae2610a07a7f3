package apiversion

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestParseDate(t *testing.T) {
	for in, want := range map[string]string{
		"2027-06-01":                     "2027-06-01T00:00:00Z",
		"2028-02-29":                     "2028-02-29T00:00:00Z",
		"2027-06-01T12:30:00Z":           "2027-06-01T12:30:00Z",
		"2027-06-01T12:30:00+02:00":      "2027-06-01T10:30:00Z",
		"2027-06-01T12:30:00.999999999Z": "2027-06-01T12:30:00Z",
		"1970-01-01":                     "1970-01-01T00:00:00Z",
	} {
		got, err := ParseDate(in)
		if err != nil || got.Format(time.RFC3339Nano) != want {
			t.Errorf("ParseDate(%q) = %v, %v, want %s", in, got, err, want)
		}
	}
}

var badDates = []string{
	"", "2026-13-01", "2026-02-30", "2027-02-29", "2026-00-10", "2026-01-00", "2026-1-1", "20260101", "2026/01/01", "01.06.2027", "June 2027", "tomorrow",
	"Sat, 01 Jan 2026", "Thu, 01 Jan 2026 00:00:00 GMT", "2026-01-01 ", " 2026-01-01", "2026-01-01\n", "2026-01-01T00:00:00", "2026-01-01 00:00:00Z",
	"2026-01-01T25:00:00Z", "2026-01-01T1:00:00Z", "2026-01-01T00:00:00,5Z", "2026-01-01T00:00:00+25:00", "2026-01-01T00:00:60Z", "1767225600", "@1767225600",
	"0001-01-01", "1969-12-31", "-2026-01-01", "２０２６-01-01", "2026-01-01\xff", strings.Repeat("9", 1<<20),
}

func TestParseDateRefuses(t *testing.T) {
	for _, in := range badDates {
		got, err := ParseDate(in)
		if err == nil {
			t.Errorf("ParseDate(%.40q) = %v, want an error", in, got)
		} else if !strings.Contains(err.Error(), "write 2027-06-01") || len(err.Error()) > 500 {
			t.Errorf("ParseDate(%.40q): %.200v, want the right form shown", in, err)
		}
	}
}

func FuzzParseDate(f *testing.F) {
	for _, s := range badDates[:len(badDates)-1] {
		f.Add(s)
	}
	f.Add("2027-06-01")
	f.Add("2027-06-01T12:00:00+02:00")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDate(s)
		if err != nil {
			return
		}
		b, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		var again Date
		if err = json.Unmarshal(b, &again); err != nil || !again.Equal(d.Time) {
			t.Fatalf("%q is %v, and read back %v, %v", s, d, again, err)
		}
		sunset := d.UTC().Format(http.TimeFormat)
		if back, err := http.ParseTime(sunset); err != nil || !back.Equal(d.Time) || back.Format(http.TimeFormat) != sunset {
			t.Fatalf("%q is sent as %q, which reads %v, %v", s, sunset, back, err)
		}
	})
}

func TestFieldValues(t *testing.T) {
	// The examples of RFC 9745 and RFC 8594, the latter with its weekday corrected.
	d, err := ParseDate("2023-06-30T23:59:59Z")
	if err != nil || d.deprecation() != "@1688169599" {
		t.Errorf("got %s, %v", d.deprecation(), err)
	}
	v := newVersion(Version{Name: "v1", Sunset: mustDate("2026-01-01")})
	if v.sunset[0] != "Thu, 01 Jan 2026 00:00:00 GMT" {
		t.Errorf("got %s", v.sunset[0])
	}
	if got := (Link{"sunset", "https://a.example/x", "text/html"}).String(); got != `<https://a.example/x>; rel="sunset"; type="text/html"` {
		t.Errorf("got %s", got)
	}
}

func TestStatusWalksTime(t *testing.T) {
	v := Version{Name: "v1", Deprecated: mustDate("2026-06-01"), Sunset: mustDate("2027-06-01")}
	for at, want := range map[string]Status{
		"2026-05-31T23:59:59Z": Current, "2026-06-01": Deprecated, "2027-05-31T23:59:59Z": Deprecated, "2027-06-01": Sunset, "2030-01-01": Sunset,
	} {
		if got := v.Status(mustDate(at).Time); got != want {
			t.Errorf("at %s: got %s, want %s", at, got, want)
		}
	}
	alone := Version{Name: "v1", Sunset: mustDate("2027-06-01")}
	if got := alone.Status(mustDate("2027-05-31").Time); got != Current {
		t.Errorf("with a sunset alone: got %s", got)
	}
}

func mustDate(s string) Date {
	d, err := ParseDate(s)
	if err != nil {
		panic(err)
	}
	return d
}

func TestCompileRefuses(t *testing.T) {
	v1, v2 := Version{Name: "v1"}, Version{Name: "v2"}
	for name, test := range map[string]struct {
		prefix, latest string
		versions       []Version
		want           string
	}{
		"no-prefix":         {"", "", []Version{v1}, "from is missing"},
		"relative-prefix":   {"api", "", []Version{v1}, "plain path"},
		"wildcard-prefix":   {"/api/*", "", []Version{v1}, "plain path"},
		"dotted-prefix":     {"/x/../api", "", []Version{v1}, "plain path"},
		"no-versions":       {"/api", "", nil, "no version"},
		"duplicate":         {"/api", "", []Version{v1, v1}, "given twice"},
		"slash-in-name":     {"/api", "", []Version{{Name: "v1/x"}}, "version name"},
		"dots-as-name":      {"/api", "", []Version{{Name: ".."}}, "version name"},
		"unknown-latest":    {"/api", "v3", []Version{v1, v2}, "latest v3"},
		"unknown-successor": {"/api", "", []Version{{Name: "v1", Successor: "v9"}, v2}, "successor v9"},
		"own-successor":     {"/api", "", []Version{{Name: "v1", Successor: "v1"}}, "circle"},
		"circle": {"/api", "", []Version{
			{Name: "v0", Successor: "v1"}, {Name: "v1", Successor: "v2"}, {Name: "v2", Successor: "v3"}, {Name: "v3", Successor: "v1"},
		}, "v1 → v2 → v3 → v1"},
		"sunset-first": {"/api", "", []Version{{Name: "v1", Deprecated: mustDate("2027-06-02"), Sunset: mustDate("2027-06-01")}}, "before the deprecation"},
		"bad-rel":      {"/api", "", []Version{{Name: "v1", Links: []Link{{Rel: `a"b`, URL: "/x"}}}}, "not a relation"},
		"our-rel":      {"/api", "", []Version{{Name: "v1", Links: []Link{{Rel: "successor-version", URL: "/x"}}}}, "write successor"},
		"bad-url":      {"/api", "", []Version{{Name: "v1", Links: []Link{{Rel: "sunset", URL: "https://a>b"}}}}, "not a URL"},
		"script-url":   {"/api", "", []Version{{Name: "v1", Links: []Link{{Rel: "sunset", URL: "javascript:alert"}}}}, "not a URL"},
		"no-host":      {"/api", "", []Version{{Name: "v1", Links: []Link{{Rel: "sunset", URL: "//evil.example/x"}}}}, "not a URL"},
		"empty-url":    {"/api", "", []Version{{Name: "v1", Links: []Link{{Rel: "sunset"}}}}, "not a URL"},
		"bad-type":     {"/api", "", []Version{{Name: "v1", Links: []Link{{Rel: "sunset", URL: "/x", Type: `a";b`}}}}, "media type"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := compile(test.prefix, test.versions, test.latest); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want it to say %q", err, test.want)
			}
		})
	}
}

func TestRetiredLatestIsRefused(t *testing.T) {
	p, err := compile("/api", []Version{{Name: "v1", Sunset: mustDate("2027-06-01")}}, "v1")
	if err != nil {
		t.Fatal(err)
	}
	if err = p.checkLatest(mustDate("2027-05-31").Time); err != nil {
		t.Errorf("before: %v", err)
	}
	if err = p.checkLatest(mustDate("2027-06-01").Time); err == nil || !strings.Contains(err.Error(), "2027-06-01") {
		t.Errorf("after: got %v", err)
	}
}
