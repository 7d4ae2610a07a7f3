package once_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/once"
)

func TestCheck(t *testing.T) {
	for name, tc := range map[string]struct {
		template, target string
		header           http.Header
		refused          bool
	}{
		"one-line":           {"{http.request.header.x-api-key}", "/", http.Header{"X-Api-Key": {"a"}}, false},
		"two-lines":          {"{http.request.header.x-api-key}", "/", http.Header{"X-Api-Key": {"a", "b"}}, true},
		"the-same-twice":     {"{header.X-Api-Key}", "/", http.Header{"X-Api-Key": {"a", "a"}}, true},
		"another-field":      {"{header.X-Api-Key}", "/", http.Header{"X-Other": {"a", "a"}}, false},
		"second-placeholder": {"{client_ip}-{header.X-Api-Key}", "/", http.Header{"X-Api-Key": {"a", "a"}}, true},
		"no-part":            {"{http.auth.user.id}", "/?id=1&id=2", nil, false},
		"query":              {"{query.k}", "/?k=1&other=2&other=3", nil, false},
		"query-twice":        {"{http.request.uri.query.k}", "/?k=1&k=2", nil, true},
		"query-escaped":      {"{query.k}", "/?k=1&%6b=2", nil, true},
		"query-no-value":     {"{query.k}", "/?k&k", nil, true},
		"cookie":             {"{cookie.s}", "/", http.Header{"Cookie": {"s=1; ss=2"}}, false},
		"cookie-twice":       {"{http.request.cookie.s}", "/", http.Header{"Cookie": {"s=1; t=2;s=3"}}, true},
		"cookie-two-lines":   {"{cookie.s}", "/", http.Header{"Cookie": {"s=1", "s=3"}}, true},
		"open-brace":         {"{header.X", "/", http.Header{"X": {"a", "a"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, tc.target, nil)
			if tc.header != nil {
				r.Header = tc.header
			}
			err := once.Check(r, once.In(tc.template))
			if (err != nil) != tc.refused || err != nil && problem.From(err).Code != problem.InvalidRequest {
				t.Errorf("got %v, want refused %v", err, tc.refused)
			}
		})
	}
}

func FuzzCheck(f *testing.F) {
	f.Add("k=1&k=2", "s=1; s=2")
	f.Add("%6b=1&k&&=&%zz", ";;=;s")
	parts := once.In("{query.k}{cookie.s}")
	f.Fuzz(func(t *testing.T, query, cookie string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.URL.RawQuery = query
		r.Header["Cookie"] = []string{cookie}
		if once.Check(r, parts) == nil && len(r.URL.Query()["k"]) > 1 {
			t.Errorf("%q passes, but Go reads k several times", query)
		}
	})
}
