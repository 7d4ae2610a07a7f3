package jwtauth_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

func TestTokenFromACookie(t *testing.T) {
	g := gateway(t, `jwks file `+keyFile(t, publicSet(t))+`
		from header
		from cookie session`)
	token := sign(t, r1, good(nil), keys().rsa)
	cookie := func(values ...string) *http.Request {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		for _, v := range values {
			r.AddCookie(&http.Cookie{Name: "session", Value: v})
		}
		return r
	}
	both := cookie("nonsense")
	both.Header.Set("Authorization", "Bearer "+token)
	for name, c := range map[string]struct {
		r      *http.Request
		status int
		code   string
	}{
		"cookie":           {cookie(token), 200, ""},
		"nonsense":         {cookie("nonsense"), 401, "invalid-token"},
		"twice":            {cookie(token, "other"), 400, "invalid-request"},
		"header-is-first":  {both, 200, ""},
		"neither":          {cookie(), 401, "missing-token"},
		"query-is-not-one": {httptest.NewRequest(http.MethodGet, "/?session="+token, nil), 401, "missing-token"},
	} {
		t.Run(name, func(t *testing.T) {
			if a := ask(g, c.r); a.status != c.status || c.code != "" && a.problemCode() != c.code {
				t.Errorf("got %d %s, want %d %s", a.status, a.problemCode(), c.status, c.code)
			}
		})
	}
	if a := ask(g, cookie()); !strings.Contains(a.body, "the header Authorization: Bearer or the cookie session") {
		t.Errorf("got %s, want where the token may be", a.body)
	}
}

func TestTokenFromTheQueryIsSeenByNobody(t *testing.T) {
	const site = `{
		gatehouse {
			data_dir @@data@@
		}
		log {
			output file @@data@@/log
			level DEBUG
		}
	}
	:80 {
		log
		route {
			TRACING
			jwt_auth {
				jwks file KEYS
				from query access_token
				require scope read
			}
			handle /down {
				reverse_proxy 127.0.0.1:1
			}
			handle /error {
				error "no {http.request.orig_uri}" 502
			}
			handle {
				respond "{http.auth.user.id}|{http.request.uri}|{http.request.orig_uri}|{http.request.orig_uri.query}|{http.request.uri.query.access_token}"
			}
		}
		ERRORS
	}`
	const errors = `handle_errors {
			respond "page {err.status_code} {http.request.uri}"
		}`
	token := sign(t, r1, good(nil), keys().rsa)
	for name, c := range map[string]struct {
		target, errors string
		status         int
		body           string // "" for any
	}{
		"passes":           {"/a?x=%41&access_token=T&y=2", "", 200, "user-1|/a?x=%41&y=2|/a?x=%41&y=2|x=%41&y=2|"},
		"alone":            {"/a?access_token=T", "", 200, "user-1|/a|/a||"},
		"escaped-name":     {"/a?access%5Ftoken=T", "", 200, "user-1|/a|/a||"},
		"traced":           {"/a?x=%41&access_token=T", "", 200, "user-1|/a?x=%41|/a?x=%41|x=%41|"},
		"refused":          {"/a?access_token=T&access_token=T", "", 400, ""},
		"refused-page":     {"/a?access_token=T&access_token=T", errors, 400, "page 400 /a"},
		"app-down":         {"/down?access_token=T", "", 502, ""},
		"app-down-page":    {"/down?access_token=T", errors, 502, "page 502 /down"},
		"error-from-below": {"/error?access_token=T", "", 502, ""},
		"error-page":       {"/error?access_token=T", errors, 502, "page 502 /error"},
	} {
		t.Run(name, func(t *testing.T) {
			config := strings.NewReplacer("KEYS", keyFile(t, publicSet(t)), "ERRORS", c.errors, "TRACING", map[bool]string{true: "tracing"}[name == "traced"]).Replace(site)
			g := modtest.Start(t, config)
			a := ask(g, httptest.NewRequest(http.MethodGet, strings.ReplaceAll(c.target, "T", token), nil))
			if a.status != c.status || c.body != "" && a.body != c.body {
				t.Errorf("got %d %q, want %d %q", a.status, a.body, c.status, c.body)
			}
			log, err := os.ReadFile(filepath.Join(g.Dir, "log"))
			if err != nil {
				t.Fatal(err)
			}
			for _, part := range strings.Split(token, ".") {
				if bytes.Contains(log, []byte(part[:20])) || strings.Contains(a.body, part[:20]) {
					t.Error("the token is in the log or in the answer")
				}
			}
			lines := 0
			for line := range bytes.Lines(log) {
				var entry struct {
					Logger  string
					Status  int
					Request struct{ URI string }
					Read    *int   `json:"bytes_read"`
					Outcome string `json:"jwt_auth"`
				}
				if json.Unmarshal(line, &entry) != nil || !strings.HasPrefix(entry.Logger, "http.log.access") {
					continue
				}
				lines++
				if !strings.HasSuffix(entry.Request.URI, "access_token=REDACTED") || entry.Status != c.status || entry.Read == nil || entry.Outcome == "" {
					t.Errorf("got the access line %s", line)
				}
			}
			if lines != 1 {
				t.Errorf("got %d lines in the access log, want 1:\n%s", lines, log)
			}
		})
	}
}

// Caddy drops the twins in the header, unless they are allowed by name.
func TestUnderscoreTwinsNeverReachTheApp(t *testing.T) {
	type seen struct{ header, trailer http.Header }
	app := make(chan seen, 1)
	upstream := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = new(bytes.Buffer).ReadFrom(r.Body)
		app <- seen{r.Header, r.Trailer}
	}))
	defer upstream.Close()
	g := start(t, `:80 {
		jwt_auth {
			jwks file `+keyFile(t, publicSet(t))+`
			claim_header sub X-User-Id
		}
		reverse_proxy `+strings.TrimPrefix(upstream.URL, "http://")+`
	}
	`)
	front := httptest.NewServer(g)
	defer front.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, front.URL, struct{ *strings.Reader }{strings.NewReader("body")})
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+sign(t, r1, good(nil), keys().rsa))
	for _, twin := range []string{"X_User_Id", "x_user-id", "X.User.Id", "X-User_ID"} {
		r.Header[twin] = []string{"admin"}
	}
	r.Trailer = http.Header{"X_User_Id": {"admin"}, "X_Checksum": {"kept"}}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	got := <-app
	for _, h := range []http.Header{got.header, got.trailer} {
		for name, values := range h {
			if strings.Contains(strings.Join(values, " "), "admin") {
				t.Errorf("the app got %s: %s", name, values)
			}
		}
	}
	if got.header.Get("X-User-Id") != "user-1" || got.trailer.Get("X_Checksum") == "" {
		t.Errorf("the app got the header %q and the trailers %v", got.header.Get("X-User-Id"), got.trailer)
	}
}
