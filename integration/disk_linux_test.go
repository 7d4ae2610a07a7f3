package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const mib = 1 << 20

// tmpfs mounts a small file system, which only root can.
func tmpfs(t *testing.T, size int) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a small file system can only be mounted by root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		t.Fatalf("a tmpfs of %d bytes could not be mounted on %s: %v. This test needs a disk that it can fill: run it where root may mount, in a container with CAP_SYS_ADMIN", size, dir, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmounting %s: %v", dir, err)
		}
	})
	return dir
}

func free(t *testing.T, dir string) int64 {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}

// small is a gateway whose data_dir is on a small file system.
type small struct {
	*process
	dir, base, admin string
	sink             *sink
}

// sink counts the payloads of jobs. While it is closed it answers 503, so that jobs wait.
type sink struct {
	mu     sync.Mutex
	seen   map[string]int
	closed bool
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || err != nil {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	s.seen[string(b)]++
}

func (s *sink) set(closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = closed
}

func (s *sink) count(payload string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[payload]
}

func startSmall(t *testing.T, size int) *small {
	t.Helper()
	s := &small{dir: tmpfs(t, size), sink: &sink{seen: map[string]int{}}}
	app := httptest.NewServer(s.sink)
	t.Cleanup(app.Close)
	port, admin := freePort(t), freePort(t)
	s.base, s.admin = "http://127.0.0.1:"+port, "http://127.0.0.1:"+admin
	work := t.TempDir()
	config := fmt.Sprintf(`{
	admin 127.0.0.1:%s
	auto_https off
	persist_config off
	gatehouse {
		data_dir %s
		backend jobs {
			queue q {
				target %s
				attempts 20
				backoff fixed 200ms
			}
		}
		backend uploads {
			allow text/plain
			max_size 10MiB
		}
	}
}
http://127.0.0.1:%s {
	handle /uploads/objects/* {
		backend uploads
	}
	handle /uploads/* {
		backend uploads as service
	}
	handle /jobs* {
		backend jobs as service
	}
	handle /events {
		backend webhooks as service
	}
	handle /locks/* {
		backend locks as service
	}
	handle {
		backend identity
	}
}
`, admin, filepath.Join(s.dir, "data"), app.URL, port)
	if err := os.WriteFile(filepath.Join(work, "Caddyfile"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	s.process = start(t, work, "gatehouse", "run", "--config", "Caddyfile", "--adapter", "caddyfile")
	s.waitFor(s.admin + "/readyz")
	add := &example{dir: work, config: filepath.Join(work, "Caddyfile")}
	add.gatehouse(t, "a long password\n", "users", "add", "ann@example.com", "--data-dir", filepath.Join(s.dir, "data"))
	return s
}

// do makes a request and returns its answer with the body read.
func (s *small) do(method, path, body string) (*http.Response, string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.base+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp, string(b)
}

func (s *small) login() (int, string) {
	s.t.Helper()
	resp, body := s.do(http.MethodPost, "/login", `{"email":"ann@example.com","password":"a long password"}`)
	return resp.StatusCode, body
}

func (s *small) ready() (int, string) {
	s.t.Helper()
	return call(s.t, http.MethodGet, s.admin+"/readyz?verbose", "", "")
}

type signedPut struct {
	ID, Key, URL string
	Headers      map[string]string
}

func (s *small) presign(size int) signedPut {
	s.t.Helper()
	resp, body := s.do(http.MethodPost, "/uploads/presign", fmt.Sprintf(`{"filename":"a.txt","content_type":"text/plain","size":%d}`, size))
	var p signedPut
	if err := json.Unmarshal([]byte(body), &p); err != nil || resp.StatusCode != http.StatusCreated {
		s.t.Fatalf("presigning: %d %s", resp.StatusCode, body)
	}
	return p
}

// begin sends the head of a PUT and the first bytes of its body, and returns the function that sends the
// rest and reads the answer.
func (p signedPut) begin(t *testing.T, size, first int) (finish func() (int, string, error)) {
	t.Helper()
	u, err := url.Parse(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	var head bytes.Buffer
	_, _ = fmt.Fprintf(&head, "PUT %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", u.RequestURI(), u.Host, size)
	for name, value := range p.Headers {
		_, _ = fmt.Fprintf(&head, "%s: %s\r\n", name, value)
	}
	head.WriteString("\r\n" + strings.Repeat("x", first))
	if _, err = conn.Write(head.Bytes()); err != nil {
		t.Fatal(err)
	}
	return func() (int, string, error) {
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		go func() { _, _ = conn.Write(bytes.Repeat([]byte("x"), size-first)) }() // which the server may refuse to read
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return 0, "", err
		}
		b, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b), err
	}
}

// TestDiskFilledByUploads begins more uploads than there is room for, each with some bytes, and then
// completes them all.
func TestDiskFilledByUploads(t *testing.T) {
	const size, uploads, floor = mib, 90, 64 * mib
	s := startSmall(t, 128*mib)
	signed := make([]signedPut, uploads)
	for i := range signed {
		signed[i] = s.presign(size)
	}
	var finish []func() (int, string, error)
	for _, p := range signed {
		finish = append(finish, p.begin(t, size, 10))
	}
	statuses := map[int]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, f := range finish {
		wg.Go(func() {
			status, body, err := f()
			if err != nil || status != http.StatusOK && !strings.Contains(body, "<Code>InsufficientStorage</Code>") {
				t.Errorf("a PUT ended with %d %s %v", status, body, err)
			}
			mu.Lock()
			defer mu.Unlock()
			statuses[status]++
		})
	}
	wg.Wait()
	if statuses[http.StatusOK] < 40 || statuses[http.StatusInsufficientStorage] < 10 || statuses[http.StatusOK]+statuses[http.StatusInsufficientStorage] != uploads {
		t.Errorf("got the statuses %v, want some 60 of 200 and the rest of 507", statuses)
	}
	if left := free(t, s.dir); left < floor-4*mib { // the database grows a little
		t.Errorf("%d MiB are free, want the floor of 64", left/mib)
	}
	eventually(t, 10*time.Second, func() error {
		status, body := s.ready()
		if status != http.StatusOK || !strings.Contains(body, "[~] uploads: degraded") || !strings.HasSuffix(body, "\ndegraded\n") {
			return fmt.Errorf("readyz is %d %s, want it to be degraded by uploads", status, body)
		}
		return nil
	})
	if resp, body := s.do(http.MethodPost, "/jobs", `{"queue":"q","payload":"beside"}`); resp.StatusCode != http.StatusAccepted {
		t.Errorf("POST /jobs: %d %s", resp.StatusCode, body)
	}
	eventually(t, 20*time.Second, func() error {
		if s.sink.count(`"beside"`) == 0 {
			return errors.New("the job has not run")
		}
		return nil
	})
	if status, body := s.login(); status != http.StatusOK {
		t.Errorf("POST /login: %d %s", status, body)
	}
	// What is there can be deleted, and makes room.
	for _, p := range signed[:5] {
		if resp, body := s.do(http.MethodDelete, "/uploads/"+p.ID, ""); resp.StatusCode != http.StatusNoContent {
			t.Errorf("DELETE: %d %s", resp.StatusCode, body)
		}
	}
	eventually(t, 10*time.Second, func() error {
		if status, body, err := s.presign(size).begin(t, size, 10)(); status != http.StatusOK || err != nil {
			return fmt.Errorf("a PUT with room ended with %d %s %v", status, body, err) //nolint:errorlint // it may be nil
		}
		return nil
	})
}

// TestFullDisk fills the disk to its last byte beside the gateway.
func TestFullDisk(t *testing.T) {
	s := startSmall(t, 48*mib)
	s.sink.set(true)
	accepted := []string{}
	enqueue := func() (*http.Response, string) {
		payload := fmt.Sprintf(`"job %d"`, len(accepted))
		resp, body := s.do(http.MethodPost, "/jobs", `{"queue":"q","payload":`+payload+`}`)
		if resp.StatusCode == http.StatusAccepted {
			accepted = append(accepted, payload)
		}
		return resp, body
	}
	for range 20 {
		enqueue()
	}
	if len(accepted) != 20 {
		t.Fatalf("%d of 20 jobs were taken", len(accepted))
	}
	filler := filepath.Join(s.dir, "filler")
	fill(t, filler)

	eventually(t, 10*time.Second, func() error { // free space is believed for a second
		resp, body := enqueue()
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, `"type":"https://gatehouse-proxy.github.io/problems/unavailable"`) {
			return fmt.Errorf("POST /jobs: %d %v %s, want 503 with Retry-After", resp.StatusCode, resp.Header, body)
		}
		return nil
	})
	for _, tt := range []struct{ method, path, body string }{
		{http.MethodPost, "/jobs", `{"queue":"q","payload":1}`},
		{http.MethodPost, "/jobs", `{"queue":"q","payload":1,"unique_key":"k"}`},
		{http.MethodPost, "/jobs/batch", `{"jobs":[{"queue":"q","payload":1},{"queue":"q","payload":2}]}`},
		{http.MethodPost, "/uploads/presign", `{"filename":"a.txt","content_type":"text/plain","size":1}`},
		{http.MethodPost, "/events", `{"type":"order.created","payload":{}}`},
	} {
		if resp, body := s.do(tt.method, tt.path, tt.body); resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s %s: %d %s, want 503 with Retry-After", tt.method, tt.path, resp.StatusCode, body)
		}
	}
	// What ends or guards work is tried; it may be refused, but never as a fault of ours.
	for _, tt := range []struct{ method, path, body string }{
		{http.MethodPost, "/login", `{"email":"ann@example.com","password":"a long password"}`},
		{http.MethodPost, "/locks/l", `{"ttl":"10s"}`},
		{http.MethodGet, "/jobs?queue=q", ""},
	} {
		if resp, body := s.do(tt.method, tt.path, tt.body); resp.StatusCode == http.StatusInternalServerError {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, resp.StatusCode, body)
		}
	}
	eventually(t, 10*time.Second, func() error {
		if status, body := s.ready(); !strings.Contains(body, "data_dir: degraded, ") && !strings.Contains(body, "data_dir: failed, ") || !strings.Contains(body, "disk is") {
			return fmt.Errorf("readyz is %d %s, want it to name data_dir", status, body)
		}
		return nil
	})

	s.sink.set(false)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() error {
		if resp, body := enqueue(); resp.StatusCode != http.StatusAccepted {
			return fmt.Errorf("POST /jobs with room: %d %s", resp.StatusCode, body)
		}
		return nil
	})
	eventually(t, 2*time.Minute, func() error {
		for _, payload := range accepted {
			if s.sink.count(payload) == 0 {
				return fmt.Errorf("%s was accepted and has not run", payload)
			}
		}
		return nil
	})
	eventually(t, 10*time.Second, func() error {
		if status, body := s.ready(); status != http.StatusOK || !strings.Contains(body, "[+] data_dir: ok") {
			return fmt.Errorf("readyz with room is %d %s", status, body)
		}
		return nil
	})
	if status, body := s.login(); status != http.StatusOK {
		t.Errorf("POST /login: %d %s", status, body)
	}
}

// fill writes the file until there is no more room.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for _, size := range []int{mib, 4 << 10, 1} {
		block := make([]byte, size)
		for err == nil {
			_, err = f.Write(block)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		err = nil
	}
}
