package objects_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/objects"
)

// serveEnv names the directory that a child process of the tests serves until it is killed.
const serveEnv = "GATEHOUSE_TEST_SERVE_OBJECTS"

func TestMain(m *testing.M) {
	if root := os.Getenv(serveEnv); root != "" {
		serveForever(root)
	}
	os.Exit(m.Run())
}

func serveForever(root string) {
	d, err := objects.OpenDisk(root, "uploads", testKeys())
	if err != nil {
		panic(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	_, _ = fmt.Fprintln(os.Stdout, l.Addr())
	panic(http.Serve(l, d.Endpoint(slog.New(slog.DiscardHandler), time.Now)))
}

// child serves root in another process. kill is kill -9.
func child(t *testing.T, root string) (base *url.URL, kill func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), serveEnv+"="+root), os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err = cmd.Start(); err != nil {
		t.Fatal(err)
	}
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the child did not say its address: %v", err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(kill)
	return mustURL(t, "http://"+addr[:len(addr)-1]), kill
}

func putRequest(t *testing.T, d *objects.Disk, base *url.URL, key string, size int, content io.Reader) *http.Request {
	t.Helper()
	u, headers := d.PresignPut(time.Now(), base, key, objects.PutSpec{ContentType: "image/png", Size: int64(size)}, time.Minute)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, u, content)
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range headers {
		r.Header.Set(name, v)
	}
	r.ContentLength = int64(size)
	return r
}

func TestKilledInAnUploadLeavesNoObject(t *testing.T) {
	root := filepath.Join(t.TempDir(), "objects")
	signer := open(t, root)
	base, kill := child(t, root)
	content := make([]byte, 1<<20)
	_, _ = rand.Read(content)
	half, sender := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(putRequest(t, signer, base, "objects/a", len(content), half))
		if err == nil {
			_ = resp.Body.Close()
			sent <- nil
			return
		}
		sent <- err
	}()
	if _, err := sender.Write(content[:len(content)/2]); err != nil {
		t.Fatal(err)
	}
	unfinished := func() int64 {
		files, err := filepath.Glob(filepath.Join(root, "tmp", "*"))
		if err != nil || len(files) != 1 {
			return 0
		}
		st, err := os.Stat(files[0])
		if err != nil {
			return 0
		}
		return st.Size()
	}
	for deadline := time.Now().Add(10 * time.Second); unfinished() < int64(len(content)/4); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the upload did not reach the disk")
		}
	}
	kill()
	_ = sender.CloseWithError(io.ErrClosedPipe)
	if err := <-sent; err == nil {
		t.Fatal("the upload was answered")
	}

	d := open(t, root)
	if _, err := d.Stat(t.Context(), "objects/a"); !errors.Is(err, objects.ErrNotFound) {
		t.Errorf("Stat: %v, want ErrNotFound", err)
	}
	if left, err := os.ReadDir(filepath.Join(root, "tmp")); err != nil || len(left) != 0 {
		t.Errorf("left in tmp: %v, %v", left, err)
	}
	base, _ = child(t, root)
	resp, err := http.DefaultClient.Do(putRequest(t, signer, base, "objects/a", len(content), bytes.NewReader(content)))
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("uploading again: %v, %v", resp, err)
	}
	_ = resp.Body.Close()
}

// TestKilledAtAnyTime kills the server while it stores objects one after the other: each that was
// answered is there as it was sent, and the one in flight is there whole or not at all.
func TestKilledAtAnyTime(t *testing.T) {
	rounds := 4
	if os.Getenv("GATEHOUSE_LONG") != "" {
		rounds = 100
	}
	root := filepath.Join(t.TempDir(), "objects")
	signer := open(t, root)
	sentAs := map[string][]byte{}
	for round := range rounds {
		base, kill := child(t, root)
		time.AfterFunc(time.Duration(20+round*7%60)*time.Millisecond, kill)
		var inFlight string
		for i := 0; ; i++ {
			key, content := fmt.Sprintf("objects/%d/%d", round, i), make([]byte, 50_000)
			_, _ = rand.Read(content)
			inFlight = key
			sentAs[key] = content
			resp, err := http.DefaultClient.Do(putRequest(t, signer, base, key, len(content), bytes.NewReader(content)))
			if err != nil {
				break
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("PUT: %d", resp.StatusCode)
			}
		}
		kill()
		d := open(t, root)
		for key, want := range sentAs {
			info, err := d.Stat(t.Context(), key)
			if errors.Is(err, objects.ErrNotFound) && key == inFlight {
				delete(sentAs, key)
				continue
			}
			if err != nil {
				t.Fatalf("round %d, %s: %v", round, key, err)
			}
			f, err := d.Open(t.Context(), key, info.ETag)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(f)
			_ = f.Close()
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("round %d, %s: content differs, %v", round, key, err)
			}
		}
	}
}
