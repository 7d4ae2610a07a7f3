package drain

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

func refusing(t *testing.T, before bool) *httptest.Server {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := func() {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = io.WriteString(w, "no")
		}
		if before {
			Before(w, r)
			answer()
			return
		}
		Answer(w, r, answer)
	}))
	t.Cleanup(srv.Close)
	return srv
}

// TestClientsThatSendAllFirst write the whole body before they read, and fail where they cannot.
func TestClientsThatSendAllFirst(t *testing.T) {
	for name, tc := range map[string]struct {
		size   int
		before bool
	}{"small": {100, false}, "1-mib": {1 << 20, false}, "10-mib": {10 << 20, false}, "before-1-mib": {1 << 20, true}, "before-10-mib": {10 << 20, true}} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", refusing(t, tc.before).Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(strings.Repeat("x", tc.size)))
			in := bufio.NewReader(conn)
			for n := range 2 { // and on the same connection again
				if err = r.Write(conn); err != nil {
					t.Fatalf("sending: %v", err)
				}
				resp, err := http.ReadResponse(in, r)
				if err != nil || resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") != "7" {
					t.Fatalf("request %d: got %v, %v", n, resp, err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				r.Body = io.NopCloser(strings.NewReader(strings.Repeat("x", tc.size)))
			}
		})
	}
}

// TestEndlessBodies are cut off by number of bytes, and by time.
func TestEndlessBodies(t *testing.T) {
	for name, head := range map[string]string{"large": "Content-Length: 10000000000", "chunks": "Transfer-Encoding: chunked"} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", refusing(t, false).Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
			_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: h\r\n"+head+"\r\n\r\n")
			var sent int64
			var done sync.WaitGroup
			done.Go(func() {
				chunk := []byte("8000\r\n" + strings.Repeat("x", 0x8000) + "\r\n")
				for {
					n, err := conn.Write(chunk)
					sent += int64(n)
					if err != nil {
						return
					}
				}
			})
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || resp.StatusCode != http.StatusTooManyRequests {
				t.Errorf("got %v, %v", resp, err)
			}
			done.Wait()
			if sent > 32<<20 {
				t.Errorf("%d bytes were taken", sent)
			}
		})
	}
}

func TestWhatNeedsNoDraining(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*http.Request)
		want   bool
	}{
		"body":    {func(*http.Request) {}, true},
		"h2":      {func(r *http.Request) { r.ProtoMajor = 2 }, false},
		"no-body": {func(r *http.Request) { r.Body, r.ContentLength = http.NoBody, 0 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("x"))
			tc.change(r)
			if got := Needed(r); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// TestClientsThatWait to be told to send get the answer and not the word to go on, and lose the connection.
func TestClientsThatWait(t *testing.T) {
	conn, err := net.Dial("tcp", refusing(t, false).Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusTooManyRequests || !resp.Close {
		t.Errorf("got %v, %v, want 429 and the end of the connection", resp, err)
	}
}
