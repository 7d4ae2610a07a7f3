package integration

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const rotating = `{
	admin %[1]s
	gatehouse {
		data_dir %[2]s/data
		secret signing dir %[2]s/mounted
		backend identity {
			secret signing
		}
	}
}
http://127.0.0.1:%[3]s {
	@identity path /login /refresh /logout
	handle @identity {
		backend identity
	}
	handle {
		jwt_auth
		respond "hello {http.auth.user.id}"
	}
}
`

// mount is a directory as Kubernetes mounts a Secret: the files are links through ..data, which is
// replaced as a whole.
type mount struct {
	dir string
	n   int
}

// swap mounts the given files in place of those before.
func (m *mount) swap(t *testing.T, files map[string]string) {
	t.Helper()
	m.n++
	version := fmt.Sprintf("..2026_%d", m.n)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(m.dir, version), 0o700))
	for name, content := range files {
		must(os.WriteFile(filepath.Join(m.dir, version, name), []byte(content), 0o600))
	}
	before, _ := os.Readlink(filepath.Join(m.dir, "..data"))
	must(os.Symlink(version, filepath.Join(m.dir, "..data_tmp")))
	must(os.Rename(filepath.Join(m.dir, "..data_tmp"), filepath.Join(m.dir, "..data")))
	for name := range files {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(m.dir, name)); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	links, err := os.ReadDir(m.dir)
	must(err)
	for _, l := range links {
		if _, stays := files[l.Name()]; !stays && !strings.HasPrefix(l.Name(), "..") {
			must(os.Remove(filepath.Join(m.dir, l.Name())))
		}
	}
	if before != "" {
		must(os.RemoveAll(filepath.Join(m.dir, before)))
	}
}

// caller is one client of the gateway: it uses its token without pause and has a new one made often.
type caller struct {
	base    string
	client  *http.Client
	mu      sync.Mutex
	token   string
	refresh string
}

// ask sends a request; body is JSON for a POST.
func (c *caller) ask(method, path, token, body string) (status int, answer map[string]any, err error) {
	req, err := http.NewRequest(method, c.base+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	_ = json.NewDecoder(resp.Body).Decode(&answer)
	return resp.StatusCode, answer, nil
}

// renew has new tokens made for those in hand.
func (c *caller) renew(path, body string) error {
	status, answer, err := c.ask("POST", path, "", body)
	if err != nil || status != http.StatusOK {
		return fmt.Errorf("%s: %d %v, %w", path, status, answer, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token, _ = answer["token"].(string)
	c.refresh, _ = answer["refresh_token"].(string)
	return nil
}

// TestIdentityKeysRotateUnderLoad adds two keys and then takes the first one away, by swaps of a mounted
// directory and without a reload, while clients log in anew and use what they get.
func TestIdentityKeysRotateUnderLoad(t *testing.T) {
	step := 2 * time.Second
	if os.Getenv("GATEHOUSE_LONG") != "" {
		step = 10 * time.Second
	}
	e := &example{dir: t.TempDir(), admin: "127.0.0.1:" + freePort(t)}
	port := freePort(t)
	e.base = "http://127.0.0.1:" + port
	m := &mount{dir: filepath.Join(e.dir, "mounted")}
	keys := map[string]string{"v1": rand.Text() + rand.Text(), "v2": rand.Text() + rand.Text(), "v3": rand.Text() + rand.Text()}
	m.swap(t, map[string]string{"v1": keys["v1"]})
	e.serve(t, fmt.Sprintf(rotating, e.admin, e.dir, port))
	e.gatehouse(t, "correct horse battery\n", "users", "add", "ada@example.com", "--data-dir", filepath.Join(e.dir, "data"))

	stop := make(chan struct{})
	var work sync.WaitGroup
	var requests, renewals atomic.Int64
	var callers []*caller
	for range 4 {
		c := &caller{base: e.base, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}, Timeout: 30 * time.Second}}
		if err := c.renew("/login", `{"email":"ada@example.com","password":"correct horse battery"}`); err != nil {
			t.Fatal(err)
		}
		callers = append(callers, c)
		work.Go(func() {
			for !closed(stop) {
				c.mu.Lock()
				token := c.token
				c.mu.Unlock()
				if status, answer, err := c.ask("GET", "/", token, ""); err != nil || status != http.StatusOK {
					t.Errorf("a request failed: %d %v, %v", status, answer, err)
					return
				}
				requests.Add(1)
			}
		})
		work.Go(func() {
			pause := time.NewTicker(50 * time.Millisecond)
			defer pause.Stop()
			for !closed(stop) {
				c.mu.Lock()
				body := fmt.Sprintf(`{"refresh_token":%q}`, c.refresh)
				c.mu.Unlock()
				if err := c.renew("/refresh", body); err != nil {
					t.Error(err)
					return
				}
				renewals.Add(1)
				<-pause.C
			}
		})
	}
	first := callers[0].held()
	kid := headerOf(t, first, "kid")

	<-time.After(step)
	m.swap(t, map[string]string{"v1": keys["v1"], "v2": keys["v2"]})
	signedByAnother(t, callers[0], kid)
	second := headerOf(t, callers[0].held(), "kid")
	<-time.After(step)
	m.swap(t, map[string]string{"v1": keys["v1"], "v2": keys["v2"], "v3": keys["v3"]})
	signedByAnother(t, callers[0], second)
	if status, _, err := callers[0].ask("GET", "/", first, ""); err != nil || status != http.StatusOK {
		t.Errorf("the token of the first key in the overlap: %d, %v, want 200", status, err)
	}
	status := e.gatehouse(t, "", "secrets", "status", "--json", "--address", e.admin)
	for _, label := range []string{"v1", "v2", "v3"} {
		if !strings.Contains(status, label) {
			t.Errorf("the version %s is not in %s", label, status)
		}
	}
	if !strings.Contains(status, "last_used") {
		t.Errorf("no last use in %s", status)
	}
	for name, value := range keys {
		if strings.Contains(status, value) {
			t.Errorf("the status shows the key %s", name)
		}
	}
	<-time.After(step)
	m.swap(t, map[string]string{"v2": keys["v2"], "v3": keys["v3"]})
	eventually(t, 5*time.Second, func() error {
		if status, _, err := callers[0].ask("GET", "/", first, ""); err != nil || status != http.StatusUnauthorized {
			return fmt.Errorf("the token of the retired key: %d, %w", status, err)
		}
		return nil
	})
	<-time.After(step / 2)
	close(stop)
	work.Wait()
	t.Logf("%d requests and %d renewals in %s", requests.Load(), renewals.Load(), 3*step)
	if requests.Load() < 200 || renewals.Load() < 20 {
		t.Errorf("%d requests and %d renewals are no load", requests.Load(), renewals.Load())
	}
}

func (c *caller) held() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.token
}

// signedByAnother waits until the caller's new tokens have another key.
func signedByAnother(t *testing.T, c *caller, kid string) {
	t.Helper()
	eventually(t, 5*time.Second, func() error {
		if headerOf(t, c.held(), "kid") == kid {
			return fmt.Errorf("new tokens still have the key %s", kid)
		}
		return nil
	})
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// headerOf is a member of a token's header.
func headerOf(t *testing.T, token, name string) string {
	t.Helper()
	first, _, _ := strings.Cut(token, ".")
	b, err := base64.RawURLEncoding.DecodeString(first)
	if err != nil {
		t.Fatal(err)
	}
	return field(t, string(b), name)
}
