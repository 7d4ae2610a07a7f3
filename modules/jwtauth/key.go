package jwtauth

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

const (
	minRSABits = 2048
	maxKeys    = 32
	maxJWKS    = 64 << 10 // bytes of a JWK set
)

// algEd25519 is the name that RFC 9864 gives to the algorithm that RFC 8037 calls EdDSA.
const algEd25519 = "Ed25519"

func init() {
	jwt.RegisterSigningMethod(algEd25519, func() jwt.SigningMethod { return jwt.SigningMethodEdDSA })
}

// hmacBytes is the least length of an HMAC key by algorithm (RFC 7518 section 3.2).
var hmacBytes = map[string]int{"HS256": 32, "HS384": 48, "HS512": 64}

// rsaAlgs are the algorithms that a JWK may pin an RSA key to.
var rsaAlgs = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}

// ecAlgs is the one algorithm of each curve (RFC 7518 section 3.4).
var ecAlgs = map[string]string{"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}

// key verifies signatures of its own algorithm and of no other (RFC 8725 section 3.1).
type key struct {
	id   string   // kid, or "" for a key that has none and fits any
	algs []string // header values of alg that it verifies
	key  any      // []byte, *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey
}

// keySet is an immutable set of keys, with the issuer they belong to where that is known.
type keySet struct {
	keys []key
	// issuer and audience are what tokens must have where the directive does not say.
	issuer, audience string
}

// find gives the keys that may have signed a token with this kid ("" if it has none) and alg.
// known says that a key of that kid is there, whatever its algorithm.
func (s *keySet) find(kid, alg string) (fit []jwt.VerificationKey, known bool) {
	for _, k := range s.keys {
		if kid != "" && k.id != "" && k.id != kid {
			continue
		}
		known = true
		if slices.Contains(k.algs, alg) {
			fit = append(fit, k.key)
		}
	}
	return fit, known
}

// newKey pins a key to its algorithm: alg if it fits the key, or the key's usual one if alg is "".
// Of a private key it takes the public half.
func newKey(id, alg string, raw any) (key, error) {
	switch k := raw.(type) {
	case []byte:
		if alg == "" {
			alg = "HS256"
		}
		need, ok := hmacBytes[alg]
		switch {
		case !ok:
			return key{}, fmt.Errorf("a symmetric key cannot verify %q", alg)
		case len(k) < need:
			return key{}, fmt.Errorf("a key for %s needs at least %d bytes, it has %d", alg, need, len(k))
		}
		return key{id, []string{alg}, k}, nil
	case *rsa.PrivateKey:
		return newKey(id, alg, &k.PublicKey)
	case *rsa.PublicKey:
		if alg == "" {
			alg = "RS256"
		}
		switch {
		case !slices.Contains(rsaAlgs, alg):
			return key{}, fmt.Errorf("an RSA key cannot verify %q", alg)
		case k.N.BitLen() < minRSABits:
			return key{}, fmt.Errorf("an RSA key needs at least %d bits, it has %d", minRSABits, k.N.BitLen())
		case k.E < 3 || k.E%2 == 0:
			return key{}, errors.New("the RSA key has an impossible exponent")
		}
		return key{id, []string{alg}, k}, nil
	case *ecdsa.PrivateKey:
		return newKey(id, alg, &k.PublicKey)
	case *ecdsa.PublicKey:
		own, ok := ecAlgs[k.Params().Name]
		if !ok || alg != "" && alg != own {
			return key{}, fmt.Errorf("an EC key on %s cannot verify %q", k.Params().Name, alg)
		}
		return key{id, []string{own}, k}, nil
	case ed25519.PrivateKey:
		return newKey(id, alg, k.Public())
	case ed25519.PublicKey:
		if alg != "" && alg != "EdDSA" && alg != algEd25519 {
			return key{}, fmt.Errorf("an Ed25519 key cannot verify %q", alg)
		}
		return key{id, []string{"EdDSA", algEd25519}, k}, nil
	}
	return key{}, errors.New("the type of the key is not one that verifies tokens: use RSA, EC P-256, P-384, P-521, Ed25519 or HMAC")
}

// parseSecret reads a secret's value: a PEM key, public or private, or the raw bytes of an HS256
// key. What looks like a public key but is not PEM is refused: as an HMAC key anyone could sign with it.
func parseSecret(raw []byte) (key, error) {
	if bytes.Contains(raw, []byte("-----BEGIN")) {
		return parsePEM(raw)
	}
	var jwk struct {
		Kty  string          `json:"kty"`
		Keys json.RawMessage `json:"keys"`
	}
	switch {
	case json.Unmarshal(raw, &jwk) == nil && (jwk.Kty != "" || len(jwk.Keys) > 0):
		return key{}, errors.New(`it is a JWK or a set of them: put it into a file as {"keys":[…]} and use jwks file PATH`)
	case isPublic(raw) || bytes.HasPrefix(raw, []byte("ssh-")) || bytes.HasPrefix(raw, []byte("ecdsa-sha2-")):
		return key{}, errors.New("it is a public key but not in PEM: convert it to a PEM block PUBLIC KEY")
	}
	return newKey("", "", raw)
}

// isPublic says whether raw is a public key or a certificate in DER, or the base64 of one, which is
// how some identity providers show their key.
func isPublic(raw []byte) bool {
	if isPublicDER(raw) {
		return true
	}
	text := strings.TrimRight(strings.Join(strings.Fields(string(raw)), ""), "=")
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if der, err := encoding.DecodeString(text); err == nil && isPublicDER(der) {
			return true
		}
	}
	return false
}

func isPublicDER(der []byte) bool {
	_, notSPKI := x509.ParsePKIXPublicKey(der)
	_, notPKCS1 := x509.ParsePKCS1PublicKey(der)
	_, notCert := x509.ParseCertificate(der)
	return notSPKI == nil || notPKCS1 == nil || notCert == nil
}

func parsePEM(raw []byte) (key, error) {
	block, _ := pem.Decode(raw)
	if block == nil {
		return key{}, errors.New("the PEM block is damaged")
	}
	if block.Type == "CERTIFICATE" {
		return key{}, errors.New("it is a certificate: take its key out with `openssl x509 -pubkey -noout`")
	}
	k, err := jwkset.LoadX509KeyInfer(block)
	if err != nil {
		return key{}, fmt.Errorf("the PEM block %q holds no key that verifies tokens, use a PUBLIC KEY or an unencrypted PRIVATE KEY", block.Type)
	}
	return newKey("", "", k)
}

// parseJWKS reads a JWK set (RFC 7517 section 5). Keys that cannot verify tokens are skipped, and so
// are all beyond the 32nd. Symmetric keys count only in a local file: from anywhere else they are not secret.
func parseJWKS(raw []byte, local bool) (*keySet, error) {
	if len(raw) > maxJWKS {
		return nil, fmt.Errorf("the JWK set is larger than %d bytes", maxJWKS)
	}
	var doc struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("reading the JWK set: %w", err)
	}
	set := new(keySet)
	for _, member := range doc.Keys {
		if len(set.keys) == maxKeys {
			break
		}
		if k, err := parseJWK(member, local); err == nil {
			set.keys = append(set.keys, k)
		}
	}
	if len(set.keys) == 0 {
		return nil, fmt.Errorf("none of the %d keys in the JWK set can verify tokens", len(doc.Keys))
	}
	return set, nil
}

var errNotForVerifying = errors.New("the key is not for verifying")

func parseJWK(raw []byte, local bool) (key, error) {
	var m jwkset.JWKMarshal
	if err := json.Unmarshal(raw, &m); err != nil {
		return key{}, err
	}
	if m.USE != "" && m.USE != jwkset.UseSig {
		return key{}, errNotForVerifying
	}
	if len(m.KEYOPS) > 0 && !slices.Contains(m.KEYOPS, jwkset.KeyOpsVerify) {
		return key{}, errNotForVerifying
	}
	// Certificates say nothing that is used here, and one that is broken must not cost the key.
	m.X5C, m.X5T, m.X5TS256, m.X5U = nil, "", "", ""
	alg := m.ALG.String()
	if alg == algEd25519 { // a name that the library does not know
		m.ALG = jwkset.AlgEdDSA
	}
	jwk, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{Private: local && m.KTY == jwkset.KtyOct}, jwkset.JWKValidateOptions{})
	if err != nil {
		return key{}, err
	}
	return newKey(m.KID, alg, jwk.Key())
}

// source gives the keys in force. It is safe for concurrent use.
type source interface {
	// current is the set in force, or nil where there is none yet. It never waits.
	current(now time.Time) *keySet
	// load is current, and waits where there is none yet. Its error is a problem.
	load(ctx context.Context, now time.Time) (*keySet, error)
	// newer looks for a set that is newer than old, for a token whose key is not in old. It returns
	// old where there is none.
	newer(ctx context.Context, now time.Time, old *keySet) *keySet
}

// fixed is a source whose keys never change.
type fixed struct{ set *keySet }

func (f fixed) current(time.Time) *keySet                                 { return f.set }
func (f fixed) load(context.Context, time.Time) (*keySet, error)          { return f.set, nil }
func (f fixed) newer(_ context.Context, _ time.Time, old *keySet) *keySet { return old }

// tokenIssuer is what jwt_auth needs of the identity backend.
type tokenIssuer interface {
	// TokenIssuer and TokenAudience are the iss and the aud of its tokens.
	TokenIssuer() string
	TokenAudience() string
	// VerificationKeys yields the kid, the alg and the key itself of each key.
	VerificationKeys(yield func(kid, alg string, key any))
}

// keysOf are the keys of the identity backend.
func keysOf(i tokenIssuer) (*keySet, error) {
	set := &keySet{issuer: i.TokenIssuer(), audience: i.TokenAudience()}
	var failed error
	i.VerificationKeys(func(kid, alg string, raw any) {
		k, err := newKey(kid, alg, raw)
		if err != nil {
			failed = errors.Join(failed, err)
			return
		}
		set.keys = append(set.keys, k)
	})
	if failed != nil {
		return nil, fmt.Errorf("reading the keys of the identity backend: %w", failed)
	}
	return set, nil
}

// accepted says whether alg is an algorithm that any key can have.
func accepted(alg string) bool {
	switch alg {
	case "HS256", "HS384", "HS512", "ES256", "ES384", "ES512", "EdDSA", algEd25519:
		return true
	}
	return slices.Contains(rsaAlgs, alg)
}
