package gatehouse_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/gatehouse-proxy/gatehouse/modules/gatehouse"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

// reporter is a directive that says of itself what the test wants.
type reporter struct{}

var local atomic.Bool

func init() {
	caddy.RegisterModule(reporter{})
	httpcaddyfile.RegisterHandlerDirective("test_reporter", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return new(reporter), nil
	})
	httpcaddyfile.RegisterDirectiveOrder("test_reporter", httpcaddyfile.Before, "respond")
}

func (reporter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_reporter", New: func() caddy.Module { return new(reporter) }}
}

func (*reporter) Provision(ctx caddy.Context) error {
	app, err := gatehouse.Of(ctx)
	if err != nil {
		return err
	}
	app.Report("quota minute", func() (string, bool) {
		if local.Load() {
			return "counts locally", false
		}
		return "counts in the store", true
	})
	return nil
}

func (*reporter) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return next.ServeHTTP(w, r)
}

// freeAddress is an address that nothing listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// run makes the Caddyfile the configuration of this process, with an admin endpoint.
func run(t *testing.T, address, caddyfile string) error {
	t.Helper()
	raw, err := modtest.Adapt(caddyfile)
	if err != nil {
		t.Fatal(err)
	}
	cfg := modtest.Config(t, raw)
	no := false
	cfg.Admin = &caddy.AdminConfig{Listen: address, Config: &caddy.ConfigSettings{Persist: &no}}
	t.Cleanup(func() { _ = caddy.Stop() })
	return caddy.Run(cfg)
}

// get asks the admin endpoint, which may be still on its way up.
func get(t *testing.T, url, accept string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestProbes(t *testing.T) {
	dir, address := t.TempDir(), freeAddress(t)
	const plain = "text/plain"
	conf := strings.ReplaceAll("{\n\tauto_https off\n\tgatehouse {\n\t\tdata_dir @@\n\t}\n}\nhttp://127.0.0.1:0 {\n\ttest_reporter\n\tbackend probe\n}\n", "@@", dir)
	base := "http://" + address
	if err := run(t, address, conf); err != nil {
		t.Fatal(err)
	}
	check := func(name, path, accept string, status int, want string) {
		t.Helper()
		if got, body := get(t, base+path, accept); got != status || body != want {
			t.Errorf("%s: %s got %d %q, want %d %q", name, path, got, body, status, want)
		}
	}
	check("up", "/livez", plain, 200, "ok\n")
	check("up", "/startupz", plain, 200, "ok\n")
	check("up", "/readyz", plain, 200, "ok\n")
	check("up", "/readyz?verbose", plain, 200, "[+] data_dir: ok\n[+] probe: ok\n[+] quota minute: ok, counts in the store\nok\n")

	local.Store(true)
	defer local.Store(false)
	check("degraded", "/readyz", plain, 200, "degraded\n")
	check("degraded", "/readyz?verbose", plain, 200, "[+] data_dir: ok\n[+] probe: ok\n[~] quota minute: degraded, counts locally\ndegraded\n")
	check("degraded", "/readyz?verbose", "application/json", 200, `{"status":"degraded","checks":[{"name":"data_dir","state":"ok"},`+
		`{"name":"probe","state":"ok"},{"name":"quota minute","state":"degraded","detail":"counts locally"}]}`+"\n")

	sick.Store(true)
	defer sick.Store(false)
	check("sick", "/livez", plain, 200, "ok\n")
	check("sick", "/startupz", plain, 200, "ok\n")
	check("sick", "/readyz?verbose", plain, 503, "[+] data_dir: ok\n[-] probe: failed, the probe is sick\n[~] quota minute: degraded, counts locally\nfailed\n")
	if status, body := get(t, base+"/readyz", plain); status != 503 || !strings.Contains(body, `"detail":"The backend probe is starting or stopping."`) {
		t.Errorf("sick: got %d %s, want the problem that the backends answer on their own", status, body)
	}
	sick.Store(false)

	if err := run(t, address, strings.Replace(conf, dir, filepath.Join("/dev/null", "x"), 1)); err == nil {
		t.Fatal("a data directory that cannot be was accepted")
	}
	check("after a refused reload", "/readyz", plain, 200, "degraded\n")

	if err := run(t, address, strings.Replace(conf, "test_reporter", "", 1)); err != nil {
		t.Fatal(err)
	}
	check("reports end with their configuration", "/readyz?verbose", plain, 200, "[+] data_dir: ok\n[+] probe: ok\nok\n")

	if err := run(t, address, "http://127.0.0.1:0 {\n\trespond x\n}\n"); err != nil {
		t.Fatal(err)
	}
	check("without the app", "/readyz", plain, 200, "ok\n")

	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	check("stopped", "/livez", plain, 200, "ok\n")
	for _, path := range []string{"/readyz", "/startupz"} {
		if status, body := get(t, base+path, plain); status != 503 || !strings.Contains(body, "no configuration is at work yet") {
			t.Errorf("stopped: %s got %d %s", path, status, body)
		}
	}
}

func TestProfileCommand(t *testing.T) {
	dir, address := t.TempDir(), freeAddress(t)
	if err := run(t, address, "http://127.0.0.1:0 {\n\trespond x\n}\n"); err != nil {
		t.Fatal(err)
	}
	stop, burnt := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(burnt)
		burnForCommand(stop)
	}()
	defer func() { close(stop); <-burnt }()

	if out := command(t, "--seconds", "1", "--top", "--address", address); !strings.Contains(out, "flat%") || !strings.Contains(out, "burnForCommand") {
		t.Errorf("--top printed:\n%s", out)
	}
	file := filepath.Join(dir, "cpu.pprof")
	config := filepath.Join(dir, "caddy.json")
	if err := os.WriteFile(config, []byte(`{"admin": {"listen": "`+address+`"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Seconds   int
		Output    string
		Functions []struct {
			Function    string
			FlatPercent float64 `json:"flat_percent"`
		}
	}
	if err := json.Unmarshal([]byte(command(t, "--seconds", "1", "--json", "--output", file, "--config", config)), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Functions) == 0 || got.Seconds != 1 || got.Output != file {
		t.Errorf("got %+v", got)
	}
	if fi, err := os.Stat(file); err != nil || fi.Size() == 0 {
		t.Errorf("the profile was not saved: %v", err)
	}
}

// command runs gatehouse profile.
func command(t *testing.T, args ...string) string {
	t.Helper()
	cmd := &cobra.Command{Use: "profile"}
	caddycmd.Commands()["profile"].CobraFunc(cmd)
	var out, errs bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SetArgs(args)
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, errs.String())
	}
	return out.String()
}

//go:noinline
func burnForCommand(stop <-chan struct{}) (sum uint64) {
	for {
		select {
		case <-stop:
			return sum
		default:
		}
		for i := range uint64(1 << 16) {
			sum = sum*31 + i
		}
	}
}

func TestProfileIsCapturedAndReported(t *testing.T) {
	dir := t.TempDir()
	stop, burnt := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(burnt)
		burnForCommand(stop)
	}()
	defer func() { close(stop); <-burnt }()
	if err := run(t, freeAddress(t), strings.Replace(`{
	auto_https off
	events {
		on profile_captured test_seen
	}
	gatehouse {
		data_dir @@data@@
		profile {
			cpu      2% for 250ms
			length   500ms
			cooldown 1ms
		}
	}
}
http://127.0.0.1:0 {
	backend probe
}
`, "@@data@@", dir, 1)); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-seen:
		path, _ := got["path"].(string)
		if filepath.Dir(path) != filepath.Join(dir, "profiles") {
			t.Errorf("got the path %q, want it in %s/profiles", path, dir)
		}
		if top, _ := got["top"].(string); !strings.HasSuffix(top, "burnForCommand") {
			t.Errorf("got %v", got)
		}
		if diff := cmp.Diff("cpu over 2% for 250ms", got["cause"]); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	case <-time.After(time.Minute):
		t.Fatal("nothing was captured in a minute")
	}
}
