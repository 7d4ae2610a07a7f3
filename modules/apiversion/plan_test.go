package apiversion

import (
	"net/url"
	"path"
	"strings"
	"testing"
	"time"
)

var today = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// lifes has a version of every status.
func lifes(t testing.TB, prefix, latest string) *plan {
	t.Helper()
	p, err := compile(prefix, []Version{
		{Name: "v1", Deprecated: mustDate("2025-01-01"), Sunset: mustDate("2026-01-01"), Successor: "v2"},
		{Name: "v2", Deprecated: mustDate("2026-06-01"), Sunset: mustDate("2027-06-01"), Successor: "v3"},
		{Name: "v3"},
	}, latest)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func target(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.ParseRequestURI(s)
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return u
}

// describe is a decision in one line.
func describe(d Decision) string {
	switch {
	case d.unknown:
		return "unknown"
	case d.version == nil:
		return "pass"
	}
	s := d.version.Name + " " + string(d.Status)
	if d.rewritten {
		s += " to " + (&url.URL{Path: d.path, RawPath: d.raw}).EscapedPath()
	}
	if d.successor != "" {
		s += " then " + d.successor
	}
	return s
}

func TestDecide(t *testing.T) {
	for _, test := range []struct{ prefix, latest, target, want string }{
		{"/api", "v3", "/api/v3/users", "v3 current"},
		{"/api", "v3", "/api/v3", "v3 current"},
		{"/api", "v3", "/api/v3/", "v3 current"},
		{"/api", "v3", "/api/v2/users/42?a=b", "v2 deprecated then /api/v3/users/42"},
		{"/api", "v3", "/api/v2", "v2 deprecated then /api/v3"},
		{"/api", "v3", "/api/v2/a%2Fb/%C3%A9", "v2 deprecated then /api/v3/a%2Fb/%C3%A9"},
		{"/api", "v3", "/api/v1/users", "v1 sunset then /api/v2/users"},

		{"/api", "v3", "/api/users", "v3 current to /api/v3/users"},
		{"/api", "v3", "/api", "v3 current to /api/v3"},
		{"/api", "v3", "/api/", "v3 current to /api/v3/"},
		{"/api", "v3", "/api/users/", "v3 current to /api/v3/users/"},
		{"/api", "v3", "/api/a%2Fb%20c", "v3 current to /api/v3/a%2Fb%20c"},
		{"/api", "v3", "/%61pi/a%2Fb", "v3 current to /%61pi/v3/a%2Fb"},
		{"/api", "v3", "/api/users;x=1", "v3 current to /api/v3/users;x=1"},
		{"/api", "v3", "/api/x/../users", "v3 current to /api/v3/x/../users"},
		{"/api", "v3", "/api/../api/users", "v3 current to /api/v3/users"},
		{"/api", "v3", "//api//users", "v3 current to /api/v3/users"},
		{"/api", "v2", "/api/users", "v2 deprecated to /api/v2/users then /api/v3/users"},
		{"/api", "v2", "/api/a%2Fb", "v2 deprecated to /api/v2/a%2Fb then /api/v3/a%2Fb"},
		{"/api", "", "/api/users", "pass"},
		{"/api", "", "/api", "pass"},

		{"/", "v3", "/v2/x", "v2 deprecated then /v3/x"},
		{"/", "v3", "/x", "v3 current to /v3/x"},
		{"/", "v3", "/", "v3 current to /v3/"},
		{"/api/", "v3", "/api/x", "v3 current to /api/v3/x"},
		{"/a/b", "v3", "/a/b/v2/x", "v2 deprecated then /a/b/v3/x"},

		{"/api", "v3", "/", "pass"},
		{"/api", "v3", "/apis/v1", "pass"},
		{"/api", "v3", "/v1/users", "pass"},
		{"/api", "v3", "/static/api/v1/users", "pass"},
		{"/api", "v3", "/API/v1/users", "unknown"},
		{"/api", "v3", "/API/v9", "unknown"},
		{"/api", "v3", "/API/users", "pass"},
		{"/api", "v3", "/APIX/v1", "pass"},
		{"/api", "v3", "*", "pass"},

		{"/api", "v3", "/api/v4/users", "unknown"},
		{"/api", "", "/api/v4/users", "unknown"},
		{"/api", "v3", "/api/v01/users", "unknown"},
		{"/api", "v3", "/api/v1.0/users", "unknown"},
		{"/api", "v3", "/api/V1/users", "unknown"},
		{"/api", "v3", "/api/v1./users", "unknown"},
		{"/api", "v3", "/api/v1%20/users", "unknown"},
		{"/api", "v3", "/api/v1%00/users", "unknown"},
		{"/api", "v3", "/api/v2%0A/users", "unknown"},
		{"/api", "v3", "/api/v2;x=1/users", "unknown"},
		{"/api", "v3", "/api/v99999999999999999999999/users", "unknown"},
		{"/api", "v3", "/api/v1beta/users", "v3 current to /api/v3/v1beta/users"},
		{"/api", "v3", "/api/v/users", "v3 current to /api/v3/v/users"},
		{"/api", "v3", "/api/users/v1", "v3 current to /api/v3/users/v1"},
	} {
		t.Run(test.prefix+"-"+test.latest+test.target, func(t *testing.T) {
			if got := describe(lifes(t, test.prefix, test.latest).Decide(today, target(t, test.target))); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// waysToV1 are paths that some app reads as /api/v1/users or as the root of v1.
var waysToV1 = []string{
	"/api/v1/users", "/api/%761/users", "/api/v%31/users", "/%61pi/v1", "/api%2Fv1/users", "/api%2fv1%2fusers",
	"/api//v1/users", "//api/v1/users", "/api/v1//users", "/api/./v1", "/./api/v1/users", "/api/x/../v1/users", "/api/%2e/v1", "/api/x/%2e%2e/v1/users",
	"/api/x/.%2E/v1/users", "/api/x%2F..%2Fv1/users", "/x/../api/v1/users", "/../../api/v1/users", "/api/v2/../v1/users", "/api/v1/.", "/api/v1/x/..",
	"/api/v1/../v2/users", "/api/v1//../v2/users", "/api/v1/..%2Fv2", // for an app that resolves no dots, or as RFC 3986 does
	"/api/v1;x=1/users", "/api;x/v1/users", "/api/;/v1/users", "/api/x/..;/v1/users", "/api/v1/..;x/users", // for one that drops ;parameters, and one that does not
	`/api\v1/users`, `/api%5Cv1/users`, `/api/x\..\v1/users`, "/api//V1/users", "/api//v1%20/users", "/api//v1.;/users",
}

func TestRetiredVersionCannotBeReached(t *testing.T) {
	for _, latest := range []string{"", "v3"} {
		p := lifes(t, "/api", latest)
		for _, way := range waysToV1 {
			u, err := url.ParseRequestURI(way)
			if err != nil { // net/http refuses it as well
				continue
			}
			if d := p.Decide(today, u); d.version == nil || d.version.Name != "v1" || d.Status != Sunset {
				t.Errorf("latest %q: %s is answered with %s", latest, way, describe(d))
			}
		}
	}
}

func TestSuccessorSkipsRetiredVersions(t *testing.T) {
	d := lifes(t, "/api", "").Decide(mustDate("2027-06-01").Time, target(t, "/api/v1/users"))
	if got := describe(d); got != "v1 sunset then /api/v3/users" {
		t.Errorf("got %s", got)
	}
	all, err := compile("/api", []Version{
		{Name: "v1", Sunset: mustDate("2026-01-01"), Successor: "v2"}, {Name: "v2", Sunset: mustDate("2026-02-01")},
	}, "")
	if err != nil {
		t.Fatal(err)
	}
	if got := describe(all.Decide(today, target(t, "/api/v1/users"))); got != "v1 sunset" {
		t.Errorf("with no living successor: got %s", got)
	}
}

// readings are how apps resolve a decoded path: as it is, cleaned, with merged slashes, with dots
// resolved as RFC 3986 does it, and each of these without ;parameters and with backslashes as slashes.
func readings(decoded string) []string {
	lenient := "/" + strings.Join(segments(decoded), "/")
	var all []string
	for _, p := range []string{decoded, lenient} {
		merged := p
		for strings.Contains(merged, "//") {
			merged = strings.ReplaceAll(merged, "//", "/")
		}
		all = append(all, p, path.Clean(p), merged)
		if u, err := (&url.URL{Scheme: "http", Host: "h", Path: "/"}).Parse((&url.URL{Path: p}).EscapedPath()); err == nil {
			all = append(all, u.Path)
		}
	}
	return all
}

func FuzzDecide(f *testing.F) {
	for _, way := range waysToV1 {
		f.Add(way)
	}
	for _, s := range []string{"/api/users", "/api/v2/a%2Fb?x=%zz", "/", "*", "/api/v4", "/api/\xff", "/api/" + strings.Repeat("../", 50), "/api/%3C%3E%22"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.ParseRequestURI(s)
		if err != nil || !strings.HasPrefix(u.Path, "/") {
			return
		}
		for _, latest := range []string{"", "v3"} {
			p := lifes(t, "/api", latest)
			d := p.Decide(today, u)
			seen := u.Path // by the app
			if d.rewritten {
				seen = d.path
				if back, err := url.PathUnescape((&url.URL{Path: d.path, RawPath: d.raw}).EscapedPath()); err != nil || back != d.path {
					t.Fatalf("%q is rewritten to %q with %q", s, d.path, d.raw)
				}
				if got, want := clean(seen), clean(u.Path); strings.Replace(got, "/api/v3", "/api", 1) != want {
					t.Fatalf("%q is rewritten to %q", s, seen)
				}
				if again := p.Decide(today, &url.URL{Path: d.path, RawPath: d.raw}); again.version != d.version || again.rewritten {
					t.Fatalf("%q is rewritten to %q, which is %s", s, seen, describe(again))
				}
			}
			if d.Status != Sunset && !d.unknown {
				for _, r := range readings(seen) {
					if r == "/api/v1" || strings.HasPrefix(r, "/api/v1/") {
						t.Fatalf("latest %q: %q passes as %s, though an app may read %q", latest, s, describe(d), r)
					}
				}
			}
			decoded, err := url.PathUnescape(d.successor)
			if err != nil || strings.ContainsAny(d.successor, "<>\"\\ \r\n") || d.successor != "" && !strings.HasPrefix(decoded, "/api/v") {
				t.Fatalf("%q has the successor %q", s, d.successor)
			}
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	p := lifes(b, "/api", "v3")
	for name, s := range map[string]string{"current": "/api/v3/users/42", "deprecated": "/api/v2/users/42", "rewritten": "/api/users/42", "outside": "/static/app.js"} {
		u := target(b, s)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Decide(today, u)
			}
		})
	}
}
