package jobs_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	_ "github.com/gatehouse-proxy/gatehouse/modules/backend"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend/jobs"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

func TestGolden(t *testing.T) { modtest.Golden(t, "testdata") }

const examined = `{
	gatehouse {
		data_dir @@data@@
		backend jobs {
			queue examine {
				attempts 3
				backoff  fixed 50ms
			}
			queue examine-pull {
				pull
				attempts 3
				backoff  fixed 50ms
			}
			queue examine-full {
				pull
				waiting     3
				key_waiting 2
			}
			queue examine-ordered {
				ordered
			}
			allow 127.0.0.1
		}
	}
}
:80 {
	@jobs path /jobs* /queues*
	handle @jobs {
		backend jobs as operator
	}
}
`

func TestJobsOutliveARestart(t *testing.T) {
	dir := t.TempDir()
	g, err := modtest.StartIn(t, dir, examined)
	if err != nil {
		t.Fatal(err)
	}
	body := `{"queue":"examine","target":"http://127.0.0.1:1/","payload":{"a":1},"delay":"1h"}`
	resp := g.Do(httptest.NewRequest(http.MethodPost, "/jobs", strings.NewReader(body)))
	if resp.StatusCode != http.StatusAccepted {
		t.Fatalf("got %d", resp.StatusCode)
	}
	g.Stop()
	if g, err = modtest.StartIn(t, dir, examined); err != nil {
		t.Fatal(err)
	}
	var job struct{ State string }
	if err = json.NewDecoder(g.Get(resp.Header.Get("Location")).Body).Decode(&job); err != nil || job.State != "scheduled" {
		t.Errorf("got %+v, %v, want the scheduled job", job, err)
	}
}
