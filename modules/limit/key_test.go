package limit

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseTemplate(t *testing.T) {
	for in, want := range map[string][]string{
		"{client_ip}": {"client_ip"},
		"{http.vars.client_ip}/{http.request.host}": {"http.vars.client_ip", "http.request.host"},
		"tenant-{http.request.header.X-Tenant}":     {"http.request.header.X-Tenant"},
		"{http.request.uri.query.a}":                {"http.request.uri.query.a"},
	} {
		got, err := parseTemplate("by", in)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("parseTemplate(%q): %v %s", in, err, diff)
		}
	}
}

var hostileTemplates = []string{
	"", "   ", "constant", "{", "}", "{}", "{{}", "{{a}}", "}{", "{a", "a}", "{a}}", "{a b}", "{a\nb}", "{\x00}", "{\xff}", "\\{a\\}", "{a{b}}",
	strings.Repeat("{a}", 9), strings.Repeat("x", 1<<20), "{" + strings.Repeat("a", 1<<20) + "}",
}

func TestParseTemplateRefuses(t *testing.T) {
	for _, in := range hostileTemplates {
		if names, err := parseTemplate("by", in); err == nil {
			t.Errorf("parseTemplate(%.40q) = %q, want an error", in, names)
		}
	}
}

func FuzzParseTemplate(f *testing.F) {
	f.Add("{http.request.header.X-Tenant}-{client_ip}")
	for _, s := range hostileTemplates {
		if len(s) < 2000 {
			f.Add(s)
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		names, err := parseTemplate("by", s)
		if err != nil {
			return
		}
		if len(names) == 0 || len(names) > maxParts || len(s) > maxTemplate {
			t.Fatalf("parseTemplate(%q) = %q", s, names)
		}
		rest := s
		for _, name := range names {
			_, after, ok := strings.Cut(rest, "{"+name+"}")
			if !ok {
				t.Fatalf("parseTemplate(%q) found %q, which is not there", s, name)
			}
			rest = after
		}
	})
}

func subjectFor(anonymous bool, address bool, values ...string) *subject {
	s := &subject{anonymous: anonymous}
	for _, v := range values {
		s.add(v, address, defaultGrouping)
	}
	return s
}

func TestAddressesAreGroupedByNetwork(t *testing.T) {
	for _, test := range []struct {
		name, a, b string
		same       bool
	}{
		{"same-64", "2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", true},
		{"other-64", "2001:db8:1:2::1", "2001:db8:1:3::1", false},
		{"mapped", "192.0.2.1", "::ffff:192.0.2.1", true},
		{"mapped-other", "::ffff:192.0.2.1", "::ffff:192.0.2.2", false},
		{"zone", "fe80::1%eth0", "fe80::2%eth1", true},
		{"other-v4", "192.0.2.1", "192.0.2.2", false},
		{"upper-case", "2001:DB8::1", "2001:db8::2", true},
		{"no-address", "@", "unix", false},
		{"zero", "::", "0.0.0.0", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := subjectFor(false, true, test.a), subjectFor(false, true, test.b)
			if got := a.local() == b.local(); got != test.same {
				t.Errorf("%s and %s have the same key: %v, want %v", test.a, test.b, got, test.same)
			}
			if got := a.id("z") == b.id("z"); got != test.same {
				t.Errorf("%s and %s have the same id: %v, want %v", test.a, test.b, got, test.same)
			}
		})
	}
}

func TestDifferentSubjectsHaveDifferentKeys(t *testing.T) {
	all := map[string]*subject{
		"network":             subjectFor(false, true, "192.0.2.1"),
		"anonymous":           subjectFor(true, true, "192.0.2.1"),
		"the same as a value": subjectFor(false, false, "192.0.2.1"),
		"anonymous, no ip":    subjectFor(true, true, "@"),
		"no ip":               subjectFor(false, true, "@"),
		"a-b c":               subjectFor(false, false, "a-b", "c"),
		"a b-c":               subjectFor(false, false, "a", "b-c"),
		"a b":                 subjectFor(false, false, "a", "b"),
		"b a":                 subjectFor(false, false, "b", "a"),
		"a":                   subjectFor(false, false, "a"),
		"a and nothing":       subjectFor(false, false, "a", ""),
	}
	local, ids := map[uint64]string{}, map[[16]byte]string{}
	for name, s := range all {
		if other, ok := local[s.local()]; ok {
			t.Errorf("%q and %q have one key", name, other)
		}
		if other, ok := ids[s.id("z")]; ok {
			t.Errorf("%q and %q have one id", name, other)
		}
		local[s.local()], ids[s.id("z")] = name, name
		if s.id("z") == s.id("y") {
			t.Errorf("%q has the same id in two zones", name)
		}
	}
}

func TestTextHidesCredentialsAndForgesNothing(t *testing.T) {
	for _, test := range []struct {
		name, template string
		values         []string
		want           string
	}{
		{"user", "{http.auth.user.id}", []string{"ada"}, "ada"},
		{"api-key", "{http.request.header.X-Api-Key}", []string{"s3cret"}, "sha256:1ec1c26b50d5"},
		{"cookie", "{http.request.cookie.sid}", []string{"s3cret"}, "sha256:1ec1c26b50d5"},
		{"network-and-tenant", "{client_ip}/{http.request.header.X-Tenant}", []string{"2001:db8::7", "acme"}, "acme 2001:db8::"},
		{"two-addresses", "{client_ip} {http.request.remote.host} {http.request.header.Authorization} {http.request.header.X-Region}", []string{"192.0.2.1", "10.0.0.1", "s3cret", "eu"}, "10.0.0.1 sha256:1ec1c26b50d5 eu 192.0.2.1"},
		{"line-break", "{http.request.header.X-Tenant}", []string{"a\nERROR b\x1b[2J"}, `a\nERROR b\x1b[2J`},
		{"bad-utf-8", "{http.request.header.X-Tenant}", []string{"\xff\xfe"}, `\xff\xfe`},
		{"long", "{http.request.header.X-Tenant}", []string{strings.Repeat("x", 1<<20)}, strings.Repeat("x", maxText) + "…"},
	} {
		t.Run(test.name, func(t *testing.T) {
			parts, err := compile("by", test.template)
			if err != nil {
				t.Fatal(err)
			}
			var s subject
			for i, v := range test.values {
				s.add(v, parts[i].address, defaultGrouping)
			}
			if got := s.text(parts); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func FuzzKeyOfClientBytes(f *testing.F) {
	for _, s := range []string{"", " ", "\n", "\x00", "\xff\xfe", "{env.PATH}", "192.0.2.1", "fe80::1%25", strings.Repeat("x", 1<<20)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, address := range []bool{false, true} {
			a, b := subjectFor(false, address, s), subjectFor(false, address, strings.Clone(s))
			if a.local() != b.local() || a.id("z") != b.id("z") {
				t.Fatalf("%q has two keys", s)
			}
			if a.local() == 0 {
				t.Fatalf("%q has the key of a free place", s)
			}
			if text := a.text([]part{{name: "x", address: address}}); len(text) > 10*maxText || strings.ContainsAny(text, "\n\r\x00\x1b") {
				t.Fatalf("%q is shown as %q", s, text)
			}
		}
		if subjectFor(false, false, s).local() == subjectFor(false, false, s+"x").local() {
			t.Fatalf("%q and %q have one key", s, s+"x")
		}
	})
}
