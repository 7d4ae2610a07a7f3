package limit

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

func line(ts any, ip, more string) string {
	return fmt.Sprintf(`{"level":"info","ts":%v,"logger":"http.log.access","msg":"handled request","request":{"remote_ip":"10.0.0.1","client_ip":%q,"method":"GET","host":"api.example.com","uri":"/"%s},"status":200}`, ts, ip, more) + "\n"
}

func simulated(t *testing.T, log, by string, specs ...string) *Simulation {
	t.Helper()
	policies, err := parsePolicies(specs)
	if err != nil {
		t.Fatal(err)
	}
	s, err := simulate(strings.NewReader(log), policies, by, 20)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSimulationSaysWhoWouldHaveBeenRefused(t *testing.T) {
	var log strings.Builder
	for i := range 10 { // one every 100 ms
		log.WriteString(line(1767225600+float64(i)/10, "192.0.2.1", ""))
	}
	log.WriteString(line(1767225601.5, "2001:db8::1", "") + line(1767225601.6, "2001:db8::2", "") + line(1767225601.7, "2001:db8::3", ""))
	log.WriteString(line(1767225601, "192.0.2.9", "") + "no json\n" + `{"msg":"server running"}` + "\n" + strings.Repeat("x", 3<<20) + "\n")
	at := func(s float64) time.Time { return time.UnixMicro(int64((1767225600 + s) * 1e6)).UTC() }
	want := &Simulation{
		Requests: 14, LeftOut: 3, Refused: 9, Keys: 3, RefusedKeys: 2, ByPolicy: map[string]int{"policy1": 9, "hour": 0}, From: at(0), To: at(1.7),
		Items: []Simulated{{"192.0.2.1", 10, 8, at(0.2)}, {"2001:db8::", 3, 1, at(1.7)}},
	}
	if diff := cmp.Diff(want, simulated(t, log.String(), "{client_ip}", "1/1s burst 2", "hour 3/1h")); diff != "" {
		t.Error(diff)
	}
}

func TestSimulationCountsByWhatIsAsked(t *testing.T) {
	log := line(1767225600, "192.0.2.1", `,"headers":{"X-Tenant":["acme"],"Authorization":["REDACTED"]}`) +
		line(1767225600, "192.0.2.2", `,"headers":{"X-Tenant":["acme"]}`) + line(1767225600, "192.0.2.3", `,"headers":{}`)
	for by, want := range map[string]int{"{header.X-Tenant}": 1, "{host}": 2, "{client_ip}": 0, "{http.auth.user.id}": 0, "{http.request.header.x-tenant}": 1} {
		if got := simulated(t, log, by, "1/1h"); got.Refused != want || got.Requests != 3 {
			t.Errorf("by %s: got %+v, want %d refused", by, got, want)
		}
	}
	if _, err := simulate(strings.NewReader(""), nil, "{http.request.body}", 1); err == nil || !strings.Contains(err.Error(), "not in an access log") {
		t.Errorf("got %v", err)
	}
}

func TestTimesOfEveryLogEncoder(t *testing.T) {
	want := time.Date(2026, 1, 1, 0, 0, 1, 0, time.UTC)
	for _, raw := range []string{
		"1767225601", "1767225601.0", "1767225601000", "1767225601000000000", `"2026-01-01T00:00:01Z"`, `"2026-01-01T01:00:01.000+0100"`,
		`"2026/01/01 00:00:01.000"`, `"2026/01/01 00:00:01"`, `"01/Jan/2026:00:00:01 +0000"`,
	} {
		if got, ok := parseTime([]byte(raw)); !ok || !got.Equal(want) {
			t.Errorf("%s: got %v, %v", raw, got, ok)
		}
	}
	for _, raw := range []string{"", "null", "-1", "0", `"yesterday"`, "[]", `""`, `"9999-01-01T00:00:00Z"`} {
		if got, ok := parseTime([]byte(raw)); ok {
			t.Errorf("%s: got %v, want none", raw, got)
		}
	}
}

func TestPoliciesOfACommandLine(t *testing.T) {
	got, err := parsePolicies([]string{"100/1m burst 20", "day 5000/24h sliding"})
	if err != nil || len(got) != 2 || got[0].Name != "policy1" || got[0].Burst != 20 || got[1].Name != "day" || !got[1].Sliding {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, specs := range [][]string{nil, {""}, {"100"}, {"day"}, {"100/1m burst"}, {"a 1/1s", "a 2/1s"}, {"a b 1/1s"}} {
		if got, err := parsePolicies(specs); err == nil {
			t.Errorf("%q: got %+v, want an error", specs, got)
		}
	}
}

func FuzzSimulate(f *testing.F) {
	f.Add(line(1767225600, "192.0.2.1", ""), "{client_ip}")
	f.Add(`{"ts":1e300,"request":{}}`+"\n{}\n\n[]\nnull\n", "{header.X}")
	f.Add(`{"ts":-5,"request":{"client_ip":"\u0000"}}`, "{http.auth.user.id}")
	f.Fuzz(func(t *testing.T, log, by string) {
		policies := []policy.Policy{{Name: "a", Quota: 2, Window: 1e9}, {Name: "b", Quota: 3, Window: 60e9, Sliding: true}}
		s, err := simulate(strings.NewReader(log), policies, by, 5)
		if err == nil && (s.Refused > s.Requests || len(s.Items) > 5 || s.RefusedKeys > s.Keys) {
			t.Fatalf("got %+v", s)
		}
	})
}
