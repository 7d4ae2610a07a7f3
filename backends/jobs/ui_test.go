package jobs_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/backends/jobs"
)

func TestThePageShowsTheJobs(t *testing.T) {
	c := examined()
	c.UI = true
	s := start(t, t.TempDir(), c)
	srv := httptest.NewServer(s)
	defer srv.Close()
	ask := func(method, path, body string, header ...string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(context.Background(), method, srv.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Gatehouse-Rank", "operator")
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	if status, body := ask(http.MethodPost, "/jobs", `{"queue":"examine","target":"http://127.0.0.1:1/","delay":"1h","payload":1}`); status != http.StatusAccepted {
		t.Fatal(status, body)
	}
	if status, body := ask(http.MethodGet, "/jobs/ui/", ""); status != http.StatusOK || !strings.Contains(body, "/jobs/ui/assets/") {
		t.Errorf("got %d %.300s", status, body)
	}
	if status, body := ask(http.MethodGet, "/jobs/ui/api/jobs?state=scheduled&limit=10", ""); status != http.StatusOK || !strings.Contains(body, `"queue":"examine"`) {
		t.Errorf("got %d %.300s", status, body)
	}
	if status, body := ask(http.MethodGet, "/jobs/ui/api/queues", ""); status != http.StatusOK || !strings.Contains(body, "examine") {
		t.Errorf("got %d %.300s", status, body)
	}
	const cancel = `{"ids":["1"]}`
	if status, _ := ask(http.MethodPost, "/jobs/ui/api/jobs/cancel", cancel, "Sec-Fetch-Site", "cross-site"); status != http.StatusForbidden {
		t.Errorf("another site's page got %d", status)
	}
	if status, body := ask(http.MethodPost, "/jobs/ui/api/jobs/cancel", cancel, "Sec-Fetch-Site", "same-origin"); status != http.StatusOK {
		t.Errorf("got %d %s", status, body)
	}
	if v := reach(t, s, "1", "cancelled"); v.FinishedAt == nil {
		t.Errorf("got %+v", v)
	}
}

func TestThereIsNoPageUnlessAskedFor(t *testing.T) {
	w := httptest.NewRecorder()
	start(t, t.TempDir(), jobs.Config{}).ServeHTTP(w, newRequest(http.MethodGet, "/jobs/ui", nil))
	if w.Code != http.StatusNotFound {
		t.Errorf("got %d", w.Code)
	}
}
