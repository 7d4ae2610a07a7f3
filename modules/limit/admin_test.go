package limit_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

// TestMain lets the test binary be the gateway's command line.
func TestMain(m *testing.M) { modtest.Main(m) }

// serve runs a configuration with an admin endpoint until the test ends. It returns the addresses of both.
func serve(t *testing.T, dir, site string) (url, admin string) {
	t.Helper()
	admin = "127.0.0.1:" + modtest.FreePort(t)
	port := modtest.FreePort(t)
	modtest.Serve(t, fmt.Sprintf("{\n\tadmin %s\n\tauto_https off\n\tpersist_config off\n\tgatehouse {\n\t\tdata_dir %s\n\t\tprofile off\n\t}\n}\nhttp://127.0.0.1:%s {\n%s\n}\n", admin, dir, port, site))
	return "http://127.0.0.1:" + port, admin
}

func get(t *testing.T, url string, headers ...string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode
}

// call is a request to the admin endpoint.
func call(t *testing.T, method, url, body string) (int, map[string]any) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var doc map[string]any
	if resp.StatusCode != http.StatusNoContent {
		if err = json.NewDecoder(resp.Body).Decode(&doc); err != nil {
			t.Fatal(err)
		}
	}
	return resp.StatusCode, doc
}

const tenants = `	limit {
		zone tenants
		by {header.X-Tenant}
		policy minute 5/1h
		plan_by {header.X-Plan}
		plan pro minute 20/1h
	}
	respond ok`

func TestCommandsShowAndResetAKey(t *testing.T) {
	url, admin := serve(t, t.TempDir(), tenants)
	for range 6 {
		get(t, url, "X-Tenant", "acme")
	}
	out, errs, code := modtest.Command(t, "", "limits", "show", "acme", "--address", admin, "--json")
	var got struct{ Items []map[string]any }
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 || len(got.Items) != 1 {
		t.Fatalf("got %d %s %s", code, out, errs)
	}
	p := got.Items[0]["policies"].([]any)[0].(map[string]any)
	if p["remaining"] != 0.0 || p["policy"] != "minute" || p["quota"] != 5.0 || p["window"] != "1h" {
		t.Errorf("got %v", got)
	}
	if out, _, _ = modtest.Command(t, "", "limits", "show", "acme", "--address", admin); !strings.Contains(out, "tenants") || !strings.Contains(out, "5/1h") {
		t.Errorf("got %s", out)
	}
	if out, errs, code = modtest.Command(t, "", "limits", "reset", "acme", "--zone", "tenants", "--address", admin); code != 0 || out != "The key starts anew in: tenants\n" {
		t.Errorf("got %d %q %s", code, out, errs)
	}
	if got := get(t, url, "X-Tenant", "acme"); got != http.StatusOK {
		t.Errorf("after the reset: %d", got)
	}
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"limits", "show", "acme", "--zone", "tenant", "--address", admin}, 1, "No such zone"},
		{[]string{"limits", "show", "a", "b", "--address", admin}, 1, "key of 2 parts"},
		{[]string{"limits", "show", "--address", admin}, 2, "usage: gatehouse limits show"},
		{[]string{"limits", "top", "acme", "--address", admin}, 2, "usage: gatehouse limits top"},
		{[]string{"limits", "top", "-n", "0", "--address", admin}, 1, "from 1 to 256"},
		{[]string{"limits", "top", "--address", "127.0.0.1:1"}, 3, "no gateway answers"},
		{[]string{"limits", "tops"}, 2, "there is no command limits tops"},
		{[]string{"limits", "simulate", "--log", "x"}, 2, "--policy is missing"},
		{[]string{"limits", "simulate", "--policy", "1/1s"}, 2, "--log is missing"},
		{[]string{"limits", "simulate", "--policy", "1/1s", "--log", "/does/not/exist"}, 1, "cannot be read"},
		{[]string{"limits", "simulate", "--policy", "1/1s", "--log", "-", "--by", "x"}, 2, "not in an access log"},
	} {
		if _, errs, code := modtest.Command(t, "", test.args...); code != test.code || !strings.Contains(errs, test.want) {
			t.Errorf("%v: got %d %q, want %d and %q", test.args, code, errs, test.code, test.want)
		}
	}
}

func TestTopFindsTheHottestKey(t *testing.T) {
	url, admin := serve(t, t.TempDir(), tenants)
	for i := range 1500 {
		get(t, url, "X-Tenant", "hot")
		if i%10 == 0 {
			get(t, url, "X-Tenant", "cold")
		}
	}
	_, doc := call(t, http.MethodGet, "http://"+admin+"/gatehouse/limits/top?n=1", "")
	items := doc["items"].([]any)
	if len(items) != 1 {
		t.Fatalf("got %v", doc)
	}
	top := items[0].(map[string]any)
	if top["key"] != "hot" || top["zone"] != "tenants" || top["requests"].(float64) < 500 || top["refused_share"].(float64) < 0.8 {
		t.Errorf("got %v", top)
	}
}

func TestPlansChangeAtRunTimeAndAreKept(t *testing.T) {
	dir := t.TempDir()
	url, admin := serve(t, dir, tenants)
	base := "http://" + admin + "/gatehouse/limits/plans?zone=tenants"
	allowed := func(tenant, plan string) int {
		n := 0
		for range 30 {
			if get(t, url, "X-Tenant", tenant, "X-Plan", plan) == http.StatusOK {
				n++
			}
		}
		return n
	}
	if got := allowed("a", "pro"); got != 20 {
		t.Errorf("the configured plan allows %d, want 20", got)
	}
	for _, step := range []struct {
		method, query, body string
		want                int
	}{
		{http.MethodPut, "&plan=pro", `[{"name":"minute","quota":7,"window":"1h"}]`, 204},
		{http.MethodPut, "&plan=vip", `[{"name":"minute","quota":9,"window":"1h"}]`, 204},
		{http.MethodPut, "&key=z", `{"plan":"vip"}`, 204},
		{http.MethodPut, "&key=gone", `{"plan":"vip"}`, 204},
		{http.MethodDelete, "&key=gone", ``, 204},
		{http.MethodPut, "&plan=pro", `[{"name":"hour","quota":7,"window":"1h"}]`, 422},
		{http.MethodPut, "&plan=pro", `[{"name":"minute","quota":0,"window":"1h"}]`, 422},
		{http.MethodPut, "&plan=pro", `[{"name":"minute","quota":1,"window":"1h","surprise":1}]`, 400},
		{http.MethodPut, "&plan=pro", `nonsense`, 400},
		{http.MethodPut, "&plan=a%20b", `[]`, 400},
		{http.MethodPut, "&key=z", `{"plan":"unheard-of"}`, 422},
		{http.MethodPut, "&key=a&key=b", `{"plan":"vip"}`, 400},
		{http.MethodPut, "", `{}`, 400},
		{http.MethodDelete, "&plan=free", ``, 404},
		{http.MethodPut, "&key=z", `{"plan":"` + strings.Repeat("x", 1<<20) + `"}`, 400},
	} {
		if got, doc := call(t, step.method, base+step.query, step.body); got != step.want {
			t.Errorf("%s %s %.80s: got %d %v, want %d", step.method, step.query, step.body, got, doc, step.want)
		}
	}
	if got := [3]int{allowed("b", "pro"), allowed("z", ""), allowed("gone", "")}; got != [3]int{7, 9, 5} {
		t.Errorf("after the changes: got %v, want 7, 9 and 5", got)
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	url, admin = serve(t, dir, tenants)
	get(t, url, "X-Tenant", "first") // what is kept is read in the background of the first request
	deadline := 0
	for {
		_, doc := call(t, http.MethodGet, "http://"+admin+"/gatehouse/limits/plans", "")
		if keys, _ := doc["items"].([]any)[0].(map[string]any)["keys"].([]any); len(keys) == 1 {
			break
		}
		if deadline++; deadline > 1000 {
			t.Fatal("the plans are gone after a restart")
		}
	}
	if got := [2]int{allowed("b", "pro"), allowed("z", "")}; got != [2]int{7, 9} {
		t.Errorf("after a restart: got %v, want 7 and 9", got)
	}
}

func TestAFailedReloadLeavesThePlansInForce(t *testing.T) {
	url, admin := serve(t, t.TempDir(), tenants)
	if got, doc := call(t, http.MethodPut, "http://"+admin+"/gatehouse/limits/plans?zone=tenants&plan=pro", `[{"name":"minute","quota":7,"window":"1h"}]`); got != http.StatusNoContent {
		t.Fatalf("got %d %v", got, doc)
	}
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	raw, err := modtest.Adapt(fmt.Sprintf("{\n\tadmin %s\n\tauto_https off\n\tpersist_config off\n\tgatehouse {\n\t\tdata_dir %s\n\t\tprofile off\n\t}\n}\nhttp://%s {\n%s\n}\n", admin, t.TempDir(), taken.Addr(), tenants))
	if err != nil {
		t.Fatal(err)
	}
	if err = caddy.Load(raw, true); err == nil {
		t.Fatal("a configuration with a port that is taken was loaded")
	}
	allowed := 0
	for range 10 {
		if get(t, url, "X-Tenant", "a", "X-Plan", "pro") == http.StatusOK {
			allowed++
		}
	}
	if _, doc := call(t, http.MethodGet, "http://"+admin+"/gatehouse/limits/plans", ""); allowed != 7 || doc["items"].([]any)[0].(map[string]any)["plans"] == nil {
		t.Errorf("after the failed reload %d requests are allowed, want 7; plans: %v", allowed, doc)
	}
}

func TestARequestThatItsClientBreaksOffIsNotRefunded(t *testing.T) {
	asked := make(chan struct{}, 10)
	app := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	defer app.Close()
	url, _ := serve(t, t.TempDir(), "\tlimit 3/1h {\n\t\trefund 5xx\n\t}\n\treverse_proxy "+strings.TrimPrefix(app.URL, "http://"))
	for range 5 {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\nhello")
		_ = conn.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}
	if got := get(t, url); got != http.StatusTooManyRequests || len(asked) > 3 {
		t.Errorf("after five requests that were broken off: %d, the app was asked %d times", got, len(asked))
	}
}

func TestTheListOfZones(t *testing.T) {
	url, admin := serve(t, t.TempDir(), tenants)
	get(t, url, "X-Tenant", "acme")
	_, doc := call(t, http.MethodGet, "http://"+admin+"/gatehouse/limits", "")
	zone := doc["items"].([]any)[0].(map[string]any)
	delete(zone, "bytes")
	want := map[string]any{
		"zone": "tenants", "directive": "limit", "by": "{http.request.header.X-Tenant}", "count": "local", "mode": "local", "keys": 1.0,
		"plans": []any{"pro"}, "policies": []any{map[string]any{"name": "minute", "quota": 5.0, "window": "1h0m0s"}},
	}
	if diff := cmp.Diff(want, zone); diff != "" {
		t.Error(diff)
	}
	if status, doc := call(t, http.MethodPost, "http://"+admin+"/gatehouse/limits/nothing", ""); status != http.StatusNotFound || doc["type"] == nil {
		t.Errorf("got %d %v", status, doc)
	}
}

func TestMetricsHaveNoLabelOfAClient(t *testing.T) {
	url, admin := serve(t, t.TempDir(), tenants)
	for i := range 8 {
		get(t, url, "X-Tenant", fmt.Sprint("acme", i/7))
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+admin+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	all := body(t, resp)
	for _, want := range []string{
		`gatehouse_limit_keys{zone="tenants"} 2`, `gatehouse_limit_mode{mode="local",zone="tenants"} 1`,
		`gatehouse_limit_refused_total{policy="minute",zone="tenants"}`, `gatehouse_limit_requests_total{zone="tenants"}`,
	} {
		if !strings.Contains(all, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if strings.Contains(all, "acme") {
		t.Error("a client's value is in the metrics")
	}
}

func TestSimulateCommand(t *testing.T) {
	log := filepath.Join(t.TempDir(), "access.log")
	var b strings.Builder
	for i := range 5 {
		fmt.Fprintf(&b, `{"ts":%d,"request":{"client_ip":"192.0.2.1","host":"a"},"status":200}`+"\n", 1767225600+i)
	}
	if err := os.WriteFile(log, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs, code := modtest.Command(t, "", "limits", "simulate", "--log", log, "--policy", "2/1h")
	if code != 0 || !strings.HasPrefix(out, "3 of 5 requests would have been refused (60.0%), of 1 of 1 keys, from 2026-01-01T00:00:00Z") || !strings.Contains(out, "192.0.2.1  5") {
		t.Errorf("got %d %s %s", code, out, errs)
	}
	out, _, code = modtest.Command(t, b.String(), "limits", "simulate", "--log", "-", "--policy", "100/1h", "--json")
	if code != 0 || !strings.Contains(out, `"refused":0`) {
		t.Errorf("got %d %s", code, out)
	}
	if _, errs, code = modtest.Command(t, "plain text\n", "limits", "simulate", "--log", "-", "--policy", "100/1h"); code != 1 || !strings.Contains(errs, "has no request in it") {
		t.Errorf("got %d %s", code, errs)
	}
}
