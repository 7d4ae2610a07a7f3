package secrets

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/secret/source"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

// TestMain lets the test binary be the gateway's command line.
func TestMain(m *testing.M) { modtest.Main(m) }

// serve runs a gateway with the global options until the test ends and returns its admin endpoint.
func serve(t *testing.T, options string) (admin string) {
	t.Helper()
	admin = "127.0.0.1:" + modtest.FreePort(t)
	raw := modtest.Serve(t, fmt.Sprintf("{\n\tadmin %s\n\tauto_https off\n\tpersist_config off\n%s\n}\n", admin, options))
	if strings.Contains(string(raw), "sesame") {
		t.Errorf("adapting shows a value: %s", raw)
	}
	return admin
}

func app(t *testing.T, dir, secrets string) string {
	t.Helper()
	return serve(t, fmt.Sprintf("\tgatehouse {\n\t\tdata_dir %s/data\n\t\tprofile off\n%s\n\t}", dir, secrets))
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestStatusAndRotate(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "jwt")
	put(t, file, "sesame-one\n")
	t.Setenv("SECRETS_TEST_TOKEN", "sesame-env")
	admin := app(t, dir, "\t\tsecret jwt file "+file+"\n\t\tsecret token env SECRETS_TEST_TOKEN")
	var said strings.Builder // by everything
	run := func(in string, code int, args ...string) string {
		t.Helper()
		out, errs, got := modtest.Command(t, in, append(append([]string{"secrets"}, args...), "--address", admin)...)
		said.WriteString(out + errs)
		if got != code {
			t.Errorf("%v: exit code %d, want %d: %s%s", args, got, code, out, errs)
		}
		return out + errs
	}
	if out := run("", 0, "status"); !strings.Contains(out, "active, signs") || !strings.Contains(out, "SECRETS_TEST_TOKEN") || !strings.Contains(out, "never") {
		t.Errorf("got %s", out)
	}
	out := run("", 0, "rotate", "jwt", "--overlap", "1h")
	if !strings.Contains(out, "jwt signs with the version ") || !strings.Contains(out, "The version jwt goes on verifying until ") {
		t.Errorf("got %s", out)
	}
	if out := run("", 0, "status"); !strings.Contains(out, "retiring") {
		t.Errorf("got %s", out)
	}
	run("sesame-two\n", 0, "rotate", "jwt", "--value", "-")
	var answer Statuses
	if err := json.Unmarshal([]byte(run("", 0, "status", "--json")), &answer); err != nil || len(answer.Items) != 2 {
		t.Fatalf("got %+v, %v", answer, err)
	}
	jwt := answer.Items[0]
	if jwt.Name != "jwt" || jwt.Source != "file" || len(jwt.Versions) != 3 || !jwt.Versions[0].Newest || jwt.ReadAt == nil || jwt.WatchedSince == nil || !strings.HasPrefix(jwt.At, "Caddyfile:") {
		t.Errorf("got %+v", jwt)
	}
	if end := jwt.Versions[2].RetireAt; end == nil || time.Until(*end) > time.Hour {
		t.Errorf("the second rotation has moved the end of the first version to %v", end)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if versions, err := secret.Parse("jwt", content); err != nil || string(versions[0].Value.Reveal()) != "sesame-two" {
		t.Errorf("the file holds %q, %v", content, err)
	}
	var done source.Rotated
	if err := json.Unmarshal([]byte(run("", 0, "rotate", "jwt", "--overlap", "0s", "--json")), &done); err != nil || done.Newest == "" || len(done.Retiring) != 0 {
		t.Errorf("got %+v, %v", done, err)
	}
	put(t, file, " \n")
	deadline := time.Now().Add(5 * time.Second)
	for !strings.Contains(run("", 0, "status"), "jwt cannot be read or used, what was good when it was read ") {
		if time.Now().After(deadline) {
			t.Fatal("an empty file is not said")
		}
	}
	for want, call := range map[string]struct {
		code int
		args []string
	}{
		`There is no secret "jwtt", known are: jwt, token.`:         {1, []string{"rotate", "jwtt"}},
		"the environment variable SECRETS_TEST_TOKEN, which cannot": {1, []string{"rotate", "token"}},
		"it is empty, write the secret into it":                     {1, []string{"rotate", "jwt", "--value", "-"}},
		"--value takes - alone":                                     {2, []string{"rotate", "jwt", "--value", "sesame"}},
		"--overlap: ":                                               {2, []string{"rotate", "jwt", "--overlap", "soon"}},
		"got 0 arguments, usage: gatehouse secrets rotate NAME":     {2, []string{"rotate"}},
		"overlap must be from 0 to 10 years, not 1752000h0m0s":      {1, []string{"rotate", "jwt", "--overlap", "73000d"}},
		"got 1 arguments, usage: gatehouse secrets status [flags]":  {2, []string{"status", "x"}},
	} {
		if out := run("", call.code, call.args...); !strings.Contains(out, want) {
			t.Errorf("%v: got %s, want %s", call.args, out, want)
		}
	}
	if strings.Contains(said.String(), "sesame") {
		t.Errorf("a value was printed: %s", said.String())
	}
	if _, errs, code := modtest.Command(t, "", "secrets", "status", "--address", "127.0.0.1:1"); code != 3 || !strings.Contains(errs, "no gateway answers") {
		t.Errorf("without a gateway: %d, %s", code, errs)
	}
}

func TestRequestsThatAreWrong(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "jwt"), "sesame-one")
	admin := app(t, dir, "\t\tsecret jwt file "+dir+"/jwt")
	for name, tc := range map[string]struct {
		method, path, body string
		code               int
	}{
		"get-of-rotate":  {http.MethodGet, rotatePath, "", http.StatusMethodNotAllowed},
		"post-of-status": {http.MethodPost, statusPath, "", http.StatusMethodNotAllowed},
		"no-json":        {http.MethodPost, rotatePath, "sesame", http.StatusBadRequest},
		"no-name":        {http.MethodPost, rotatePath, `{"value":"sesame"}`, http.StatusBadRequest},
		"number":         {http.MethodPost, rotatePath, `{"name":"jwt","value":12345678}`, http.StatusBadRequest},
		"unknown-member": {http.MethodPost, rotatePath, `{"name":"jwt","sesame":1}`, http.StatusBadRequest},
		"large":          {http.MethodPost, rotatePath, `{"name":"jwt","value":"` + strings.Repeat("sesame", 1<<17) + `"}`, http.StatusBadRequest},
		"large-value":    {http.MethodPost, rotatePath, `{"name":"jwt","value":"` + strings.Repeat("sesame", 1<<14) + `"}`, http.StatusUnprocessableEntity},
		"empty-value":    {http.MethodPost, rotatePath, `{"name":"jwt","value":""}`, http.StatusUnprocessableEntity},
		"same-value":     {http.MethodPost, rotatePath, `{"name":"jwt","value":"sesame-one"}`, http.StatusUnprocessableEntity},
		"unknown-name":   {http.MethodPost, rotatePath, `{"name":"x"}`, http.StatusNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), tc.method, "http://"+admin+tc.path, strings.NewReader(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			var b bytes.Buffer
			_, _ = b.ReadFrom(resp.Body)
			if resp.StatusCode != tc.code || !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") {
				t.Errorf("got %d %s, want %d", resp.StatusCode, b.String(), tc.code)
			}
			if strings.Contains(b.String(), "sesame") || strings.Contains(b.String(), "12345678") {
				t.Errorf("the answer holds what was sent: %s", b.String())
			}
		})
	}
}

func TestWithoutTheApp(t *testing.T) {
	admin := serve(t, "")
	if _, errs, code := modtest.Command(t, "", "secrets", "status", "--address", admin); code != 1 || !strings.Contains(errs, "has no secrets: name them in the global options") {
		t.Errorf("got %d, %s", code, errs)
	}
}

func TestLabelsDoNothingToATerminal(t *testing.T) {
	dir := t.TempDir()
	versions := filepath.Join(dir, "d")
	if err := os.Mkdir(versions, 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(versions, "v1\x1b[2J\x07\u202e"), "sesame-one")
	admin := app(t, dir, "\t\tsecret jwt dir "+versions)
	out, errs, code := modtest.Command(t, "", "secrets", "status", "--address", admin)
	if code != 0 || !strings.Contains(out, "v1?[2J??") || strings.ContainsAny(out, "\x1b\x07\u202e") {
		t.Errorf("got %d, %q, %s", code, out, errs)
	}
}

func TestAPastedValueIsNotPrinted(t *testing.T) {
	for word, want := range map[string]string{"stauts": "there is no command secrets stauts", "sesame-that-was-pasted": "there is no such command below secrets"} {
		if out, errs, code := modtest.Command(t, "", "secrets", word); code != 2 || !strings.Contains(errs, want) || strings.Contains(out+errs, "sesame") {
			t.Errorf("got %d, %s%s, want %s", code, out, errs, want)
		}
	}
}
