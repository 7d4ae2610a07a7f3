package jwtauth_test

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

func TestRequestsWithoutOneBearerToken(t *testing.T) {
	g := protected(t)
	token := sign(t, r1, good(nil), keys().rsa)
	for name, c := range map[string]struct {
		authorization []string
		status        int
		code          string
	}{
		"none":              {nil, 401, "missing-token"},
		"empty":             {[]string{""}, 401, "missing-token"},
		"basic":             {[]string{"Basic dXNlcjpwYXNz"}, 401, "missing-token"},
		"no-scheme":         {[]string{token}, 401, "missing-token"},
		"dpop-scheme":       {[]string{"DPoP " + token}, 401, "missing-token"},
		"scheme-alone":      {[]string{"Bearer"}, 400, "invalid-request"},
		"scheme-and-spaces": {[]string{"Bearer   "}, 400, "invalid-request"},
		"two-tokens":        {[]string{"Bearer " + token + " " + token}, 400, "invalid-request"},
		"comma":             {[]string{"Bearer " + token + ",Bearer " + token}, 400, "invalid-request"},
		"two-headers":       {[]string{"Bearer " + token, "Bearer " + token}, 400, "invalid-request"},
		"two-kinds":         {[]string{"Basic dXNlcjpwYXNz", "Bearer " + token}, 400, "invalid-request"},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/?access_token="+token, nil) // tokens in the query are never looked at
			r.AddCookie(&http.Cookie{Name: "access_token", Value: token})
			if c.authorization != nil {
				r.Header["Authorization"] = c.authorization
			}
			a := ask(g, r)
			if a.status != c.status || a.problemCode() != c.code {
				t.Errorf("got %d %s, want %d %s", a.status, a.problemCode(), c.status, c.code)
			}
			if c.status == 401 && a.challenge != `Bearer realm="gatehouse"` {
				t.Errorf("got the challenge %q, want the realm alone", a.challenge)
			}
			if c.status == 400 {
				wellFormed(t, a.challenge, "invalid_request")
			}
		})
	}
}

func TestRequire(t *testing.T) {
	g := gateway(t, `jwks file `+keyFile(t, publicSet(t))+`
		require scope read write
		require role admin support
		require claim plan pro 7
		require claim verified true`)
	all := claims{"scope": "write extra read", "roles": []string{"support", "x"}, "plan": "pro", "verified": true}
	change := func(changes claims) string {
		c := maps.Clone(all)
		maps.Copy(c, changes)
		return sign(t, r1, good(c), keys().rsa)
	}
	for name, c := range map[string]struct {
		changes claims
		status  int
	}{
		"all-hold":                {nil, 200},
		"role-as-a-string":        {claims{"roles": nil, "role": "admin"}, 200},
		"number":                  {claims{"plan": 7}, 200},
		"claim-in-an-array":       {claims{"plan": []string{"free", "pro"}}, 200},
		"one-scope-missing":       {claims{"scope": "read"}, 403},
		"scope-is-a-prefix":       {claims{"scope": "read write2"}, 403},
		"scopes-glued-by-a-comma": {claims{"scope": "read,write"}, 403},
		"no-scope":                {claims{"scope": nil}, 403},
		"no-role":                 {claims{"roles": nil}, 403},
		"role-in-another-case":    {claims{"roles": "Admin"}, 403},
		"roles-an-object":         {claims{"roles": claims{"admin": true}}, 403},
		"another-plan":            {claims{"plan": "free"}, 403},
		"string-for-boolean-list": {claims{"verified": []any{}}, 403},
		"scopes-in-an-array":      {claims{"scope": []string{"write", "read"}}, 200},
		"scopes-glued-in-it":      {claims{"scope": []string{"write read"}}, 403},
		"scopes-with-nbsp":        {claims{"scope": "write\u00a0read"}, 403},
		"scopes-with-tab":         {claims{"scope": "write\tread"}, 403},
	} {
		t.Run(name, func(t *testing.T) {
			token := change(c.changes)
			for range 2 {
				a := askWith(g, token)
				if a.status != c.status {
					t.Fatalf("got %d, want %d", a.status, c.status)
				}
				if c.status == 403 {
					wellFormed(t, a.challenge, "insufficient_scope")
					if !strings.HasSuffix(a.challenge, `, scope="read write"`) || a.problemCode() != "insufficient-scope" {
						t.Errorf("got %s and the challenge %q", a.problemCode(), a.challenge)
					}
				}
			}
		})
	}
}

func TestClientsCannotSendClaimHeaders(t *testing.T) {
	g := gateway(t, `jwks file `+keyFile(t, publicSet(t))+`
		claim_header sub X-User-Id
		claim_header roles x-roles
		optional`)
	token := "Bearer " + sign(t, r1, good(nil), keys().rsa)
	for name, c := range map[string]struct {
		method, authorization string
		want                  string
	}{
		"without-a-token": {http.MethodGet, "", "||"},
		"other-scheme":    {http.MethodGet, "Basic dXNlcjpwYXNz", "||"},
		"with-a-token":    {http.MethodGet, token, "user-1|user-1|"},
		"preflight":       {http.MethodOptions, "", "||"},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(c.method, "/", nil)
			r.Header["X-User-Id"] = []string{"admin", "root"}
			r.Header.Set("X-ROLES", "admin")
			r.Header.Set("X_User_Id", "admin")
			r.Header.Set("Origin", "https://app.example")
			r.Header.Set("Access-Control-Request-Method", "POST")
			if c.authorization != "" {
				r.Header.Set("Authorization", c.authorization)
			}
			if a := ask(g, r); a.status != 200 || a.body != c.want {
				t.Errorf("got %d %q, want 200 %q", a.status, a.body, c.want)
			}
		})
	}
}

// A header that Connection names is dropped by the proxy behind this handler.
func TestConnectionCannotDropClaimHeaders(t *testing.T) {
	seen := make(chan http.Header, 1)
	app := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header }))
	defer app.Close()
	g := start(t, `:80 {
		jwt_auth {
			jwks file `+keyFile(t, publicSet(t))+`
			claim_header sub X-User-Id
		}
		reverse_proxy `+app.Listener.Addr().String()+`
	}`)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer "+sign(t, r1, good(nil), keys().rsa))
	r.Header["Connection"] = []string{"close, x-user-id", "X-Other"}
	r.Header.Set("X-Other", "dropped")
	if a := ask(g, r); a.status != 200 {
		t.Fatalf("got %d", a.status)
	}
	if h := <-seen; h.Get("X-User-Id") != "user-1" || h.Get("X-Other") != "" {
		t.Errorf("the app got X-User-Id %q and X-Other %q, want user-1 and nothing", h.Get("X-User-Id"), h.Get("X-Other"))
	}
}

func TestPreflightPassesWithoutAToken(t *testing.T) {
	g := protected(t)
	r := httptest.NewRequest(http.MethodOptions, "/", nil)
	r.Header.Set("Origin", "https://app.example")
	if a := ask(g, r); a.status != http.StatusUnauthorized {
		t.Errorf("OPTIONS that is no preflight: got %d, want 401", a.status)
	}
	r.Header.Set("Access-Control-Request-Method", "PUT")
	if a := ask(g, r); a.status != http.StatusOK {
		t.Errorf("preflight: got %d, want 200", a.status)
	}
	r.Method = http.MethodGet
	if a := ask(g, r); a.status != http.StatusUnauthorized {
		t.Errorf("GET with the headers of a preflight: got %d, want 401", a.status)
	}
}

func TestOptionalRefusesAnInvalidToken(t *testing.T) {
	g := gateway(t, `jwks file `+keyFile(t, publicSet(t))+`
		optional`)
	if a := askWith(g, "nonsense"); a.status != http.StatusUnauthorized {
		t.Errorf("got %d, want 401", a.status)
	}
	if resp := g.Get("/"); resp.StatusCode != http.StatusOK {
		t.Errorf("without a token: got %d, want 200", resp.StatusCode)
	}
}

func TestPlaceholders(t *testing.T) {
	g := start(t, `:80 {
		jwt_auth {
			jwks file `+keyFile(t, publicSet(t))+`
		}
		respond "{http.auth.user.id}|{http.auth.user.plan}|{http.auth.user.n}|{http.auth.user.roles}|{http.auth.user.address}|{http.auth.user.none}"
	}`)
	token := sign(t, r1, good(claims{"id": "another", "plan": "{http.request.host}", "n": json.Number("12345678901234567890"), "roles": []any{"a", true}, "address": claims{"c": "x"}}), keys().rsa)
	if a, want := askWith(g, token), `user-1|{http.request.host}|12345678901234567890|a,true|{"c":"x"}|`; a.body != want {
		t.Errorf("got %q, want %q", a.body, want)
	}
	noSubject := sign(t, r1, good(claims{"sub": nil, "id": "another"}), keys().rsa)
	if a := askWith(g, noSubject); !strings.HasPrefix(a.body, "|") {
		t.Errorf("without sub: got %q, want no id", a.body)
	}
}

// TestTrailersCannotSendClaimHeaders: an app may take trailers for headers. They come after the body,
// so this needs sockets.
func TestTrailersCannotSendClaimHeaders(t *testing.T) {
	type seen struct{ header, trailer http.Header }
	app := make(chan seen, 1)
	upstream := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		app <- seen{r.Header, r.Trailer}
	}))
	defer upstream.Close()
	front := httptest.NewServer(start(t, `:80 {
		jwt_auth {
			jwks file `+keyFile(t, publicSet(t))+`
			claim_header sub X-User-Id
		}
		reverse_proxy `+strings.TrimPrefix(upstream.URL, "http://")+`
	}
	`))
	defer front.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, front.URL, io.MultiReader(strings.NewReader("body")))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+sign(t, r1, good(nil), keys().rsa))
	r.Trailer = http.Header{"X-User-Id": {"admin"}, "X-Checksum": {"kept"}}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	got := <-app
	if got.header.Get("X-User-Id") != "user-1" || got.trailer.Get("X-User-Id") != "" || got.trailer.Get("X-Checksum") != "kept" {
		t.Errorf("the app got the header %q and the trailers %v", got.header.Get("X-User-Id"), got.trailer)
	}
}

// The access log says what was decided and by whose keys, in words of the configuration.
func TestAccessLogSaysWhatWasDecided(t *testing.T) {
	path := keyFile(t, publicSet(t))
	g := modtest.Start(t, strings.Replace(`{
		gatehouse {
			data_dir @@data@@
		}
		log {
			output file @@data@@/log
		}
	}
	:80 {
		log
		jwt_auth {
			jwks file KEYS
			optional
		}
		respond ok
	}`, "KEYS", path, 1))
	token := sign(t, r1, good(nil), keys().rsa)
	for _, authorization := range []string{"Bearer " + token, "Bearer " + token, "", "Bearer x", "Bearer a b"} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		ask(g, r)
	}
	log, err := os.ReadFile(filepath.Join(g.Dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range bytes.Lines(log) {
		var entry struct {
			Logger  string
			Outcome string `json:"jwt_auth"`
			Keys    string `json:"jwt_auth_keys"`
		}
		if json.Unmarshal(line, &entry) == nil && strings.HasPrefix(entry.Logger, "http.log.access") {
			got = append(got, strings.TrimSpace(entry.Outcome+" "+entry.Keys))
		}
	}
	want := []string{"ok file:" + path, "cached file:" + path, "anonymous", "malformed", "invalid_request"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A login that is said to be in the future is none that is recent.
func TestMaxAgeOfAFutureLogin(t *testing.T) {
	g := gateway(t, `jwks file `+keyFile(t, publicSet(t))+`
		require max_age 5m`)
	now := time.Now().Unix()
	for at, want := range map[int64]int{now: 200, now + 10: 200, now + 60: 401, 9_000_000_000: 401} {
		if a := askWith(g, sign(t, r1, good(claims{"auth_time": at}), keys().rsa)); a.status != want {
			t.Errorf("%d s ahead: got %d, want %d", at-now, a.status, want)
		}
	}
}

// A token without sub still makes the response its owner's.
func TestAuthenticatedPlaceholder(t *testing.T) {
	g := modtest.Start(t, strings.Replace(`{
		gatehouse {
			data_dir @@data@@
		}
	}
	:80 {
		jwt_auth {
			jwks file KEYS
			optional
		}
		respond "{http.jwt_auth.authenticated} {http.auth.user.id}"
	}`, "KEYS", keyFile(t, publicSet(t)), 1))
	if a := askWith(g, sign(t, r1, good(claims{"sub": nil}), keys().rsa)); a.body != "true " {
		t.Errorf("with a token: got %q", a.body)
	}
	if a := ask(g, httptest.NewRequest(http.MethodGet, "/", nil)); a.body != "false " {
		t.Errorf("without one: got %q", a.body)
	}
}
