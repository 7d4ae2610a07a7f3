package flags

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// table is values from a map.
type table map[string]string

func (v table) GetString(placeholder string) (string, bool) {
	s, ok := v[placeholder]
	return s, ok
}

func (v table) ReplaceAll(text, unknown string) string {
	for name, value := range v {
		text = strings.ReplaceAll(text, "{"+name+"}", value)
	}
	return strings.ReplaceAll(text, "{unknown}", unknown)
}

func TestSubject(t *testing.T) {
	v := table{"http.auth.user.id": "ann", "tenant": "acme"}
	for _, tt := range []struct {
		name, template, want string
		direct               bool
	}{
		{"default", "", "ann", true},
		{"identity", "{http.auth.user.id}", "ann", true},
		{"one-placeholder", "{tenant}", "acme", true},
		{"no-value", "{unknown}", "", true},
		{"constant", "everybody", "everybody", false},
		{"composed", "{tenant}/{http.auth.user.id}", "acme/ann", false},
		{"composed-no-value", "{tenant}/{unknown}", "acme/", false},
		{"empty-braces", "{}", "{}", false},
		{"open-brace", "{tenant", "{tenant", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := compileSubject(tt.template)
			if got := s.of(v); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if direct := s.placeholder != ""; direct != tt.direct {
				t.Errorf("looked up directly: got %v, want %v", direct, tt.direct)
			}
		})
	}
}

func TestFeatureHeader(t *testing.T) {
	for flag, want := range map[string]string{
		"new-checkout": "X-Feature-New-Checkout",
		"a.b_c":        "X-Feature-A-B-C",
		"2fa":          "X-Feature-2fa",
	} {
		if got := featureHeader(flag); got != want {
			t.Errorf("%s: got %s, want %s", flag, got, want)
		}
	}
}

func TestStrip(t *testing.T) {
	h := http.Header{
		"X-Feature-New-Checkout":  {"on"},
		"x-feature-new-checkout":  {"on"},
		"X_feature_new_checkout":  {"on"},
		"X-Feature-New.checkout":  {"on", "on"},
		"X-Feature-New-Checkouts": {"kept"},
		"X-Feature-New":           {"kept"},
		"Accept":                  {"kept"},
	}
	strip(h, "X-Feature-New-Checkout")
	want := http.Header{"X-Feature-New-Checkouts": {"kept"}, "X-Feature-New": {"kept"}, "Accept": {"kept"}}
	if diff := cmp.Diff(want, h); diff != "" {
		t.Errorf("difference:\n%s", diff)
	}
}
