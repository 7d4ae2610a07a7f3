package backend_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/authority"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
	_ "github.com/gatehouse-proxy/gatehouse/modules/jwtauth"
)

func TestUnknownBackendIsNamed(t *testing.T) {
	_, err := modtest.TryStart(t, ":80 {\n\tbackend jbos\n}\n")
	if err == nil || !strings.Contains(err.Error(), "unknown backend: jbos") {
		t.Fatalf("got %v, want an error that names the backend", err)
	}
}

// echo is a backend that answers with what it is told of the caller. As a guest it has the settings owner.
type echo struct {
	service.Authority
}

func init() { caddy.RegisterModule(new(echo)) }

func (*echo) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "gatehouse.backends.echo", New: func() caddy.Module { return new(echo) }}
}

func (e *echo) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return dispense.Block(d, "backend echo", authority.Options(&e.Authority)...)
}

func (e *echo) Open(context.Context, *service.Host) (service.Service, error) { return e, nil }
func (*echo) Check(context.Context) error                                    { return nil }
func (*echo) Run(ctx context.Context) error                                  { <-ctx.Done(); return nil }

func (*echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	got := map[string]string{}
	for name, values := range r.Header {
		if strings.HasPrefix(strings.ToLower(name), "gatehouse") {
			got[name] = strings.Join(values, "; ")
		}
	}
	_ = json.NewEncoder(w).Encode(got)
}

const key = "0123456789abcdef0123456789abcdef"

// gateway serves the echo behind jwt_auth, also from a cookie, and without it at /open and /service.
func gateway(t *testing.T, owner string) *modtest.Gateway {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	conf := `{
	gatehouse {
		data_dir @@data@@
		secret key file FILE
		backend echo {
			OWNER
		}
	}
}
:80 {
	handle /open {
		backend echo
	}
	handle /service {
		backend echo as service
	}
	handle /basic {
		basic_auth {
			bob $2a$04$Lh.n6APDiO4jRoo7q8nZSOmv6ZSHCOgRysNZLAsmEP25XCUCPWYLi
		}
		backend echo
	}
	handle /friend {
		jwt_auth {
			secret key
			from cookie session
		}
		backend echo origin https://app.example.com
	}
	handle {
		jwt_auth {
			secret key
			from header
			from cookie session
		}
		backend echo
	}
}
`
	if owner != "" {
		owner = "owner \"" + owner + "\""
	}
	return modtest.Start(t, strings.NewReplacer("FILE", file, "OWNER", owner).Replace(conf))
}

func token(t *testing.T, claims jwt.MapClaims) string {
	t.Helper()
	claims["exp"] = time.Now().Add(time.Hour).Unix()
	s, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestIntroduction(t *testing.T) {
	for name, tt := range map[string]struct {
		owner  string
		claims jwt.MapClaims
		want   map[string]string
	}{
		"subject":                {claims: jwt.MapClaims{"sub": "ann"}, want: map[string]string{"Subject": "ann"}},
		"claim-id-is-no-subject": {claims: jwt.MapClaims{"sub": "ann", "id": "bob"}, want: map[string]string{"Subject": "ann"}},
		"no-subject":             {claims: jwt.MapClaims{"name": "x"}, want: map[string]string{}},
		"odd-subject":            {claims: jwt.MapClaims{"sub": "ann%é "}, want: map[string]string{"Subject": "ann%25%C3%A9%20"}},
		"roles":                  {claims: jwt.MapClaims{"role": "a", "roles": []string{"b", "c"}}, want: map[string]string{"Role": "a,b,c"}},
		"role-with-a-comma":      {claims: jwt.MapClaims{"role": "x,admin", "roles": []string{"y,admin"}}, want: map[string]string{"Role": "x%2Cadmin,y%2Cadmin"}},
		"role-object":            {claims: jwt.MapClaims{"role": map[string]string{"admin": "admin"}}, want: map[string]string{}},
		"scopes":                 {claims: jwt.MapClaims{"scope": "a jobs:write", "scp": []string{"b", "c d"}}, want: map[string]string{"Scope": "a jobs:write b c%20d"}},
		"tenant":                 {owner: "{http.auth.user.tenant}", claims: jwt.MapClaims{"sub": "ann", "tenant": "acme"}, want: map[string]string{"Subject": "ann", "Owner": "acme"}},
		"tenant-number":          {owner: "{http.auth.user.tenant}", claims: jwt.MapClaims{"sub": "ann", "tenant": 7}, want: map[string]string{"Subject": "ann", "Owner": "7"}},
		"tenant-array":           {owner: "{http.auth.user.tenant}", claims: jwt.MapClaims{"sub": "ann", "tenant": []string{"acme"}}, want: map[string]string{"Subject": "ann"}},
		"tenant-object":          {owner: "{http.auth.user.tenant}", claims: jwt.MapClaims{"sub": "ann", "tenant": map[string]string{"id": "acme"}}, want: map[string]string{"Subject": "ann"}},
		"tenant-absent":          {owner: "{http.auth.user.tenant}", claims: jwt.MapClaims{"sub": "ann"}, want: map[string]string{"Subject": "ann"}},
		"tenant-odd":             {owner: "t {http.auth.user.tenant}", claims: jwt.MapClaims{"tenant": "{x} "}, want: map[string]string{"Owner": "t {x}%20"}},
		"issuer-and-subject": {owner: "{http.auth.user.iss} {http.auth.user.id}", claims: jwt.MapClaims{"iss": "https://a", "sub": "ann b"},
			want: map[string]string{"Subject": "ann b", "Owner": "https://a ann%2520b"}},
		"issuer-absent":       {owner: "{http.auth.user.iss} {http.auth.user.id}", claims: jwt.MapClaims{"sub": "ann"}, want: map[string]string{"Subject": "ann"}},
		"unknown-placeholder": {owner: "{user.id}", claims: jwt.MapClaims{"sub": "ann"}, want: map[string]string{"Subject": "ann"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := gateway(t, tt.owner)
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header.Set("Authorization", "Bearer "+token(t, tt.claims))
			checkEcho(t, g, r, tt.want)
		})
	}
}

// checkEcho sends the request with all that a client must not say, and compares what the backend is told.
func checkEcho(t *testing.T, g *modtest.Gateway, r *http.Request, want map[string]string) {
	t.Helper()
	for _, name := range service.CallerHeaders {
		r.Header[name] = []string{"operator", "admin"}
		r.Header[strings.ReplaceAll(name, "-", "_")] = []string{"operator"}
		r.Header[strings.ToLower(strings.ReplaceAll(name, "-", "."))] = []string{"operator"}
		r.Header.Add("Connection", name)
	}
	resp := g.Do(r)
	body, _ := io.ReadAll(resp.Body)
	got := map[string]string{}
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatalf("got %d %s", resp.StatusCode, body)
	}
	delete(got, service.ClientIPHeader)
	full := map[string]string{}
	for name, value := range want {
		full["Gatehouse-"+name] = value
	}
	if diff := cmp.Diff(full, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", r.URL, diff)
	}
}

func TestIntroductionWithoutAToken(t *testing.T) {
	g := gateway(t, "")
	checkEcho(t, g, httptest.NewRequest(http.MethodGet, "/open", nil), map[string]string{})
	checkEcho(t, g, httptest.NewRequest(http.MethodGet, "/service", nil), map[string]string{"Rank": "service"})
	r := httptest.NewRequest(http.MethodGet, "/basic", nil)
	r.SetBasicAuth("bob", "secret")
	checkEcho(t, g, r, map[string]string{"Subject": "bob"})
}

// TestCrossSiteWrites: what the browser sends along on its own does not write for a page of another site.
func TestCrossSiteWrites(t *testing.T) {
	g, ann := gateway(t, ""), token(t, jwt.MapClaims{"sub": "ann"})
	cookie := func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "session", Value: ann}) }
	bearer := func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+ann) }
	basic := func(r *http.Request) { r.SetBasicAuth("bob", "secret") }
	none := func(*http.Request) {}
	for name, tt := range map[string]struct {
		method, path string
		identify     func(*http.Request)
		site, origin string
		want         int
	}{
		"cookie-from-another-site": {"POST", "/", cookie, "cross-site", "https://evil.example", 403},
		"cookie-of-a-sibling":      {"POST", "/", cookie, "same-site", "https://a.example.com", 403},
		"cookie-of-an-old-browser": {"POST", "/", cookie, "", "https://evil.example", 403},
		"cookie-from-nowhere":      {"DELETE", "/", cookie, "", "null", 403},
		"cookie-of-the-site":       {"POST", "/", cookie, "same-origin", "https://example.com", 200},
		"cookie-read":              {"GET", "/", cookie, "cross-site", "https://evil.example", 200},
		"cookie-of-no-browser":     {"POST", "/", cookie, "", "", 200},
		"cookie-of-a-friend":       {"POST", "/friend", cookie, "same-site", "https://app.example.com", 200},
		"cookie-of-no-friend":      {"POST", "/friend", cookie, "same-site", "https://b.example.com", 403},
		"bearer-from-another-site": {"POST", "/", bearer, "cross-site", "https://evil.example", 200},
		"basic-from-another-site":  {"POST", "/basic", basic, "cross-site", "https://evil.example", 403},
		"rank-from-another-site":   {"POST", "/service", none, "cross-site", "https://evil.example", 403},
		"rank-of-no-browser":       {"POST", "/service", none, "", "", 200},
		"open-from-another-site":   {"POST", "/open", none, "cross-site", "https://evil.example", 200},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(tt.method, "http://example.com"+tt.path, nil)
			tt.identify(r)
			if tt.site != "" {
				r.Header.Set("Sec-Fetch-Site", tt.site)
			}
			if tt.origin != "" {
				r.Header.Set("Origin", tt.origin)
			}
			resp := g.Do(r)
			if resp.StatusCode != tt.want {
				t.Errorf("got %d, want %d", resp.StatusCode, tt.want)
			}
			if ct := resp.Header.Get("Content-Type"); tt.want == 403 && ct != "application/problem+json" {
				t.Errorf("got %s, want a problem", ct)
			}
		})
	}
}
