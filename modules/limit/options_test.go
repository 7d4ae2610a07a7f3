package limit_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

func TestAPlanChangesTheRate(t *testing.T) {
	g := modtest.Start(t, site(`quota {
		policy minute 2/1h
		policy day 100/24h
		plan_by {header.X-Plan}
		plan pro minute 5/1h
		plan free minute 1/1h
	}`))
	for _, test := range []struct {
		plan, policy string
		want         int
	}{{"pro", "minute q=5 w=3600", 5}, {"free", "minute q=1 w=3600", 1}, {"", "minute q=2 w=3600", 2}, {"unheard of", "minute q=2 w=3600", 2}} {
		allowed := 0
		for range 10 {
			resp := g.Get("/", "X-Test-User", "of-"+test.plan, "X-Plan", test.plan)
			if resp.StatusCode == http.StatusOK {
				allowed++
			}
			if got := items(t, resp.Header, "RateLimit-Policy"); got[0] != test.policy || got[1] != "day q=100 w=86400" {
				t.Fatalf("plan %q: got policies %v", test.plan, got)
			}
		}
		if allowed != test.want {
			t.Errorf("plan %q: %d requests were allowed, want %d", test.plan, allowed, test.want)
		}
	}
}

func TestASlidingWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := modtest.Start(t, ":80 {\n\tlimit 10/1m sliding\n\trespond ok\n}\n")
		allowed := 0
		for range 600 { // five minutes, two a second
			if g.Get("/").StatusCode == http.StatusOK {
				allowed++
			}
			<-time.After(500 * time.Millisecond)
		}
		if allowed < 45 || allowed > 61 {
			t.Errorf("%d requests were allowed in five minutes, want about 50", allowed)
		}
		g.Stop()
	})
}

func TestCost(t *testing.T) {
	for _, test := range []struct {
		name, option, header string
		want                 int // requests that fit into 10
	}{
		{"fixed", "cost 3", "", 3},
		{"header", "cost {header.X-Cost}", "5", 2},
		{"no-number", "cost {header.X-Cost}", "much", 10},
		{"negative", "cost {header.X-Cost}", "-4", 10},
		{"zero", "cost {header.X-Cost}", "0", 10},
		{"absent", "cost {header.X-Cost}", "", 10},
		{"more-than-ever", "cost {header.X-Cost}", "11", 0},
		{"huge", "cost {header.X-Cost}", "9223372036854775807", 0},
		{"past-int64", "cost {header.X-Cost}", "92233720368547758079", 10},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := modtest.Start(t, ":80 {\n\tlimit 10/1h {\n\t\t"+test.option+"\n\t}\n\trespond ok\n}\n")
			got := 0
			var last *http.Response
			for range 12 {
				if last = g.Get("/", "X-Cost", test.header); last.StatusCode == http.StatusOK {
					got++
				}
			}
			if got != test.want {
				t.Errorf("%d requests were allowed, want %d", got, test.want)
			}
			if test.want == 0 && (last.StatusCode != 429 || last.Header.Get("Retry-After") != "") {
				t.Errorf("what never fits: got %d, Retry-After %q", last.StatusCode, last.Header.Get("Retry-After"))
			}
		})
	}
}

func remaining(t *testing.T, g *modtest.Gateway, headers ...string) string {
	t.Helper()
	return strings.Fields(items(t, g.Get("/peek", headers...).Header, "RateLimit")[0])[1]
}

func TestTheCostOfAResponseIsChargedAfterTheFact(t *testing.T) {
	g := modtest.Start(t, `:80 {
	limit 100/1h {
		cost_from response X-Cost
	}
	header /ten X-Cost 10
	header /free X-Cost 0
	header /bad X-Cost -7
	header /huge X-Cost 9999999999999
	respond ok
}
`)
	for _, step := range []struct{ path, want string }{
		{"/", "r=98"}, {"/ten", "r=87"}, {"/free", "r=86"}, {"/bad", "r=84"}, {"/huge", "r=0"},
	} {
		if resp := g.Get(step.path); resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: got %d", step.path, resp.StatusCode)
		}
		if got := remaining(t, g); got != step.want {
			t.Errorf("after %s: %s are left, want %s", step.path, got, step.want)
		}
	}
	if resp := g.Get("/"); resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" {
		t.Errorf("in debt: got %d %v", resp.StatusCode, resp.Header)
	}
}

func TestRefunds(t *testing.T) {
	g := modtest.Start(t, `:80 {
	limit 100/1h {
		refund 5xx 404 cache_hit replay
	}
	header /hit Cache-Status "upstream; fwd=miss, gatehouse; hit; ttl=3"
	header /miss Cache-Status "upstream; hit, gatehouse; fwd=miss"
	header /replay Idempotency-Replayed true
	handle /error { 
		error 502
	}
	respond /404 404
	respond /500 500
	respond /400 400
	respond ok
}
`)
	left := 100
	for _, step := range []struct {
		path   string
		refund bool
	}{
		{"/", false}, {"/500", true}, {"/404", true}, {"/400", false}, {"/error", true}, {"/hit", true}, {"/miss", false}, {"/replay", true},
	} {
		g.Get(step.path)
		if !step.refund {
			left--
		}
		left-- // for the look at it
		if got, want := remaining(t, g), fmt.Sprintf("r=%d", left); got != want {
			t.Errorf("after %s: %s are left, want %s", step.path, got, want)
		}
	}
}

func TestARefusedRequestGetsNothingBack(t *testing.T) {
	g := modtest.Start(t, ":80 {\n\tlimit 1/1h {\n\t\trefund 429 5xx\n\t}\n\trespond ok\n}\n")
	g.Get("/")
	for range 5 {
		if got := g.Get("/").StatusCode; got != http.StatusTooManyRequests {
			t.Fatalf("got %d, want 429", got)
		}
	}
}

func TestSkippedRequestsAreNotCounted(t *testing.T) {
	g := modtest.Start(t, ":80 {\n\tlimit 1/1h {\n\t\tskip path /health* /live\n\t\tskip method OPTIONS\n\t}\n\trespond ok\n}\n")
	for range 3 {
		if resp := g.Get("/health/deep"); resp.StatusCode != 200 || resp.Header.Get("RateLimit") != "" {
			t.Errorf("a skipped request: %d %v", resp.StatusCode, resp.Header)
		}
	}
	w := httptest.NewRecorder()
	g.ServeHTTP(w, httptest.NewRequest(http.MethodOptions, "/", nil))
	if w.Code != 200 {
		t.Errorf("OPTIONS: got %d", w.Code)
	}
	if g.Get("/").StatusCode != 200 || g.Get("/").StatusCode != 429 {
		t.Error("other requests are not limited")
	}
}

func TestShadowRefusesNobody(t *testing.T) {
	g := modtest.Start(t, `:80 {
	limit 2/1h {
		shadow
	}
	respond "would refuse: {http.limit.would_refuse}"
}
`)
	for i := range 5 {
		resp := g.Get("/")
		said := body(t, resp)
		want := "would refuse: "
		if i >= 2 {
			want += "limit"
		}
		if resp.StatusCode != 200 || said != want || resp.Header.Get("RateLimit") != "" {
			t.Errorf("request %d: got %d %q %v", i, resp.StatusCode, said, resp.Header)
		}
	}
}

func TestLegacyFieldsDescribeThePolicyNearestToItsEnd(t *testing.T) {
	g := modtest.Start(t, ":80 {\n\tlimit {\n\t\tpolicy minute 2/1m\n\t\tpolicy day 1000/24h\n\t\theaders legacy off\n\t}\n\trespond ok\n}\n")
	for _, want := range [][3]string{{"2", "1", "30"}, {"2", "0", "30"}, {"2", "0", "30"}} {
		h := g.Get("/").Header
		got := [3]string{h.Get("X-RateLimit-Limit"), h.Get("X-RateLimit-Remaining"), h.Get("X-RateLimit-Reset")}
		if got != want || h.Get("RateLimit") != "" {
			t.Errorf("got %v, want %v, and no others: %v", got, want, h)
		}
	}
}

func TestLegacyResetInUnixTime(t *testing.T) {
	g := modtest.Start(t, ":80 {\n\tlimit 2/1m {\n\t\theaders legacy unix mode\n\t}\n\trespond ok\n}\n")
	before := time.Now()
	h := g.Get("/").Header
	var got int64
	if _, err := fmt.Sscan(h.Get("X-RateLimit-Reset"), &got); err != nil || got < before.Unix()+29 || got > time.Now().Unix()+31 {
		t.Errorf("X-RateLimit-Reset is %q", h.Get("X-RateLimit-Reset"))
	}
	if got := h.Get("Gatehouse-Limit-Mode"); got != "limit#1=local" {
		t.Errorf("Gatehouse-Limit-Mode is %q", got)
	}
}

func TestScriptsOfOtherOriginsMayReadTheFields(t *testing.T) {
	g := modtest.Start(t, ":80 {\n\tlimit 1/1m\n\trespond ok\n}\n")
	for range 2 {
		if got := g.Get("/", "Origin", "https://app.example").Header.Get("Access-Control-Expose-Headers"); got != "RateLimit, RateLimit-Policy, Retry-After" {
			t.Errorf("got %q", got)
		}
	}
	if got := g.Get("/").Header.Get("Access-Control-Expose-Headers"); got != "" {
		t.Errorf("without Origin: got %q", got)
	}
}

func TestJitterOnlyAddsToTheWait(t *testing.T) {
	g := modtest.Start(t, ":80 {\n\tlimit 1/1h {\n\t\tjitter 50%\n\t}\n\trespond ok\n}\n")
	g.Get("/")
	seen := map[int]bool{}
	for range 40 {
		var wait int
		if _, err := fmt.Sscan(g.Get("/").Header.Get("Retry-After"), &wait); err != nil || wait < 3590 || wait > 5401 {
			t.Fatalf("Retry-After is %d, %v", wait, err)
		}
		seen[wait] = true
	}
	if len(seen) < 10 {
		t.Errorf("only %d different waits", len(seen))
	}
}

func TestInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := modtest.Start(t, `:80 {
	limit {
		policy minute 100/1m
		in_flight 2 per {header.X-Who} queue 1 wait 2s
	}
	sleep_for_test 5s
	respond ok
}
`)
		type answer struct {
			status int
			at     time.Duration
			h      http.Header
		}
		start := time.Now()
		var mu sync.Mutex
		var answers []answer
		ask := func(who string) {
			resp := g.Get("/", "X-Who", who)
			mu.Lock()
			defer mu.Unlock()
			answers = append(answers, answer{resp.StatusCode, time.Since(start), resp.Header})
		}
		var wg sync.WaitGroup
		for range 4 { // two are served, one waits in vain for 2 s, one finds no place in the queue
			wg.Go(func() { ask("ada") })
			synctest.Wait()
		}
		wg.Go(func() { ask("bob") })
		wg.Wait()
		want := []answer{{429, 0, nil}, {429, 2 * time.Second, nil}, {200, 5 * time.Second, nil}, {200, 5 * time.Second, nil}, {200, 5 * time.Second, nil}}
		for i, a := range answers {
			if a.status != want[i].status || a.at != want[i].at {
				t.Errorf("answer %d: got %d after %s, want %d after %s", i, a.status, a.at, want[i].status, want[i].at)
			}
		}
		refused := answers[0].h
		if got := items(t, refused, "RateLimit"); got[1] != "in_flight r=0" || refused.Get("Retry-After") != "1" {
			t.Errorf("got %v", refused)
		}
		if got := items(t, refused, "RateLimit")[0]; !strings.Contains(got, "r=98") { // refused ones were not charged
			t.Errorf("got %v", got)
		}
		answers = nil
		wg.Go(func() { ask("ada") })
		wg.Go(func() { ask("ada") })
		synctest.Wait()
		<-time.After(4 * time.Second)
		ask("ada") // waits for a second and gets the place
		wg.Wait()
		for _, a := range answers {
			if a.status != 200 {
				t.Errorf("one that waits long enough: got %d", a.status)
			}
		}
		g.Stop()
	})
}

func TestAClientThatLeavesTheQueueHoldsNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := modtest.Start(t, ":80 {\n\tlimit {\n\t\tin_flight 1 queue 5 wait 1m\n\t}\n\tsleep_for_test 5s\n\trespond ok\n}\n")
		var wg sync.WaitGroup
		wg.Go(func() { g.Get("/") })
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			g.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx))
		})
		synctest.Wait()
		cancel()
		wg.Wait()
		start := time.Now()
		if resp := g.Get("/"); resp.StatusCode != 200 || time.Since(start) != 5*time.Second {
			t.Errorf("got %d after %s", resp.StatusCode, time.Since(start))
		}
		g.Stop()
	})
}

func TestZonesOfOneNameShareTheirCounters(t *testing.T) {
	g := modtest.Start(t, `:80 {
	handle /a {
		limit 2/1h {
			zone shared
		}
		respond a
	}
	handle /b {
		limit 2/1h {
			zone shared
		}
		respond b
	}
}
`)
	got := []int{g.Get("/a").StatusCode, g.Get("/b").StatusCode, g.Get("/a").StatusCode, g.Get("/b").StatusCode}
	if diff := cmp.Diff([]int{200, 200, 429, 429}, got); diff != "" {
		t.Error(diff)
	}
}

func TestZonesOfOneNameMustBeDefinedAlike(t *testing.T) {
	_, err := modtest.TryStart(t, ":80 {\n\tlimit 2/1h {\n\t\tzone shared\n\t}\n\tquota 3/1h {\n\t\tzone shared\n\t\tby {client_ip}\n\t}\n\trespond ok\n}\n")
	if err == nil || !strings.Contains(err.Error(), "the zone shared is defined twice, with another rate") {
		t.Errorf("got %v", err)
	}
}

func TestAReloadWithAnotherRateKeepsTheCounters(t *testing.T) {
	dir := t.TempDir()
	start := func(body string) *modtest.Gateway {
		g, err := modtest.StartIn(t, dir, ":80 {\n\tlimit {\n\t\tzone z\n\t\t"+body+"\n\t}\n\trespond ok\n}\n")
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	left := func(g *modtest.Gateway) []string { return items(t, g.Get("/").Header, "RateLimit") }
	a := start("policy minute 10/24h")
	for range 5 {
		a.Get("/")
	}
	b := start("policy minute 20/24h")
	if got := left(b)[0]; !strings.HasPrefix(got, "minute r=9 ") {
		t.Errorf("half used, then 20 instead of 10: got %s", got)
	}
	if got := left(a)[0]; !strings.HasPrefix(got, "minute r=3 ") {
		t.Errorf("the old configuration: got %s", got)
	}
	c := start("policy minute 20/24h\n\t\tpolicy day 100/24h")
	if got := left(c); !strings.HasPrefix(got[0], "minute r=6 ") || !strings.HasPrefix(got[1], "day r=99 ") {
		t.Errorf("with one policy more: got %v", got)
	}
	a.Stop()
	b.Stop()
	d := start("policy day 100/24h")
	if got := left(d); !strings.HasPrefix(got[0], "day r=98 ") {
		t.Errorf("with one policy less: got %v", got)
	}
}

func TestAWarningComesOncePerWindow(t *testing.T) {
	heard := make(chan map[string]any, 20)
	listener = func(data map[string]any) { heard <- data }
	raw, err := modtest.Adapt(`{
	events {
		on limit_warning limit_test_listener
	}
}
:80 {
	bind 127.0.0.1
	limit 10/1h {
		zone warned
		warn 80%
	}
	respond ok
}
`)
	if err != nil {
		t.Fatal(err)
	}
	cfg := modtest.Config(t, raw)
	port := modtest.FreePort(t)
	httpApp := strings.ReplaceAll(string(cfg.AppsRaw["http"]), ":80", ":"+port)
	cfg.AppsRaw["http"] = json.RawMessage(httpApp)
	if err = caddy.Run(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
	for range 12 {
		resp, err := http.Get("http://127.0.0.1:" + port)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	want := map[string]any{"zone": "warned", "policy": "limit", "plan": "", "key": "127.0.0.1", "quota": 10, "window": "1h", "remaining": int64(2)}
	if diff := cmp.Diff(want, <-heard); diff != "" {
		t.Error(diff)
	}
	select {
	case more := <-heard:
		t.Errorf("warned again: %v", more)
	case <-time.After(100 * time.Millisecond):
	}
}

// listener hears the events of TestAWarningComesOncePerWindow.
var listener func(map[string]any)

func TestOptionsAreRefusedWithTheirLine(t *testing.T) {
	for name, test := range map[string]struct{ body, want string }{
		"plan-without-by":     {"policy m 1/1m\nplan pro m 2/1m", "plan_by is missing"},
		"plan-of-no-policy":   {"policy m 1/1m\nplan_by {host}\nplan pro h 2/1m", "there is no policy h"},
		"plan-short":          {"policy m 1/1m\nplan_by {host}\nplan pro 2/1m", "such as: plan pro minute"},
		"plan-twice":          {"policy m 1/1m\nplan_by {host}\nplan pro m 2/1m\nplan pro m 3/1m", "twice"},
		"plan-bad-name":       {"policy m 1/1m\nplan_by {host}\nplan \"a b\" m 2/1m", "letters, digits"},
		"plan-window":         {"policy m 5/1m sliding\nplan_by {host}\nplan pro m 5/1h sliding", "sliding window of 1m"},
		"sliding-burst":       {"policy m 1/1m burst 3 sliding", "no burst"},
		"sliding-too-many":    {"policy m 1000000000/366d sliding", "leave out sliding"},
		"sliding-short":       {"policy m 10/1ms sliding", "at least 1s"},
		"cost-zero":           {"policy m 1/1m\ncost 0", "at least 1"},
		"cost-over-all":       {"policy m 5/1m\ncost 6", "no request would ever pass"},
		"cost-word":           {"policy m 1/1m\ncost much", "whole number"},
		"cost-from-what":      {"policy m 1/1m\ncost_from X-Cost", "cost_from response X-Cost"},
		"cost-from-no-header": {"policy m 1/1m\ncost_from response \"X Cost\"", "not the name of a header"},
		"refund-what":         {"policy m 1/1m\nrefund 6xx", "no outcome"},
		"in-flight-zero":      {"in_flight 0", "at least 1"},
		"in-flight-pairs":     {"in_flight 5 queue", "pairs of words"},
		"in-flight-word":      {"in_flight 5 queues 3", "did you mean queue"},
		"in-flight-wait":      {"in_flight 5 wait 3s", "needs a queue"},
		"in-flight-constant":  {"in_flight 5 per all", "same for all"},
		"skip-what":           {"policy m 1/1m\nskip paths /x", "http.matchers.paths"},
		"skip-nothing":        {"policy m 1/1m\nskip", "needs a matcher"},
		"warn-number":         {"policy m 1/1m\nwarn 0.8", "percentage"},
		"warn-too-much":       {"policy m 1/1m\nwarn 120%", "percentage"},
		"jitter-nan":          {"policy m 1/1m\njitter NaN%", "percentage"},
		"headers-word":        {"policy m 1/1m\nheaders legcy", "did you mean legacy"},
		"count-word":          {"policy m 1/1m\ncount leasd", "did you mean leased"},
		"store-error-word":    {"policy m 1/1m\non_store_error opn", "did you mean open"},
		"zone-name":           {"policy m 1/1m\nzone \"a b\"", "no name"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := modtest.Adapt(":80 {\nlimit {\n" + test.body + "\n}\n}\n")
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "Caddyfile:") {
				t.Errorf("got %v, want it to say %q and where", err, test.want)
			}
		})
	}
}

func TestTheQuickDocumentIsThatOfTheProblem(t *testing.T) {
	inPlace := modtest.Start(t, ":80 {\n\tlimit 1/1h\n\trespond ok\n}\n")
	onRoute := modtest.Start(t, ":80 {\n\tlimit 1/1h\n\trespond ok\n\thandle_errors {\n\t\tproblem\n\t}\n}\n")
	var docs []map[string]any
	var headers []http.Header
	for _, g := range []*modtest.Gateway{inPlace, onRoute} {
		g.Get("/")
		resp := g.Get("/")
		var doc map[string]any
		if err := json.Unmarshal([]byte(body(t, resp)), &doc); err != nil {
			t.Fatal(err)
		}
		if id, _ := doc["instance"].(string); !strings.HasPrefix(id, "urn:uuid:") {
			t.Errorf("instance is %q", id)
		}
		delete(doc, "instance")
		docs = append(docs, doc)
		resp.Header.Del("Content-Length")
		headers = append(headers, resp.Header)
	}
	if diff := cmp.Diff(docs[1], docs[0]); diff != "" {
		t.Errorf("documents (-problem +quick):\n%s", diff)
	}
	if diff := cmp.Diff(headers[1], headers[0]); diff != "" {
		t.Errorf("headers (-problem +quick):\n%s", diff)
	}
}
