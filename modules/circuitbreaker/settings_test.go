package circuitbreaker

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/clientbody"
)

func TestDefaults(t *testing.T) {
	got, err := new(Settings).rules()
	if diff := cmp.Diff(standard, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if got, err = (&Settings{Open: unit.Duration(2 * time.Minute), NoSlowStart: true}).rules(); err != nil || got.MaxOpen != 2*time.Minute || got.SlowStart != 0 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestBadSettings(t *testing.T) {
	for want, s := range map[string]Settings{
		"the ratio must be above 0":            {Ratio: 1.5},
		"the ratio must be above 0 ":           {Ratio: -1},
		"min_requests must be at least 1":      {MinRequests: -1},
		"the window must be 100ms to 1h":       {Window: 1},
		"the open time must be 10ms to 1h":     {Open: 1},
		"the longest open time must be":        {MaxOpen: 1},
		"probes must be 1 to 1000":             {Probes: 1001},
		"slow_start must be at most 1h":        {SlowStart: unit.Duration(2 * time.Hour)},
		"slow_start and no_slow_start exclude": {SlowStart: 1, NoSlowStart: true},
	} {
		if _, err := s.rules(); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) {
			t.Errorf("%+v: got %v, want %q", s, err, want)
		}
	}
}

func TestFailures(t *testing.T) {
	for words, want := range map[string][]int{"": {500, 502, 503, 504}, "502 507": {502, 507}, "5xx": {500, 501, 502, 503, 504, 507, 511, 520, 599}} {
		f, err := parseFailures(strings.Fields(words))
		if err != nil {
			t.Fatal(err)
		}
		var got []int
		for _, status := range []int{100, 200, 404, 408, 429, 499, 500, 501, 502, 503, 504, 507, 511, 520, 599, 600, 999} {
			if f.include(status) {
				got = append(got, status)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", words, diff)
		}
	}
	for word, want := range map[string]string{"4xx": "is no status", "429": "says that the request was wrong", "x": "is no status", "999": "is no status"} {
		if _, err := parseFailures([]string{word}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", word, err, want)
		}
	}
}

func TestZoneNames(t *testing.T) {
	for name, want := range map[string]bool{"": false, "api": true, "circuit_breaker#1": true, "a b": false, "a\nb": false, "é": false, strings.Repeat("a", 65): false} {
		if got := validZone(name); got != want {
			t.Errorf("%q: got %v", name, got)
		}
	}
}

func TestPause(t *testing.T) {
	for n, want := range map[int]time.Duration{1: 50 * time.Millisecond, 2: 100 * time.Millisecond, 5: 800 * time.Millisecond, 6: time.Second, 60: time.Second} {
		if got := pause(n, 1); got != want {
			t.Errorf("%d: got at most %s, want %s", n, got, want)
		}
		if got := pause(n, 0); got != 0 {
			t.Errorf("%d: got at least %s, want 0", n, got)
		}
	}
}

func TestRepeatable(t *testing.T) {
	request := func(method, body string) *http.Request {
		if body == "" {
			return httptest.NewRequest(method, "/", nil)
		}
		return httptest.NewRequest(method, "/", strings.NewReader(body))
	}
	upgrade, chunked := request("GET", ""), request("PUT", "")
	upgrade.Header.Set("Upgrade", "websocket")
	chunked.ContentLength, chunked.TransferEncoding = -1, []string{"chunked"}
	for _, test := range []struct {
		name string
		r    *http.Request
		want bool
	}{
		{"get", request("GET", ""), true}, {"head", request("HEAD", ""), true}, {"options", request("OPTIONS", ""), true},
		{"put", request("PUT", ""), true}, {"delete", request("DELETE", ""), true}, {"post", request("POST", ""), false},
		{"patch", request("PATCH", ""), false}, {"unknown", request("PURGE", ""), false}, {"put-with-body", request("PUT", "x"), false},
		{"get-with-body", request("GET", "x"), false}, {"upgrade", upgrade, false}, {"chunked", chunked, false},
	} {
		if got := repeatable(test.r); got != test.want {
			t.Errorf("%s: got %v", test.name, got)
		}
	}
}

func TestRestore(t *testing.T) {
	r := httptest.NewRequest("GET", "http://h/api/x?y=1", nil)
	r.Header.Set("A", "1")
	response, groups := http.Header{"B": {"2"}}, map[string]struct{}{"g1": {}}
	c := remember(r, response, groups)
	for range 2 {
		r.URL.Path, r.URL.RawQuery, r.Host, r.Method, r.RequestURI = "/x", "", "other", "POST", "/x"
		r.Header.Set("A", "changed")
		r.Header.Set("C", "new")
		response["B"] = append(response["B"], "more")
		response["Via"] = []string{"x"}
		groups["g2"] = struct{}{}
		c.restore(r, response, groups)
		if r.URL.String() != "http://h/api/x?y=1" || r.Host != "h" || r.Method != "GET" || r.RequestURI != "http://h/api/x?y=1" {
			t.Errorf("got %s %s %s %s", r.Method, r.URL, r.Host, r.RequestURI)
		}
		if diff := cmp.Diff(http.Header{"A": {"1"}}, r.Header); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(http.Header{"B": {"2"}}, response); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(map[string]struct{}{"g1": {}}, groups); diff != "" {
			t.Error(diff)
		}
	}
}

func TestClientBody(t *testing.T) {
	b := &clientbody.Body{ReadCloser: io.NopCloser(bytes.NewReader([]byte("abc")))}
	if _, err := io.ReadAll(b); err != nil || b.Failed.Load() || b.End.Load() == nil {
		t.Errorf("whole: got %v, failed %v", err, b.Failed.Load())
	}
	b = &clientbody.Body{ReadCloser: io.NopCloser(iotest.ErrReader(errors.New("reset")))}
	if _, err := io.ReadAll(b); err == nil || !b.Failed.Load() || b.End.Load() != nil {
		t.Errorf("broken: got %v, failed %v", err, b.Failed.Load())
	}
}

func TestZoneClaims(t *testing.T) {
	a := numbers{rules: standard}
	z := newZone("test", a)
	other, budget, more := a, a, a
	other.rules.Min, budget.budget, more.budget = 5, 0.1, 0.2
	for _, test := range []struct {
		name, configuration string
		numbers             numbers
		ok                  bool
	}{
		{"first", "1", a, true}, {"same", "1", a, true}, {"other", "1", other, false}, {"budget", "1", budget, true},
		{"other-budget", "1", more, false}, {"no-budget", "1", a, true}, {"other-configuration", "2", other, true},
	} {
		if err := z.claim(test.configuration, test.numbers); (err == nil) != test.ok {
			t.Errorf("%s: got %v", test.name, err)
		}
	}
	z.release("2")
	if len(z.claims) != 1 {
		t.Errorf("got %d claims, want that of the first configuration", len(z.claims))
	}
	z.apply(2, other)
	z.apply(1, a) // of an older configuration, served late
	if z.breaker.rules.Min != 5 {
		t.Error("an older configuration has taken the numbers back")
	}
}
