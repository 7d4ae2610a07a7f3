package jobs

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

// signingKey names the generated key file. Its text, whsec_ and base64, is what a receiver's
// Standard Webhooks library takes as the secret.
const signingKey = "jobs-signing"

const keyPrefix = "whsec_"

// newSigningKey makes the text of a new key of 32 random bytes.
func newSigningKey() ([]byte, error) {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	return []byte(keyPrefix + base64.StdEncoding.EncodeToString(b)), nil
}

// signer signs pushes after Standard Webhooks 1.0, scheme v1.
type signer struct{ key []byte }

func newSigner(set *secret.Set) (*signer, error) {
	text, ok := strings.CutPrefix(strings.TrimSpace(string(set.Newest().Value.Reveal())), keyPrefix)
	key, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(key) < 24 {
		return nil, fmt.Errorf("the key %s must be %s and the base64 of at least 24 bytes: delete the file to have a new one made", set.Name, keyPrefix)
	}
	return &signer{key: key}, nil
}

// sign sets the three headers over id, now and body.
func (s *signer) sign(h http.Header, id string, now time.Time, body []byte) {
	ts := strconv.FormatInt(now.Unix(), 10)
	mac := hmac.New(sha256.New, s.key)
	_, _ = mac.Write([]byte(id + "." + ts + "."))
	_, _ = mac.Write(body)
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", ts)
	h.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}
