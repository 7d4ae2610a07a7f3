package objects_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/objects"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// begun is a PUT of which a part was sent.
type begun struct {
	t    *testing.T
	conn net.Conn
	left int
}

// begin sends the head of a PUT and ten bytes of its body, and waits until they are on the disk.
func (s *server) begin(t *testing.T, key string, size int) *begun {
	t.Helper()
	before := s.unfinished(t)
	b := s.send(t, key, size)
	for deadline := time.Now().Add(10 * time.Second); s.unfinished(t) <= before; <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the upload has not begun")
		}
	}
	return b
}

// send is begin without the wait.
func (s *server) send(t *testing.T, key string, size int) *begun {
	t.Helper()
	u, headers := s.PresignPut(s.now(), s.base, key, objects.PutSpec{ContentType: "text/plain", Size: int64(size)}, time.Minute)
	target := mustURL(t, u)
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", target.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	var head strings.Builder
	_, _ = fmt.Fprintf(&head, "PUT %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", target.RequestURI(), target.Host, size)
	for name, v := range headers {
		_, _ = fmt.Fprintf(&head, "%s: %s\r\n", name, v)
	}
	if _, err = io.WriteString(conn, head.String()+"\r\n"+strings.Repeat("x", 10)); err != nil {
		t.Fatal(err)
	}
	return &begun{t, conn, size - 10}
}

// unfinished is the number of files of which some bytes are there.
func (s *server) unfinished(t *testing.T) (n int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.root, "tmp", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if info, err := os.Stat(name); err == nil && info.Size() > 0 {
			n++
		}
	}
	return n
}

// answer reads the answer as it is, without sending more.
func (b *begun) answer() *http.Response {
	b.t.Helper()
	_ = b.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReader(b.conn), nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp
}

// finish sends the rest and reads the answer.
func (b *begun) finish() *http.Response {
	b.t.Helper()
	_, _ = io.WriteString(b.conn, strings.Repeat("x", b.left))
	return b.answer()
}

// TestRoomIsReserved begins uploads that together need more than there is.
func TestRoomIsReserved(t *testing.T) {
	s := start(t)
	const size = 8 << 20
	s.SetFree(func() int64 { return 3*size + 1<<20 })
	s.SetFloor(size / 2)
	first, second := s.begin(t, "objects/a", size), s.begin(t, "objects/b", size)
	wantError(t, s.put(t, "objects/c", "text/plain", strings.Repeat("x", size), nil), http.StatusInsufficientStorage, "InsufficientStorage")
	if err := s.Check(t.Context()); service.StateOf(err) != service.IsDegraded {
		t.Errorf("after a refusal: %v, want it degraded", err)
	}
	if resp := s.put(t, "objects/d", "text/plain", "small", nil); resp.StatusCode != http.StatusOK {
		t.Errorf("one that fits: %d", resp.StatusCode)
	}
	if resp := first.finish(); resp.StatusCode != http.StatusOK {
		t.Errorf("one that has begun: %d", resp.StatusCode)
	}
	_ = second.conn.Close()
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(20 * time.Millisecond) {
		resp := s.put(t, "objects/c", "text/plain", strings.Repeat("x", size), nil)
		if resp.StatusCode == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("what an ended upload had reserved is not free: %d", resp.StatusCode)
		}
	}
}

func TestDeleteEndsWhatIsUnderWay(t *testing.T) {
	s := start(t)
	b := s.begin(t, "objects/a", 1000)
	if err := s.Delete(t.Context(), "objects/a"); err != nil {
		t.Fatal(err)
	}
	wantError(t, b.answer(), http.StatusForbidden, "AccessDenied")
	if _, err := s.Stat(t.Context(), "objects/a"); !errors.Is(err, objects.ErrNotFound) {
		t.Errorf("Stat: %v, want ErrNotFound", err)
	}
	if resp := s.put(t, "objects/a", "text/plain", "anew", nil); resp.StatusCode != http.StatusOK {
		t.Errorf("a PUT after it: %d", resp.StatusCode)
	}
}

func TestNewerUploadEndsTheOneBefore(t *testing.T) {
	s := start(t)
	old := s.begin(t, "objects/a", 1000)
	other := s.begin(t, "objects/b", 1000)
	if resp := s.send(t, "objects/a", 1000).finish(); resp.StatusCode != http.StatusOK {
		t.Errorf("the newer one: %d", resp.StatusCode)
	}
	wantError(t, old.answer(), http.StatusPreconditionFailed, "PreconditionFailed")
	if resp := other.finish(); resp.StatusCode != http.StatusOK {
		t.Errorf("one of another key: %d", resp.StatusCode)
	}
}

// TestDrip sends a byte now and then, which keeps no upload alive.
func TestDrip(t *testing.T) {
	s := start(t)
	s.endpoint.SetIdle(300 * time.Millisecond)
	b := s.begin(t, "objects/a", 1000)
	go func() {
		for {
			if _, err := io.WriteString(b.conn, "x"); err != nil {
				return
			}
			<-time.After(20 * time.Millisecond)
		}
	}()
	wantError(t, b.answer(), http.StatusBadRequest, "IncompleteBody")
}

func TestAdmitting(t *testing.T) {
	s := start(t)
	for name, tt := range map[string]struct {
		err    error
		status int
		code   string
	}{
		"refused":     {objects.Refused("It has ended."), 403, "AccessDenied"},
		"there":       {os.ErrExist, 412, "PreconditionFailed"},
		"unavailable": {context.DeadlineExceeded, 503, "ServiceUnavailable"},
		"fault":       {errors.New("broken"), 500, "InternalError"},
	} {
		t.Run(name, func(t *testing.T) {
			s.admit.Store(&tt.err)
			defer s.admit.Store(nil)
			wantError(t, s.put(t, "objects/a", "text/plain", "12345", nil), tt.status, tt.code)
			if _, err := s.Stat(t.Context(), "objects/a"); !errors.Is(err, objects.ErrNotFound) {
				t.Errorf("Stat: %v, want ErrNotFound", err)
			}
		})
	}
}
