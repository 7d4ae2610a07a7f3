package jwtauth_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

// TestMain lets the test binary be the gateway's command line.
func TestMain(m *testing.M) { modtest.Main(m) }

// serve runs a configuration with an admin endpoint until the test ends, or another one is served. It
// returns the addresses of both.
func serve(t *testing.T, site string) (url, admin string) {
	t.Helper()
	admin = "127.0.0.1:" + modtest.FreePort(t)
	port := modtest.FreePort(t)
	modtest.Serve(t, fmt.Sprintf("{\n\tadmin %s\n\tauto_https off\n\tpersist_config off\n\tmetrics\n\tgatehouse {\n\t\tdata_dir %s\n\t\tprofile off\n\t}\n}\nhttp://127.0.0.1:%s {\n%s\n}\n", admin, t.TempDir(), port, site))
	return "http://127.0.0.1:" + port, admin
}

func send(t *testing.T, method, url, body string, headers ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
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
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

type explained struct {
	Items []struct {
		Directive, Outcome, Answer string
		Passes                     bool
		Checks                     []struct {
			Check, Detail string
			OK            bool
		}
	}
}

// failed names the checks of an item that failed.
func (e explained) failed(i int) string {
	var names []string
	for _, c := range e.Items[i].Checks {
		if !c.OK {
			names = append(names, c.Check)
		}
	}
	return strings.Join(names, ",")
}

func TestExplainAndUsage(t *testing.T) {
	s := newKeyServer(t, publicSet(t))
	site := `
	handle /a {
		jwt_auth {
			issuer https://idp.example {
				jwks ` + s.URL + `?key=SECRET
				audience api
			}
			require scope read
			require role admin
		}
		respond ok
	}
	handle /again {
		jwt_auth {
			issuer https://idp.example {
				jwks ` + s.URL + `?key=SECRET
				audience api
			}
			require scope read
			require role admin
		}
		respond ok
	}
	handle {
		jwt_auth
		respond ok
	}`
	url, admin := serve(t, site)
	now := time.Now().Unix()
	valid := sign(t, r1, good(claims{"roles": "admin"}), keys().rsa)
	for name, c := range map[string]struct {
		token, outcome, failed string
	}{
		"passes":       {valid, "ok", ""},
		"no-token":     {"nonsense", "malformed", "form"},
		"too-long":     {strings.Repeat("a", 1<<20+1), "malformed", "size"},
		"alg-none":     {sign(t, `{"alg":"none"}`, good(nil), nil), "unsupported_algorithm", "header,algorithm,require"},
		"crit":         {sign(t, `{"alg":"RS256","kid":"r1","crit":["x"]}`, good(nil), keys().rsa), "invalid_header", "header,require"},
		"unknown-kid":  {sign(t, `{"alg":"RS256","kid":"r9"}`, good(claims{"roles": "admin"}), keys().rsa), "unknown_key", "key"},
		"foreign":      {sign(t, r1, good(claims{"roles": "admin"}), keys().foreign), "invalid_signature", "signature"},
		"other-alg":    {signedBy(t, "RS512"), "unsupported_algorithm", "algorithm,require"},
		"expired":      {sign(t, r1, good(claims{"exp": now - 100}), keys().rsa), "expired", "dates,require"},
		"audience":     {sign(t, r1, good(claims{"aud": "web"}), keys().rsa), "wrong_audience", "audience,require"},
		"issuer":       {sign(t, r1, good(claims{"iss": "https://idp.example/"}), keys().rsa), "wrong_issuer", "issuer,require"},
		"bound":        {sign(t, r1, good(claims{"roles": "admin", "cnf": claims{"jkt": "x"}}), keys().rsa), "bound", "binding"},
		"role":         {sign(t, r1, good(nil), keys().rsa), "insufficient_scope", "require"},
		"control-char": {sign(t, r1, good(claims{"iss": "a\x1b[31m"}), keys().rsa), "wrong_issuer", "issuer,require"},
	} {
		t.Run(name, func(t *testing.T) {
			body, _ := json.Marshal(map[string]string{"token": c.token})
			status, answer := send(t, http.MethodPost, "http://"+admin+"/gatehouse/jwt/explain", string(body))
			var got explained
			if err := json.Unmarshal([]byte(answer), &got); err != nil || status != 200 || len(got.Items) != 2 {
				t.Fatalf("got %d %s, want two directives", status, answer)
			}
			if got.Items[0].Outcome != c.outcome || got.Items[0].Passes != (c.outcome == "ok") || got.failed(0) != c.failed {
				t.Errorf("got %s, failed %q; want %s, %q\n%s", got.Items[0].Outcome, got.failed(0), c.outcome, c.failed, answer)
			}
			if got.Items[1].Passes {
				t.Error("the directive of the identity backend lets it pass")
			}
			for _, part := range strings.Split(c.token, ".") {
				if len(part) > 20 && strings.Contains(answer, part[:20]) {
					t.Error("the answer holds a part of the token")
				}
			}
			if strings.Contains(answer, "SECRET") || strings.ContainsRune(answer, '\x1b') {
				t.Error("the answer holds the query of the URL, or a control character")
			}
		})
	}

	out, _, code := modtest.Command(t, valid+"\n", "jwt", "explain", "-", "--address", admin)
	if code != 0 || !strings.Contains(out, "The token passes") || !strings.Contains(out, "signature") || strings.Contains(out, valid[:20]) {
		t.Errorf("jwt explain: got %d\n%s", code, out)
	}
	if out, _, code = modtest.Command(t, "", "jwt", "explain", "nonsense", "--json", "--address", admin); code != 1 || !json.Valid([]byte(out)) {
		t.Errorf("jwt explain of nonsense: got %d %s", code, out)
	}
	for _, args := range [][]string{{"jwt", "explain"}, {"jwt", "explain", " "}, {"keys", "usage", "x"}} {
		if _, _, code = modtest.Command(t, "", append(args, "--address", admin)...); code != 2 {
			t.Errorf("%v: got the exit code %d, want 2", args, code)
		}
	}
	if _, _, code = modtest.Command(t, "", "keys", "usage", "--address", "127.0.0.1:1"); code != 3 {
		t.Errorf("without a gateway: got the exit code %d, want 3", code)
	}
	if status, _ := send(t, http.MethodPost, "http://"+admin+"/gatehouse/jwt/explain", `{"tokn":"`+valid+`"}`); status != 400 {
		t.Errorf("a wrong body: got %d, want 400", status)
	}

	for range 3 {
		if status, _ := send(t, http.MethodGet, url+"/a", "", "Authorization", "Bearer "+valid); status != 200 {
			t.Fatalf("got %d", status)
		}
	}
	_, answer := send(t, http.MethodGet, "http://"+admin+"/gatehouse/jwt/keys", "")
	var usage struct {
		Items []struct {
			Issuer, Source, Kid, Alg string
			InForce                  bool    `json:"in_force"`
			Tokens                   int     `json:"tokens_24h"`
			Requests                 int     `json:"requests_24h"`
			LastUsed                 *string `json:"last_used"`
			Age                      *int    `json:"key_set_age"`
		}
	}
	if err := json.Unmarshal([]byte(answer), &usage); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, k := range usage.Items {
		if k.Kid == "r1" && k.Source == s.URL {
			found = true
			if k.Issuer != "https://idp.example" || k.Alg != "RS256" || !k.InForce || k.Tokens != 1 || k.Requests != 3 || k.LastUsed == nil || k.Age == nil {
				t.Errorf("got %+v, want 1 token and 3 requests", k)
			}
		}
	}
	if out, _, code = modtest.Command(t, "", "keys", "usage", "--address", admin); !found || code != 0 || !strings.Contains(out, "REQUESTS 24H") || !strings.Contains(out, "r1") {
		t.Errorf("keys usage: got %d\n%s\n%s", code, out, answer)
	}

	_, metrics := send(t, http.MethodGet, "http://"+admin+"/metrics", "")
	for _, want := range []string{
		`gatehouse_jwt_auth_requests_total{outcome="cached"}`, `gatehouse_jwt_auth_requests_total{outcome="invalid_signature"}`,
		`gatehouse_jwt_auth_key_set_age_seconds{source="` + s.URL + `"}`, `gatehouse_jwt_auth_key_fetches_total{outcome="ok",source="` + s.URL + `"}`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if strings.Contains(metrics, "SECRET") || strings.Contains(metrics, "user-1") {
		t.Error("the metrics tell too much")
	}
}

// The provider of Caddy's own handler decides as the directive does.
func TestAuthenticator(t *testing.T) {
	port := modtest.FreePort(t)
	adapted, err := modtest.Adapt(`{
		admin off
		auto_https off
		persist_config off
		gatehouse {
			data_dir ` + t.TempDir() + `
			profile off
		}
	}
	http://127.0.0.1:` + port + ` {
		jwt_auth {
			jwks file ` + keyFile(t, publicSet(t)) + `
			require scope read
			claim_header sub X-User-Id
		}
		` + strings.Replace(echo, "respond \"", "respond \"{http.auth.user.plan}|", 1) + `
	}`)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err = json.Unmarshal(adapted, &doc); err != nil {
		t.Fatal(err)
	}
	inProvider(doc)
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	if err = caddy.Load(raw, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
	askWith := func(token string) (a answer) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:"+port, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-User-Id", "admin")
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		b, _ := io.ReadAll(resp.Body)
		return answer{resp.StatusCode, resp.Header.Get("Www-Authenticate"), string(b), resp.Header}
	}
	token := sign(t, r1, good(claims{"plan": []string{"a", "b"}}), keys().rsa)
	if a := askWith(token); a.status != 200 || a.body != "a,b|user-1|user-1|" {
		t.Errorf("got %d %q", a.status, a.body)
	}
	for name, c := range map[string]struct{ token, challenge string }{
		"nonsense": {"nonsense", `error="invalid_token"`},
		"no-scope": {sign(t, r1, good(claims{"scope": nil}), keys().rsa), `error="insufficient_scope"`},
		"foreign":  {sign(t, r1, good(nil), keys().foreign), `error="invalid_token"`},
	} {
		if a := askWith(c.token); a.status != 401 || !strings.Contains(a.challenge, c.challenge) {
			t.Errorf("%s: got %d %q", name, a.status, a.challenge)
		}
	}
	if a := askWith(""); a.status != 401 || a.challenge != `Bearer realm="gatehouse"` {
		t.Errorf("without a token: got %d %q", a.status, a.challenge)
	}
}

// inProvider makes every jwt_auth a provider of the handler authentication.
func inProvider(v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, e := range v {
			inProvider(e)
		}
		if v["handler"] == "jwt_auth" {
			own := map[string]any{}
			for name, e := range v {
				if name != "handler" {
					own[name] = e
				}
				delete(v, name)
			}
			v["handler"], v["providers"] = "authentication", map[string]any{"jwt_auth": own}
		}
	case []any:
		for _, e := range v {
			inProvider(e)
		}
	}
}
