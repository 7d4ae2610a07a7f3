package locks_test

import (
	"net/http/httptest"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/backends/locks/lockstest"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend/locks"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

func TestGolden(t *testing.T) { modtest.Golden(t, "testdata") }

func TestExamineThroughTheGateway(t *testing.T) {
	g := modtest.Start(t, "{\n\tgatehouse {\n\t\tdata_dir @@data@@\n\t}\n}\n:80 {\n\tbackend locks\n}\n")
	srv := httptest.NewServer(g)
	t.Cleanup(srv.Close)
	lockstest.Examine(t, srv.URL, srv.Client())
}
