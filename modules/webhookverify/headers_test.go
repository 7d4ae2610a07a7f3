package webhookverify

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/internal/signature"
)

// untouched is a body that must not be read.
type untouched struct{ t *testing.T }

func (u untouched) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, http.ErrBodyNotAllowed
}

// TestHeadersAreJudgedFirst: nothing is read for a stranger.
func TestHeadersAreJudgedFirst(t *testing.T) {
	for _, scheme := range signature.Schemes {
		t.Run(scheme.Name, func(t *testing.T) {
			g := start(t, scheme, "", "", "respond passed")
			r := httptest.NewRequest(http.MethodPost, "/", untouched{t})
			if got := g.Do(r).StatusCode; got != http.StatusUnauthorized {
				t.Errorf("got %d, want 401", got)
			}
		})
	}
}
