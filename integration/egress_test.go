package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"testing"
)

// TestNothingReachesTheAdminEndpoint: what a user can name is never sent to where the gateway itself
// answers, although the configuration allows all of this machine.
func TestNothingReachesTheAdminEndpoint(t *testing.T) {
	e := &example{dir: t.TempDir(), admin: "127.0.0.1:" + freePort(t)}
	site := freePort(t)
	e.base = "http://127.0.0.1:" + site
	e.serve(t, fmt.Sprintf(inProcess, e.admin, e.dir, site))
	token := e.gatehouse(t, "", "token", "mint", "--sub", "mallory", "--role", "admin") // for whom allow_private holds
	for _, port := range []string{portOf(t, "http://"+e.admin), site} {
		for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "127.0.0.1.", "2130706433", "0x7f.1", "[64:ff9b::7f00:1]"} {
			target := "http://" + host + ":" + port + "/stop"
			for path, in := range map[string]map[string]any{
				"/endpoints":    {"url": target},
				"/jobs":         {"queue": "examine", "payload": 1, "target": target},
				"/cache/k/fill": {"url": target},
			} {
				body, err := json.Marshal(in)
				if err != nil {
					t.Fatal(err)
				}
				if status, answer := call(t, http.MethodPost, e.base+path, token, string(body)); status < 400 || status >= 500 {
					t.Errorf("%s to %s: got %d %s, want a refusal", path, target, status, answer)
				}
			}
		}
	}
	if status, _ := call(t, http.MethodGet, "http://"+e.admin+"/config/", "", ""); status != http.StatusOK {
		t.Errorf("the admin endpoint answers %d", status)
	}
}

func portOf(t *testing.T, raw string) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}
