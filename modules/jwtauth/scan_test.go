package jwtauth

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzMembers: what is read is what the standard library reads, and whatever it refuses is refused.
func FuzzMembers(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"a":1,"b":[true,{"c":null}],"d":"\u00e9\\\""}`, `{"a":1,"a":2}`, `{"a":{"b":1,"\u0062":2}}`, `{"a":01}`, `{"a":-}`, `{"a":1.}`, `{"a":1e}`,
		`{"a":tru}`, `{"a":"\x"}`, `{"a":1}{}`, ` { "a" : [ 1 , 2 ] } `, `{"a":[1,]}`, `{,}`, `[1]`, `null`, "{\"a\":\"\xff\"}", "{\"a\":\"\n\"}", `{"a":"`, `{"a":"\`,
		strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100), `{"\ud800":1,"\ud801":2}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		list, err := members(nil, in)
		var want map[string]any
		dec := json.NewDecoder(strings.NewReader(string(in)))
		dec.UseNumber()
		wrong := dec.Decode(&want) != nil || !json.Valid(in)
		if wrong && err == nil {
			for _, m := range list { // what stands behind a backslash is checked when it is asked for
				if strings.Contains(string(m.raw), `\`) {
					return
				}
			}
			t.Fatalf("%q was read", in)
		}
		if err != nil || wrong {
			return
		}
		got := map[string]any{}
		for _, m := range list {
			got[string(m.name)] = decode(m.raw)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("it differs (-want +got):\n%s", diff)
		}
	})
}

// FuzzQuery: no token is left where the app would look for it, and the rest is as it was.
func FuzzQuery(f *testing.F) {
	for _, seed := range []string{"", "a=1", "access_token=x", "a=1&access_token=x&b=%41", "access%5Ftoken=x", "access_token", "&&=&", "access_token=%zz", "a;access_token=x"} {
		f.Add(seed)
	}
	p := Policy{From: []From{{In: inQuery, Name: "access_token"}}}
	f.Fuzz(func(t *testing.T, raw string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.URL.RawQuery, r.RequestURI = raw, "/?"+raw
		before, _ := url.ParseQuery(raw)
		found := p.find(r)
		after, _ := url.ParseQuery(r.URL.RawQuery)
		if after.Has("access_token") || found.redacted != "" && r.URL.RawQuery != "" && r.RequestURI != "/?"+r.URL.RawQuery {
			t.Errorf("%q became %q and %q", raw, r.URL.RawQuery, r.RequestURI)
		}
		before.Del("access_token")
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("the rest differs (-want +got):\n%s", diff)
		}
	})
}

// FuzzAuthorization: what is taken for a token stands in the one header or in the one cookie, whole.
func FuzzAuthorization(f *testing.F) {
	for _, seed := range [][3]string{
		{"Bearer a.b.c", "", ""}, {"bearer   a", "", ""}, {"Bearer", "", ""}, {"Bearer a b", "", ""}, {"Bearer a,b", "", ""}, {"Bearer\ta", "", ""},
		{"Basic a", "", "session=a"}, {"Bearer a", "Bearer b", ""}, {"", "", "session=a; session=b"}, {"", "", `session="a"; x=y`}, {"\xff \x00", "\r\n", ";=;"},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	header := Policy{From: []From{{In: inHeader}}}
	jar := Policy{From: []From{{In: inCookie, Name: "session"}}}
	f.Fuzz(func(t *testing.T, first, second, cookies string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header["Authorization"], r.Header["Cookie"] = []string{first}, []string{cookies}
		if second != "" {
			r.Header["Authorization"] = append(r.Header["Authorization"], second)
		}
		switch got := header.find(r); {
		case got.err != nil && got.token != "":
			t.Errorf("got the token %q and %v", got.token, got.err)
		case got.token == "":
		case second != "":
			t.Errorf("got %q of two headers", got.token)
		case !strings.EqualFold(first[:len("Bearer ")], "Bearer ") || strings.TrimLeft(first[len("Bearer "):], " ") != got.token || strings.ContainsAny(got.token, " ,\t"):
			t.Errorf("got %q of %q", got.token, first)
		}
		sessions := 0
		for part := range strings.SplitSeq(cookies, ";") {
			if strings.HasPrefix(strings.TrimSpace(part), "session=") {
				sessions++
			}
		}
		switch got := jar.find(r); {
		case got.token == "":
		case got.err != nil || sessions != 1 || !strings.Contains(cookies, got.token):
			t.Errorf("got %q of the cookies %q (%v)", got.token, cookies, got.err)
		}
	})
}
