package service_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

func TestCaller(t *testing.T) {
	ranks := service.Ranks{AdminRole: "Head, of", ServiceScope: "app"}
	for name, tt := range map[string]struct {
		authority service.Authority
		headers   map[string]string
		want      service.Caller
	}{
		"nobody":                   {want: service.Caller{}},
		"user":                     {headers: map[string]string{"Subject": "ann"}, want: service.Caller{Subject: "ann", Owner: "ann"}},
		"user-encoded":             {headers: map[string]string{"Subject": "ann%20"}, want: service.Caller{Subject: "ann ", Owner: "ann "}},
		"not-encoded-by-us":        {headers: map[string]string{"Subject": "a%62"}, want: service.Caller{}},
		"raw-bytes":                {headers: map[string]string{"Subject": "anné"}, want: service.Caller{}},
		"raw-percent":              {headers: map[string]string{"Subject": "50%"}, want: service.Caller{}},
		"placeholder-not-expanded": {headers: map[string]string{"Subject": "{http.jwt_auth.header.id}"}, want: service.Caller{}},
		"tenant": {authority: service.Authority{Owner: "{http.auth.user.tenant}"}, headers: map[string]string{"Subject": "ann", "Owner": "acme"},
			want: service.Caller{Subject: "ann", Owner: "acme"}},
		"no-tenant": {authority: service.Authority{Owner: "{http.auth.user.tenant}"}, headers: map[string]string{"Subject": "ann"},
			want: service.Caller{Subject: "ann"}},
		"owner-that-cannot-be-read-is-not-the-subject": {headers: map[string]string{"Subject": "ann", "Owner": "a%62"}, want: service.Caller{Subject: "ann"}},
		"operator":             {headers: map[string]string{"Role": "editor,admin"}, want: service.Caller{Operator: true}},
		"role-of-other-case":   {headers: map[string]string{"Role": "Admin"}, want: service.Caller{}},
		"role-with-a-space":    {headers: map[string]string{"Role": " admin"}, want: service.Caller{}},
		"role-with-a-comma":    {headers: map[string]string{"Role": "x%2Cadmin"}, want: service.Caller{}},
		"named-role":           {authority: service.Authority{Ranks: ranks}, headers: map[string]string{"Role": "Head%2C of"}, want: service.Caller{Operator: true}},
		"default-role-is-gone": {authority: service.Authority{Ranks: ranks}, headers: map[string]string{"Role": "admin"}, want: service.Caller{}},
		"service":              {headers: map[string]string{"Scope": "a jobs:write"}, want: service.Caller{Service: true}},
		"scope-of-another":     {headers: map[string]string{"Scope": "cache:write"}, want: service.Caller{}},
		"scope-with-a-comma":   {headers: map[string]string{"Scope": "a,jobs:write"}, want: service.Caller{}},
		"named-scope":          {authority: service.Authority{Ranks: ranks}, headers: map[string]string{"Scope": "app jobs:write"}, want: service.Caller{Service: true}},
		"rank":                 {headers: map[string]string{"Rank": "service"}, want: service.Caller{Service: true}},
		"rank-operator":        {headers: map[string]string{"Rank": "operator"}, want: service.Caller{Operator: true}},
		"rank-unknown":         {headers: map[string]string{"Rank": "operators"}, want: service.Caller{}},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			for h, v := range tt.headers {
				r.Header.Set("Gatehouse-"+h, v)
			}
			if diff := cmp.Diff(tt.want, tt.authority.Caller(r, "jobs")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestCallerByTheAdminEndpoint(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	if c := (service.Authority{}).Caller(r.WithContext(service.AsAdmin(context.Background())), "jobs"); !c.Operator {
		t.Error("it is no operator")
	}
}

func TestCallerMay(t *testing.T) {
	nobody, ann, tenantless := service.Caller{}, service.Caller{Subject: "ann", Owner: "ann"}, service.Caller{Subject: "ann"}
	app, operator := service.Caller{Service: true}, service.Caller{Operator: true}
	code := func(err error) problem.Code {
		if e, ok := errors.AsType[*problem.Error](err); ok {
			return e.Code
		}
		return ""
	}
	for name, tt := range map[string]struct {
		caller                        service.Caller
		any, own, foreign, ownerless  bool
		check, service, operatorCheck problem.Code
	}{
		"nobody":     {caller: nobody, check: problem.MissingToken, service: problem.MissingToken, operatorCheck: problem.MissingToken},
		"user":       {caller: ann, own: true, service: problem.Forbidden, operatorCheck: problem.Forbidden},
		"tenantless": {caller: tenantless, check: problem.Forbidden, service: problem.Forbidden, operatorCheck: problem.Forbidden},
		"service":    {caller: app, any: true, own: true, foreign: true, ownerless: true, operatorCheck: problem.Forbidden},
		"operator":   {caller: operator, any: true, own: true, foreign: true, ownerless: true},
	} {
		t.Run(name, func(t *testing.T) {
			c := tt.caller
			if got, want := []bool{c.Any(), c.MayUse("ann"), c.MayUse("bob"), c.MayUse("")}, []bool{tt.any, tt.own, tt.foreign, tt.ownerless}; !cmp.Equal(want, got) {
				t.Errorf("got %v, want %v", got, want)
			}
			if got, want := []problem.Code{code(c.Check()), code(c.CheckAny()), code(c.CheckOperator())}, []problem.Code{tt.check, tt.service, tt.operatorCheck}; !cmp.Equal(want, got) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestAuthorityValidate(t *testing.T) {
	for name, tt := range map[string]struct {
		authority service.Authority
		says      string // empty: it is valid
	}{
		"default":         {},
		"tenant":          {authority: service.Authority{Owner: "{http.auth.user.tenant}"}},
		"issuer-and-sub":  {authority: service.Authority{Owner: "{http.auth.user.iss} {http.auth.user.id}"}},
		"same-for-all":    {service.Authority{Owner: "acme"}, "the same for everybody"},
		"not-closed":      {service.Authority{Owner: "{http.auth.user.tenant"}, "not complete"},
		"not-opened":      {service.Authority{Owner: "x}{http.auth.user.id}"}, "without its {"},
		"empty-name":      {service.Authority{Owner: "{}"}, "not complete"},
		"run-together":    {service.Authority{Owner: "{http.auth.user.iss}{http.auth.user.id}"}, "run together"},
		"percent":         {service.Authority{Owner: "%{http.auth.user.id}"}, "without %"},
		"role-with-space": {service.Authority{Ranks: service.Ranks{AdminRole: "admin "}}, "ends with a space"},
		"two-scopes":      {service.Authority{Ranks: service.Ranks{ServiceScope: "a b"}}, "is not a scope"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tt.authority.Validate()
			if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want %q", err, tt.says)
			}
		})
	}
}

func TestOwnerExpand(t *testing.T) {
	for name, tt := range map[string]struct {
		template string
		a, b     string
		want     string
	}{
		"one":                {"{a}", "50% a b", "", "50% a b"},
		"one-with-text":      {"t-{a}", "x", "", "t-x"},
		"two":                {"{a} {b}", "https://idp", "ann", "https://idp ann"},
		"two-with-the-sign":  {"{a} {b}", "x y", "z", "x%20y z"},
		"two-with-percent":   {"{a} {b}", "x%20y", "z", "x%2520y z"},
		"first-is-empty":     {"{a} {b}", "", "z", ""},
		"second-is-empty":    {"{a} {b}", "x", "", ""},
		"one-is-empty":       {"t-{a}", "", "", ""},
		"value-is-a-pattern": {"{a}", "{b}", "secret", "{b}"},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := service.ParseOwner(tt.template)
			if err != nil {
				t.Fatal(err)
			}
			if got := o.Expand(func(name string) string { return map[string]string{"a": tt.a, "b": tt.b}[name] }); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestDeleteCallerHeaders(t *testing.T) {
	h := http.Header{"Gatehouse-Job-Id": {"1"}, "Gatehouse": {"x"}, "X-Gatehouse-Rank": {"x"}}
	for _, name := range service.CallerHeaders {
		h[name] = []string{"x"}
		h[strings.ReplaceAll(name, "-", "_")] = []string{"x"}
		h[strings.ToLower(strings.ReplaceAll(name, "-", "."))] = []string{"x"}
	}
	service.DeleteCallerHeaders(h)
	want := http.Header{"Gatehouse-Job-Id": {"1"}, "Gatehouse": {"x"}, "X-Gatehouse-Rank": {"x"}}
	if diff := cmp.Diff(want, h); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// FuzzHeader: what is encoded survives a proxy and decodes to itself, and nothing else decodes to it.
func FuzzHeader(f *testing.F) {
	for _, seed := range []string{"", "ann", " ann", "ann ", "a%62", "%", "%2", "%zz", "é", "\x00", "{http.auth.user.id}", "a,b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		header := service.EncodeHeader(s, "")
		if strings.TrimSpace(header) != header {
			t.Errorf("%q: a proxy would cut %q", s, header)
		}
		if got := service.DecodeHeader(header); got != s && !strings.HasPrefix(s, "{http.") {
			t.Errorf("%q comes back as %q", s, got)
		}
		if text := service.DecodeHeader(s); text != "" && service.EncodeHeader(text, "") != s {
			t.Errorf("%q is read as %q, which is written %q", s, text, service.EncodeHeader(text, ""))
		}
	})
}
