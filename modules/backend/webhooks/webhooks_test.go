package webhooks

import (
	"net/http/httptest"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/backends/webhooks/webhookstest"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend"   // backend NAME
	_ "github.com/gatehouse-proxy/gatehouse/modules/gatehouse" // the global option
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

func TestGolden(t *testing.T) { modtest.Golden(t, "testdata") }

// TestExamine judges the backend as the gateway serves it, with the real jobs backend.
func TestExamine(t *testing.T) {
	g := modtest.Start(t, `{
	gatehouse {
		data_dir @@data@@
		backend webhooks {
			allow_private 127.0.0.0/8
		}
	}
}
:80 {
	backend webhooks
}
`)
	front := httptest.NewServer(g)
	defer front.Close()
	webhookstest.Examine(t, front.URL, front.Client())
}
