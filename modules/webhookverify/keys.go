package webhookverify

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/signature"
)

// key is a version of a secret in the form that its scheme works with.
type key struct {
	signature.Key
	version secret.Version
}

// newKeys are the keys of a secret's active versions, anew when these change.
func newKeys(scheme *signature.Scheme, set *secret.Set) *secret.Derived[[]key] {
	return &secret.Derived[[]key]{Set: set, Make: func(snap *secret.Snapshot) ([]key, error) {
		keys := make([]key, 0, len(snap.Versions))
		for _, v := range snap.Versions {
			k, err := scheme.ParseKey(v.Value.Reveal())
			if err != nil {
				return nil, fmt.Errorf("secret %s for webhook_verify %s: %w (version %s)", set.Name, scheme.Name, err, v.Label)
			}
			keys = append(keys, key{k, v})
		}
		return keys, nil
	}}
}

// verify checks the request under each key of the secrets, and marks the one that fits as used. A
// sender is told to come again while there is no key at all: its webhook may be genuine.
func verify(scheme *signature.Scheme, now time.Time, h http.Header, body []byte, tolerance time.Duration, secrets []*secret.Derived[[]key]) (signature.Verified, error) {
	tried := false
	var first error
	for _, s := range secrets {
		keys, err := s.Get()
		if err != nil {
			first = errors.Join(first, err)
			continue
		}
		for _, k := range keys {
			event, err := scheme.Verify(now, h, body, tolerance, k.Key)
			if err == nil {
				k.version.Used(now)
			}
			if !errors.Is(err, signature.ErrMismatch) {
				return event, err
			}
			first, tried = err, true
		}
	}
	if !tried {
		return signature.Verified{}, (&problem.Error{
			Code: problem.Unavailable, RetryAfter: ingestRetry, Detail: "The webhook cannot be verified now, send it again.",
		}).Because(errors.Join(errors.New("no version of the secrets is active"), first))
	}
	return signature.Verified{}, first
}
