package jwtauth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestKeysArePinnedToTheirAlgorithm(t *testing.T) {
	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	p521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	ed, edPrivate, _ := ed25519.GenerateKey(rand.Reader)
	for name, c := range map[string]struct {
		alg  string
		key  any
		want []string // nil if it must be refused
	}{
		"rsa":                 {"", rsaKey.Public(), []string{"RS256"}},
		"rsa-private":         {"", rsaKey, []string{"RS256"}},
		"rsa-ps512":           {"PS512", rsaKey.Public(), []string{"PS512"}},
		"rsa-hs256":           {"HS256", rsaKey.Public(), nil},
		"rsa-es256":           {"ES256", rsaKey.Public(), nil},
		"rsa-none":            {"none", rsaKey.Public(), nil},
		"rsa-encryption":      {"RSA-OAEP", rsaKey.Public(), nil},
		"rsa-even-exponent":   {"", &rsa.PublicKey{N: rsaKey.N, E: 2}, nil},
		"rsa-exponent-one":    {"", &rsa.PublicKey{N: rsaKey.N, E: 1}, nil},
		"p256":                {"", p256.Public(), []string{"ES256"}},
		"p384":                {"", p384, []string{"ES384"}},
		"p521":                {"ES512", p521.Public(), []string{"ES512"}},
		"p256-es384":          {"ES384", p256.Public(), nil},
		"p224":                {"", p224.Public(), nil},
		"ed25519":             {"", ed, []string{"EdDSA", "Ed25519"}},
		"ed25519-private":     {"EdDSA", edPrivate, []string{"EdDSA", "Ed25519"}},
		"ed25519-by-new-name": {"Ed25519", ed, []string{"EdDSA", "Ed25519"}},
		"ed25519-es256":       {"ES256", ed, nil},
		"hmac":                {"", make([]byte, 32), []string{"HS256"}},
		"hmac-short":          {"", make([]byte, 31), nil},
		"hmac-hs512":          {"HS512", make([]byte, 64), []string{"HS512"}},
		"hmac-hs512-short":    {"HS512", make([]byte, 63), nil},
		"hmac-rs256":          {"RS256", make([]byte, 64), nil},
		"nothing":             {"", nil, nil},
	} {
		got, err := newKey("k", c.alg, c.key)
		if (err != nil) != (c.want == nil) {
			t.Errorf("%s: got the error %v", name, err)
			continue
		}
		if diff := cmp.Diff(c.want, got.algs); diff != "" {
			t.Errorf("%s: the algorithms differ (-want +got):\n%s", name, diff)
		}
		for _, alg := range got.algs {
			if !accepted(alg) {
				t.Errorf("%s: %s is not among the accepted algorithms", name, alg)
			}
		}
		switch got.key.(type) {
		case *rsa.PrivateKey, *ecdsa.PrivateKey, ed25519.PrivateKey:
			t.Errorf("%s: the private key is kept", name)
		}
	}
}

func TestParseSecret(t *testing.T) {
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	weak, _ := rsa.GenerateKey(rand.Reader, 1024)
	spki, _ := x509.MarshalPKIXPublicKey(p256.Public())
	pkcs8, _ := x509.MarshalPKCS8PrivateKey(p256)
	weakSPKI, _ := x509.MarshalPKIXPublicKey(weak.Public())
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	for name, c := range map[string]struct {
		in   string
		algs string // "" if it must be refused
	}{
		"raw":               {strings.Repeat("k", 32), "HS256"},
		"raw-short":         {strings.Repeat("k", 31), ""},
		"empty":             {"", ""},
		"public-pem":        {block("PUBLIC KEY", spki), "ES256"},
		"private-pem":       {"\n" + block("PRIVATE KEY", pkcs8), "ES256"},
		"weak-rsa":          {block("PUBLIC KEY", weakSPKI), ""},
		"certificate":       {block("CERTIFICATE", spki), ""},
		"unknown-pem":       {block("PGP PUBLIC KEY BLOCK", spki), ""},
		"wrong-pem-content": {block("PUBLIC KEY", []byte("x")), ""},
		"torn-pem":          {strings.TrimSuffix(block("PUBLIC KEY", spki), "-----END PUBLIC KEY-----\n"), ""},
		"public-der":        {string(spki), ""},
		"public-base64":     {base64.StdEncoding.EncodeToString(spki), ""},
		"public-base64-url": {base64.RawURLEncoding.EncodeToString(spki), ""},
		"public-base64-mime": {strings.Join(slices.Collect(func(yield func(string) bool) {
			for c := range slices.Chunk([]byte(base64.StdEncoding.EncodeToString(spki)), 64) {
				if !yield(string(c)) {
					return
				}
			}
		}), "\r\n"), ""},
		"public-pem-base64":       {base64.StdEncoding.EncodeToString([]byte(block("PUBLIC KEY", spki))), ""},
		"public-pem-base64-twice": {base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString([]byte(block("PUBLIC KEY", spki))))), ""},
		"jwk-base64":              {base64.RawURLEncoding.EncodeToString([]byte(edJWK("a"))), ""},
		"ssh-after-a-space":       {" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN0000000000000000000000000000000000000000000", ""},
		"raw-base64":              {base64.StdEncoding.EncodeToString(make([]byte, 48)), "HS256"},
		"jwk":                     {edJWK("a"), ""},
		"jwk-set":                 {`{"keys":[` + edJWK("a") + `]}`, ""},
		"ssh":                     {"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN0000000000000000000000000000000000000000000", ""},
	} {
		got, err := parseSecret([]byte(c.in))
		if algs := strings.Join(got.algs, " "); algs != c.algs || (err == nil) != (c.algs != "") {
			t.Errorf("%s: got %q (%v), want %q", name, algs, err, c.algs)
		}
		if err != nil && len(c.in) > 8 && strings.Contains(err.Error(), c.in[len(c.in)/2:]) {
			t.Errorf("%s: the error shows the secret", name)
		}
	}
}

func TestKeysInTheConfiguration(t *testing.T) {
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	spki, _ := x509.MarshalPKIXPublicKey(p256.Public())
	pkcs8, _ := x509.MarshalPKCS8PrivateKey(p256)
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	for name, c := range map[string]struct {
		in, algs string // "" if it must be refused
		file     string // the same as a file
	}{
		"pem":          {block("PUBLIC KEY", spki), "ES256", "ES256"},
		"indented-pem": {"\n  " + block("PUBLIC KEY", spki), "ES256", "ES256"},
		"jwk":          {edJWK("a"), "EdDSA Ed25519", "EdDSA Ed25519"},
		"private-pem":  {block("PRIVATE KEY", pkcs8), "", "ES256"},
		"private-jwk":  {strings.Replace(edJWK("a"), `{`, `{"d":"AAAA",`, 1), "", "EdDSA Ed25519"},
		"symmetric":    {`{"kty":"oct","k":"` + strings.Repeat("A", 64) + `"}`, "", ""},
		"jwk-set":      {setOf(edJWK("a")), "", ""},
		"encryption":   {strings.Replace(edJWK("x"), `{`, `{"use":"enc",`, 1), "", ""},
		"torn-json":    {edJWK("a")[:20], "", ""},
		"raw":          {strings.Repeat("k", 32), "", ""},
		"empty":        {"", "", ""},
	} {
		for _, got := range []struct {
			how, want string
			parse     func() (*keySet, error)
		}{
			{"in the configuration", c.algs, func() (*keySet, error) { return inlineKey(c.in) }},
			{"in a file", c.file, func() (*keySet, error) { return publicKey([]byte(c.in)) }},
		} {
			set, err := got.parse()
			algs := ""
			if err == nil {
				algs = strings.Join(set.keys[0].algs, " ")
			}
			if algs != got.want {
				t.Errorf("%s %s: got %q (%v), want %q", name, got.how, algs, err, got.want)
			}
		}
	}
}

func TestParseJWKSSkipsWhatItCannotUse(t *testing.T) {
	good := edJWK("good")
	oct := `{"kty":"oct","kid":"o","k":"` + strings.Repeat("A", 64) + `"}`
	for name, c := range map[string]struct {
		member string
		remote bool // whether it is used from a URL
		local  bool // whether it is used from a file
	}{
		"oct":                 {oct, false, true},
		"oct-of-a-public-key": {`{"kty":"oct","k":"` + base64.RawURLEncoding.EncodeToString([]byte("-----BEGIN PUBLIC KEY-----\nAAAAAAAAAAAAAAAA")) + `"}`, false, false},
		"encryption":          {strings.Replace(edJWK("x"), `{`, `{"use":"enc",`, 1), false, false},
		"signing":             {strings.Replace(edJWK("x"), `{`, `{"use":"sig","key_ops":["verify"],`, 1), true, true},
		"only-signs":          {strings.Replace(edJWK("x"), `{`, `{"key_ops":["sign"],`, 1), false, false},
		"unknown-kty":         {`{"kty":"AKP","alg":"ML-DSA-44","pub":"AAAA"}`, false, false},
		"unknown-crv":         {`{"kty":"EC","crv":"secp256k1","x":"AAAA","y":"AAAA"}`, false, false},
		"off-the-curve":       {`{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"}`, false, false},
		"x25519":              {strings.Replace(edJWK("x"), "Ed25519", "X25519", 1), false, false},
		"wrong-alg":           {strings.Replace(edJWK("x"), `{`, `{"alg":"RS256",`, 1), false, false},
		"new-name-of-alg":     {strings.Replace(edJWK("x"), `{`, `{"alg":"Ed25519",`, 1), true, true},
		"broken-x5c":          {strings.Replace(edJWK("x"), `{`, `{"x5c":["!"],"x5u":"http://127.0.0.1:1/",`, 1), true, true},
		"string":              {`"key"`, false, false},
		"null":                {`null`, false, false},
		"weak-rsa":            {`{"kty":"RSA","n":"` + strings.Repeat("_", 171) + `","e":"AQAB"}`, false, false},
	} {
		for local, want := range map[bool]bool{false: c.remote, true: c.local} {
			set, err := parseJWKS([]byte(setOf(c.member, good)), local)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if got := len(set.keys) == 2; got != want || set.keys[len(set.keys)-1].id != "good" {
				t.Errorf("%s, local %v: got used %v, want %v", name, local, got, want)
			}
		}
	}
	var many []string
	for i := range maxKeys + 40 {
		many = append(many, edJWK(fmt.Sprint(i)))
	}
	if set, err := parseJWKS([]byte(setOf(many...)), false); err != nil || len(set.keys) != maxKeys || set.left != 40 {
		t.Errorf("too many keys: got %v, want the first %d, and how many are left out", err, maxKeys)
	}
	for _, broken := range []string{"", "null", "[]", `{"keys":{}}`, `{"keys":[]}`, setOf(good) + "x", setOf(strings.Repeat("[", 20000))} {
		if _, err := parseJWKS([]byte(broken), true); err == nil {
			t.Errorf("%.20q: got no error", broken)
		}
	}
}

func FuzzJWKS(f *testing.F) {
	for _, seed := range []string{setOf(edJWK("a")), `{"keys":[{"kty":"RSA","n":"AQ","e":"AQAB"}]}`, `{"keys":[null,1,"x"]}`, "\xff"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		set, err := parseJWKS(in, false)
		if err != nil {
			return
		}
		if len(set.keys) == 0 || len(set.keys) > maxKeys {
			t.Fatalf("got %d keys", len(set.keys))
		}
		for _, k := range set.keys {
			if _, symmetric := k.key.([]byte); symmetric || len(k.algs) == 0 {
				t.Errorf("got the key %T with %v", k.key, k.algs)
			}
		}
	})
}
