package gatehouse

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/http/pprof"
	runtimepprof "runtime/pprof"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/command"
)

func TestProfileCommandErrors(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(pprof.Profile))
	defer server.Close()
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	var b bytes.Buffer
	if err := runtimepprof.StartCPUProfile(&b); err != nil {
		t.Fatal(err)
	}
	defer runtimepprof.StopCPUProfile()
	at := func(s *httptest.Server) string { return strings.TrimPrefix(s.URL, "http://") }
	for name, tc := range map[string]struct {
		options profileOptions
		args    []string
		code    int
		want    string
	}{
		"argument":  {profileOptions{seconds: 1}, []string{"x"}, 2, `"x" is one argument too many`},
		"seconds":   {profileOptions{seconds: 0}, nil, 2, "--seconds must be from 1 to 300, not 0"},
		"config":    {profileOptions{seconds: 1, admin: command.Admin{Config: "/does/not/exist"}}, nil, 2, "--config: "},
		"address":   {profileOptions{seconds: 1, admin: command.Admin{At: "localhost:1-9"}}, nil, 2, "--address: "},
		"no-answer": {profileOptions{seconds: 1, admin: command.Admin{At: at(gone)}}, nil, 3, "no gateway answers at " + at(gone)},
		"other":     {profileOptions{seconds: 1, admin: command.Admin{At: at(other)}}, nil, 1, "refused: HTTP 404"},
		"busy":      {profileOptions{seconds: 1, admin: command.Admin{At: at(server)}}, nil, 1, "taking a CPU profile already"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, progress strings.Builder
			err := tc.options.run(&out, &progress, tc.args)
			if code := command.Code(err); err == nil || code != tc.code || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %d, %v; want %d, %s", command.Code(err), err, tc.code, tc.want)
			}
		})
	}
}

func TestExiting(t *testing.T) {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/readyz", nil)
	readiness(new(App).ctx, true, r).ServeHTTP(w, r)
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), stopping) {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}
