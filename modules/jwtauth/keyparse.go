package jwtauth

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/MicahParks/jwkset"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

const (
	maxKeys = 500
	maxJWKS = 1 << 20 // bytes of a JWK set, and of metadata
)

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
	case secret.IsPublic(raw):
		return key{}, errPublic
	}
	return newKey("", "", raw)
}

var errPublic = errors.New("it is a public key but not in PEM: convert it to a PEM block PUBLIC KEY")

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

// publicKey reads one public key, in PEM or as a JWK (RFC 7517 section 4).
func publicKey(raw []byte) (*keySet, error) {
	var k key
	var err error
	switch raw = bytes.TrimSpace(raw); {
	case bytes.HasPrefix(raw, []byte("{")):
		k, err = publicJWK(raw)
	case bytes.Contains(raw, []byte("-----BEGIN")):
		k, err = parsePEM(raw)
	default:
		err = errors.New("it is no public key: use a PEM block PUBLIC KEY or a JWK")
	}
	return &keySet{keys: []key{k}}, err
}

func publicJWK(raw []byte) (key, error) {
	var jwk struct {
		Kty  string          `json:"kty"`
		Keys json.RawMessage `json:"keys"`
	}
	switch err := json.Unmarshal(raw, &jwk); {
	case err != nil:
		return key{}, errors.New("the JWK is not well-formed JSON")
	case len(jwk.Keys) > 0:
		return key{}, errors.New("it is a JWK set, for which there is: jwks file PATH")
	case jwk.Kty == string(jwkset.KtyOct):
		return key{}, errors.New("it is a symmetric key, for which there is: secret NAME")
	}
	k, err := parseJWK(raw, false)
	if err != nil {
		return key{}, fmt.Errorf("the JWK cannot verify tokens: %w", err)
	}
	return k, nil
}

// inlineKey reads a public key that stands in the configuration, which is no place for a private one.
func inlineKey(text string) (*keySet, error) {
	var jwk struct {
		D json.RawMessage `json:"d"`
	}
	if strings.Contains(text, "PRIVATE KEY-----") || json.Unmarshal([]byte(text), &jwk) == nil && len(jwk.D) > 0 {
		return nil, errors.New("it is a private key, which must not stand in the configuration: name its public half here")
	}
	return publicKey([]byte(text))
}

// fingerprint is a name for a key that stands in the configuration.
func fingerprint(text string) string {
	sum := sha256.Sum256([]byte(strings.TrimSpace(text)))
	return "key:" + hex.EncodeToString(sum[:4])
}

// parseJWKS reads a JWK set (RFC 7517 section 5), or a map of certificates by kid as Google has it for Firebase.
// Keys that cannot verify tokens are skipped, and so are all beyond the 500th. Symmetric keys count only in a
// local file: from anywhere else they are not secret.
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
	if doc.Keys == nil {
		if set.keys = certificates(raw); len(set.keys) > 0 {
			return set, nil
		}
	}
	for i, member := range doc.Keys {
		if len(set.keys) == maxKeys {
			set.left = len(doc.Keys) - i
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

// certificates are the keys of a JSON object with certificates in PEM by kid. Nothing else of a certificate
// than its key is looked at: that it came from the issuer says the connection.
func certificates(raw []byte) (keys []key) {
	var all map[string]string
	if json.Unmarshal(raw, &all) != nil {
		return nil
	}
	for _, kid := range slices.Sorted(maps.Keys(all)) {
		block, _ := pem.Decode([]byte(all[kid]))
		if block == nil || block.Type != "CERTIFICATE" || len(keys) == maxKeys {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			continue
		}
		if k, err := newKey(kid, "", cert.PublicKey); err == nil {
			keys = append(keys, k)
		}
	}
	return keys
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
	if raw, ok := jwk.Key().([]byte); ok && secret.IsPublic(raw) {
		return key{}, errPublic
	}
	return newKey(m.KID, alg, jwk.Key())
}
