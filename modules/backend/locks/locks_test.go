package locks_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

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

// TestStoreRedisIsShared: a lock of one gateway is held in another. That all else holds too is examined in
// backends/locks.
func TestStoreRedisIsShared(t *testing.T) {
	redis := redistest.Start(t)
	var instances []*modtest.Gateway
	for range 2 {
		instances = append(instances, modtest.Start(t, "{\n\tgatehouse {\n\t\tdata_dir @@data@@\n\t\tredis "+redis.URL()+"\n\t\tbackend locks {\n\t\t\tstore redis\n\t\t}\n\t}\n}\n:80 {\n\tbackend locks\n}\n"))
	}
	for i, want := range []int{http.StatusOK, http.StatusConflict} {
		if resp := instances[i].Do(httptest.NewRequest(http.MethodPost, "/locks/shared", strings.NewReader(`{"ttl":"30s"}`))); resp.StatusCode != want {
			t.Errorf("instance %d: got %d, want %d", i, resp.StatusCode, want)
		}
	}
}
