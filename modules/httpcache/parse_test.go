package httpcache

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseControl(t *testing.T) {
	for name, c := range map[string]struct {
		lines []string
		want  control
	}{
		"none":                  {nil, control{}},
		"empty":                 {[]string{"", " , ,"}, control{}},
		"case":                  {[]string{"MAX-age=5, NO-STORE"}, control{noStore: true, maxAge: seconds{5, true}}},
		"no-space":              {[]string{"public,max-age=5,s-maxage=7"}, control{public: true, maxAge: seconds{5, true}, sMaxAge: seconds{7, true}}},
		"quoted":                {[]string{`max-age="5"`}, control{maxAge: seconds{5, true}}},
		"single-quoted":         {[]string{`max-age='5'`}, control{maxAge: seconds{0, true}}},
		"not-a-number":          {[]string{"max-age=5s, s-maxage=-1"}, control{maxAge: seconds{0, true}, sMaxAge: seconds{0, true}}},
		"no-argument":           {[]string{"max-age"}, control{maxAge: seconds{0, true}}},
		"decimal":               {[]string{"max-age=1.5"}, control{maxAge: seconds{0, true}}},
		"space-around-sign":     {[]string{"max-age =5"}, control{maxAge: seconds{0, true}}},
		"huge":                  {[]string{"max-age=99999999999999999999999999"}, control{maxAge: seconds{maxSeconds, true}}},
		"duplicate":             {[]string{"max-age=9", "max-age=3, max-age=5"}, control{maxAge: seconds{3, true}}},
		"inside-a-string":       {[]string{`x="no-store, max-age=5", y="\", private"`}, control{}},
		"unterminated":          {[]string{`x="no-store, max-age=5`}, control{}},
		"private-fields":        {[]string{`private="a, b", no-cache="c"`}, control{private: true, noCache: true}},
		"public-with-value":     {[]string{"public=1"}, control{}},
		"unknown":               {[]string{"nothing-to-see-here, immutable, max-stale=3"}, control{}},
		"no-store-in-name":      {[]string{"x-no-store, no-storee"}, control{}},
		"only-if-cached":        {[]string{"only-if-cached"}, control{onlyIfCached: true}},
		"semicolon-is-no-comma": {[]string{"max-age=5; no-store"}, control{maxAge: seconds{0, true}}},
	} {
		t.Run(name, func(t *testing.T) {
			got := parseControl(c.lines)
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(control{}, seconds{})); diff != "" {
				t.Errorf("parsing %q (-want +got):\n%s", c.lines, diff)
			}
		})
	}
}

func FuzzControl(f *testing.F) {
	for _, s := range []string{"", "max-age=60, private", `a="b, no-store`, `x="\`, ",,=,=\"", "s-maxage=\"5\", MAX-AGE=99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c := parseControl([]string{s})
		for _, n := range []seconds{c.maxAge, c.sMaxAge} {
			if n.n < 0 || n.n > maxSeconds || !n.set && n.n != 0 {
				t.Errorf("got %+v", n)
			}
		}
		if stricter := parseControl([]string{s, "no-store"}); !stricter.noStore {
			t.Error("a line cannot take back what another says")
		}
	})
}

func TestParseDate(t *testing.T) {
	want := time.Date(1994, 11, 6, 8, 49, 37, 0, time.UTC)
	for _, s := range []string{"Sun, 06 Nov 1994 08:49:37 GMT", "sun, 06 NOV 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"} {
		if got, ok := parseDate(s); !ok || !got.Equal(want) {
			t.Errorf("%q: got %v, %t, want %v", s, got, ok, want)
		}
	}
	for _, s := range []string{"", "0", "-1", "Sun, 06 Nov 1994 08:49:37 UTC", "Sun, 06 Nov 1994 08:49:37 AEST", "Sun, 06 Nov 1994 08:49:37 +0000",
		"Sun, 6 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 8:49:37 GMT", "Sun, 06 Nov 94 08:49:37 GMT", "Sun 06 Nov 1994 08:49:37 GMT",
		"Sun, 06-Nov-1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Nov 1994 08:49:37.1 GMT", " Sun, 06 Nov 1994 08:49:37 GMT",
		"Sunday, 06-Nov-94 08:49:37 UTC", "Sunday, 06-Nov-94 8:49:37 GMT", "Sun, 32 Nov 1994 08:49:37 GMT", "1994-11-06T08:49:37Z"} {
		if got, ok := parseDate(s); ok {
			t.Errorf("%q: got %v, want none", s, got)
		}
	}
}

func FuzzDate(f *testing.F) {
	for _, s := range []string{"Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", ","} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := parseDate(s)
		if !ok {
			return
		}
		if again, ok := parseDate(got.UTC().Format(http.TimeFormat)); !ok || !again.Equal(got) {
			t.Errorf("%q: got %v, which written and read is %v", s, got, again)
		}
	})
}

func TestFreshness(t *testing.T) {
	asked := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	received := asked.Add(2 * time.Second)
	at := func(d time.Duration) string { return received.Add(d).Format(http.TimeFormat) }
	for name, c := range map[string]struct {
		header   http.Header
		lifetime time.Duration
		explicit bool
		age      time.Duration
	}{
		"nothing":             {http.Header{}, 0, false, 2 * time.Second},
		"max-age":             {http.Header{"Cache-Control": {"max-age=60"}}, time.Minute, true, 2 * time.Second},
		"s-maxage-first":      {http.Header{"Cache-Control": {"max-age=60, s-maxage=10"}}, 10 * time.Second, true, 2 * time.Second},
		"targeted":            {http.Header{"Cache-Control": {"max-age=60"}, "Cdn-Cache-Control": {"max-age=10"}}, 10 * time.Second, true, 2 * time.Second},
		"targeted-string":     {http.Header{"Cache-Control": {"max-age=60"}, "Cdn-Cache-Control": {`max-age="10"`}}, time.Minute, true, 2 * time.Second},
		"targeted-malformed":  {http.Header{"Cache-Control": {"max-age=60"}, "Cdn-Cache-Control": {"max-age=10, ="}}, time.Minute, true, 2 * time.Second},
		"targeted-case":       {http.Header{"Cache-Control": {"max-age=60"}, "Cdn-Cache-Control": {"Max-Age=10"}}, time.Minute, true, 2 * time.Second},
		"expires":             {http.Header{"Expires": {at(time.Minute)}, "Date": {at(-time.Minute)}}, 2 * time.Minute, true, time.Minute},
		"expires-bad-date":    {http.Header{"Expires": {at(time.Minute)}, "Date": {"today"}}, time.Minute, true, 2 * time.Second},
		"expires-invalid":     {http.Header{"Expires": {"0"}}, 0, true, 2 * time.Second},
		"date-in-future":      {http.Header{"Date": {at(time.Hour)}}, 0, false, 2 * time.Second},
		"age":                 {http.Header{"Age": {"30"}}, 0, false, 32 * time.Second},
		"age-list":            {http.Header{"Age": {"30, 0", "0"}}, 0, false, 32 * time.Second},
		"age-float":           {http.Header{"Age": {"30.5"}}, 0, false, 2 * time.Second},
		"age-negative":        {http.Header{"Age": {"-30"}}, 0, false, 2 * time.Second},
		"age-huge":            {http.Header{"Age": {"99999999999999999999"}}, 0, false, maxSeconds*time.Second + 2*time.Second},
		"age-less-than-date":  {http.Header{"Age": {"1"}, "Date": {at(-time.Minute)}}, 0, false, time.Minute},
		"max-age-without-end": {http.Header{"Cache-Control": {"max-age=99999999999999"}}, maxSeconds * time.Second, true, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			got, explicit := lifetime(parseControl(c.header["Cache-Control"]), c.header, received)
			if got != c.lifetime || explicit != c.explicit {
				t.Errorf("got lifetime %v, %t, want %v, %t", got, explicit, c.lifetime, c.explicit)
			}
			if got := initialAge(c.header, asked, received); got != c.age {
				t.Errorf("got age %v, want %v", got, c.age)
			}
		})
	}
}

func TestParseVary(t *testing.T) {
	for _, c := range []struct {
		lines []string
		want  []string
		ok    bool
	}{
		{nil, nil, true},
		{[]string{"accept-language, Accept-Encoding", "ACCEPT-language,,"}, []string{"Accept-Encoding", "Accept-Language"}, true},
		{[]string{"Accept,*"}, nil, false},
		{[]string{","}, nil, true},
		{[]string{"a b"}, nil, false},
		{[]string{"Accept", "COOKIE"}, nil, false},
		{[]string{strings.Repeat("a", 10) + "\x00"}, nil, false},
	} {
		if got, ok := parseVary(c.lines); ok != c.ok || !slices.Equal(got, c.want) {
			t.Errorf("%q: got %q, %t, want %q, %t", c.lines, got, ok, c.want, c.ok)
		}
	}
	var many []string
	for i := range maxVary + 1 {
		many = append(many, "X-"+strings.Repeat("a", i+1))
	}
	if _, ok := parseVary(many); ok {
		t.Errorf("%d names are accepted", len(many))
	}
}

func FuzzVary(f *testing.F) {
	f.Add("Accept, Accept-Language", "de, en", "de,en")
	f.Add("*", "", "")
	f.Add("x,,\xff", "\x00", ",")
	f.Fuzz(func(t *testing.T, vary, one, two string) {
		names, ok := parseVary([]string{vary})
		if !ok {
			return
		}
		h := http.Header{}
		for _, name := range names {
			h[name] = []string{one, two}
		}
		values := varyValues(names, h)
		if !varyMatches(names, values, h) {
			t.Error("a request does not match itself")
		}
		for _, name := range names {
			delete(h, name)
		}
		if len(names) > 0 && varyMatches(names, values, h) && one+two != "" {
			t.Error("a request without the fields matches one that has them")
		}
	})
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		lines []string
		etag  string
		want  bool
	}{
		{[]string{`"a"`}, `"a"`, true},
		{[]string{`W/"a"`}, `"a"`, true},
		{[]string{`"b", W/"a"`}, `W/"a"`, true},
		{[]string{`"b"`, `"a"`}, `"a"`, true},
		{[]string{`"a,b"`}, `"a,b"`, true},
		{[]string{`"a" "b"`}, `"b"`, false},
		{[]string{`"a`}, `"a"`, false},
		{[]string{`w/"a"`}, `"a"`, false},
		{[]string{`*`}, ``, true},
		{[]string{`"*"`}, `"a"`, false},
		{[]string{`""`}, ``, false},
		{[]string{``}, `"a"`, false},
	} {
		if got := matches(c.lines, c.etag); got != c.want {
			t.Errorf("%q against %q: got %t, want %t", c.lines, c.etag, got, c.want)
		}
	}
}

func FuzzMatches(f *testing.F) {
	f.Add(`"a", W/"b"`, `"b"`)
	f.Add(`"`, `"`)
	f.Add(`W/`, ``)
	f.Fuzz(func(t *testing.T, list, etag string) {
		if matches([]string{list}, etag) && strings.Trim(list, " \t") != "*" && !strings.Contains(list, opaque(etag)) {
			t.Errorf("%q matches %q", list, etag)
		}
	})
}

func TestParseTags(t *testing.T) {
	got, ok := parseTags([]string{"zero"}, []string{"one, two three", ",four,,\tfive "})
	if want := []string{"zero", "one", "two", "three", "four", "five"}; !ok || !slices.Equal(got, want) {
		t.Errorf("got %q, %t, want %q", got, ok, want)
	}
	for name, line := range map[string]string{"long": strings.Repeat("t", 257), "many": strings.Repeat("a ", 65), "not-utf8": "\xff", "control": "a\x01b"} {
		if got, ok := parseTags(nil, []string{line}); ok {
			t.Errorf("%s: got %q, want none", name, got)
		}
	}
}

func FuzzTags(f *testing.F) {
	f.Add("a, b c")
	f.Add("\xff,\x00")
	f.Fuzz(func(t *testing.T, line string) {
		tags, ok := parseTags(nil, []string{line})
		if ok && strings.ContainsAny(strings.Join(tags, ""), ", \t") {
			t.Errorf("got %q", tags)
		}
	})
}
