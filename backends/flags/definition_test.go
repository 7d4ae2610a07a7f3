package flags

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

func entries(n int) string {
	users := make([]string, n)
	for i := range users {
		users[i] = fmt.Sprint("u", i)
	}
	b, _ := json.Marshal(users)
	return string(b)
}

func TestParseDefinition(t *testing.T) {
	got, err := ParseDefinition([]byte(`{"enabled":true,"percentage":25,"allowList":["a","b"],"denyList":["c"]}`))
	want := Definition{Enabled: true, Percentage: 25, AllowList: []string{"a", "b"}, DenyList: []string{"c"}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("got error %v, difference:\n%s", err, diff)
	}
	got, err = ParseDefinition([]byte(`{"enabled":false,"allowList":null}`))
	want = Definition{AllowList: []string{}, DenyList: []string{}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("got error %v, difference:\n%s", err, diff)
	}
	if _, err = ParseDefinition([]byte(`{"enabled":true,"allowList":` + entries(maxEntries) + `}`)); err != nil {
		t.Errorf("a full list: %v", err)
	}
}

func TestParseDefinitionRefuses(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"empty", ``, "empty"},
		{"null", `null`, "enabled is required"},
		{"array", `[]`, "must be an object"},
		{"no-enabled", `{"percentage":1}`, "enabled is required"},
		{"enabled-string", `{"enabled":"true"}`, `"enabled" must be true or false`},
		{"fraction", `{"enabled":true,"percentage":0.5}`, "percentage must be a whole number"},
		{"whole-fraction", `{"enabled":true,"percentage":10.0}`, "percentage must be a whole number"},
		{"exponent", `{"enabled":true,"percentage":1e1}`, "percentage must be a whole number"},
		{"percentage-string", `{"enabled":true,"percentage":"10"}`, "percentage must be a whole number"},
		{"percentage-null", `{"enabled":true,"percentage":null}`, "percentage must be a whole number"},
		{"negative", `{"enabled":true,"percentage":-1}`, "percentage must be a whole number"},
		{"above-hundred", `{"enabled":true,"percentage":101}`, "percentage must be a whole number"},
		{"huge", `{"enabled":true,"percentage":99999999999999999999}`, "percentage must be a whole number"},
		{"list-of-numbers", `{"enabled":true,"allowList":[1]}`, `allowList`},
		{"empty-user", `{"enabled":true,"allowList":[""]}`, "allowList: entry 1"},
		{"null-user", `{"enabled":true,"denyList":["a",null]}`, "denyList: entry 2"},
		{"long-user", `{"enabled":true,"denyList":["` + strings.Repeat("x", maxUser+1) + `"]}`, "denyList: entry 1"},
		{"long-list", `{"enabled":true,"allowList":` + entries(maxEntries+1) + `}`, "more than 10000 entries"},
		{"unknown-member", `{"enabled":true,"rules":[]}`, `"rules" is unknown`},
		{"two-values", `{"enabled":true} {}`, "nothing after it"},
		{"bad-utf8", "{\"enabled\":true,\"allowList\":[\"\xff\"]}", "UTF-8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseDefinition([]byte(tt.in))
			e, ok := errors.AsType[*problem.Error](err)
			if !ok || e.Code != problem.InvalidRequest || !strings.Contains(e.Detail, tt.want) {
				t.Errorf("got %v, want invalid-request with %q", err, tt.want)
			}
		})
	}
}

func FuzzParseDefinition(f *testing.F) {
	f.Add([]byte(`{"enabled":true,"percentage":25,"allowList":["a"],"denyList":["b"]}`))
	f.Add([]byte(`{"enabled":true,"percentage":1e1}`))
	f.Add([]byte(`{"enabled":null,"enabled":true,"ALLOWLIST":["\ud800"]}`))
	f.Add([]byte("\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseDefinition(b)
		if err != nil {
			if e, ok := errors.AsType[*problem.Error](err); !ok || e.Code != problem.InvalidRequest {
				t.Fatalf("%q is refused with %v, want invalid-request", b, err)
			}
			return
		}
		if d.Percentage < 0 || d.Percentage > 100 || d.AllowList == nil || d.DenyList == nil {
			t.Fatalf("%q gives %+v", b, d)
		}
		again, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		d2, err := ParseDefinition(again)
		if diff := cmp.Diff(d, d2); diff != "" || err != nil {
			t.Fatalf("%q does not survive being stored: %v\n%s", b, err, diff)
		}
	})
}

func TestValidKey(t *testing.T) {
	for _, s := range []string{"a", "0", "new-checkout", "a.b_c-d", strings.Repeat("k", maxKey)} {
		if !ValidKey(s) {
			t.Errorf("%q must be a key", s)
		}
	}
	for _, s := range []string{"", "A", "-a", ".a", "_a", "a b", "a/b", "a:b", "ä", "a\x00", "a\n", "\xff", strings.Repeat("k", maxKey+1)} {
		if ValidKey(s) {
			t.Errorf("%q must not be a key", s)
		}
	}
}

func FuzzValidKey(f *testing.F) {
	f.Add("new-checkout")
	f.Add("..")
	f.Add("a\xff")
	f.Fuzz(func(t *testing.T, s string) {
		if ValidKey(s) && (len(s) > maxKey || !utf8.ValidString(s) || strings.ContainsAny(s, " :/%\"\r\n\x00")) {
			t.Fatalf("%q must not be a key", s)
		}
	})
}

func TestParseTags(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lines []string
		want  tags
	}{
		{"absent", nil, tags{}},
		{"any", []string{" * "}, tags{given: true, any: true}},
		{"one", []string{`"3"`}, tags{given: true, list: []tag{{opaque: "3"}}}},
		{"weak-and-list", []string{`W/"a", "b"`, `"c,d"`}, tags{given: true, list: []tag{{weak: true, opaque: "a"}, {opaque: "b"}, {opaque: "c,d"}}}},
		{"empty-elements", []string{`,, "a" ,`}, tags{given: true, list: []tag{{opaque: "a"}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := parseTags(tt.lines)
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(tags{}, tag{})); diff != "" || !ok {
				t.Errorf("got ok %v, difference:\n%s", ok, diff)
			}
		})
	}
	for _, s := range []string{"", ",", "3", `"3`, `3"`, `"a" "b"`, `"a"b`, `w/"a"`, "\"a\x00\"", "\"a b\"", `*, "a"`, `"a", *`} {
		if _, ok := parseTags([]string{s}); ok {
			t.Errorf("%q must be refused", s)
		}
	}
}

func TestStrong(t *testing.T) {
	for tag, want := range map[string]bool{
		`"3"`: true, `*`: true, `"1", "3"`: true, `"3-gzip"`: true, `"3-zstd"`: true, `"3-br"`: true,
		`W/"3"`: false, `W/"3-gzip"`: false, `"31"`: false, `"3-"`: false, `"3-tar"`: false, `"-gzip"`: false, `"13-gzip"`: false,
	} {
		got, ok := parseTags([]string{tag})
		if !ok || got.strong("3") != want {
			t.Errorf("%s: got %v, want %v", tag, got.strong("3"), want)
		}
	}
}

func FuzzParseTags(f *testing.F) {
	f.Add(`"3"`, `W/"a", *`)
	f.Add(`*`, ``)
	f.Add("\"\xff\"", ",,")
	f.Fuzz(func(t *testing.T, a, b string) {
		got, ok := parseTags([]string{a, b})
		if ok && !got.any && len(got.list) == 0 {
			t.Fatalf("%q, %q: accepted without a tag", a, b)
		}
	})
}

func FuzzParseContext(f *testing.F) {
	for _, s := range []string{``, `null`, `{}`, `{"context":{}}`, `{"context":{"targetingKey":"u"}}`, `{"context":[]}`, `{"context":{"targetingKey":1}}`, `{"context":null}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		user, fail := parseContext(b)
		if (fail == nil) != (user != "") {
			t.Fatalf("%q: got user %q and failure %+v", b, user, fail)
		}
		if fail != nil && (fail.status != 400 || fail.Code == "") {
			t.Fatalf("%q: got %+v", b, fail)
		}
	})
}
