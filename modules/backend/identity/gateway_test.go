package identity_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/integration/await"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

const withAdmin = `{
	admin @@address@@
	gatehouse {
		data_dir @@data@@
		secret admin env GATEHOUSE_TEST_ADMIN
		backend identity {
			admin_secret admin
			attempts     2/1m
			ip_attempts  4/1m
		}
	}
}
:80 {
	handle /secret {
		jwt_auth
		respond "ok"
	}
	handle {
		backend identity
	}
}
`

func do(g *modtest.Gateway, method, path, body string, header ...string) (int, string) {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp := g.Do(r)
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

func TestTheClientsAddressIsTheGatewaysWord(t *testing.T) {
	t.Setenv("GATEHOUSE_TEST_ADMIN", "the admin's token")
	g := modtest.Start(t, strings.Replace(withAdmin, "@@address@@", "off", 1))
	for i := range 4 {
		// Each says to come from somewhere else.
		if code, body := do(g, "POST", "/login", fmt.Sprintf(`{"email":"a%d@b.c","password":"wrong"}`, i), "Gatehouse-Client-Ip", fmt.Sprint("192.0.2.", i)); code != 401 {
			t.Fatalf("got %d %s", code, body)
		}
	}
	if code, body := do(g, "POST", "/login", `{"email":"new@b.c","password":"wrong"}`, "Gatehouse-Client-Ip", "192.0.2.9"); code != 429 {
		t.Errorf("got %d %s, want 429", code, body)
	}
}

func TestAdminAPIOverHTTPNeedsItsSecret(t *testing.T) {
	t.Setenv("GATEHOUSE_TEST_ADMIN", "the admin's token")
	g := modtest.Start(t, strings.Replace(withAdmin, "@@address@@", "off", 1))
	if code, body := do(g, "GET", "/users", ""); code != 404 {
		t.Errorf("got %d %s, want 404", code, body)
	}
	if code, body := do(g, "GET", "/users", "", "Authorization", "Bearer the admin's token"); code != 200 {
		t.Errorf("got %d %s, want 200", code, body)
	}
}

func TestTokensCommandRevokes(t *testing.T) {
	t.Setenv("GATEHOUSE_TEST_ADMIN", "the admin's token")
	address, site := "127.0.0.1:"+modtest.FreePort(t), "127.0.0.1:"+modtest.FreePort(t)
	data := t.TempDir()
	modtest.Serve(t, strings.NewReplacer("@@address@@", address+"\n\tauto_https off\n\tpersist_config off", "@@data@@", data,
		":80 {", "http://"+site+" {", "2/1m", "50/1m", "4/1m", "50/1m").Replace(withAdmin))
	dir, at := []string{"--data-dir", data}, []string{"--address", address}
	do := func(method, path, body string, header ...string) (int, string) {
		r, _ := http.NewRequest(method, "http://"+site+path, strings.NewReader(body))
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	run := func(want int, stdin string, args ...string) result {
		t.Helper()
		got := gatehouse(t, stdin, args...)
		if got.code != want {
			t.Fatalf("%v: got %+v, want code %d", args, got, want)
		}
		return got
	}
	id := strings.TrimSpace(run(0, "correct horse\n", append([]string{"users", "add", "ada@example.com"}, dir...)...).stdout)
	type tokens struct {
		Token        string
		RefreshToken string `json:"refresh_token"`
	}
	login := func() (got tokens) {
		t.Helper()
		code, body := do("POST", "/login", `{"email":"ada@example.com","password":"correct horse"}`)
		if err := json.Unmarshal([]byte(body), &got); err != nil || code != 200 {
			t.Fatalf("got %d %s", code, body)
		}
		return got
	}
	answers := func(token string, want int) {
		t.Helper()
		await.For(t, "the answer to the token", func() error {
			if code, body := do("GET", "/secret", "", "Authorization", "Bearer "+token); code != want {
				return fmt.Errorf("got %d %s, want %d", code, body, want)
			}
			return nil
		})
	}
	first := login()
	answers(first.Token, 200)
	// The command works on the database, which the gateway looks at.
	run(0, "", append([]string{"users", "logout", "ada@example.com"}, dir...)...)
	answers(first.Token, 401)
	if code, _ := do("POST", "/refresh", `{"refresh_token":"`+first.RefreshToken+`"}`); code != 401 {
		t.Errorf("refresh after logout: got %d, want 401", code)
	}
	second := login()
	answers(second.Token, 200)
	rev := strings.TrimSpace(run(0, "", append([]string{"tokens", "revoke", "--sub", id}, at...)...).stdout)
	if !regexp.MustCompile(`^rev_[a-z2-7]{26}$`).MatchString(rev) {
		t.Errorf("got the id %q", rev)
	}
	answers(second.Token, 401)
	if got := run(0, "", append([]string{"tokens", "revocations"}, at...)...); !strings.Contains(got.stdout, "sub "+id) {
		t.Errorf("got %+v", got)
	}
	run(0, "", append([]string{"tokens", "unrevoke", rev}, at...)...)
	answers(second.Token, 200)
	if got := run(0, "", append([]string{"tokens", "revocations", "--json"}, at...)...); got.stdout != "{\"items\":[]}\n" {
		t.Errorf("got %+v, want an empty list", got)
	}
	run(0, "", append([]string{"users", "role", "ada@example.com", "--role", "boss"}, dir...)...)
	answers(second.Token, 401)
	run(0, "", append([]string{"users", "disable", "ada@example.com"}, dir...)...)
	run(0, "", append([]string{"users", "enable", "ada@example.com"}, dir...)...)
	answers(login().Token, 200)
	run(0, "", append([]string{"users", "rm", "ada@example.com"}, dir...)...)

	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"nothing-to-revoke": {append([]string{"tokens", "revoke"}, at...), 2, "one of --jti"},
		"two-to-revoke":     {append([]string{"tokens", "revoke", "--jti", "a", "--sid", "b"}, at...), 2, "one of --jti"},
		"bad-time":          {append([]string{"tokens", "revoke", "--sub", "a", "--before", "soon"}, at...), 2, "is not a time"},
		"time-of-a-jti":     {append([]string{"tokens", "revoke", "--jti", "a", "--before", "1h"}, at...), 1, "for sub alone"},
		"unknown-id":        {append([]string{"tokens", "unrevoke", "rev_x"}, at...), 1, "no revocation"},
		"no-gateway":        {[]string{"tokens", "revocations", "--address", "127.0.0.1:" + modtest.FreePort(t)}, 3, "no gateway"},
		"no-change":         {append([]string{"users", "role", "ada@example.com"}, dir...), 2, "--role"},
		"unknown-user":      {append([]string{"users", "logout", "eve@example.com"}, dir...), 1, "no user"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := run(c.code, "", c.args...); !strings.Contains(got.stderr, c.want) || strings.Count(got.stderr, "\n") != 1 {
				t.Errorf("got %+v, want one line with %q", got, c.want)
			}
		})
	}
}
