package limit_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunglas/httpsfv"
	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
	_ "github.com/gatehouse-proxy/gatehouse/modules/limit"
)

func TestGolden(t *testing.T) { modtest.Golden(t, "testdata") }

// items reads a field of draft-ietf-httpapi-ratelimit-headers as "name k=v k=v".
func items(t *testing.T, h http.Header, field string) []string {
	t.Helper()
	list, err := httpsfv.UnmarshalList(h.Values(field))
	if err != nil {
		t.Fatalf("%s: %q: %v", field, h.Values(field), err)
	}
	var all []string
	for _, member := range list {
		item := member.(httpsfv.Item)
		s := item.Value.(string)
		for _, name := range item.Params.Names() {
			v, _ := item.Params.Get(name)
			s += fmt.Sprintf(" %s=%d", name, v.(int64))
		}
		all = append(all, s)
	}
	return all
}

func from(ip string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = ip
	return r
}

const identity = `
	route {
		map {http.request.header.X-Test-User} {http.auth.user.id} {
			~(.+) "${1}"
			default ""
		}
		%s
		respond ok
	}
`

// site is a configuration whose client is who X-Test-User says.
func site(body string) string { return ":80 {\n" + fmt.Sprintf(identity, body) + "}\n" }

func TestPassingResponsesSayWhereTheClientStands(t *testing.T) {
	g := modtest.Start(t, ":80 {\n\tlimit 300/1m burst 100\n\trespond ok\n}\n")
	resp := g.Get("/")
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("got status %d", resp.StatusCode)
	}
	if diff := cmp.Diff([]string{"limit q=300 w=60"}, items(t, resp.Header, "RateLimit-Policy")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"limit r=99 t=1"}, items(t, resp.Header, "RateLimit")); diff != "" {
		t.Error(diff)
	}
	if got := resp.Header.Get("Retry-After"); got != "" {
		t.Errorf("a passing response has Retry-After %s", got)
	}
}

func TestRefusalIsAProblem(t *testing.T) {
	g := modtest.Start(t, ":80 {\n\tlimit 10/1m burst 2\n\trespond ok\n}\n")
	for range 2 {
		g.Get("/")
	}
	resp := g.Get("/")
	var doc map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
		t.Fatal(err)
	}
	instance, _ := doc["instance"].(string)
	if !strings.HasPrefix(instance, "urn:uuid:") {
		t.Errorf("instance is %q", instance)
	}
	delete(doc, "instance")
	want := map[string]any{
		"type": "https://iana.org/assignments/http-problem-types#quota-exceeded", "title": "Request cannot be satisfied as assigned quota has been exceeded",
		"status": 429.0, "detail": "The policy limit allows 10 requests per 1m and they are used up, try again in 6 seconds.",
		"violated-policies": []any{"limit"},
	}
	if diff := cmp.Diff(want, doc); diff != "" {
		t.Error(diff)
	}
	if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") != "6" || resp.Header.Get("Cache-Control") != "no-store" ||
		resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("got %d %v", resp.StatusCode, resp.Header)
	}
	if diff := cmp.Diff([]string{"limit r=0 t=6"}, items(t, resp.Header, "RateLimit")); diff != "" {
		t.Error(diff)
	}
}

func TestLimitAndQuotaAreJoined(t *testing.T) {
	g := modtest.Start(t, site("limit 300/1m\nquota {\n policy minute 100/1m burst 20\n policy day 1/24h\n}"))
	resp := g.Get("/", "X-Test-User", "ada")
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("got status %d", resp.StatusCode)
	}
	resp = g.Get("/", "X-Test-User", "ada")
	if resp.StatusCode != http.StatusTooManyRequests {
		t.Fatalf("got status %d", resp.StatusCode)
	}
	if diff := cmp.Diff([]string{"limit q=300 w=60", "minute q=100 w=60", "day q=1 w=86400"}, items(t, resp.Header, "RateLimit-Policy")); diff != "" {
		t.Error(diff)
	}
	got := items(t, resp.Header, "RateLimit")
	if len(got) != 3 || !strings.HasPrefix(got[0], "limit r=298") || !strings.HasPrefix(got[1], "minute r=19") || got[2] != "day r=0 t=86400" {
		t.Errorf("got %q, want minute untouched by the refusal", got)
	}
}

func TestUpstreamFieldsAreAdded(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("RateLimit-Policy", `"app";q=5;w=1`)
		w.Header().Set("RateLimit", `"app";r=4;t=1`)
	}))
	defer upstream.Close()
	g := modtest.Start(t, ":80 {\n\tlimit 300/1m\n\treverse_proxy "+upstream.Listener.Addr().String()+"\n}\n")
	for range 2 { // the second sees whether the first has damaged what is shared
		resp := g.Get("/")
		if diff := cmp.Diff([]string{"limit q=300 w=60", "app q=5 w=1"}, items(t, resp.Header, "RateLimit-Policy")); diff != "" {
			t.Error(diff)
		}
	}
}

func TestSpoofedForwardedForGainsNoBucket(t *testing.T) {
	g := modtest.Start(t, ":80 {\n\tlimit 3/1h\n\trespond ok\n}\n")
	for i := range 10 {
		r := from("192.0.2.9:1000" + strconv.Itoa(i))
		for _, name := range []string{"X-Forwarded-For", "X-Real-Ip", "Forwarded", "True-Client-Ip", "Cf-Connecting-Ip"} {
			r.Header.Set(name, "203.0.113."+strconv.Itoa(i))
		}
		want := http.StatusOK
		if i >= 3 {
			want = http.StatusTooManyRequests
		}
		if got := g.Do(r).StatusCode; got != want {
			t.Errorf("request %d: got %d, want %d", i, got, want)
		}
	}
}

func TestTrustedProxyNamesTheClient(t *testing.T) {
	g := modtest.Start(t, "{\n\tservers {\n\t\ttrusted_proxies static 10.0.0.0/8\n\t\ttrusted_proxies_strict\n\t}\n}\n:80 {\n\tlimit 1/1h\n\trespond ok\n}\n")
	for i, test := range []struct {
		forwarded string
		want      int
	}{
		{"203.0.113.1", 200}, {"203.0.113.2", 200}, {"203.0.113.1", 429}, {"198.51.100.7, 203.0.113.1", 429},
		{"2001:db8::1", 200}, {"2001:db8::2", 429}, {"::ffff:203.0.113.2", 429},
	} {
		r := from("10.0.0.1:5000")
		r.Header.Set("X-Forwarded-For", test.forwarded)
		if got := g.Do(r).StatusCode; got != test.want {
			t.Errorf("request %d, for %s: got %d, want %d", i, test.forwarded, got, test.want)
		}
	}
}

func TestQuotaCountsIdentities(t *testing.T) {
	g := modtest.Start(t, site("quota 1/1h"))
	for i, test := range []struct {
		user, ip string
		want     int
	}{
		{"ada", "192.0.2.1:1", 200}, {"ada", "192.0.2.2:1", 429}, {"bob", "192.0.2.1:1", 200},
		{"", "192.0.2.1:1", 200}, {"", "192.0.2.1:1", 429}, {"", "192.0.2.2:1", 200}, // anonymous: by address, apart from identities
		{"192.0.2.3", "192.0.2.1:1", 200}, {"", "192.0.2.3:1", 200}, // an identity that looks like an address is not that address
		{"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x04", "192.0.2.1:1", 200}, {"", "192.0.2.4:1", 200}, // in any spelling
	} {
		r := from(test.ip)
		r.Header.Set("X-Test-User", test.user)
		if got := g.Do(r).StatusCode; got != test.want {
			t.Errorf("request %d, %q at %s: got %d, want %d", i, test.user, test.ip, got, test.want)
		}
	}
}

func TestKeyIsNotExpandedTwice(t *testing.T) {
	t.Setenv("GATEHOUSE_TEST_SECRET", "same")
	g := modtest.Start(t, ":80 {\n\tlimit {\n\t\tpolicy a 1/1h\n\t\tby {header.X-Key}{query.k}\n\t}\n\trespond ok\n}\n")
	if got := g.Get("/?k=1", "X-Key", "same").StatusCode; got != 200 {
		t.Fatalf("got %d", got)
	}
	if got := g.Get("/?k=1", "X-Key", "{env.GATEHOUSE_TEST_SECRET}").StatusCode; got != 200 {
		t.Errorf("got %d: the placeholder that the client sent was expanded", got)
	}
	if got := g.Get("/?k=1", "X-Key", "same").StatusCode; got != 429 {
		t.Errorf("got %d, want 429", got)
	}
}

func TestHostileKeysAreServed(t *testing.T) {
	g := modtest.Start(t, ":80 {\n\tlimit {\n\t\tpolicy a 1/1h\n\t\tby {header.X-Key}\n\t\tmemory 1MiB\n\t}\n\trespond ok\n}\n")
	for _, v := range []string{strings.Repeat("x", 1<<20), "\xff\xfe", "\x00", "a,b", "{", "}{", "{http.vars.client_ip}", "日本"} {
		if got := g.Get("/", "X-Key", v).StatusCode; got != 200 {
			t.Errorf("the first with %.20q: got %d", v, got)
		}
		if got := g.Get("/", "X-Key", v).StatusCode; got != 429 {
			t.Errorf("the second with %.20q: got %d", v, got)
		}
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header["X-Key"] = []string{"a", "b"}
	if got := g.Do(r).StatusCode; got != 400 {
		t.Errorf("a header in two lines: got %d, want 400, as it might be either", got)
	}
}

func TestCountersSurviveAReload(t *testing.T) {
	dir := t.TempDir()
	start := func(config string) *modtest.Gateway {
		g, err := modtest.StartIn(t, dir, config)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	const before = ":80 {\n\tlimit 2/1h\n\trespond ok\n}\n:81 {\n\tlimit 2/1h\n\trespond ok\n}\n"
	const after = ":80 {\n\theader X-Unrelated yes\n\tlimit 2/1h\n\trespond changed\n}\n:81 {\n\tlimit 2/1h\n\trespond ok\n}\n"
	old := start(before)
	old.Get("/")
	reloaded := start(after)
	old.Stop()
	if got := items(t, reloaded.Get("/").Header, "RateLimit"); len(got) != 1 || !strings.HasPrefix(got[0], "limit r=0") {
		t.Errorf("after the reload: got %q, want nothing left", got)
	}
	// A request that was in flight goes on with the old handler.
	if got := old.Get("/").StatusCode; got != http.StatusTooManyRequests {
		t.Errorf("the old handler answers %d, want 429", got)
	}
	broken := strings.Replace(after, "respond ok", "@bad path_regexp [\n\trespond @bad no", 1) // refused after the limits are provisioned
	for range 3 {
		if _, err := modtest.StartIn(t, dir, broken); err == nil || !strings.Contains(err.Error(), "regexp") {
			t.Fatalf("the broken configuration: got %v", err)
		}
	}
	if got := reloaded.Get("/").StatusCode; got != http.StatusTooManyRequests {
		t.Errorf("after failed reloads: got %d, want 429", got)
	}
	again := start(after)
	reloaded.Stop()
	if got := again.Get("/").StatusCode; got != http.StatusTooManyRequests {
		t.Errorf("after a reload that follows failed ones: got %d, want 429", got)
	}
	again.Stop()
	if got := start(before).Get("/").StatusCode; got != http.StatusOK {
		t.Errorf("after all configurations are gone: got %d, want new counters", got)
	}
}

func TestDirectivesDoNotShareCounters(t *testing.T) {
	g := modtest.Start(t, ":80 {\n\thandle /a {\n\t\tlimit 1/1h\n\t\trespond a\n\t}\n\thandle /b {\n\t\tlimit 1/1h\n\t\trespond b\n\t}\n}\n")
	for i, test := range []struct {
		path string
		want int
	}{{"/a", 200}, {"/b", 200}, {"/a", 429}, {"/b", 429}} {
		if got := g.Get(test.path).StatusCode; got != test.want {
			t.Errorf("request %d: %s answers %d, want %d", i, test.path, got, test.want)
		}
	}
}

func TestRetryAtRetryAfterSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := modtest.Start(t, ":80 {\n\tlimit {\n\t\tpolicy a 7/1m burst 2\n\t\tpolicy b 100/1h burst 5\n\t}\n\trespond ok\n}\n")
		for range 40 {
			resp := g.Get("/")
			for resp.StatusCode == http.StatusOK {
				resp = g.Get("/")
			}
			wait, err := strconv.Atoi(resp.Header.Get("Retry-After"))
			if err != nil || wait < 1 {
				t.Fatalf("Retry-After is %q", resp.Header.Get("Retry-After"))
			}
			<-time.After(time.Duration(wait) * time.Second)
			if resp = g.Get("/"); resp.StatusCode != http.StatusOK {
				t.Fatalf("refused after waiting %d s: %v", wait, resp.Header)
			}
		}
		g.Stop()
	})
}

func TestRefusalReachesTheErrorRoute(t *testing.T) {
	g := modtest.Start(t, ":80 {\n\tlimit 1/1h\n\trespond ok\n\thandle_errors {\n\t\trespond \"mine {err.status_code}\"\n\t}\n}\n")
	g.Get("/")
	resp := g.Get("/")
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "3600" || len(items(t, resp.Header, "RateLimit")) != 1 {
		t.Errorf("got %d %v", resp.StatusCode, resp.Header)
	}
}

func TestRefusesBadSettings(t *testing.T) {
	for name, test := range map[string]struct{ body, want string }{
		"no-rate":         {"limit", "a rate is missing"},
		"bad-rate":        {"limit 300", "is not a rate"},
		"bad-burst":       {"limit 3/1m burst 0", "at least 1"},
		"stray-word":      {"limit 3/1m boost 4", "only burst"},
		"same-name":       {"limit 3/1m {\npolicy limit 4/1m\n}", "given twice"},
		"bad-name":        {"limit {\npolicy \"a b\" 4/1m\n}", "letters, digits"},
		"unknown-option":  {"limit 3/1m {\nplans pro 4/1m\n}", "did you mean plan"},
		"constant-key":    {"quota 3/1m {\nby everyone\n}", "same for all clients"},
		"host-header":     {"quota 3/1m {\nby {header.Host}\n}", "http.request.host"},
		"bad-memory":      {"limit 3/1m {\nmemory much\n}", "memory"},
		"too-many":        {"limit 3/1m {\n" + strings.Repeat("policy a 1/1m\n", 8) + "}", "too many"},
		"by-without-key":  {"limit 3/1m {\nby\n}", "needs a value"},
		"policy-no-rate":  {"limit {\npolicy minute\n}", "a name and a rate"},
		"two-keys":        {"limit 3/1m {\nby {client_ip} {host}\n}", "too many"},
		"by-given-twice":  {"limit 3/1m {\nby {client_ip}\nby {host}\n}", "given twice"},
		"unmatched-brace": {"limit 3/1m {\nby \"{client_ip\"\n}", "braces"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := modtest.Adapt(":80 {\n" + test.body + "\n}\n")
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "Caddyfile:") {
				t.Errorf("got %v, want it to say %q and where", err, test.want)
			}
		})
	}
}

func BenchmarkServeHTTP(b *testing.B) {
	for name, body := range map[string]string{
		"floor": "", "limit": "limit 1000000000/1s", "limit-refused": "limit 1/24h",
		"limit-and-quota": "limit 1000000000/1s\nquota 1000000000/1s",
	} {
		b.Run(name, func(b *testing.B) {
			g := modtest.Start(b, ":80 {\n"+body+"\nrespond ok\n}\n")
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			b.ReportAllocs()
			for b.Loop() {
				g.ServeHTTP(httptest.NewRecorder(), r)
			}
		})
	}
}
