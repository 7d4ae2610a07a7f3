package httpcache_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	_ "github.com/gatehouse-proxy/gatehouse/modules/backend"
	_ "github.com/gatehouse-proxy/gatehouse/modules/flags"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

// TestVariantsOfASplitAreNotShared: the app calls its answer public, but a flag chose who gets it.
func TestVariantsOfASplitAreNotShared(t *testing.T) {
	variant := func(name string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "public, max-age=60")
			_, _ = w.Write([]byte(name))
		}))
		t.Cleanup(s.Close)
		return strings.TrimPrefix(s.URL, "http://")
	}
	g := modtest.Start(t, `{
	gatehouse {
		data_dir @@data@@
	}
}
:80 {
	http_cache
	handle /flags/* {
		backend flags as operator
	}
	split redesign {
		by      {header.X-Visitor}
		variant on  `+variant("new")+`
		variant off `+variant("old")+`
	}
}
`)
	put := httptest.NewRequest(http.MethodPut, "/flags/redesign", strings.NewReader(`{"enabled":true,"allowList":["v1"]}`))
	if resp := g.Do(put); resp.StatusCode != http.StatusCreated {
		t.Fatalf("setting the flag: %d", resp.StatusCode)
	}
	for range 2 {
		for visitor, want := range map[string]string{"v1": "new", "v2": "old"} {
			b, _ := io.ReadAll(g.Get("/page", "X-Visitor", visitor).Body)
			if string(b) != want {
				t.Errorf("%s got %q, want %q", visitor, b, want)
			}
		}
	}
}
