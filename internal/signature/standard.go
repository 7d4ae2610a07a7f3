package signature

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"time"
)

const (
	macVersion   = "v1"  // HMAC-SHA256
	eddsaVersion = "v1a" // Ed25519

	// secretSize is the length of a new secret; Standard Webhooks wants 24 to 64 bytes.
	secretSize = 32
	// maxID is the longest event id that is accepted.
	maxID = 256
)

// Standard is Standard Webhooks: webhook-id, webhook-timestamp in seconds, and webhook-signature
// with v1,<base64> entries separated by spaces, over "<id>.<timestamp>.<body>". The names svix-id,
// svix-timestamp and svix-signature are understood as well. A secret is whsec_ and base64, or for
// v1a a key pair's half: whpk_ verifies, whsk_ signs and verifies.
var Standard = &Scheme{
	Name:  "standard",
	Timed: true,
	unit:  time.Second,
	key:   standardKey,
	read:  readStandard,
	write: writeStandard,
	lead:  func(c *claim) string { return c.id + "." + c.timestamp + "." },
}

// NewStandardSecret makes a secret for Standard: whsec_ and 32 random bytes in base64.
func NewStandardSecret() string {
	b := make([]byte, secretSize)
	_, _ = rand.Read(b) // never fails
	return "whsec_" + base64.StdEncoding.EncodeToString(b)
}

func standardKey(secret []byte) (Key, error) {
	kind, text := []byte("whsec_"), secret
	for _, prefix := range []string{"whsec_", "whpk_", "whsk_"} {
		if rest, ok := bytes.CutPrefix(secret, []byte(prefix)); ok {
			kind, text = []byte(prefix), rest
		}
	}
	b, err := unpadded(string(text))
	switch {
	case err != nil:
		return Key{}, errors.New("the secret is not base64 after its prefix whsec_, copy it again from where it was issued")
	case len(b) == 0:
		return Key{}, errors.New("the secret is empty after its prefix")
	}
	switch string(kind) {
	case "whpk_":
		if len(b) != ed25519.PublicKeySize {
			return Key{}, errors.New("a whpk_ key must have 32 bytes")
		}
		return Key{public: b}, nil
	case "whsk_":
		if len(b) != ed25519.SeedSize && len(b) != ed25519.PrivateKeySize {
			return Key{}, errors.New("a whsk_ key must have 32 or 64 bytes")
		}
		private := ed25519.NewKeyFromSeed(b[:ed25519.SeedSize])
		return Key{private: private, public: private.Public().(ed25519.PublicKey)}, nil
	}
	return Key{mac: b}, nil
}

// unpadded decodes standard base64 whose padding may be missing: some issuers drop it.
func unpadded(s string) ([]byte, error) {
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
}

func readStandard(h http.Header) (*claim, error) {
	names := "Webhook-"
	if len(h.Values("Webhook-Signature")) == 0 && len(h.Values("Svix-Signature")) > 0 {
		names = "Svix-"
	}
	signatures, err := list(h, names+"Signature", " ")
	if err != nil {
		return nil, err
	}
	c := new(claim)
	if c.id, err = one(h, names+"Id"); err != nil {
		return nil, err
	}
	if !validID(c.id) {
		return nil, fail(ErrMalformed, "The header %sId must be at most %d visible characters without a dot.", names, maxID)
	}
	if c.timestamp, err = one(h, names+"Timestamp"); err != nil {
		return nil, err
	}
	if c.at, err = instant(c.timestamp, names+"Timestamp", time.Second); err != nil {
		return nil, err
	}
	for entry := range strings.FieldsSeq(signatures) {
		version, text, _ := strings.Cut(entry, ",")
		b, err := unpadded(text)
		switch {
		case err != nil:
		case version == macVersion:
			c.macs = append(c.macs, b)
		case version == eddsaVersion:
			c.eddsas = append(c.eddsas, b)
		}
	}
	if len(c.macs)+len(c.eddsas) == 0 {
		return nil, fail(ErrMalformed, "The header %sSignature holds no signature of the form v1,<base64>.", names)
	}
	return c, nil
}

// validID keeps "<id>.<timestamp>.<body>" readable in one way only.
func validID(id string) bool {
	if len(id) > maxID {
		return false
	}
	for _, c := range []byte(id) {
		if c <= ' ' || c > '~' || c == '.' {
			return false
		}
	}
	return id != ""
}

func writeStandard(h http.Header, c *claim) {
	h.Set("Webhook-Id", c.id)
	h.Set("Webhook-Timestamp", c.timestamp)
	var entries []string
	for _, b := range c.macs {
		entries = append(entries, macVersion+","+base64.StdEncoding.EncodeToString(b))
	}
	for _, b := range c.eddsas {
		entries = append(entries, eddsaVersion+","+base64.StdEncoding.EncodeToString(b))
	}
	h.Set("Webhook-Signature", strings.Join(entries, " "))
}
