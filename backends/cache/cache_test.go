package cache

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/backends/cache/cachetest"
	"github.com/gatehouse-proxy/gatehouse/integration/pgtest"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// start opens the cache in dir, or on the PostgreSQL at url, as a host does and serves it on a socket.
func start(t testing.TB, dir string, c Config, url ...string) (*Service, *httptest.Server, func()) {
	t.Helper()
	h, err := service.NewHost(context.Background(), service.Settings{DataDir: dir, Database: strings.Join(url, "")}, nil,
		func(string) (service.Opener, error) { return c, nil })
	if err != nil {
		t.Fatal(err)
	}
	if err = h.Open(t.Context(), "cache"); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h.Service("cache"))
	stop := func() {
		srv.Close()
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
	return h.Service("cache").(*Service), srv, stop
}

func TestExamine(t *testing.T) { pgtest.Each(t, testExamine) }

func testExamine(t *testing.T, url string) {
	_, srv, stop := start(t, t.TempDir(), Config{FillAllow: []string{"127.0.0.1"}}, url)
	defer stop()
	cachetest.Examine(t, srv.URL, &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }})
}
