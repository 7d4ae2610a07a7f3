package flags_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/backends/flags/flagstest"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend/flags"
	_ "github.com/gatehouse-proxy/gatehouse/modules/guard"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

func TestGolden(t *testing.T) { modtest.Golden(t, "testdata") }

func TestExamineThroughTheGateway(t *testing.T) {
	g := modtest.Start(t, "{\n\tgatehouse {\n\t\tdata_dir @@data@@\n\t}\n}\n:80 {\n\tguard {\n\t\tpaths pass\n\t}\n\tbackend flags as operator\n}\n")
	srv := httptest.NewServer(g)
	t.Cleanup(srv.Close)
	flagstest.Examine(t, srv.URL, srv.Client())
}

// Compression changes the entity tag of a large flag; what the client got must still fit If-Match.
func TestIfMatchBehindCompression(t *testing.T) {
	g := modtest.Start(t, "{\n\tgatehouse {\n\t\tdata_dir @@data@@\n\t}\n}\n:80 {\n\tencode gzip\n\tbackend flags as operator\n}\n")
	put := func(etag string) (int, string) {
		r := httptest.NewRequest("PUT", "/flags/large", strings.NewReader(`{"enabled":true,"allowList":["`+strings.Repeat("u", 1000)+`"]}`))
		r.Header.Set("Accept-Encoding", "gzip")
		if etag != "" {
			r.Header.Set("If-Match", etag)
		}
		resp := g.Do(r)
		return resp.StatusCode, resp.Header.Get("ETag")
	}
	put("")
	etag := g.Get("/flags/large", "Accept-Encoding", "gzip").Header.Get("ETag")
	if etag != `"1-gzip"` {
		t.Fatalf("got ETag %s, want one that compression has changed", etag)
	}
	if status, _ := put(etag); status != 200 {
		t.Errorf("got %d for the newest version, want 200", status)
	}
	if status, _ := put(etag); status != 412 {
		t.Errorf("got %d for an old version, want 412", status)
	}
}
