package cache_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/backends/cache/cachetest"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend/cache"
	_ "github.com/gatehouse-proxy/gatehouse/modules/guard"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

func TestGolden(t *testing.T) { modtest.Golden(t, "testdata") }

func TestExamine(t *testing.T) {
	g := modtest.Start(t, `{
	gatehouse {
		data_dir @@data@@
		backend cache {
			fill_allow 127.0.0.1
		}
	}
}
:80 {
	guard {
		paths pass
	}
	backend cache as operator
}
`)
	srv := httptest.NewServer(g)
	defer srv.Close()
	cachetest.Examine(t, srv.URL, &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }})
}
