package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

const (
	minRSABits   = 2048
	minHMACBytes = 32 // RFC 7518 section 3.2
)

// signingKey is one key with its one algorithm. verify is what checks a signature: the public key,
// or for HS256 the key itself.
type signingKey struct {
	kid          string
	method       jwt.SigningMethod
	sign, verify any
	version      secret.Version
}

// GenerateKey makes an Ed25519 private key as PKCS #8 in PEM.
func GenerateKey() ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// parseKey reads a PEM private key, or raw bytes for HS256. Its errors never hold key material.
func parseKey(raw []byte) (signingKey, error) {
	if !bytes.Contains(raw, []byte("-----BEGIN")) {
		if len(raw) < minHMACBytes {
			return signingKey{}, fmt.Errorf("the key has %d bytes, HS256 needs at least %d: make one with `openssl rand -hex 32`", len(raw), minHMACBytes)
		}
		if secret.IsPublic(raw) {
			return signingKey{}, errors.New("it is a public key, with which anyone could sign: use a private key in PEM, or random bytes made with `openssl rand -hex 32`")
		}
		return signingKey{kid: hmacID(raw), method: jwt.SigningMethodHS256, sign: raw, verify: raw}, nil
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return signingKey{}, errors.New("the PEM block of the key is damaged")
	}
	key, err := jwkset.LoadX509KeyInfer(block)
	if err != nil {
		return signingKey{}, fmt.Errorf("the PEM block %q is not a private key that can sign, use an unencrypted PKCS #8 PRIVATE KEY", block.Type)
	}
	k := signingKey{sign: key}
	switch key := key.(type) {
	case ed25519.PrivateKey:
		k.method, k.verify = jwt.SigningMethodEdDSA, key.Public()
	case *ecdsa.PrivateKey:
		if key.Curve != elliptic.P256() {
			return signingKey{}, fmt.Errorf("the EC key is on the curve %s, only P-256 signs", key.Params().Name)
		}
		k.method, k.verify = jwt.SigningMethodES256, key.Public()
	case *rsa.PrivateKey:
		if key.N.BitLen() < minRSABits {
			return signingKey{}, fmt.Errorf("the RSA key has %d bits, it needs at least %d", key.N.BitLen(), minRSABits)
		}
		k.method, k.verify = jwt.SigningMethodRS256, key.Public()
	default:
		return signingKey{}, fmt.Errorf("the PEM block %q holds no private key of RSA, EC P-256 or Ed25519", block.Type)
	}
	k.kid, err = thumbprint(k.verify)
	return k, err
}

// hmacID identifies a symmetric key without saying anything about it.
func hmacID(key []byte) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("gatehouse kid"))
	return hex.EncodeToString(mac.Sum(nil)[:8])
}

// thumbprint is the JWK thumbprint of a public key (RFC 7638).
func thumbprint(public crypto.PublicKey) (string, error) {
	jwk, err := jwkset.NewJWKFromKey(public, jwkset.JWKOptions{})
	if err != nil {
		return "", fmt.Errorf("reading the public key: %w", err)
	}
	m := jwk.Marshal()
	var members any // the required members in the order of their names
	switch public.(type) {
	case *rsa.PublicKey:
		members = struct {
			E   string `json:"e"`
			Kty string `json:"kty"`
			N   string `json:"n"`
		}{m.E, m.KTY.String(), m.N}
	case *ecdsa.PublicKey:
		members = struct {
			Crv string `json:"crv"`
			Kty string `json:"kty"`
			X   string `json:"x"`
			Y   string `json:"y"`
		}{m.CRV.String(), m.KTY.String(), m.X, m.Y}
	default:
		members = struct {
			Crv string `json:"crv"`
			Kty string `json:"kty"`
			X   string `json:"x"`
		}{m.CRV.String(), m.KTY.String(), m.X}
	}
	b, err := json.Marshal(members)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

func parseKeys(name string, versions []secret.Version) ([]signingKey, error) {
	keys := make([]signingKey, 0, len(versions))
	for _, v := range versions {
		k, err := parseKey(v.Value.Reveal())
		if err != nil {
			return nil, fmt.Errorf("identity: the signing key %s (%s) cannot be used: %w", name, v.Label, err)
		}
		k.version = v
		keys = append(keys, k)
	}
	return keys, nil
}
