package jwtauth_test

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

// groups are so many ids of groups as an issuer writes them.
func groups(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("6f1a2b3c-4d5e-6f70-8192-%012d", i)
	}
	return all
}

// TestTokensAsIssuersMakeThem: what real issuers write, where it is sloppier than the RFCs.
func TestTokensAsIssuersMakeThem(t *testing.T) {
	const big = "an id that is longer than all that fits"
	for name, c := range map[string]struct {
		options string
		claims  claims
		status  int
		body    string // the subject, X-User-Id and X-Roles
	}{
		"dots-in-a-name":         {"require claim resource_access.com.acme.api.roles editor", claims{"resource_access": claims{"com.acme.api": claims{"roles": []string{"editor"}}}}, 200, "user-1|user-1|"},
		"dots-in-the-first-name": {"require claim com.acme.roles editor", claims{"com.acme": claims{"roles": "editor"}}, 200, "user-1|user-1|"},
		"dots-all-the-way":       {"require claim a.b.c editor", claims{"a": claims{"b": claims{"c": "editor"}}}, 200, "user-1|user-1|"},
		"a-dead-end-first":       {"require claim a.b.c editor", claims{"a.b": claims{"d": 1}, "a": claims{"b.c": "editor"}}, 200, "user-1|user-1|"},
		"quoted":                 {"require claim `resource_access.\"com.acme.api\".roles` editor", claims{"resource_access": claims{"com.acme.api": claims{"roles": "editor"}}}, 200, "user-1|user-1|"},
		"quoted-is-literal":      {"require claim `a.\"b.c\"` editor", claims{"a": claims{"b": claims{"c": "editor"}}}, 403, ""},
		"url-as-a-name":          {"require claim https://acme.example/roles editor", claims{"https://acme.example/roles": []string{"editor"}}, 200, "user-1|user-1|"},
		"no-such-path":           {"require claim a.b.c editor", claims{"a": claims{"b": "c"}}, 403, ""},

		"sub-empty":       {"", claims{"sub": ""}, 200, "||"},
		"sub-null":        {"", claims{"sub": nil}, 200, "||"},
		"sub-number":      {"", claims{"sub": 42}, 401, ""},
		"sub-number-may":  {"numeric_subject", claims{"sub": 42}, 200, "42|42|"},
		"sub-fraction":    {"numeric_subject", claims{"sub": 1.5}, 401, ""},
		"sub-true":        {"numeric_subject", claims{"sub": true}, 401, ""},
		"jti-number":      {"", claims{"jti": 4711, "sid": 12}, 200, "user-1|user-1|"},
		"200-groups":      {"claim_header groups X-Roles", claims{"groups": groups(200)}, 200, "user-1|user-1|" + strings.Join(groups(200), ",")},
		"220-groups":      {"claim_header groups X-Roles", claims{"groups": groups(220)}, 401, ""},
		"220-groups-drop": {"claim_header groups X-Roles\nclaim_too_large drop", claims{"groups": groups(220)}, 200, "user-1|user-1|"},
		"max-size":        {"max_size 1KiB", claims{"x": strings.Repeat(big, 30)}, 401, ""},
		"long":            {"", claims{"x": strings.Repeat("x", 200<<10)}, 200, "user-1|user-1|"},
	} {
		t.Run(name, func(t *testing.T) {
			g := gateway(t, "jwks file "+keyFile(t, publicSet(t))+"\nissuer https://idp.example\naudience api\nclaim_header sub X-User-Id\n"+c.options)
			token := sign(t, r1, good(c.claims), keys().rsa)
			for range 2 {
				if a := askWith(g, token); a.status != c.status || c.body != "" && a.body != c.body {
					t.Errorf("got %d %s, want %d %s", a.status, a.body, c.status, c.body)
				}
			}
		})
	}
	// What does not fit says which option helps.
	g := gateway(t, "jwks file "+keyFile(t, publicSet(t))+"\nclaim_header groups X-Groups")
	if a := askWith(g, sign(t, r1, good(claims{"groups": groups(220)}), keys().rsa)); !strings.Contains(a.body, "claim_too_large drop") || !strings.Contains(a.body, "X-Groups") {
		t.Errorf("got %s, want the claim, its header and the option", a.body)
	}
}

// signedWith signs by an algorithm that sign does not know.
func signedWith(t *testing.T, alg, kid, payload string, key any) string {
	t.Helper()
	header := `{"alg":"` + alg + `","kid":"` + kid + `"}`
	if kid == "" {
		header = `{"alg":"` + alg + `"}`
	}
	in := b64([]byte(header)) + "." + b64([]byte(payload))
	var sig []byte
	var err error
	hash := map[byte]crypto.Hash{'2': crypto.SHA256, '3': crypto.SHA384, '5': crypto.SHA512}[alg[2]]
	h := hash.New()
	h.Write([]byte(in))
	switch k := key.(type) {
	case []byte:
		mac := hmac.New(hash.New, k)
		mac.Write([]byte(in))
		sig = mac.Sum(nil)
	case *rsa.PrivateKey:
		if alg[0] == 'R' {
			sig, err = rsa.SignPKCS1v15(rand.Reader, k, hash, h.Sum(nil))
		} else {
			sig, err = rsa.SignPSS(rand.Reader, k, hash, h.Sum(nil), &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return in + "." + b64(sig)
}

// TestAlgorithmsOfKeysThatNameNone: the list says what a plain secret, a PEM or a JWK without alg is for.
func TestAlgorithmsOfKeysThatNameNone(t *testing.T) {
	secret := []byte(strings.Repeat("0123456789abcdef", 4))
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), secret, 0o600); err != nil {
		t.Fatal(err)
	}
	without := jwk(t, "r1", "", keys().rsa.Public())
	pinned := jwk(t, "r1", "RS256", keys().rsa.Public())
	all := []string{"HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	for name, c := range map[string]struct {
		source, algorithms string
		kid                string
		key                any
		want               string
	}{
		"secret":            {"secret jwt", "", "", secret, "HS256"},
		"secret-hs512":      {"secret jwt", "HS512", "", secret, "HS512"},
		"secret-two":        {"secret jwt", "HS384 HS256", "", secret, "HS256 HS384"},
		"secret-and-others": {"secret jwt", "RS256 HS384", "", secret, "HS384"},
		"jwk-without-alg":   {"jwks file " + keyFile(t, jwks(t, without)), "", "r1", keys().rsa, "RS256"},
		"jwk-list":          {"jwks file " + keyFile(t, jwks(t, without)), "PS256 RS512", "r1", keys().rsa, "RS512 PS256"},
		"jwk-pinned":        {"jwks file " + keyFile(t, jwks(t, pinned)), "PS256 RS256", "r1", keys().rsa, "RS256"},
	} {
		t.Run(name, func(t *testing.T) {
			options := c.source
			if c.algorithms != "" {
				options += "\nalgorithms " + c.algorithms
			}
			g := modtest.Start(t, fmt.Sprintf("{\n\tgatehouse {\n\t\tdata_dir @@data@@\n\t\tsecret jwt file %s/secret\n\t}\n}\n:80 {\n\tjwt_auth {\n%s\n\t}\n\trespond ok\n}\n", dir, options))
			var got []string
			for _, alg := range all {
				if _, plain := c.key.([]byte); plain != strings.HasPrefix(alg, "HS") {
					continue
				}
				switch a := askWith(g, signedWith(t, alg, c.kid, good(nil), c.key)); a.status {
				case http.StatusOK:
					got = append(got, alg)
				case http.StatusUnauthorized:
				default:
					t.Errorf("%s: got %d %s", alg, a.status, a.body)
				}
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("got %v, want %s", got, c.want)
			}
		})
	}
	for name, options := range map[string]string{
		"secret":     "secret jwt\nalgorithms RS256",
		"short":      "secret short\nalgorithms HS512",
		"pinned":     "jwks file " + keyFile(t, jwks(t, pinned)) + "\nalgorithms PS256",
		"other-kind": "jwks file " + keyFile(t, jwks(t, without)) + "\nalgorithms ES256",
	} {
		if err := os.WriteFile(filepath.Join(dir, "short"), secret[:40], 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := modtest.TryStart(t, fmt.Sprintf("{\n\tgatehouse {\n\t\tdata_dir @@data@@\n\t\tsecret jwt file %[1]s/secret\n\t\tsecret short file %[1]s/short\n\t}\n}\n:80 {\n\tjwt_auth {\n%[2]s\n\t}\n\trespond ok\n}\n", dir, options))
		if err == nil || !strings.Contains(err.Error(), "algorithms") {
			t.Errorf("%s: got %v, want that no key is for the algorithms", name, err)
		}
	}
}

// TestSaltsOfPSS: a salt has the length of the hash (RFC 7518 section 3.5).
func TestSaltsOfPSS(t *testing.T) {
	g := gateway(t, "jwks file "+keyFile(t, jwks(t, jwk(t, "r1", "PS256", keys().rsa.Public()))))
	for length, want := range map[int]int{rsa.PSSSaltLengthEqualsHash: 200, 20: 401, 1: 401, rsa.PSSSaltLengthAuto: 401} {
		in := b64([]byte(`{"alg":"PS256","kid":"r1"}`)) + "." + b64([]byte(good(nil)))
		sum := sha256.Sum256([]byte(in))
		sig, err := rsa.SignPSS(rand.Reader, keys().rsa, crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: length})
		if err != nil {
			t.Fatal(err)
		}
		if a := askWith(g, in+"."+b64(sig)); a.status != want {
			t.Errorf("a salt of %d: got %d, want %d", length, a.status, want)
		}
	}
}

// TestWhereTokensAre: providers in front put the token into headers of their own.
func TestWhereTokensAre(t *testing.T) {
	token := sign(t, r1, good(nil), keys().rsa)
	other := sign(t, r1, good(claims{"sub": "user-2"}), keys().rsa)
	socket := func(values ...string) http.Header {
		return http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Protocol": values}
	}
	for name, c := range map[string]struct {
		from   string
		header http.Header
		status int
		left   string // of Sec-WebSocket-Protocol
	}{
		"header":              {"from header Cf-Access-Jwt-Assertion", http.Header{"Cf-Access-Jwt-Assertion": {token}}, 200, ""},
		"header-absent":       {"from header Cf-Access-Jwt-Assertion", http.Header{"Authorization": {"Bearer " + token}}, 401, ""},
		"header-twice":        {"from header Cf-Access-Jwt-Assertion", http.Header{"Cf-Access-Jwt-Assertion": {token, other}}, 400, ""},
		"header-prefix":       {"from header X-Forwarded-Authorization Bearer", http.Header{"X-Forwarded-Authorization": {"bearer " + token}}, 200, ""},
		"header-other-prefix": {"from header X-Forwarded-Authorization Bearer", http.Header{"X-Forwarded-Authorization": {"Basic " + token}}, 401, ""},
		"the-first-counts":    {"from header X-Token\nfrom header", http.Header{"X-Token": {token}, "Authorization": {"Bearer " + other}}, 200, ""},
		"protocol":            {"from websocket_protocol", socket("chat, " + token), 200, "chat"},
		"protocol-lines":      {"from websocket_protocol", socket("chat", "v2", token), 200, "chat, v2"},
		"protocol-prefix":     {"from websocket_protocol jwt.", socket("jwt."+token, "chat"), 200, "chat"},
		"protocol-alone":      {"from websocket_protocol", socket(token), 200, ""},
		"protocol-two-tokens": {"from websocket_protocol", socket(token, other), 400, ""},
		"protocol-of-none":    {"from websocket_protocol", socket("chat"), 401, ""},
		"no-handshake":        {"from websocket_protocol", http.Header{"Sec-Websocket-Protocol": {token}}, 401, ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, fmt.Sprintf(":80 {\n\tjwt_auth {\njwks file %s\n%s\n\t}\n\trespond \"{http.auth.user.id}|{header.Sec-WebSocket-Protocol}\"\n}\n", keyFile(t, publicSet(t)), c.from))
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header = c.header.Clone()
			a := ask(g, r)
			if a.status != c.status || c.status == 200 && a.body != "user-1|"+c.left {
				t.Errorf("got %d %s, want %d and the protocols %q", a.status, a.body, c.status, c.left)
			}
		})
	}
	for _, from := range []string{"from header Authorization", "from header Host", "from header X_Token", "from header X-Token a b", "from websocket_protocol a b", "from header X-Token a,b", "from cookie c d"} {
		if _, err := modtest.Adapt(":80 {\n\tjwt_auth {\n\t\t" + from + "\n\t}\n}\n"); err == nil || !strings.Contains(err.Error(), "from") {
			t.Errorf("%s: got %v", from, err)
		}
	}
}

func TestAnyOf(t *testing.T) {
	g := gateway(t, "jwks file "+keyFile(t, publicSet(t))+"\nrequire scope read\nany {\n\trequire scope admin\n\trequire claim roles Orders.Read\n\trequire role editor\n}")
	for name, c := range map[string]struct {
		claims claims
		status int
	}{
		"none":          {nil, 403},
		"a-claim":       {claims{"roles": []string{"Orders.Read"}}, 200},
		"a-scope":       {claims{"scope": "read admin"}, 200},
		"a-role":        {claims{"role": "editor"}, 200},
		"not-the-other": {claims{"scope": "admin"}, 403},
	} {
		if a := askWith(g, sign(t, r1, good(c.claims), keys().rsa)); a.status != c.status {
			t.Errorf("%s: got %d, want %d", name, a.status, c.status)
		}
	}
	for text, want := range map[string]string{
		"any":                                   "any",
		"any {\n}":                              "any",
		"any {\n\trequire acr gold\n}":          "any takes",
		"any {\n\trequire claim x\n}":           "value",
		"any x {\n\trequire scope a\n}":         "any",
		"any {\n\trequires scope a\n}":          "require",
		"any {\n\tany {\nrequire scope a\n}\n}": "any",
		"any {\n\trequire max_age 5m\n}":        "any takes",
	} {
		if _, err := modtest.Adapt(":80 {\n\tjwt_auth {\n" + text + "\n\t}\n}\n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func TestChallengesNameTheMetadata(t *testing.T) {
	const url = "https://api.example.com/.well-known/oauth-protected-resource"
	g := gateway(t, "jwks file "+keyFile(t, publicSet(t))+"\nrequire scope admin\nresource_metadata "+url)
	for name, token := range map[string]string{"nonsense": "x", "scope": sign(t, r1, good(nil), keys().rsa)} {
		for range 2 {
			if a := askWith(g, token); strings.Count(a.challenge, `, resource_metadata="`+url+`"`) != 1 {
				t.Errorf("%s: got the challenge %s", name, a.challenge)
			}
		}
	}
}

// TestIssuersOfManyTenants: the claim in braces has one of the allowed values, in iss and in itself.
func TestIssuersOfManyTenants(t *testing.T) {
	const blue, green = "8f1e2d3c-0000-4000-8000-00000000b1e0", "77ab0000-0000-4000-8000-000000009ee0"
	g := gateway(t, "issuer https://login.example.com/{tid}/v2.0 {\n\tallow tid "+blue+" "+green+"\n\tjwks file "+keyFile(t, publicSet(t))+"\n\taudience api\n}")
	iss := func(tid string) string { return "https://login.example.com/" + tid + "/v2.0" }
	for name, c := range map[string]struct {
		claims claims
		status int
	}{
		"blue":              {claims{"iss": iss(blue), "tid": blue}, 200},
		"green":             {claims{"iss": iss(green), "tid": green}, 200},
		"another-tenant":    {claims{"iss": iss("0000"), "tid": "0000"}, 401},
		"claim-of-another":  {claims{"iss": iss(blue), "tid": green}, 401},
		"claim-not-allowed": {claims{"iss": iss(blue), "tid": "0000"}, 401},
		"no-claim":          {claims{"iss": iss(blue)}, 401},
		"the-template":      {claims{"iss": iss("{tid}"), "tid": "{tid}"}, 401},
		"a-slash-more":      {claims{"iss": iss(blue) + "/", "tid": blue}, 401},
		"no-iss":            {claims{"iss": nil, "tid": blue}, 401},
	} {
		if a := askWith(g, sign(t, r1, good(c.claims), keys().rsa)); a.status != c.status {
			t.Errorf("%s: got %d %s, want %d", name, a.status, a.body, c.status)
		}
	}
	for text, want := range map[string]string{
		"issuer https://a.example/{tid}":                                    "allow tid",
		"issuer https://a.example/{tid} {\n\tallow sub x\n}":                "allow tid",
		"issuer https://a.example/{tid}/{x} {\n\tallow tid x\n}":            "one claim alone",
		"issuer https://a.example/{} {\n\tallow tid x\n}":                   "braces surround",
		"issuer https://a.example/x {\n\tallow tid x\n}":                    "braces",
		"issuer https://a.example/{tid} {\n\tallow tid\n}":                  "allow needs",
		"issuer https://a.example/{tid} {\n\tallow tid a/b\n}":              "part of a URL",
		"issuer https://a.example/{tid} {\n\tallow tid a a\n}":              "twice",
		"issuer http://a.example/{tid} {\n\tallow tid a\n}":                 "https",
		"issuer https://a.example/{tid} {\n\tallow tid a\n\tallow tid b\n}": "allow",
	} {
		if _, err := modtest.Adapt(":80 {\n\tjwt_auth {\n" + text + "\n\t}\n}\n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}
