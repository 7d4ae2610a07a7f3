package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestEverythingIsFoundAfterKill9 stops the example as a power cut does and starts it again.
func TestEverythingIsFoundAfterKill9(t *testing.T) {
	e := newExample(t)
	p := e.run(t)
	e.gatehouse(t, "correct horse battery\n", "users", "add", "ada@example.com", "--role", "admin")
	token := e.gatehouse(t, "", "token", "mint", "--sub", "ada", "--role", "admin")

	if status, body := call(t, "PUT", e.base+"/flags/kept", token, `{"enabled":true,"percentage":42,"allowList":["ada"],"denyList":[]}`); status != http.StatusOK && status != http.StatusCreated {
		t.Fatalf("setting a flag: %d %s", status, body)
	}
	status, body := call(t, "POST", e.base+"/jobs", token, `{"queue":"email","payload":{"to":"ada"},"delay":"1h"}`)
	if status != http.StatusAccepted {
		t.Fatalf("enqueueing: %d %s", status, body)
	}
	job := field(t, body, "id")
	upload, content := uploadText(t, e, token, "kept")
	status, body = call(t, "POST", e.base+"/locks/report", token, `{"ttl":"1h"}`)
	if status != http.StatusOK {
		t.Fatalf("locking: %d %s", status, body)
	}

	p.kill()
	e.run(t)

	if status, body = call(t, "POST", e.base+"/login", "", `{"email":"ada@example.com","password":"correct horse battery"}`); status != http.StatusOK {
		t.Errorf("the user: %d %s", status, body)
	}
	if status, body = call(t, "GET", e.base+"/flags/kept", token, ""); status != http.StatusOK || !strings.Contains(body, `"percentage":42`) {
		t.Errorf("the flag: %d %s", status, body)
	}
	if status, body = call(t, "GET", e.base+"/jobs/"+job, token, ""); status != http.StatusOK || field(t, body, "state") != "scheduled" {
		t.Errorf("the job: %d %s", status, body)
	}
	if status, body = call(t, "GET", e.base+"/uploads/"+upload+"/content", token, ""); status != http.StatusOK || body != content {
		t.Errorf("the upload: %d %q, want %q", status, body, content)
	}
	if status, _ = call(t, "POST", e.base+"/locks/report", token, `{"ttl":"1s"}`); status != http.StatusConflict {
		t.Errorf("the lock is free after the restart: %d", status)
	}
}

// uploadText takes a text through presign, PUT and confirm until it is ready.
func uploadText(t *testing.T, e *example, token, content string) (id, same string) {
	t.Helper()
	status, body := call(t, "POST", e.base+"/uploads/presign", token, fmt.Sprintf(`{"filename":"a.txt","content_type":"text/plain","size":%d}`, len(content)))
	var signed struct {
		ID, Key, Method, URL string
		Headers              map[string]string
	}
	if err := json.Unmarshal([]byte(body), &signed); err != nil || signed.URL == "" {
		t.Fatalf("presigning: %d %s", status, body)
	}
	r, err := http.NewRequestWithContext(t.Context(), signed.Method, signed.URL, strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range signed.Headers {
		r.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("putting: %d %s", resp.StatusCode, b)
	}
	if status, body = call(t, "POST", e.base+"/uploads/confirm", token, fmt.Sprintf(`{"key":%q}`, signed.Key)); status != http.StatusOK {
		t.Fatalf("confirming: %d %s", status, body)
	}
	eventually(t, 10*time.Second, func() error {
		if _, body = call(t, "GET", e.base+"/uploads/"+signed.ID, token, ""); field(t, body, "state") != "ready" {
			return fmt.Errorf("not ready: %s", body)
		}
		return nil
	})
	return signed.ID, content
}

// field is a top-level string member of a JSON object.
func field(t testing.TB, body, name string) string {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	s, _ := v[name].(string)
	return s
}

// TestReloadUnderLoad holds 1 000 requests in flight over 10 reloads, half of which replace the
// backends as well.
func TestReloadUnderLoad(t *testing.T) {
	const inFlight, reloads, jobsPerReload = 1000, 10, 30
	release := make(chan struct{})
	var entered atomic.Int64
	var delivered sync.Map
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/task" {
			if _, twice := delivered.LoadOrStore(r.Header.Get("Gatehouse-Job-Id"), true); twice {
				t.Errorf("job %s was delivered twice", r.Header.Get("Gatehouse-Job-Id"))
			}
			return
		}
		entered.Add(1)
		<-release
		_, _ = w.Write([]byte("held"))
	}))
	defer app.Close()
	defer func() {
		select {
		case <-release:
		default:
			close(release)
		}
	}()

	dir, port, admin := t.TempDir(), freePort(t), "127.0.0.1:"+freePort(t)
	config := func(n int) string {
		return fmt.Sprintf(`{
	admin %s
	gatehouse {
		data_dir %s/data
		region   region-%d
		backend  jobs {
			queue tasks {
				target %s/task
			}
		}
	}
}
http://127.0.0.1:%s {
	header Config %d
	handle /capped {
		limit 3/1h
		respond "in"
	}
	handle /jobs* {
		backend jobs as operator
	}
	handle {
		limit 100000/1m
		reverse_proxy %s
	}
}
`, admin, dir, n/2, app.URL, port, n, strings.TrimPrefix(app.URL, "http://"))
	}
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(config(0)), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, dir, "gatehouse", "run", "--config", file, "--adapter", "caddyfile")
	base := "http://127.0.0.1:" + port
	p.waitFor(base + "/jobs")

	for range 3 {
		if status, body := call(t, "GET", base+"/capped", "", ""); status != http.StatusOK {
			t.Fatalf("within the limit: %d %s", status, body)
		}
	}

	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: inFlight}, Timeout: time.Minute}
	var wg sync.WaitGroup
	var lost atomic.Int64
	for range inFlight {
		wg.Go(func() {
			resp, err := client.Get(base + "/held")
			if err != nil {
				lost.Add(1)
				t.Errorf("a request in flight was lost: %v", err)
				return
			}
			defer func() { _ = resp.Body.Close() }()
			if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "held" {
				lost.Add(1)
				t.Errorf("a request in flight got %d %q, %v", resp.StatusCode, b, err)
			}
		})
	}
	eventually(t, 30*time.Second, func() error {
		if n := entered.Load(); n < inFlight {
			return fmt.Errorf("%d of %d requests are in flight", n, inFlight)
		}
		return nil
	})

	var accepted []string
	for n := 1; n <= reloads; n++ {
		for range jobsPerReload {
			if status, body := call(t, "POST", base+"/jobs", "", `{"queue":"tasks","payload":{}}`); status == http.StatusAccepted {
				accepted = append(accepted, field(t, body, "id"))
			} else {
				t.Errorf("enqueueing: %d %s", status, body)
			}
		}
		if status, body := load(t, admin, config(n)); status != http.StatusOK {
			t.Fatalf("reload %d: %d %s", n, status, body)
		}
		http.DefaultClient.CloseIdleConnections()
		// The old listener resets a connection that nobody has accepted yet, so one may have to ask again.
		eventually(t, 5*time.Second, func() error {
			resp, err := http.Get(base + "/capped")
			if err != nil {
				return err
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusTooManyRequests {
				t.Errorf("reload %d reset the limit: %d", n, resp.StatusCode)
			}
			return nil
		})
	}
	for _, broken := range []string{
		strings.Replace(config(99), "limit 3/1h", "limit 3/1hour", 1),
		strings.Replace(config(99), "backend jobs as operator\n\t}\n\thandle", "backend jbos\n\t}\n\thandle", 1),
		strings.Replace(config(99), dir+"/data", "/proc/not/writable", 1),
	} {
		if status, body := load(t, admin, broken); status == http.StatusOK {
			t.Errorf("a broken configuration was loaded: %s", body)
		}
		resp, err := http.Get(base + "/capped")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if got := resp.Header.Get("Config"); got != fmt.Sprint(reloads) || resp.StatusCode != http.StatusTooManyRequests {
			t.Errorf("a broken reload changed the gateway: configuration %s, status %d", got, resp.StatusCode)
		}
	}
	close(release)
	wg.Wait()
	if n := lost.Load(); n > 0 {
		t.Errorf("%d of %d requests in flight were lost", n, inFlight)
	}
	eventually(t, 30*time.Second, func() error {
		for _, id := range accepted {
			if _, ok := delivered.Load(id); !ok {
				return fmt.Errorf("job %s of %d was not delivered", id, len(accepted))
			}
		}
		return nil
	})
	p.terminate()
}

// load replaces the running configuration through the admin API.
func load(t testing.TB, admin, caddyfile string) (int, string) {
	t.Helper()
	resp, err := http.Post("http://"+admin+"/load", "text/caddyfile", strings.NewReader(caddyfile))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// TestBadStartsSayWhatToDo starts what cannot work: each ends with a non-zero code, a sentence that
// names the place and the remedy, and nothing half-started.
func TestBadStartsSayWhatToDo(t *testing.T) {
	taken := httptest.NewServer(http.NotFoundHandler())
	defer taken.Close()
	takenPort := taken.URL[strings.LastIndex(taken.URL, ":")+1:]
	for name, tc := range map[string]struct{ config, want string }{
		"unknown-directive":  {"%s {\n\tlimti 1/1s\n}\n", "Caddyfile:7: unrecognized directive: limti"},
		"unknown-option":     {"%s {\n\tquota 1/1s {\n\t\tcuont exact\n\t}\n}\n", "cuont"},
		"no-redis-named":     {"%s {\n\tquota 1/1s {\n\t\tcount exact\n\t}\n}\n", "count exact needs a Redis"},
		"missing-argument":   {"%s {\n\tlimit\n}\n", "Caddyfile:7"},
		"bad-duration":       {"%s {\n\tlimit 5/1hour\n}\n", "Caddyfile:7"},
		"impossible-date":    {"%s {\n\tapi_version {\n\t\tfrom path /\n\t\tversion v1 {\n\t\t\tsunset 2027-02-30\n\t\t}\n\t}\n}\n", "2027-02-30"},
		"sunset-before":      {"%s {\n\tapi_version {\n\t\tfrom path /\n\t\tversion v1 {\n\t\t\tdeprecated 2027-02-01\n\t\t\tsunset 2027-01-01\n\t\t}\n\t}\n}\n", "Caddyfile:"},
		"unknown-secret":     {"%s {\n\tjwt_auth {\n\t\tsecret nope\n\t}\n}\n", "secret nope file PATH"},
		"missing-key-file":   {"%s {\n\tjwt_auth {\n\t\tjwks file /does/not/exist\n\t}\n}\n", "/does/not/exist"},
		"port-taken":         {"http://127.0.0.1:" + takenPort + " {\n\trespond here\n}\n", "address already in use"},
		"unwritable-datadir": {"%s {\n\tbackend locks\n}\n", "data_dir"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			data := dir + "/data"
			if name == "unwritable-datadir" {
				data = "/proc/gatehouse"
			}
			site := tc.config
			if strings.Contains(site, "%s") {
				site = fmt.Sprintf(site, "http://127.0.0.1:"+freePort(t))
			}
			config := "{\n\tgatehouse {\n\t\tdata_dir " + data + "\n\t}\n}\n" // the site begins on line 6
			file := filepath.Join(dir, "Caddyfile")
			if err := os.WriteFile(file, []byte(config+site), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), binary(t, "gatehouse"), "run", "--config", file, "--adapter", "caddyfile")
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "CADDY_ADMIN=127.0.0.1:"+freePort(t), "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Run(); err == nil {
				t.Error("the exit code is zero")
			}
			if !strings.Contains(out.String(), tc.want) {
				t.Errorf("the output has no %q:\n%s", tc.want, tail(out.String(), 5))
			}
		})
	}
}
