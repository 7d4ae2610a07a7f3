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
	srv := httptest.NewServer(asOperator(h.Service("cache")))
	stop := func() {
		srv.Close()
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
	return h.Service("cache").(*Service), srv, stop
}

// asOperator is h for a caller who may use the cache.
func asOperator(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set(service.RankHeader, service.RankOperator)
		h.ServeHTTP(w, r)
	})
}

func TestOnlyServicesAndOperators(t *testing.T) {
	s, _, stop := start(t, t.TempDir(), Config{}, "")
	defer stop()
	for name, c := range map[string]struct {
		header, value string
		want          int
	}{
		"nobody":   {"X-Other", "x", http.StatusUnauthorized},
		"user":     {service.SubjectHeader, "ann", http.StatusForbidden},
		"service":  {service.ScopeHeader, "cache:write", http.StatusNotFound},
		"operator": {service.RoleHeader, "admin", http.StatusNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			r, w := httptest.NewRequest(http.MethodGet, "/cache/greeting", nil), httptest.NewRecorder()
			r.Header.Set(c.header, c.value)
			if s.ServeHTTP(w, r); w.Code != c.want {
				t.Errorf("got %d %s, want %d", w.Code, w.Body, c.want)
			}
		})
	}
}

func TestExamine(t *testing.T) { pgtest.Each(t, testExamine) }

func testExamine(t *testing.T, url string) {
	_, srv, stop := start(t, t.TempDir(), Config{FillAllow: []string{"127.0.0.1"}}, url)
	defer stop()
	cachetest.Examine(t, srv.URL, &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }})
}
