package backend_test

import (
	"net/http"
	"strings"
	"testing"

	_ "github.com/gatehouse-proxy/gatehouse/modules/backend"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

func TestUnknownBackendIsNamed(t *testing.T) {
	_, err := modtest.TryStart(t, ":80 {\n\tbackend jbos\n}\n")
	if err == nil || !strings.Contains(err.Error(), "unknown backend: jbos") {
		t.Fatalf("got %v, want an error that names the backend", err)
	}
	_ = http.MethodGet
}
