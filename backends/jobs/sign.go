package jobs

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
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

// signer signs pushes after Standard Webhooks 1.0, scheme v1, with every active version of its set: a
// receiver that has the older key goes on verifying until that retires.
type signer struct {
	keys *secret.Derived[[]signingVersion]
}

// signingVersion is a version of the key, decoded.
type signingVersion struct {
	key     []byte
	version secret.Version
}

func newSigner(set *secret.Set, log *slog.Logger) (*signer, error) {
	s := &signer{&secret.Derived[[]signingVersion]{Set: set, Make: func(snap *secret.Snapshot) ([]signingVersion, error) {
		var all []signingVersion
		for _, v := range snap.Versions {
			text, ok := strings.CutPrefix(strings.TrimSpace(string(v.Value.Reveal())), keyPrefix)
			key, err := base64.StdEncoding.DecodeString(text)
			if !ok || err != nil || len(key) < 24 {
				return nil, fmt.Errorf("the key %s must be %s and the base64 of at least 24 bytes: delete the file to have a new one made", set.Name, keyPrefix)
			}
			all = append(all, signingVersion{key, v})
		}
		if len(all) == 0 {
			return nil, fmt.Errorf("the key %s has no active version: gatehouse secrets rotate %s makes one", set.Name, set.Name)
		}
		return all, nil
	}}}
	if _, err := s.keys.Get(); err != nil {
		return nil, err
	}
	s.keys.Failed = func(err error) {
		log.Error("the new signing key cannot be used, the one before it goes on signing", "error", err)
	}
	return s, nil
}

// sign sets the three headers over id, now and body. There is one signature for each active key,
// the newest first.
func (s *signer) sign(h http.Header, id string, now time.Time, body []byte) {
	ts := strconv.FormatInt(now.Unix(), 10)
	keys, _ := s.keys.Get() // there has been one, so there is no error
	signatures := make([]string, 0, len(keys))
	for _, k := range keys {
		mac := hmac.New(sha256.New, k.key)
		_, _ = mac.Write([]byte(id + "." + ts + "."))
		_, _ = mac.Write(body)
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	if len(keys) > 0 {
		keys[0].version.Used(now) // the others are used by whoever verifies
	}
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", ts)
	h.Set("Webhook-Signature", strings.Join(signatures, " "))
}
