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
		got, err := parseTemplate(in)
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
		if names, err := parseTemplate(in); err == nil {
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
		names, err := parseTemplate(s)
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
			if got := byTemplate.ofAddress(test.a) == byTemplate.ofAddress(test.b); got != test.same {
				t.Errorf("%s and %s have the same key: %v, want %v", test.a, test.b, got, test.same)
			}
		})
	}
}

func TestSpacesAndPartsDoNotMix(t *testing.T) {
	if byTemplate.ofAddress("192.0.2.1") == byAddress.ofAddress("192.0.2.1") {
		t.Error("the two spaces share a key")
	}
	join := func(values ...string) Key {
		var keys []Key
		for _, v := range values {
			keys = append(keys, byTemplate.of(v))
		}
		return byTemplate.join(keys)
	}
	if join("a-b", "c") == join("a", "b-c") || join("a", "b") == join("b", "a") || join("a", "") == join("a") {
		t.Error("different parts have the same key")
	}
}

func FuzzKeyOfClientBytes(f *testing.F) {
	for _, s := range []string{"", " ", "\n", "\x00", "\xff\xfe", "{env.PATH}", "192.0.2.1", "fe80::1%25", strings.Repeat("x", 1<<20)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if byTemplate.ofAddress(s) != byTemplate.ofAddress(strings.Clone(s)) || byTemplate.of(s) != byTemplate.of(strings.Clone(s)) {
			t.Fatalf("%q has two keys", s)
		}
		if byTemplate.of(s) == byTemplate.of(s+"x") {
			t.Fatalf("%q and %q have one key", s, s+"x")
		}
	})
}
