package cache

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
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

// as sends a request for a user, or by header and value for somebody else, and returns status and body.
func as(t *testing.T, s *Service, who, method, target, body string, header ...string) (int, string) {
	t.Helper()
	r, w := httptest.NewRequest(method, target, strings.NewReader(body)), httptest.NewRecorder()
	if who != "" {
		r.Header.Set(service.SubjectHeader, who)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	s.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestWhoMay(t *testing.T) {
	s, _, stop := start(t, t.TempDir(), Config{FillAllow: []string{"127.0.0.1"}}, "")
	defer stop()
	for name, c := range map[string]struct {
		header, value string
		get, fill     int
	}{
		"nobody":   {"X-Other", "x", http.StatusUnauthorized, http.StatusUnauthorized},
		"user":     {service.SubjectHeader, "ann", http.StatusNotFound, http.StatusForbidden},
		"service":  {service.ScopeHeader, "cache:write", http.StatusNotFound, http.StatusBadRequest},
		"operator": {service.RoleHeader, "admin", http.StatusNotFound, http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			if got, body := as(t, s, "", http.MethodGet, "/cache/greeting", "", c.header, c.value); got != c.get {
				t.Errorf("got %d %s, want %d", got, body, c.get)
			}
			if got, body := as(t, s, "", http.MethodPost, "/cache/greeting/fill", `{"url":"ftp://127.0.0.1/"}`, c.header, c.value); got != c.fill {
				t.Errorf("fill: got %d %s, want %d", got, body, c.fill)
			}
		})
	}
}

// TestOwners: each user has keys and tags of their own, and those of nobody are not theirs.
func TestOwners(t *testing.T) { pgtest.Each(t, testOwners) }

func testOwners(t *testing.T, url string) {
	s, _, stop := start(t, t.TempDir(), Config{}, url)
	defer stop()
	operator := []string{service.RankHeader, service.RankOperator}
	want := func(who, method, target, body string, status int, value string, header ...string) {
		t.Helper()
		if got, answer := as(t, s, who, method, target, body, header...); got != status || value != "" && answer != value {
			t.Errorf("%s %s as %s: got %d %q, want %d %q", method, target, who, got, answer, status, value)
		}
	}
	want("ann", "PUT", "/cache/k?tag=news", "ann's", 201, "")
	want("", "PUT", "/cache/k?tag=news", "nobody's", 201, "", operator...)
	want("bob", "GET", "/cache/k", "", 404, "")
	want("bob", "PUT", "/cache/k?tag=news", "bob's", 201, "")
	want("ann", "GET", "/cache/k", "", 200, "ann's")
	want("ann", "GET", "/cache/k?owner=bob", "", 403, "")
	want("ann", "GET", "/cache/k?owner=ann", "", 200, "ann's")
	want("", "GET", "/cache/k?owner=ann", "", 200, "ann's", operator...)
	want("", "GET", "/cache/k?owner=nobody", "", 404, "", operator...)
	want("svc", "GET", "/cache/k", "", 200, "nobody's", service.ScopeHeader, "cache:write")

	want("bob", "DELETE", "/cache/k", "", 204, "")
	want("ann", "GET", "/cache/k", "", 200, "ann's")
	want("bob", "POST", "/cache/invalidate", `{"keys":["k"],"tags":["news"]}`, 200, "")
	want("ann", "GET", "/cache/k", "", 200, "ann's")
	want("", "POST", "/cache/invalidate", `{"tags":["news"]}`, 200, "", operator...)
	want("", "GET", "/cache/k", "", 404, "", operator...)
	want("ann", "GET", "/cache/k", "", 200, "ann's")
	want("", "POST", "/cache/invalidate?owner=ann", `{"tags":["news"]}`, 200, "", operator...)
	want("ann", "GET", "/cache/k", "", 404, "")
	want("ann%2", "GET", "/cache/k", "", 401, "") // no subject that the gateway writes
}

// TestOwnerBytes: who writes too much makes room among their own values.
func TestOwnerBytes(t *testing.T) { pgtest.Each(t, testOwnerBytes) }

func testOwnerBytes(t *testing.T, url string) {
	s, _, stop := start(t, t.TempDir(), Config{MaxValue: 100 << 10, OwnerBytes: 1 << 20}, url)
	defer stop()
	put := func(who, key string, size int) {
		t.Helper()
		if got, body := as(t, s, who, "PUT", "/cache/"+key, strings.Repeat("v", size)); got/100 != 2 {
			t.Fatalf("PUT %s as %s: got %d %s", key, who, got, body)
		}
	}
	put("bob", "first", 100)
	for i := range 100 {
		put("ann", "k"+strconv.Itoa(i), 50<<10)
	}
	put("ann", "k99", 60<<10) // a larger one in its place
	sum := func(owner string) (entries, counted int64) {
		t.Helper()
		row := s.state.db.Read.QueryRowContext(t.Context(), `SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT), CAST(COALESCE((SELECT bytes FROM cache_owners WHERE owner = $1), 0) AS BIGINT)
			FROM cache_entries WHERE owner = $1`, owner)
		if err := row.Scan(&entries, &counted); err != nil {
			t.Fatal(err)
		}
		return entries, counted
	}
	if entries, counted := sum("ann"); entries != counted || entries > 1<<20 || entries < 1<<19 {
		t.Errorf("ann has %d bytes and %d counted, want the same, at most a MiB and more than half of it", entries, counted)
	}
	if got, _ := as(t, s, "ann", "GET", "/cache/k99", ""); got != 200 {
		t.Errorf("the newest value: got %d", got)
	}
	if got, _ := as(t, s, "bob", "GET", "/cache/first", ""); got != 200 {
		t.Errorf("another user's older value: got %d", got)
	}
	for i := range 100 {
		if got, body := as(t, s, "ann", "DELETE", "/cache/k"+strconv.Itoa(i), ""); got != 204 {
			t.Fatalf("got %d %s", got, body)
		}
	}
	if entries, counted := sum("ann"); entries != 0 || counted != 0 {
		t.Errorf("after the deletion ann has %d bytes and %d counted", entries, counted)
	}
}

// TestOwnTags: the invalidated tags of one owner are bounded, and none of them is forgotten.
func TestOwnTags(t *testing.T) { pgtest.Each(t, testOwnTags) }

func testOwnTags(t *testing.T, url string) {
	s, _, stop := start(t, t.TempDir(), Config{}, url)
	defer stop()
	tags := func(n int) string {
		names := make([]string, maxList)
		for i := range names {
			names[i] = fmt.Sprintf("t%d-%d", n, i)
		}
		b, _ := json.Marshal(map[string]any{"tags": names})
		return string(b)
	}
	for who, key := range map[string]string{"ann": "tagged?tag=t0-7", "bob": "tagged?tag=t0-7"} {
		if got, body := as(t, s, who, "PUT", "/cache/"+key, "v"); got != 201 {
			t.Fatalf("got %d %s", got, body)
		}
	}
	for n := range 5 {
		if got, body := as(t, s, "ann", "POST", "/cache/invalidate", tags(n)); got != 200 {
			t.Fatalf("got %d %s", got, body)
		}
	}
	s.state.tags.mu.RLock()
	remembered := len(s.state.tags.last)
	s.state.tags.mu.RUnlock()
	var rows int
	if err := s.state.db.Read.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM cache_tags").Scan(&rows); err != nil {
		t.Fatal(err)
	}
	if remembered > maxOwnTags+1 || rows > maxOwnTags+1 {
		t.Errorf("%d tags and %d rows are remembered, want at most %d", remembered, rows, maxOwnTags+1)
	}
	if got, _ := as(t, s, "ann", "GET", "/cache/tagged", ""); got != 404 {
		t.Errorf("an invalidated value: got %d", got)
	}
	if got, _ := as(t, s, "bob", "GET", "/cache/tagged", ""); got != 200 {
		t.Errorf("another user's value of the same tag: got %d", got)
	}
	if got, _ := as(t, s, "ann", "PUT", "/cache/tagged?tag=t0-7", "new"); got/100 != 2 {
		t.Errorf("got %d", got)
	}
	if got, _ := as(t, s, "ann", "GET", "/cache/tagged", ""); got != 200 {
		t.Errorf("a value made after the invalidation: got %d", got)
	}
}

func TestExamine(t *testing.T) { pgtest.Each(t, testExamine) }

func testExamine(t *testing.T, url string) {
	_, srv, stop := start(t, t.TempDir(), Config{FillAllow: []string{"127.0.0.1"}}, url)
	defer stop()
	cachetest.Examine(t, srv.URL, &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }})
}
