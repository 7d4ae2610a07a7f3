package admission

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestResolve(t *testing.T) {
	for in, want := range map[string]struct {
		clean string
		odd   bool
	}{
		"/livez":            {"/livez", false},
		"/Reports/May":      {"/reports/may", false},
		"/a.b/c.json":       {"/a.b/c.json", false},
		"/":                 {"/", false},
		"/dir/":             {"/dir/", false},
		"":                  {"/", true},
		"*":                 {"/*", true},
		"//livez":           {"/livez", true},
		"/livez/../reports": {"/reports", true},
		"/livez/./x":        {"/livez/x", true},
		"/.well-known/x":    {"/.well-known/x", false},
		"/livez.":           {"/livez", true},
		"/livez ":           {"/livez", true},
		"/ÄB":               {"/äb", false},
		"/a/..":             {"/a", true},
		"/a//":              {"/a/", true},
	} {
		if clean, odd := resolve(in); clean != want.clean || odd != want.odd {
			t.Errorf("%q: got %q, %v, want %q, %v", in, clean, odd, want.clean, want.odd)
		}
	}
}

func FuzzResolve(f *testing.F) {
	for _, s := range []string{"/livez", "/a/../b", "//", "/x. ", "/Ä", "/.", "*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, p string) {
		clean, _ := resolve(p)
		if !strings.HasPrefix(clean, "/") || strings.Contains(clean, "//") || strings.Contains(clean+"/", "/../") {
			t.Errorf("%q resolves to %q", p, clean)
		}
	})
}

type testClaims map[string]string

func (c testClaims) claim(name string) string { return c[name] }

func sorter(t *testing.T, c Config) func(r *http.Request, claims map[string]string) (class, priority string, exempt bool) {
	t.Helper()
	s, err := c.settings()
	if err != nil {
		t.Fatal(err)
	}
	k, err := c.rules(&s)
	if err != nil {
		t.Fatal(err)
	}
	return func(r *http.Request, claims map[string]string) (string, string, bool) {
		q := request{Request: r, claims: testClaims(claims)}
		q.path, q.odd = resolve(r.URL.Path)
		class, p := k.sort(&q)
		return s.classes[class], priorityNames[p], k.exempts(&q)
	}
}

func TestRules(t *testing.T) {
	sort := sorter(t, Config{
		Classes: []ClassRule{
			{"reports", Condition{Path: []string{"/reports/*", "/Exports"}}},
			{"writes", Condition{Method: []string{"POST"}}},
			{"reports", Condition{Header: "x-kind", Values: []string{"report"}}},
		},
		Priorities: []PriorityRule{
			{"high", Condition{Claim: "plan", Values: []string{"gold", "platinum"}}},
			{"high", Condition{Path: []string{"/checkout/*"}}},
			{"low", Condition{Path: []string{"/batch/*"}}},
			{"low", Condition{Header: "X-Purpose", Values: []string{"prefetch"}}},
		},
	})
	type want struct {
		class, priority string
		exempt          bool
	}
	for name, tc := range map[string]struct {
		method, path string
		header       http.Header
		claims       map[string]string
		want         want
	}{
		"plain":              {"GET", "/x", nil, nil, want{"default", "normal", false}},
		"class":              {"GET", "/reports/1", nil, nil, want{"reports", "normal", false}},
		"class-by-case":      {"GET", "/REPORTS/1", nil, nil, want{"reports", "normal", false}},
		"class-by-dots":      {"GET", "/x/../reports/1", nil, nil, want{"reports", "normal", false}},
		"class-whole-path":   {"GET", "/exports", nil, nil, want{"reports", "normal", false}},
		"class-longer-path":  {"GET", "/exports/1", nil, nil, want{"default", "normal", false}},
		"class-by-method":    {"POST", "/x", nil, nil, want{"writes", "normal", false}},
		"class-by-header":    {"GET", "/x", http.Header{"X-Kind": {"report"}}, nil, want{"reports", "normal", false}},
		"first-fits":         {"POST", "/reports/1", nil, nil, want{"reports", "normal", false}},
		"claim":              {"GET", "/batch/1", nil, map[string]string{"plan": "gold"}, want{"default", "high", false}},
		"other-claim":        {"GET", "/x", nil, map[string]string{"plan": "gold,platinum"}, want{"default", "normal", false}},
		"high-path":          {"GET", "/checkout/1", nil, nil, want{"default", "high", false}},
		"no-high-by-dots":    {"GET", "/batch/../checkout/1", nil, nil, want{"default", "normal", false}},
		"no-high-by-slashes": {"GET", "//checkout/1", nil, nil, want{"default", "normal", false}},
		"low-by-dots":        {"GET", "/checkout/../batch/1", nil, nil, want{"default", "low", false}},
		"low-header":         {"GET", "/x", http.Header{"X-Purpose": {"prefetch"}}, nil, want{"default", "low", false}},
		"header-twice":       {"GET", "/x", http.Header{"X-Purpose": {"prefetch", "prefetch"}}, nil, want{"default", "normal", false}},
		"exempt":             {"GET", "/livez", nil, nil, want{"default", "normal", true}},
		"not-exempt-by-dots": {"GET", "/reports/../livez", nil, nil, want{"default", "normal", false}},
		"not-exempt-below":   {"GET", "/livez/x", nil, nil, want{"default", "normal", false}},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(tc.method, "/", nil)
			r.URL.Path, r.Header = tc.path, tc.header
			class, p, exempt := sort(r, tc.claims)
			if got := (want{class, p, exempt}); got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestPart(t *testing.T) {
	for _, tc := range []struct {
		known [priorities]bool
		limit int
		want  [priorities]int
	}{
		{[priorities]bool{normal: true}, 10, [priorities]int{10, 10, 10}},
		{[priorities]bool{normal: true, high: true}, 10, [priorities]int{9, 9, 10}},
		{[priorities]bool{true, true, true}, 100, [priorities]int{80, 90, 100}},
		{[priorities]bool{true, true, true}, 1, [priorities]int{1, 1, 1}},
		{[priorities]bool{true, true, true}, 3, [priorities]int{2, 2, 3}},
	} {
		s := settings{known: tc.known}
		for p, want := range tc.want {
			if p == int(low) && !tc.known[low] {
				continue // not in use
			}
			if got := s.part(tc.limit, priority(p)); got != want {
				t.Errorf("%v of %d for %s: got %d, want %d", tc.known, tc.limit, priorityNames[p], got, want)
			}
		}
	}
}
