package integration

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/golang-jwt/jwt/v5"

	_ "github.com/gatehouse-proxy/gatehouse/modules/standard"
)

const chainKey = "0123456789abcdef0123456789abcdef"

// chain is the whole gateway's cost without sockets: a bare answer, then one module more each time.
var chain = []struct{ name, site string }{
	{"respond", `respond "ok"`},
	{"+limit", `limit 1000000000/1s`},
	{"+jwt_auth", `jwt_auth {
		secret chain
	}`},
	{"+quota", `quota 1000000000/1s`},
	{"+api_version", `api_version {
		from path /api
		version v1
		latest v1
	}`},
	{"+flag", `@on flag chain
	header @on X-Flag on`},
	{"+http_cache", `http_cache`},
	{"+problem", `handle_errors {
		problem
	}`},
}

// BenchmarkChain is the table in the README's performance section:
//
//	go test -run '^$' -bench Chain -benchmem -count 6 ./integration
func BenchmarkChain(b *testing.B) {
	b.Setenv("GATEHOUSE_CHAIN_KEY", chainKey)
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "user-1", "exp": 4102444800}).SignedString([]byte(chainKey))
	if err != nil {
		b.Fatal(err)
	}
	site := ""
	for _, link := range chain {
		site += "\t" + link.site + "\n"
		b.Run(link.name, func(b *testing.B) {
			g := serveInProcess(b, "{\n\tlog {\n\t\toutput discard\n\t}\n\tgatehouse {\n\t\tdata_dir "+b.TempDir()+"\n\t\tsecret chain env GATEHOUSE_CHAIN_KEY\n\t}\n}\n:80 {\n"+site+"}\n")
			r := httptest.NewRequest(http.MethodGet, "http://example.com/api/v1/things", nil)
			r.Header = http.Header{"Authorization": {"Bearer " + token}, "Accept": {"application/json"}, "User-Agent": {"bench"}}
			w := &discard{header: http.Header{}}
			g.ServeHTTP(w, r.Clone(b.Context()))
			if w.status != http.StatusOK || !strings.Contains(w.body, "ok") {
				b.Fatalf("got %d %s", w.status, w.body)
			}
			b.ReportAllocs()
			for b.Loop() {
				clear(w.header)
				req := *r // a fresh request as the server makes one; its headers are only read
				g.ServeHTTP(w, &req)
			}
		})
	}
}

// serveInProcess is the first server of the configuration, without sockets.
func serveInProcess(b *testing.B, caddyfile string) http.Handler {
	b.Helper()
	raw, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		b.Fatal(err)
	}
	cfg := &caddy.Config{}
	if err = json.Unmarshal(raw, cfg); err != nil {
		b.Fatal(err)
	}
	cfg.Admin = &caddy.AdminConfig{Disabled: true}
	ctx, err := caddy.ProvisionContext(cfg)
	if err != nil {
		b.Fatal(err)
	}
	app, err := ctx.App("gatehouse")
	if err != nil {
		b.Fatal(err)
	}
	if err = app.(caddy.App).Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = app.(caddy.CleanerUpper).Cleanup() })
	web, err := ctx.App("http")
	if err != nil {
		b.Fatal(err)
	}
	return web.(*caddyhttp.App).Servers["srv0"]
}

// discard is a response that goes nowhere.
type discard struct {
	header http.Header
	status int
	body   string
}

func (d *discard) Header() http.Header    { return d.header }
func (d *discard) WriteHeader(status int) { d.status = status }
func (d *discard) Write(b []byte) (int, error) {
	d.body = string(b)
	return len(b), nil
}
