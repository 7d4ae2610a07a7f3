package guard_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

// TestOneHostOneShare: letter case makes no second key of a host, and no other site, with few and with many.
func TestOneHostOneShare(t *testing.T) {
	var many []string
	for i := range 150 {
		many = append(many, fmt.Sprintf("http://h%d.example:80", i))
	}
	for name, hosts := range map[string]string{"one": "http://h7.example:80", "many": strings.Join(many, ", ")} {
		t.Run(name, func(t *testing.T) {
			g := modtest.Start(t, hosts+" {\n\tlimit 2/1h {\n\t\tby {host}\n\t}\n\trespond ours\n}\n:80 {\n\trespond open\n}")
			for i, host := range []string{"h7.example", "H7.Example", "h7.EXAMPLE", "h7.example:80", "H7.example:80"} {
				status, body := ask(t, g, host, "/")
				if want := map[bool]int{true: 200, false: 429}[i < 2]; status != want || body == "open" {
					t.Errorf("%s: got %d %q, want %d", host, status, body, want)
				}
			}
		})
	}
}

const logged = `{
	log {
		output file @@data@@/log
		format json
		level DEBUG
	}
	SERVERS
}
:80 {
	log
	limit 1/1h {
		by {query.key}
	}
	handle /redirect {
		redir * /z?X-Amz-Signature=S3CRET
	}
	handle /error {
		error 502
	}
	respond {query}
}
`

// TestSecretsStayOutOfTheLog, whoever answers.
func TestSecretsStayOutOfTheLog(t *testing.T) {
	g := modtest.Start(t, strings.Replace(logged, "SERVERS", "", 1))
	for i, target := range []string{
		"/a?x=%41&X-Amz-Signature=S3CRET&y=2", "/a?X-Amz-Credential=S3CRET%2F20261201&key=1", "/a?key=1&token=S3CRET", "/error?sig=S3CRET&key=2",
		"/a/../b?access_token=S3CRET", "/a?%58-amz-signature=S3CRET&key=3", "/a?X-Amz-Security-Token=S3CRET&key=4",
	} {
		resp := g.Get(target)
		body, _ := io.ReadAll(resp.Body)
		if want := []int{200, 200, 429, 502, 400, 200, 200}[i]; resp.StatusCode != want || want == 200 && !strings.Contains(string(body), "S3CRET") {
			t.Errorf("%s: got %d %q, want %d and the app to see it", target, resp.StatusCode, body, want)
		}
	}
	g.Get("/plain?key=5&page_token=kept")
	g.Get("/plain?key=6", "Referer", "https://a.example/?access_token=S3CRET")
	g.Get("/redirect?key=7&jwt=S3CRET")
	log, err := os.ReadFile(filepath.Join(g.Dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	var uris []string
	for line := range bytes.Lines(log) {
		var entry struct {
			Logger  string
			Request struct{ URI string }
		}
		if json.Unmarshal(line, &entry) == nil && strings.HasPrefix(entry.Logger, "http.log.access") {
			uris = append(uris, entry.Request.URI)
		}
	}
	if bytes.Contains(log, []byte("S3CRET")) || len(uris) != 10 {
		t.Errorf("got %d lines in the access log, want 10 without the secret:\n%s", len(uris), log)
	}
	if len(uris) > 0 && uris[0] != "/a?x=%41&X-Amz-Signature=REDACTED&y=2" || !strings.Contains(strings.Join(uris, " "), "page_token=kept") {
		t.Errorf("got %q", uris)
	}
}

func TestForgeableAddressesAreAWarning(t *testing.T) {
	for servers, warns := range map[string]bool{
		"": false,
		"servers {\n\t\ttrusted_proxies static private_ranges\n\t}":                             true,
		"servers {\n\t\ttrusted_proxies static private_ranges\n\t\ttrusted_proxies_strict\n\t}": false,
	} {
		g := modtest.Start(t, strings.Replace(logged, "SERVERS", servers, 1))
		g.Do(httptest.NewRequest(http.MethodGet, "/", nil))
		log, err := os.ReadFile(filepath.Join(g.Dir, "log"))
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Contains(log, []byte("trusted_proxies without trusted_proxies_strict")); got != warns {
			t.Errorf("%q: warned %v, want %v", servers, got, warns)
		}
	}
}
