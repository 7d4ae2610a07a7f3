package locks_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/backends/locks/lockstest"
	"github.com/gatehouse-proxy/gatehouse/integration/redistest"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend/locks"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

func TestGolden(t *testing.T) { modtest.Golden(t, "testdata") }

func TestStoreRedisNeedsARedis(t *testing.T) {
	_, err := modtest.TryStart(t, "{\n\tgatehouse {\n\t\tdata_dir @@data@@\n\t\tbackend locks {\n\t\t\tstore redis\n\t\t}\n\t}\n}\n:80 {\n\tbackend locks\n}\n")
	if err == nil || !strings.Contains(err.Error(), "gatehouse { redis redis://127.0.0.1:6379 }") {
		t.Errorf("got %v, want an error with the remedy", err)
	}
}

func TestExamineThroughTheGatewayOnRedis(t *testing.T) {
	redis := redistest.Start(t)
	var instances []string
	for range 2 {
		g := modtest.Start(t, "{\n\tgatehouse {\n\t\tdata_dir @@data@@\n\t\tredis "+redis.URL()+"\n\t\tbackend locks {\n\t\t\tstore redis\n\t\t}\n\t}\n}\n:80 {\n\tbackend locks\n}\n")
		srv := httptest.NewServer(g)
		t.Cleanup(srv.Close)
		instances = append(instances, srv.URL)
	}
	lockstest.Examine(t, instances[0], http.DefaultClient, instances[1])
}

func TestExamineThroughTheGateway(t *testing.T) {
	g := modtest.Start(t, "{\n\tgatehouse {\n\t\tdata_dir @@data@@\n\t}\n}\n:80 {\n\tbackend locks\n}\n")
	srv := httptest.NewServer(g)
	t.Cleanup(srv.Close)
	lockstest.Examine(t, srv.URL, srv.Client())
}
