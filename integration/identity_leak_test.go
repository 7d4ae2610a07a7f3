//go:build unix

package integration

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const leaky = `{
	admin %[1]s
	debug
	log default {
		level DEBUG
	}
	gatehouse {
		data_dir %[2]s/data
		redis redis://127.0.0.1:%[4]s {
			password cache
		}
		secret hmac   file %[2]s/hmac
		secret many   dir  %[2]s/many
		secret stripe env  PLANTED_STRIPE
		secret cache  file %[2]s/cache
		secret admin  file %[2]s/admin
		backend identity {
			secret       many
			admin_secret admin
		}
	}
}
http://127.0.0.1:%[3]s {
	log
	handle /hmac/* {
		jwt_auth {
			secret hmac
		}
		respond ok
	}
	handle /query/* {
		jwt_auth {
			from query access_token
		}
		respond ok
	}
	handle /stripe {
		webhook_verify stripe {
			secret stripe
		}
		respond ok
	}
	handle /limited/* {
		quota 10/1m {
			by    {http.request.header.X-Who}
			count exact
		}
		respond ok
	}
	handle {
		backend identity
	}
	handle_errors {
		problem
	}
}
`

// TestIdentityLeaksNothing plants secrets in every place that takes one, uses each of them well and badly,
// and then looks for them in all that the gateway says.
func TestIdentityLeaksNothing(t *testing.T) {
	planted := map[string]string{}
	plant := func(name string) string {
		planted[name] = "planted-" + name + "-" + strings.Repeat("k7Q2", 12)
		return planted[name]
	}
	e := &example{dir: t.TempDir(), admin: "127.0.0.1:" + freePort(t)}
	port := freePort(t)
	e.base = "http://127.0.0.1:" + port
	if err := os.MkdirAll(filepath.Join(e.dir, "many"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"hmac", "many/v1", "many/v2", "cache", "admin"} {
		if err := os.WriteFile(filepath.Join(e.dir, file), []byte(plant(strings.ReplaceAll(file, "/", "-"))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PLANTED_STRIPE", plant("stripe"))
	config := fmt.Sprintf(leaky, e.admin, e.dir, port, freePort(t))
	e.config = filepath.Join(e.dir, "Caddyfile")
	if err := os.WriteFile(e.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p := e.run(t)

	var said bytes.Buffer // all that the gateway answers
	ask := func(method, path, body string, header ...string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		b, _ := io.ReadAll(resp.Body)
		if resp.StatusCode >= 500 && resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s %s: %d %s", method, path, resp.StatusCode, b)
		}
		_, _ = fmt.Fprintln(&said, resp.Header, string(b))
		return string(b)
	}
	bearer := func(token string) []string { return []string{"Authorization", "Bearer " + token} }
	admin := bearer(planted["admin"])
	ask("POST", e.base+"/users", `{"email":"ada@example.com","password":"`+plant("password")+`"}`, admin...)
	ask("POST", e.base+"/users", `{"email":"ada@example.com","password":"`+planted["password"]+`"}`, admin...)
	ask("POST", e.base+"/users", `{"email":"not an address","password":"`+planted["password"]+`"}`, bearer("wrong")...)
	var login struct {
		Token   string `json:"token"`
		Refresh string `json:"refresh_token"`
	}
	credentials := `{"email":"ada@example.com","password":"` + planted["password"] + `"}`
	at := said.Len() // the answer to a login holds tokens, and must
	body := ask("POST", e.base+"/login", credentials)
	said.Truncate(at)
	if err := json.Unmarshal([]byte(body), &login); err != nil || login.Token == "" {
		t.Fatalf("%v in %s", err, body)
	}
	planted["token"], planted["refresh"] = login.Token, login.Refresh
	planted["signature"] = login.Token[strings.LastIndexByte(login.Token, '.')+1:]
	for _, path := range []string{"/query/x?access_token=" + login.Token, "/query/x?access_token=" + login.Token + "x", "/query/x?access_token=a&access_token=" + login.Token} {
		ask("GET", e.base+path, "")
	}
	ask("GET", e.base+"/hmac/x", "", bearer(login.Token)...)
	ask("GET", e.base+"/hmac/x", "", bearer(planted["hmac"])...)
	ask("POST", e.base+"/stripe", "{}", "Stripe-Signature", "t=1,v1=00")
	ask("GET", e.base+"/limited/x", "", "X-Who", "ann")
	ask("POST", e.base+"/refresh", `{"refresh_token":"`+login.Refresh+`x"}`)
	ask("POST", e.base+"/refresh", `{"refresh_token":`)
	ask("POST", e.base+"/logout", `{"refresh_token":"`+login.Refresh+`"}`)
	for _, path := range []string{"/config/", "/gatehouse/secrets", "/gatehouse/jwt/keys", "/readyz?verbose", "/metrics", "/debug/pprof/goroutine?debug=2"} {
		ask("GET", "http://"+e.admin+path, "")
	}
	ask("POST", "http://"+e.admin+"/gatehouse/jwt/explain", `{"token":"`+login.Token+`"}`)
	ask("POST", "http://"+e.admin+"/gatehouse/secrets/rotate", `{"name":"hmac","overlap":"1h","value":"`+plant("rotated")+`"}`)
	ask("POST", "http://"+e.admin+"/gatehouse/secrets/rotate", `{"name":"stripe","value":"`+planted["rotated"]+`"}`)
	said.WriteString(e.gatehouse(t, "", "adapt", "--config", e.config, "--adapter", "caddyfile"))
	said.WriteString(e.gatehouse(t, "", "secrets", "status", "--address", e.admin))

	// A trace of everything, as a panic that nobody catches prints it.
	if err := p.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.exited:
	case <-time.After(10 * time.Second):
		t.Fatal("the gateway does not end")
	}
	all := said.String() + p.stderr.String()
	if !strings.Contains(all, "goroutine ") || !strings.Contains(all, "REDACTED") {
		t.Error("there is no trace, or nothing was redacted: the test sees too little")
	}
	for name, value := range planted {
		for form, text := range map[string]string{"as it is": value, "in base64": base64.RawStdEncoding.EncodeToString([]byte(value))[:40], "in hexadecimal": fmt.Sprintf("%x", value)[:40]} {
			if i := strings.Index(all, text); i >= 0 {
				t.Errorf("%s shows %s: …%s…", name, form, all[max(0, i-200):min(len(all), i+60)])
			}
		}
	}
}
