package identity

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/network"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// minAdminSecret is the shortest admin secret in bytes.
const minAdminSecret = 16

// checkAdmin says which version of the admin secret is too short.
func checkAdmin(set *secret.Set) error {
	for _, v := range set.Versions() {
		if n := len(v.Value.Reveal()); n > 0 && n < minAdminSecret {
			return fmt.Errorf("identity: admin_secret: the version %s of %s has %d bytes, it must have at least %d that cannot be guessed", v.Label, set.Name, n, minAdminSecret)
		}
	}
	return nil
}

// mayManage says whether a request may use the admin API: one through the gateway's admin endpoint, or one
// with a version of the admin secret. It is an error if too many from the client's address had a wrong one.
func (s *Service) mayManage(r *http.Request) (bool, error) {
	if service.IsAdmin(r.Context()) {
		return true, nil
	}
	token := bearer(r)
	if s.admin == nil || token == "" || !strings.HasPrefix(r.URL.Path, "/users") && !strings.HasPrefix(r.URL.Path, "/revocations") {
		return false, nil
	}
	now := s.now()
	key := attemptKey("admin", network.Of(clientAddr(r)))
	failed, err := s.attempts.failed(r.Context(), [2]string{key}, now)
	if err != nil {
		return false, err
	}
	limit := s.attempts.limits[byAddress]
	if failed[0].n >= limit.N {
		return false, &problem.Error{Code: problem.QuotaExceeded, RetryAfter: failed[0].until.Sub(now), Detail: "Too many requests have come with a wrong admin secret, try again later."}
	}
	if s.isAdminSecret(token, now) {
		return true, nil
	}
	return false, s.attempts.record(r.Context(), now, failure{key, limit.Per})
}

func (s *Service) isAdminSecret(token string, now time.Time) bool {
	given := sha256.Sum256([]byte(token))
	is := 0
	for _, v := range s.admin.Versions() {
		if len(v.Value.Reveal()) < minAdminSecret {
			continue
		}
		want := sha256.Sum256(v.Value.Reveal())
		same := subtle.ConstantTimeCompare(given[:], want[:])
		is |= same
		if same == 1 {
			v.Used(now)
		}
	}
	return is == 1
}
