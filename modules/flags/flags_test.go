package flags_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/crypto/bcrypt"

	backend "github.com/gatehouse-proxy/gatehouse/backends/flags"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend"
	"github.com/gatehouse-proxy/gatehouse/modules/flags"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

const global = "{\n\tgatehouse {\n\t\tdata_dir @@data@@\n\t}\n}\n"

// site is a site with the flags' API and the lines given.
func site(lines string) string {
	return global + ":80 {\n\thandle /flags* {\n\t\tbackend flags as operator\n\t}\n" + lines + "\n}\n"
}

func put(t testing.TB, g *modtest.Gateway, flag, definition string) {
	t.Helper()
	resp := g.Do(httptest.NewRequest(http.MethodPut, "/flags/"+flag, strings.NewReader(definition)))
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		t.Fatalf("PUT %s: got %d", flag, resp.StatusCode)
	}
}

func body(t testing.TB, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestChangeCountsOnTheNextRequest(t *testing.T) {
	g := modtest.Start(t, site(`
	@beta flag new-feed by {http.request.header.X-User}
	handle @beta {
		respond "new"
	}
	respond "old"`))
	for i, step := range []struct{ definition, user, want string }{
		{"", "ann", "old"}, // there is no such flag yet
		{`{"enabled":true,"percentage":100}`, "ann", "new"},
		{`{"enabled":false,"percentage":100}`, "ann", "old"},
		{`{"enabled":true,"percentage":0,"allowList":["ann"]}`, "ann", "new"},
		{"", "bob", "old"},
		{`{"enabled":true,"percentage":99}`, "", "old"},
		{`{"enabled":true,"percentage":100,"denyList":["ann"]}`, "ann", "old"},
		{"", "bob", "new"},
	} {
		if step.definition != "" {
			put(t, g, "new-feed", step.definition)
		}
		if got := body(t, g.Get("/", "X-User", step.user)); got != step.want {
			t.Errorf("step %d: %s gets %q, want %q", i, step.user, got, step.want)
		}
	}
}

func TestUserIsTheAuthenticatedOne(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("pw"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	g := modtest.Start(t, site(`
	@private not path /flags*
	basic_auth @private {
		ann `+string(hash)+`
		bob `+string(hash)+`
	}
	@beta flag new-feed
	handle @beta {
		respond "new"
	}
	respond "old"`))
	put(t, g, "new-feed", `{"enabled":true,"allowList":["ann"]}`)
	for user, want := range map[string]string{"ann": "new", "bob": "old"} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.SetBasicAuth(user, "pw")
		if got := body(t, g.Do(r)); got != want {
			t.Errorf("%s gets %q, want %q", user, got, want)
		}
	}
}

func TestRestartKeepsFlags(t *testing.T) {
	config := site("\n\t@beta flag new-feed by {http.request.header.X-User}\n\trespond @beta new\n\trespond old")
	g := modtest.Start(t, config)
	put(t, g, "new-feed", `{"enabled":true,"allowList":["ann"]}`)
	dir := g.Dir
	g.Stop()
	again, err := modtest.StartIn(t, dir, config)
	if err != nil {
		t.Fatal(err)
	}
	if got := body(t, again.Get("/", "X-User", "ann")); got != "new" {
		t.Errorf("after a restart ann gets %q, want new", got)
	}
}

// app is an upstream that says its name and the feature headers that it got.
func app(t testing.TB, name string) *httptest.Server {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got := []string{name}
		for header, values := range r.Header {
			if strings.HasPrefix(strings.ReplaceAll(strings.ToLower(header), "_", "-"), "x-feature-") {
				got = append(got, fmt.Sprint(header, "=", values))
			}
		}
		_, _ = io.WriteString(w, strings.Join(got, " "))
	}))
	t.Cleanup(srv.Close)
	return srv
}

func split(on, off string) string {
	return site(`
	header >X-Variant {http.split.variant}
	split new-checkout {
		by      {http.request.header.X-User}
		variant on  ` + on + `
		variant off ` + off + `
	}`)
}

func TestSplitSticksAndFollowsTheFlag(t *testing.T) {
	g := modtest.Start(t, split(app(t, "v2").URL, strings.TrimPrefix(app(t, "v1").URL, "http://")))
	get := func(user string) string {
		resp := g.Get("/", "X-User", user, "X-Feature-New-Checkout", "forged")
		got, variant := body(t, resp), resp.Header.Get("X-Variant")
		app := map[string]string{"on": "v2", "off": "v1"}[variant]
		if want := app + " X-Feature-New-Checkout=[" + variant + "]"; got != want {
			t.Errorf("%s: got %q with the placeholder %q, want %q", user, got, variant, want)
		}
		return variant
	}
	if got := get("user-0"); got != "off" {
		t.Errorf("without a flag: got %s, want off", got)
	}
	for _, p := range []int{50, 80, 0, 100} {
		put(t, g, "new-checkout", fmt.Sprintf(`{"enabled":true,"percentage":%d}`, p))
		for i := range 30 {
			user := fmt.Sprint("user-", i)
			want := "off"
			if backend.Bucket("new-checkout", user) < p {
				want = "on"
			}
			for range 2 {
				if got := get(user); got != want {
					t.Errorf("%s at %d percent: got %s, want %s", user, p, got, want)
				}
			}
		}
	}
}

func TestSplitSpreadsOverSeveralUpstreams(t *testing.T) {
	g := modtest.Start(t, split(app(t, "a").URL+" "+app(t, "b").URL+" {\n\t\t\tlb_policy round_robin\n\t\t}", app(t, "off").URL))
	put(t, g, "new-checkout", `{"enabled":true,"percentage":100}`)
	seen := map[string]int{}
	for range 10 {
		name, _, _ := strings.Cut(body(t, g.Get("/", "X-User", "ann")), " ")
		seen[name]++
	}
	if seen["a"] != 5 || seen["b"] != 5 {
		t.Errorf("got %v, want both upstreams in turn", seen)
	}
}

// An app that makes no difference between hyphen and underscore must not believe a client's header.
func TestSplitDeletesOtherSpellings(t *testing.T) {
	config := strings.Replace(split(app(t, "v2").URL, app(t, "v1").URL), "{\n", "{\n\tservers {\n\t\texpected_underscore_headers X_feature_new_checkout\n\t}\n", 1)
	g := modtest.Start(t, config)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header["X_feature_new_checkout"] = []string{"on"}
	if got, want := body(t, g.Do(r)), "v1 X-Feature-New-Checkout=[off]"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// dead is an address that nothing listens on.
func dead(t *testing.T) string {
	srv := httptest.NewServer(http.NotFoundHandler())
	srv.Close()
	return srv.URL
}

func TestDeadVariantIsAProblem(t *testing.T) {
	g := modtest.Start(t, split(dead(t), app(t, "v1").URL))
	put(t, g, "new-checkout", `{"enabled":true,"allowList":["ann"]}`)
	if got := body(t, g.Get("/", "X-User", "bob")); !strings.HasPrefix(got, "v1") {
		t.Errorf("the living variant: got %q", got)
	}
	resp := g.Get("/", "X-User", "ann")
	var doc map[string]any
	text := body(t, resp)
	if err := json.Unmarshal([]byte(text), &doc); err != nil || resp.StatusCode != http.StatusBadGateway ||
		resp.Header.Get("Content-Type") != "application/problem+json" || !strings.HasSuffix(doc["type"].(string), "/upstream-failed") {
		t.Errorf("got %d %s %s, want a problem upstream-failed", resp.StatusCode, resp.Header.Get("Content-Type"), text)
	}
	if strings.Contains(text, "127.0.0.1") {
		t.Errorf("the problem tells where the app is: %s", text)
	}
}

func TestErrorRouteHasItsSay(t *testing.T) {
	g := modtest.Start(t, strings.Replace(split(dead(t), dead(t)), "\tsplit ", "\thandle_errors {\n\t\trespond \"mine {err.status_code}\"\n\t}\n\tsplit ", 1))
	if got := body(t, g.Get("/")); got != "mine 502" {
		t.Errorf("got %q, want mine 502", got)
	}
}

// TestBeforeTheStart sends requests to a configuration whose app has not started.
func TestBeforeTheStart(t *testing.T) {
	for name, lines := range map[string]string{
		"matcher": "\t@beta flag new-feed\n\trespond @beta new\n\trespond old",
		"split":   "\tsplit new-checkout {\n\t\tvariant on a:1\n\t\tvariant off b:1\n\t}",
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := modtest.Adapt(strings.ReplaceAll(site(lines), "@@data@@", t.TempDir()))
			if err != nil {
				t.Fatal(err)
			}
			cfg := new(caddy.Config)
			if err = json.Unmarshal(raw, cfg); err != nil {
				t.Fatal(err)
			}
			cfg.Admin = &caddy.AdminConfig{Disabled: true}
			ctx, err := caddy.ProvisionContext(cfg)
			if err != nil {
				t.Fatal(err)
			}
			app, err := ctx.App("http")
			if err != nil {
				t.Fatal(err)
			}
			late, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			w := httptest.NewRecorder()
			app.(*caddyhttp.App).Servers["srv0"].ServeHTTP(w, httptest.NewRequestWithContext(late, http.MethodGet, "/", nil))
			if w.Code != http.StatusServiceUnavailable {
				t.Errorf("got %d, want 503", w.Code)
			}
		})
	}
}

// probe is a variant that counts how many of it are in use.
type probe struct {
	Fail bool `json:"fail"`
}

var probes atomic.Int64

func init() { caddy.RegisterModule(probe{}) }

func (probe) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.flags_test_probe", New: func() caddy.Module { return new(probe) }}
}

func (p *probe) Provision(caddy.Context) error {
	probes.Add(1)
	if p.Fail {
		return errors.New("the probe fails")
	}
	return nil
}

func (p *probe) Cleanup() error {
	probes.Add(-1)
	return nil
}

func (p *probe) ServeHTTP(http.ResponseWriter, *http.Request, caddyhttp.Handler) error {
	return caddyhttp.Error(http.StatusTeapot, errors.New("teapot"))
}

func TestVariantsAreCleanedUp(t *testing.T) {
	provision := func(t *testing.T, variants string) (caddy.Module, context.CancelFunc, error) {
		t.Helper()
		ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
		m, err := ctx.LoadModuleByID("http.handlers.split", json.RawMessage(variants))
		split, _ := m.(*flags.Split)
		return split, cancel, err
	}
	for _, tt := range []struct{ name, config, want string }{
		{"second-fails", `{"name":"a","on":{"handler":"flags_test_probe"},"off":{"handler":"flags_test_probe","fail":true}}`, "loading the variant off"},
		{"second-missing", `{"name":"a","on":{"handler":"flags_test_probe"}}`, "variant off is missing"},
		{"first-missing", `{"name":"a","off":{"handler":"flags_test_probe"}}`, "variant on is missing"},
		{"unknown-member", `{"name":"a","guard":{}}`, "guard"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, cancel, err := provision(t, tt.config)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
			cancel()
			if n := probes.Load(); n != 0 {
				t.Errorf("%d variants are left", n)
			}
		})
	}
}

func TestStatusWithoutAProblemGoesOn(t *testing.T) {
	dir := t.TempDir()
	raw := `{"admin":{"disabled":true},"apps":{"gatehouse":{"data_dir":"` + dir + `"},"http":{"servers":{"srv0":{"listen":[":80"],"routes":[
		{"handle":[{"handler":"split","name":"a","on":{"handler":"flags_test_probe"},"off":{"handler":"flags_test_probe"}}]}]}}}}}`
	cfg := new(caddy.Config)
	if err := json.Unmarshal([]byte(raw), cfg); err != nil {
		t.Fatal(err)
	}
	ctx, err := caddy.ProvisionContext(cfg)
	if err != nil {
		t.Fatal(err)
	}
	app, err := ctx.App("gatehouse")
	if err != nil {
		t.Fatal(err)
	}
	if err = app.(caddy.App).Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := app.(caddy.CleanerUpper).Cleanup(); err != nil {
			t.Error(err)
		}
		probes.Store(0) // this configuration's two, whose context the test cannot end
	})
	httpApp, err := ctx.App("http")
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	httpApp.(*caddyhttp.App).Servers["srv0"].ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != http.StatusTeapot {
		t.Errorf("got %d, want the variant's own 418", w.Code)
	}
}

func TestNamesAreChecked(t *testing.T) {
	for _, config := range []string{
		`{"match":[{"flag":{"name":"No"}}]}`,
		`{"match":[{"flag":{}}]}`,
		`{"handle":[{"handler":"split","name":"a b","on":{"handler":"static_response"},"off":{"handler":"static_response"}}]}`,
	} {
		cfg := new(caddy.Config)
		if err := json.Unmarshal([]byte(`{"admin":{"disabled":true},"apps":{"http":{"servers":{"srv0":{"listen":[":80"],"routes":[`+config+`]}}}}}`), cfg); err != nil {
			t.Fatal(err)
		}
		if _, err := caddy.ProvisionContext(cfg); err == nil || !strings.Contains(err.Error(), "cannot be a flag") {
			t.Errorf("%s: got %v, want a sentence on the name", config, err)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	g := modtest.Start(b, site("\n\t@beta flag new-feed\n\trespond @beta new"))
	put(b, g, "new-feed", `{"enabled":true,"percentage":50}`)
	m, err := g.Context().LoadModuleByID("http.matchers.flag", json.RawMessage(`{"name":"new-feed"}`))
	if err != nil {
		b.Fatal(err)
	}
	repl := caddy.NewReplacer()
	repl.Set("http.auth.user.id", "user-123")
	r := caddyhttp.PrepareRequest(httptest.NewRequest(http.MethodGet, "/", nil), repl, httptest.NewRecorder(), nil)
	match := m.(caddyhttp.RequestMatcherWithError)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := match.MatchWithError(r); err != nil {
			b.Fatal(err)
		}
	}
}
