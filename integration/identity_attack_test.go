package integration

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const attacked = `{
	admin %[1]s
	debug
	auto_https off
	persist_config off
	log default {
		level DEBUG
	}
	gatehouse {
		data_dir %[2]s/data
		profile  off
		secret   hmac file %[2]s/hmac
	}
}
http://127.0.0.1:%[3]s {
	log
	handle /keys* {
		jwt_auth {
			jwks     file %[2]s/keys.json
			issuer   https://idp.example
			audience api
		}
		respond "hello {http.auth.user.id}"
	}
	handle /hmac* {
		jwt_auth {
			secret   hmac
			issuer   https://idp.example
			audience api
		}
		respond "hello {http.auth.user.id}"
	}
	handle /two* {
		jwt_auth {
			issuer https://idp.example {
				jwks     file %[2]s/keys.json
				audience api
			}
			issuer https://other.example {
				jwks     file %[2]s/other.json
				audience api
			}
		}
		respond "hello {http.auth.user.id}"
	}
	handle_errors {
		problem
	}
}
`

// forger signs whatever it is told to: its tokens are made of bytes, as no library would make them.
type forger struct {
	rsa, foreign *rsa.PrivateKey
	ec           *ecdsa.PrivateKey
	hmac         []byte
}

func newForger(t *testing.T) *forger {
	t.Helper()
	f := &forger{hmac: make([]byte, 32)}
	var err error
	for _, k := range []**rsa.PrivateKey{&f.rsa, &f.foreign} {
		if *k, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			t.Fatal(err)
		}
	}
	if f.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	_, _ = rand.Read(f.hmac)
	return f
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// signed is a token of any header and payload; by says how it is signed, nil for an empty signature.
func signed(t *testing.T, header, payload string, by any) string {
	t.Helper()
	text := b64([]byte(header)) + "." + b64([]byte(payload))
	sum := sha256.Sum256([]byte(text))
	var sig []byte
	var err error
	switch k := by.(type) {
	case *rsa.PrivateKey:
		sig, err = rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, sum[:])
	case *ecdsa.PrivateKey:
		var r, s *big.Int
		if r, s, err = ecdsa.Sign(rand.Reader, k, sum[:]); err == nil {
			sig = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		}
	case []byte:
		mac := hmac.New(sha256.New, k)
		mac.Write([]byte(text))
		sig = mac.Sum(nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + b64(sig)
}

// payload are good claims with changes; a nil takes a claim out.
func payload(changes map[string]any) string {
	c := map[string]any{"iss": "https://idp.example", "aud": "api", "sub": "user-1", "exp": time.Now().Unix() + 600}
	for name, v := range changes {
		c[name] = v
		if v == nil {
			delete(c, name)
		}
	}
	b, _ := json.Marshal(c)
	return string(b)
}

func rsaJWK(k *rsa.PublicKey, kid string) map[string]any {
	return map[string]any{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": b64(k.N.Bytes()), "e": b64(big.NewInt(int64(k.E)).Bytes())}
}

func ecJWK(t *testing.T, k *ecdsa.PublicKey, kid string) map[string]any {
	t.Helper()
	point, err := k.Bytes() // 4, x, y
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid, "x": b64(point[1:33]), "y": b64(point[33:])}
}

// serveAttacked starts the gateway that knows the forger's keys, but for the foreign one: that is the
// other issuer's.
func serveAttacked(t *testing.T, f *forger) (*example, *process) {
	t.Helper()
	e := &example{dir: t.TempDir(), admin: "127.0.0.1:" + freePort(t)}
	port := freePort(t)
	e.base = "http://127.0.0.1:" + port
	write := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(e.dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set := func(keys ...map[string]any) []byte {
		b, _ := json.Marshal(map[string]any{"keys": keys})
		return b
	}
	write("hmac", f.hmac)
	write("keys.json", set(rsaJWK(&f.rsa.PublicKey, "r1"), ecJWK(t, &f.ec.PublicKey, "e1")))
	write("other.json", set(rsaJWK(&f.foreign.PublicKey, "r1")))
	write("Caddyfile", fmt.Appendf(nil, attacked, e.admin, e.dir, port))
	p := start(t, e.dir, "gatehouse", "run", "--config", "Caddyfile", "--adapter", "caddyfile")
	p.waitFor("http://" + e.admin + "/startupz")
	return e, p
}

// present sends the token and returns the status, the challenge and the body.
func present(t *testing.T, url, token string) (status int, challenge, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("WWW-Authenticate"), string(b)
}

// attack is a token for a path. It is to be answered with 401 and the error invalid_token.
type attack struct{ path, token string }

// attacks are the table: who gets in with one of these has broken in.
func attacks(t *testing.T, f *forger) map[string]attack {
	t.Helper()
	const rs, es, hs = `{"alg":"RS256","kid":"r1"}`, `{"alg":"ES256","kid":"e1"}`, `{"alg":"HS256"}`
	der, err := x509.MarshalPKIXPublicKey(&f.rsa.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	embedded, _ := json.Marshal(rsaJWK(&f.foreign.PublicKey, "r1"))
	now := time.Now().Unix()
	good := payload(nil)
	keys := func(header, payload string, by any) attack {
		return attack{path: "/keys", token: signed(t, header, payload, by)}
	}
	claim := func(name string, v any) attack { return keys(rs, payload(map[string]any{name: v}), f.rsa) }
	raw := func(members string) attack {
		return keys(rs, `{"iss":"https://idp.example","aud":"api",`+members+`}`, f.rsa)
	}
	valid := signed(t, rs, good, f.rsa)
	parts := strings.Split(valid, ".")
	bent := func(token string) attack { return attack{path: "/keys", token: token} }
	all := map[string]attack{
		"alg-none-on-hmac":       {path: "/hmac", token: signed(t, `{"alg":"none"}`, good, nil)},
		"hs256-public-key-pem":   keys(`{"alg":"HS256","kid":"r1"}`, good, block),
		"hs256-public-key-der":   keys(`{"alg":"HS256","kid":"r1"}`, good, der),
		"hs256-without-kid":      keys(hs, good, block),
		"rs256-on-hmac":          {path: "/hmac", token: signed(t, `{"alg":"RS256"}`, good, f.rsa)},
		"alg-of-another-key":     keys(`{"alg":"RS256","kid":"e1"}`, good, f.rsa),
		"kid-traversal":          keys(`{"alg":"HS256","kid":"../../../../dev/null"}`, good, []byte{}),
		"kid-traversal-on-hmac":  {path: "/hmac", token: signed(t, `{"alg":"HS256","kid":"../../../../dev/null"}`, good, []byte{})},
		"kid-sql":                keys(`{"alg":"HS256","kid":"x' UNION SELECT 'key'--"}`, good, []byte("key")),
		"kid-url":                keys(`{"alg":"RS256","kid":"http://127.0.0.1:1/k"}`, good, f.foreign),
		"jwk":                    keys(`{"alg":"RS256","jwk":`+string(embedded)+`}`, good, f.foreign),
		"jwk-with-known-kid":     keys(`{"alg":"RS256","kid":"r1","jwk":`+string(embedded)+`}`, good, f.foreign),
		"jku":                    keys(`{"alg":"RS256","kid":"r1","jku":"http://127.0.0.1:1/jwks.json"}`, good, f.foreign),
		"x5u":                    keys(`{"alg":"RS256","kid":"r1","x5u":"http://127.0.0.1:1/c.pem"}`, good, f.foreign),
		"x5c":                    keys(`{"alg":"RS256","kid":"r1","x5c":["`+base64.StdEncoding.EncodeToString(der)+`"]}`, good, f.foreign),
		"crit-unknown":           keys(`{"alg":"RS256","kid":"r1","crit":["x"],"x":1}`, good, f.rsa),
		"crit-b64":               keys(`{"alg":"RS256","kid":"r1","crit":["b64"],"b64":false}`, good, f.rsa),
		"foreign-key-known-kid":  keys(rs, good, f.foreign),
		"other-issuers-key":      {path: "/two", token: signed(t, rs, good, f.foreign)},
		"other-issuers-name":     {path: "/two", token: signed(t, rs, payload(map[string]any{"iss": "https://other.example"}), f.rsa)},
		"exp-missing":            claim("exp", nil),
		"exp-past":               claim("exp", now-3600),
		"exp-past-es256":         keys(es, payload(map[string]any{"exp": now - 3600}), f.ec),
		"exp-past-float":         claim("exp", float64(now)-3600.5),
		"exp-a-string":           claim("exp", fmt.Sprint(now+600)),
		"exp-null":               raw(`"exp":null`),
		"exp-huge":               raw(`"exp":1e300`),
		"exp-no-float":           raw(`"exp":1e999`),
		"exp-overflows":          raw(`"exp":18446744073709551616`),
		"exp-negative":           raw(`"exp":-1`),
		"nbf-future":             claim("nbf", now+600),
		"nbf-huge":               raw(fmt.Sprintf(`"exp":%d,"nbf":1e300`, now+600)),
		"iat-future":             claim("iat", now+600),
		"iat-future-float":       claim("iat", float64(now)+600.5),
		"duplicate-exp":          raw(fmt.Sprintf(`"exp":1,"exp":%d`, now+600)),
		"duplicate-sub-escaped":  raw(fmt.Sprintf(`"exp":%d,"sub":"user-1","\u0073ub":"admin"`, now+600)),
		"duplicate-alg":          keys(`{"alg":"none","alg":"RS256","kid":"r1"}`, good, f.rsa),
		"issuer-with-a-slash":    claim("iss", "https://idp.example/"),
		"issuer-missing":         claim("iss", nil),
		"audience-missing":       claim("aud", nil),
		"audience-array-wrong":   claim("aud", []string{"x", "y"}),
		"audience-array-empty":   claim("aud", []string{}),
		"audience-prefix":        claim("aud", "api.evil"),
		"invalid-utf8":           raw(fmt.Sprintf("\"exp\":%d,\"sub\":\"a\xff\"", now+600)),
		"payload-no-json":        keys(rs, "not json", f.rsa),
		"signature-empty":        bent(parts[0] + "." + parts[1] + "."),
		"signature-missing":      bent(parts[0] + "." + parts[1]),
		"signature-cut":          bent(valid[:len(valid)-4]),
		"signature-twice":        bent(valid + "." + parts[2]),
		"reordered":              bent(parts[1] + "." + parts[0] + "." + parts[2]),
		"signature-first":        bent(parts[2] + "." + parts[0] + "." + parts[1]),
		"padded":                 bent(valid + "=="),
		"payload-of-another":     bent(parts[0] + "." + b64([]byte(payload(map[string]any{"sub": "admin"}))) + "." + parts[2]),
		"a-dot":                  bent("."),
		"dpop-bound-as-a-bearer": claim("cnf", map[string]any{"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}),
	}
	for i, spelling := range []string{"none", "None", "NONE", "nOnE", "none ", "\\u006eone", ""} {
		all[fmt.Sprintf("alg-none-%d", i)] = keys(`{"alg":"`+spelling+`","kid":"r1"}`, good, nil)
		all[fmt.Sprintf("alg-none-signed-%d", i)] = keys(`{"alg":"`+spelling+`","kid":"r1"}`, good, f.rsa)
	}
	return all
}

// TestIdentityAttacks sends forged tokens to a running gateway. None passes, each gets its status and
// challenge, and the log at DEBUG holds none of them.
func TestIdentityAttacks(t *testing.T) {
	f := newForger(t)
	e, p := serveAttacked(t, f)
	var sent []string
	for path, token := range map[string]string{
		"/keys/rsa":   signed(t, `{"alg":"RS256","kid":"r1"}`, payload(map[string]any{"exp": float64(time.Now().Unix()) + 600.5}), f.rsa),
		"/keys/ec":    signed(t, `{"alg":"ES256","kid":"e1"}`, payload(map[string]any{"aud": []string{"x", "api"}}), f.ec),
		"/hmac":       signed(t, `{"alg":"HS256"}`, payload(nil), f.hmac),
		"/two":        signed(t, `{"alg":"RS256","kid":"r1"}`, payload(nil), f.rsa),
		"/two/others": signed(t, `{"alg":"RS256","kid":"r1"}`, payload(map[string]any{"iss": "https://other.example"}), f.foreign),
	} {
		sent = append(sent, token)
		if status, _, body := present(t, e.base+path, token); status != http.StatusOK || body != "hello user-1" {
			t.Errorf("the valid token at %s: got %d %s", path, status, body)
		}
	}
	for name, a := range attacks(t, f) {
		t.Run(name, func(t *testing.T) {
			sent = append(sent, a.token)
			status, challenge, body := present(t, e.base+a.path, a.token)
			if status != http.StatusUnauthorized || !strings.Contains(challenge, `error="invalid_token"`) || !strings.HasPrefix(challenge, "Bearer ") {
				t.Errorf("got %d with the challenge %s\n%s", status, challenge, body)
			}
			for _, said := range []string{challenge, body} {
				if signature := a.token[strings.LastIndexByte(a.token, '.')+1:]; len(signature) > 16 && strings.Contains(said, signature) {
					t.Errorf("the answer holds the signature: %s", said)
				}
			}
		})
	}
	large := strings.Repeat("a", 1<<20)
	if status, _, body := present(t, e.base+"/keys", large); status != http.StatusRequestHeaderFieldsTooLarge && status != http.StatusBadRequest && status != http.StatusUnauthorized {
		t.Errorf("a token of 1 MiB: got %d %s", status, body)
	}
	sent = append(sent, large)
	if status, _, body := present(t, e.base+"/keys", signed(t, `{"alg":"RS256","kid":"r1"}`, payload(nil), f.rsa)); status != http.StatusOK {
		t.Errorf("after all of them a valid token gets %d %s", status, body)
	}
	p.terminate() // the log is whole
	log := []byte(p.stderr.String())
	if !bytes.Contains(log, []byte(`"level":"debug"`)) && !bytes.Contains(log, []byte("DEBUG")) {
		t.Error("the log has no line of level DEBUG, so it proves nothing")
	}
	for _, token := range sent {
		segments := strings.Split(token, ".")
		for _, piece := range append(segments, token) {
			// A header alone is no secret, and a short piece is found anywhere.
			if len(piece) > 40 && piece != segments[0] && bytes.Contains(log, []byte(piece[:min(len(piece), 200)])) {
				t.Errorf("the log holds a piece of a token: %.80s…", piece)
			}
		}
	}
}
