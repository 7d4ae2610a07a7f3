package vault

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

var start = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// appRole is a config that logs in to d.
func appRole(t *testing.T, d *double) Config {
	t.Helper()
	return Config{Address: d.url, Path: "secret/gate house/jwt", Auth: Auth{AppRole: &AppRole{RoleIDFile: file(t, roleID+"\n"), SecretIDFile: file(t, secretID)}}}
}

func opened(t *testing.T, c Config) *store {
	t.Helper()
	s, err := open(c)
	if err != nil {
		t.Fatal(err)
	}
	s.now = func() time.Time { return start }
	return s
}

func show(versions []secret.Version) string {
	var b strings.Builder
	for _, v := range versions {
		b.WriteString(v.Label + "=" + string(v.Value.Reveal()))
		if !v.RetireAt.IsZero() {
			b.WriteString(" until +" + v.RetireAt.Sub(start).String())
		}
		b.WriteString("; ")
	}
	return b.String()
}

// refused fetches and wants an error that says want and holds no secret.
func refused(t *testing.T, s *store, want string) {
	t.Helper()
	versions, err := s.Fetch(t.Context())
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Fatalf("got %s, %v, want %q", show(versions), err, want)
	}
	if len(versions) != 0 {
		t.Errorf("versions beside an error: %s", show(versions))
	}
	if strings.Contains(err.Error(), "sesame") {
		t.Errorf("the error holds a secret: %v", err)
	}
}

func TestWaysToLogIn(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"approle": func(*Config) {},
		"kubernetes": func(c *Config) {
			c.AppRole, c.Kubernetes = nil, &Kubernetes{Role: "gateway", Mount: "clusters/eu", TokenFile: file(t, podToken)}
		},
		"token-file": func(c *Config) { c.AppRole, c.TokenFile = nil, file(t, rootToken+"\n") },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t)
			d.namespace = "admin/team"
			d.put("secret/gate house/jwt", map[string]any{"value": "sesame"}, start)
			c := appRole(t, d)
			c.Namespace = d.namespace
			change(&c)
			got, err := opened(t, c).Fetch(t.Context())
			if err != nil || show(got) != "vault:secret/gate house/jwt#1=sesame; " {
				t.Errorf("got %s, %v", show(got), err)
			}
		})
	}
}

func TestTheAddressOfTheEnvironment(t *testing.T) {
	d := newDouble(t)
	d.put("secret/gate house/jwt", map[string]any{"value": "sesame"}, start)
	c := appRole(t, d)
	c.Address = ""
	if _, err := New(c); err == nil || !strings.Contains(err.Error(), "set VAULT_ADDR") {
		t.Errorf("got %v", err)
	}
	t.Setenv("VAULT_ADDR", "http://vault.example.com")
	if _, err := New(c); err == nil || !strings.Contains(err.Error(), "VAULT_ADDR http://vault.example.com: secrets must come by https") {
		t.Errorf("got %v", err)
	}
	t.Setenv("VAULT_ADDR", d.url)
	if got, err := opened(t, c).Fetch(t.Context()); err != nil || len(got) != 1 {
		t.Errorf("got %s, %v", show(got), err)
	}
}

func TestMountFieldAndDocument(t *testing.T) {
	d := newDouble(t)
	d.put("teams/a/kv/jwt", map[string]any{
		"keys":  map[string]any{"versions": []any{map[string]any{"label": "b", "value": "2"}, map[string]any{"label": "a", "value": "1"}}},
		"other": 3,
	}, start)
	c := appRole(t, d)
	c.Path, c.Mount, c.Field = "teams/a/kv/jwt", "teams/a/kv", "keys"
	if got, err := opened(t, c).Fetch(t.Context()); err != nil || show(got) != "b=2; a=1; " {
		t.Errorf("got %s, %v", show(got), err)
	}
	c.Field = "key"
	refused(t, opened(t, c), `version 1 of teams/a/kv/jwt in Vault: it has no field "key" but "keys", "other"`)
}

func TestTheTokenIsKeptAndReplaced(t *testing.T) {
	d := newDouble(t)
	d.put("secret/gate house/jwt", map[string]any{"value": "1"}, start)
	s := opened(t, appRole(t, d))
	now := start
	s.now = func() time.Time { return now }
	fetch := func(logins int, why string) {
		t.Helper()
		if _, err := s.Fetch(t.Context()); err != nil {
			t.Fatalf("%s: %v", why, err)
		}
		if d.logins != logins {
			t.Errorf("%s: %d logins, want %d", why, d.logins, logins)
		}
	}
	fetch(1, "first")
	fetch(1, "kept")
	now = now.Add(39 * time.Minute)
	fetch(1, "within the lease of an hour")
	now = now.Add(15 * time.Minute)
	fetch(2, "before the lease ends")
	d.set(func() { clear(d.tokens) })
	fetch(3, "revoked")
	d.set(func() { d.lease = 0; clear(d.tokens) })
	fetch(4, "revoked again")
	now = now.Add(10000 * time.Hour)
	fetch(4, "a token without an end")
	// A token just got that may not read is not asked for again and again.
	d.set(func() { d.policy = false; clear(d.tokens) })
	reads := d.reads
	refused(t, s, `path "secret/data/gate house/jwt" { capabilities = ["read"] }`)
	if d.logins != 5 || d.reads != reads+2 {
		t.Errorf("%d logins and %d reads for a refusal", d.logins-4, d.reads-reads)
	}
}

func TestATokenFileIsReadAgain(t *testing.T) {
	d := newDouble(t)
	d.put("secret/gate house/jwt", map[string]any{"value": "1"}, start)
	c := appRole(t, d)
	c.AppRole, c.TokenFile = nil, file(t, "sesame-old")
	s := opened(t, c)
	refused(t, s, "it may not be read")
	if err := os.WriteFile(c.TokenFile, []byte(rootToken), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Fetch(t.Context()); err != nil {
		t.Error(err)
	}
	for content, want := range map[string]string{" \n": "token_file for Vault is empty", "sesame a\nb": "must be one word", strings.Repeat("s", 70000): "too large"} {
		if err := os.WriteFile(c.TokenFile, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, s, want)
	}
	_ = os.Remove(c.TokenFile)
	refused(t, s, "cannot be read")
}

func TestOverlap(t *testing.T) {
	data := func(v string) map[string]any { return map[string]any{"value": v} }
	for name, tc := range map[string]struct {
		versions []saved
		want     string
	}{
		"previous":          {[]saved{{data: data("1"), created: start.Add(-90 * time.Hour)}, {data: data("2"), created: start.Add(-time.Hour)}}, "#2=2; #1=1 until +23h0m0s; "},
		"long-ago":          {[]saved{{data: data("1"), created: start.Add(-90 * time.Hour)}, {data: data("2"), created: start.Add(-24 * time.Hour)}}, "#2=2; "},
		"first":             {[]saved{{data: data("1"), created: start}}, "#1=1; "},
		"two-in-one-day":    {[]saved{{data: data("1"), created: start.Add(-9 * time.Hour)}, {data: data("2"), created: start.Add(-2 * time.Hour)}, {data: data("3"), created: start.Add(-time.Hour)}}, "#3=3; #2=2 until +23h0m0s; #1=1 until +22h0m0s; "},
		"another-field":     {[]saved{{data: data("1"), created: start.Add(-9 * time.Hour)}, {data: data("2"), created: start.Add(-2 * time.Hour)}, {data: data("2"), created: start.Add(-time.Hour)}}, "#3=2; #1=1 until +22h0m0s; "},
		"reads-are-bounded": {many(9), "#9=9; #8=8 until +24h0m0s; #7=7 until +24h0m0s; #6=6 until +24h0m0s; #5=5 until +24h0m0s; #4=4 until +24h0m0s; "},
		"deleted":           {[]saved{{data: data("1"), created: start.Add(-9 * time.Hour), deleted: "2026-11-01T11:00:00Z"}, {data: data("2"), created: start}}, "#2=2; "},
		"destroyed":         {[]saved{{data: data("1"), created: start.Add(-9 * time.Hour), destroyed: true}, {data: data("2"), created: start}}, "#2=2; "},
		"no-longer-kept":    {[]saved{{}, {data: data("2"), created: start}}, "#2=2; "},
		"no-field-before":   {[]saved{{data: map[string]any{"x": "1"}, created: start.Add(-time.Hour)}, {data: data("2"), created: start}}, "#2=2; "},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t)
			d.kv["secret/gate house/jwt"] = tc.versions
			c := appRole(t, d)
			c.Overlap = unit.Duration(24 * time.Hour)
			got, err := opened(t, c).Fetch(t.Context())
			if err != nil || strings.ReplaceAll(show(got), "vault:secret/gate house/jwt", "") != tc.want {
				t.Errorf("got %s, %v, want %s", show(got), err, tc.want)
			}
		})
	}
}

func many(n int) (all []saved) {
	for i := range n {
		all = append(all, saved{data: map[string]any{"value": string(rune('1' + i))}, created: start})
	}
	return all
}

func TestWhatVaultRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(t *testing.T, d *double, c *Config)
		want   string
	}{
		"sealed":    {func(_ *testing.T, d *double, _ *Config) { d.sealed = true }, "Vault answered 503 (\"Vault is sealed\"): it is sealed, in maintenance or not initialised: unseal it"},
		"no-secret": {func(_ *testing.T, d *double, _ *Config) { clear(d.kv) }, "Vault answered 404: there is no such secret: write it with vault kv put -mount=secret gate house/jwt value=…"},
		"deleted": {func(_ *testing.T, d *double, _ *Config) {
			d.kv["secret/gate house/jwt"][0].deleted = "2026-11-01T00:00:00.5Z"
		}, "version 1 of secret/gate house/jwt in Vault was deleted: take that back with vault kv undelete"},
		"destroyed":     {func(_ *testing.T, d *double, _ *Config) { d.kv["secret/gate house/jwt"][0].destroyed = true }, "was destroyed"},
		"wrong-id":      {func(t *testing.T, _ *double, c *Config) { c.AppRole.SecretIDFile = file(t, "sesame-wrong") }, `by approle at auth/approle: Vault answered 400 ("invalid role or secret ID"): the role id or the secret id is wrong`},
		"wrong-mount":   {func(_ *testing.T, _ *double, c *Config) { c.AppRole.Mount = "elsewhere" }, "no login method is mounted there"},
		"no-credential": {func(_ *testing.T, _ *double, c *Config) { c.AppRole.SecretIDFile += "x" }, "the secret_id for Vault cannot be read"},
		"wrong-pod": {func(t *testing.T, _ *double, c *Config) {
			c.AppRole, c.Kubernetes = nil, &Kubernetes{Role: "gateway", Mount: "clusters/eu", TokenFile: file(t, "sesame.other")}
		}, `Vault answered 403: the service account may not log in as "gateway"`},
		"empty-value": {func(_ *testing.T, d *double, _ *Config) {
			d.kv["secret/gate house/jwt"][0].data = map[string]any{"value": ""}
		}, `the field "value" of version 1 of secret/gate house/jwt in Vault: it is empty`},
		"wrong-document": {func(_ *testing.T, d *double, _ *Config) {
			d.kv["secret/gate house/jwt"][0].data = map[string]any{"value": `{"versions":[{"value":"sesame"},{}]}`}
		}, "has no label"},
		"large": {func(_ *testing.T, d *double, _ *Config) {
			d.kv["secret/gate house/jwt"][0].data = map[string]any{"value": strings.Repeat("sesame", 200000)}
		}, "larger than 1 MiB"},
		"no-json": {func(_ *testing.T, d *double, _ *Config) {
			d.answer = func(w http.ResponseWriter, _ *http.Request) bool { _, _ = w.Write([]byte("<html>sesame")); return true }
		}, "not Vault's JSON"},
		"version-1": {func(_ *testing.T, d *double, _ *Config) {
			d.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodGet {
					reply(w, 200, map[string]any{"data": map[string]any{"value": "sesame"}})
				}
				return r.Method == http.MethodGet
			}
		}, "the mount secret is no key-value store of version 2"},
		"other-host": {func(_ *testing.T, d *double, _ *Config) {
			d.answer = func(w http.ResponseWriter, r *http.Request) bool {
				http.Redirect(w, r, "http://vault-1.example.com"+r.URL.Path, http.StatusTemporaryRedirect)
				return true
			}
		}, "it redirects to vault-1.example.com, where the token is not sent"},
		"standby":      {func(_ *testing.T, d *double, _ *Config) { d.answer = status(473) }, "this node is a standby"},
		"quota":        {func(_ *testing.T, d *double, _ *Config) { d.answer = status(429) }, "rate limit quota"},
		"behind":       {func(_ *testing.T, d *double, _ *Config) { d.answer = status(412) }, "behind the others"},
		"server-error": {func(_ *testing.T, d *double, _ *Config) { d.answer = status(500) }, "see Vault's log"},
		"nobody-there": {func(_ *testing.T, _ *double, c *Config) { c.Address = "http://127.0.0.1:1" }, "Vault at http://127.0.0.1:1 does not answer, check the address"},
		"no-token-sent": {func(_ *testing.T, d *double, _ *Config) {
			d.answer = func(w http.ResponseWriter, _ *http.Request) bool { reply(w, 200, map[string]any{}); return true }
		}, "the answer has no token"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t)
			d.put("secret/gate house/jwt", map[string]any{"value": "sesame"}, start)
			c := appRole(t, d)
			tc.change(t, d, &c)
			refused(t, opened(t, c), tc.want)
		})
	}
}

func status(n int) func(w http.ResponseWriter, r *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool { refuse(w, n, "sentence"); return true }
}

func TestFetchObeysItsContext(t *testing.T) {
	d := newDouble(t)
	d.answer = func(_ http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body) // until then the server does not see that the client is gone
		<-r.Context().Done()
		return true
	}
	s := opened(t, appRole(t, d))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Fetch(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "has not answered in time") {
		t.Errorf("got %v", err)
	}
	s.turn <- struct{}{} // another fetch hangs
	if _, err := s.Fetch(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestValidate(t *testing.T) {
	good := Config{Address: "https://v:8200", Path: "secret/jwt", Auth: Auth{TokenFile: "/t"}}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Config){
		"plain http is for this machine alone":                               func(c *Config) { c.Address = "http://v:8200" },
		"path must be MOUNT/PATH, such as secret/gatehouse/jwt, not \"jwt\"": func(c *Config) { c.Path = "jwt" },
		"path must be MOUNT/PATH":                                            func(c *Config) { c.Path = "secret/../sys" },
		"path must be the mount":                                             func(c *Config) { c.Mount = "a/b" },
		"give approle, kubernetes or token_file":                             func(c *Config) { c.TokenFile = "" },
		"not both kubernetes and token_file":                                 func(c *Config) { c.Kubernetes = &Kubernetes{Role: "r"} },
		"approle needs role_id_file and secret_id_file":                      func(c *Config) { c.TokenFile, c.AppRole = "", &AppRole{RoleIDFile: "x"} },
		"kubernetes needs role":                                              func(c *Config) { c.TokenFile, c.Kubernetes = "", &Kubernetes{} },
		"the mount of kubernetes is a path without auth/":                    func(c *Config) { c.TokenFile, c.Kubernetes = "", &Kubernetes{Role: "r", Mount: "/k8s"} },
		"namespace must be one line":                                         func(c *Config) { c.Namespace = "a\nb" },
		"address must have no user":                                          func(c *Config) { c.Address = "https://u:p@v" },
		"address must be a URL such as https://host":                         func(c *Config) { c.Address = "vault:8200" },
		"the mount of approle is a path without auth/":                       func(c *Config) { c.TokenFile, c.AppRole = "", &AppRole{"a", "b", "auth/approle"} },
	} {
		c := good
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	good.CA = file(t, "no certificate")
	if _, err := New(good); err == nil || !strings.Contains(err.Error(), "holds no certificate") {
		t.Errorf("got %v", err)
	}
}
