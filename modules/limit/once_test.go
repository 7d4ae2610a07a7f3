package limit_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

// TestKeysThatComeTwiceAreRefused: a client must not leave its bucket by a second line, value or cookie.
func TestKeysThatComeTwiceAreRefused(t *testing.T) {
	for name, tc := range map[string]struct{ options, target, field string }{
		"header":    {"by {header.X-Api-Key}", "/", "X-Api-Key"},
		"plan-by":   {"by {client_ip}\nplan_by {header.X-Plan}\nplan pro limit 10/1m", "/", "X-Plan"},
		"cost":      {"cost {header.X-Cost}", "/", "X-Cost"},
		"in-flight": {"in_flight 5 per {header.X-Team}", "/", "X-Team"},
		"cookie":    {"by {cookie.s}", "/", "Cookie"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, directive := range []string{"limit", "quota"} {
				options := tc.options
				if directive == "quota" && name == "plan-by" {
					options = "by {client_ip}\nplan_by {header.X-Plan}\nplan pro quota 10/1m"
				}
				g := modtest.Start(t, ":80 {\n"+directive+" 5/1m {\n"+options+"\n}\nrespond ok\n}\n")
				ask := func(values ...string) int {
					r := httptest.NewRequest(http.MethodGet, tc.target, nil)
					r.Header[tc.field] = values
					return g.Do(r).StatusCode
				}
				if got := ask("s=1"); got != http.StatusOK {
					t.Errorf("%s, once: got %d", directive, got)
				}
				if got := ask("s=1", "s=2"); got != http.StatusBadRequest {
					t.Errorf("%s, twice: got %d, want 400", directive, got)
				}
			}
		})
	}
}

func TestIPv6Grouping(t *testing.T) {
	for option, shared := range map[string]string{"": "[2001:db8:1:100::2]:1", "ipv6 /64": "[2001:db8:1:100::2]:1", "ipv6 /56": "[2001:db8:1:1ff::1]:1", "ipv6 /48": "[2001:db8:1:ffff::1]:1"} {
		t.Run(option, func(t *testing.T) {
			g := modtest.Start(t, ":80 {\nlimit 1/1h {\n"+option+"\n}\nrespond ok\n}\n")
			for _, step := range []struct {
				ip   string
				want int
			}{{"[2001:db8:1:100::1]:1", 200}, {shared, 429}, {"[2001:db8:2::1]:1", 200}} {
				if got := g.Do(from(step.ip)).StatusCode; got != step.want {
					t.Errorf("%s: got %d, want %d", step.ip, got, step.want)
				}
			}
		})
	}
	for _, option := range []string{"ipv6", "ipv6 /60", "ipv6 56", "ipv6 /128"} {
		if _, err := modtest.TryStart(t, ":80 {\nlimit 1/1h {\n"+option+"\n}\nrespond ok\n}\n"); err == nil {
			t.Errorf("%s is taken", option)
		}
	}
}
