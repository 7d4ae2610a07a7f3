package source

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gatehouse-proxy/gatehouse/internal/wholefile"
)

const (
	webhookPrefix = "whsec_"
	keyBytes      = 32
)

// errNotMade is for values of which another cannot be made here.
var errNotMade = errors.New("a new one of its kind is made by whoever owns it: give the value with --value -")

// newLike makes a new value of the same kind as old: a private key in PEM of the same type and
// encoding, the secret of a webhook (whsec_), or else 32 random bytes in hexadecimal.
func newLike(old []byte) ([]byte, error) {
	random := make([]byte, keyBytes)
	_, _ = rand.Read(random) // it never fails
	trimmed := bytes.TrimSpace(old)
	switch {
	case bytes.HasPrefix(trimmed, []byte(webhookPrefix)):
		return []byte(webhookPrefix + base64.StdEncoding.EncodeToString(random)), nil
	case bytes.HasPrefix(trimmed, []byte("whpk_")), bytes.HasPrefix(trimmed, []byte("whsk_")):
		return nil, fmt.Errorf("the newest version is a webhook's Ed25519 key: %w", errNotMade)
	case bytes.HasPrefix(trimmed, []byte("{")) && json.Valid(trimmed):
		return nil, fmt.Errorf("the newest version is JSON, such as a JWK: %w", errNotMade)
	}
	if block, _ := pem.Decode(trimmed); block != nil {
		return newKeyLike(block)
	}
	if bytes.Contains(trimmed, []byte("-----BEGIN ")) {
		return nil, fmt.Errorf("the newest version is PEM that cannot be read: %w", errNotMade)
	}
	return []byte(hex.EncodeToString(random)), nil
}

// missing reports whether there is no file of that name.
func missing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// makeFile makes a file with a new value. It leaves one alone that is there, or that another makes meanwhile.
func makeFile(path string) error {
	value, err := newLike(nil)
	if err != nil {
		return err
	}
	if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
		err = wholefile.Write(path, append(value, '\n'), os.Link)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s cannot be made: %w", path, err)
	}
	return nil
}

// newKeyLike makes a key of the type of the one in block, in its encoding.
func newKeyLike(block *pem.Block) ([]byte, error) {
	old, encode, err := parseKey(block)
	if err != nil {
		return nil, err
	}
	var key any
	switch old := old.(type) {
	case ed25519.PrivateKey:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case *ecdsa.PrivateKey:
		key, err = ecdsa.GenerateKey(old.Curve, rand.Reader)
	case *rsa.PrivateKey:
		key, err = rsa.GenerateKey(rand.Reader, max(old.N.BitLen(), 2048))
	default:
		return nil, fmt.Errorf("the newest version is a key of the type %T: %w", old, errNotMade)
	}
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	der, err := encode(key)
	if err != nil {
		return nil, fmt.Errorf("encoding the new key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: der}), nil
}

// parseKey reads a private key; encode writes one of the same type in the same way.
func parseKey(block *pem.Block) (key any, encode func(any) ([]byte, error), err error) {
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		encode = x509.MarshalPKCS8PrivateKey
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
		encode = func(k any) ([]byte, error) { return x509.MarshalECPrivateKey(k.(*ecdsa.PrivateKey)) }
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		encode = func(k any) ([]byte, error) { return x509.MarshalPKCS1PrivateKey(k.(*rsa.PrivateKey)), nil }
	default:
		return nil, nil, fmt.Errorf("the newest version is a PEM block of the type %.40q: %w", block.Type, errNotMade)
	}
	if err != nil { // the parser's own sentence may hold bytes of the key
		return nil, nil, fmt.Errorf("the newest version is a private key that cannot be read: %w", errNotMade)
	}
	return key, encode, nil
}
