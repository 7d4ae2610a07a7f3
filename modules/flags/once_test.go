package flags_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

// TestUsersThatComeTwiceAreRefused: who is asked about must not be a matter of which line counts.
func TestUsersThatComeTwiceAreRefused(t *testing.T) {
	up := app(t, "app").Listener.Addr().String()
	for name, site := range map[string]string{
		"matcher": "@on flag new-feed by {header.X-User}\nrespond @on on\nrespond off\n",
		"split":   "split new-feed {\nby {header.X-User}\nvariant on " + up + "\nvariant off " + up + "\n}\n",
	} {
		t.Run(name, func(t *testing.T) {
			g := modtest.Start(t, "{\ngatehouse {\ndata_dir @@data@@\n}\n}\n:80 {\n"+site+"}\n")
			for want, values := range map[int][]string{http.StatusOK: {"ann"}, http.StatusBadRequest: {"ann", "bob"}} {
				r := httptest.NewRequest(http.MethodGet, "/", nil)
				r.Header["X-User"] = values
				if got := g.Do(r).StatusCode; got != want {
					t.Errorf("%q: got %d, want %d", values, got, want)
				}
			}
		})
	}
}
