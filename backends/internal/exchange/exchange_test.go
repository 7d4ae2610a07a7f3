package exchange_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/exchange"
)

// server answers each request on its connections with the next of the scripts, then with the last one again.
type server struct {
	net.Listener
	mu       sync.Mutex
	requests int
	conns    int
}

func serve(t *testing.T, answer func(conn net.Conn, request int) (again bool)) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Listener: l}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns++
			s.mu.Unlock()
			conns.Go(func() {
				defer func() { _ = c.Close() }()
				in := bufio.NewReader(c)
				for {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					_ = r.Body.Close()
					s.mu.Lock()
					s.requests++
					n := s.requests
					s.mu.Unlock()
					if !answer(c, n) {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		conns.Wait()
	})
	return s
}

func (s *server) seen() (requests, conns int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests, s.conns
}

func post(t *testing.T, c *exchange.Client, s *server, timeout time.Duration) (*exchange.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.Addr().String(), strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	return c.Do(r, 1000)
}

// until repeats a piece of an answer until the client hangs up.
func until(conn net.Conn, piece string, pace time.Duration) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for range tick.C {
		if _, err := conn.Write([]byte(piece)); err != nil {
			return
		}
	}
}

func TestEndsWhateverTheServerSends(t *testing.T) {
	const short, long = 300 * time.Millisecond, 30 * time.Second
	for name, c := range map[string]struct {
		answer  func(conn net.Conn)
		timeout time.Duration
		status  int // 0 for an error
		cut     bool
		more    bool
	}{
		"switches": {func(c net.Conn) {
			_, _ = c.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"))
			waitClosed(c)
		}, long, 0, false, false},
		"early-hints-only": {func(c net.Conn) { until(c, "HTTP/1.1 103 Early Hints\r\n\r\n", 10*time.Millisecond) }, short, 0, false, false},
		"continues-only":   {func(c net.Conn) { until(c, "HTTP/1.1 100 Continue\r\n\r\n", 10*time.Millisecond) }, short, 0, false, false},
		"silent":           {func(c net.Conn) { waitClosed(c) }, short, 0, false, false},
		"hangs-up":         {func(net.Conn) {}, long, 0, false, false},
		"noise":            {func(c net.Conn) { _, _ = c.Write([]byte("\x00\x01SSH-2.0\r\n\r\n")) }, long, 0, false, false},
		"drips-headers": {func(c net.Conn) {
			_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\n"))
			until(c, "A: b\r\n", 20*time.Millisecond)
		}, short, 0, false, false},
		"drips-a-body": {func(c net.Conn) {
			_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
			until(c, "x", 20*time.Millisecond)
		}, short, 200, true, false},
		"never-ends": {func(c net.Conn) {
			_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
			until(c, strings.Repeat("x", 500), time.Millisecond)
		}, long, 200, false, true},
		"truncates": {func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")) }, long, 200, true, false},
		"cuts-a-chunk": {func(c net.Conn) {
			_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nabc"))
		}, long, 200, true, false},
		"no-body": {func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.1 204 No Content\r\n\r\n")) }, long, 204, false, false},
		"fails-and-drips": {func(c net.Conn) {
			_, _ = c.Write([]byte("HTTP/1.1 500 No\r\n\r\n"))
			until(c, "x", 20*time.Millisecond)
		}, short, 500, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, func(conn net.Conn, _ int) bool { c.answer(conn); return false })
			client := exchange.New(exchange.Options{})
			defer client.CloseIdle()
			begun := time.Now()
			resp, err := post(t, client, s, c.timeout)
			if took := time.Since(begun); took > c.timeout/2+10*time.Second {
				t.Errorf("it took %s", took)
			}
			if c.status == 0 {
				var e *exchange.Error
				if !errors.As(err, &e) || !e.Reached {
					t.Errorf("got %v, %v, want an error of a server that was reached", resp, err)
				}
				if name == "switches" && !errors.Is(err, exchange.ErrSwitched) {
					t.Errorf("got %v, want %v", err, exchange.ErrSwitched)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if resp.Status != c.status || (resp.Cut != nil) != c.cut || resp.More != c.more {
				t.Errorf("got %d, cut %v, more %v", resp.Status, resp.Cut, resp.More)
			}
		})
	}
}

func waitClosed(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

// A server may close a kept-alive connection while a request is on its way.
func TestStaleConnectionIsTriedOnceMore(t *testing.T) {
	for name, c := range map[string]struct {
		second, third   string // the answers to the second and third request, "" to hang up
		wantErr         bool
		requests, conns int
	}{
		"closed-and-well-again":   {"", ok, false, 3, 2},
		"closed-twice":            {"", "", true, 3, 2},
		"closed-after-some-bytes": {"HTTP/1.1 2", ok, true, 2, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, func(conn net.Conn, n int) bool {
				switch n {
				case 1:
					_, _ = conn.Write([]byte(ok))
					return true
				case 2:
					_, _ = conn.Write([]byte(c.second))
				default:
					_, _ = conn.Write([]byte(c.third))
				}
				return false
			})
			client := exchange.New(exchange.Options{})
			defer client.CloseIdle()
			if _, err := post(t, client, s, 10*time.Second); err != nil {
				t.Fatal(err)
			}
			if _, err := post(t, client, s, 10*time.Second); (err != nil) != c.wantErr {
				t.Errorf("got %v", err)
			}
			if requests, conns := s.seen(); requests != c.requests || conns != c.conns {
				t.Errorf("the server saw %d requests on %d connections, want %d on %d", requests, conns, c.requests, c.conns)
			}
		})
	}
	t.Run("a-new-connection-is-not-tried-again", func(t *testing.T) {
		t.Parallel()
		s := serve(t, func(net.Conn, int) bool { return false })
		if _, err := post(t, exchange.New(exchange.Options{}), s, 10*time.Second); err == nil {
			t.Error("got an answer")
		}
		if requests, _ := s.seen(); requests != 1 {
			t.Errorf("the server saw %d requests", requests)
		}
	})
}

func TestUnreachableIsToldApart(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	refused := errors.New("refused")
	plain := serve(t, func(net.Conn, int) bool { return false }) // speaks no TLS
	for name, c := range map[string]struct {
		options exchange.Options
		url     string
	}{
		"nobody-listens": {exchange.Options{}, "http://" + l.Addr().String()},
		"no-tls":         {exchange.Options{}, "https://" + plain.Addr().String()},
		"not-dialled":    {exchange.Options{Guard: dialling(func(string) error { return refused })}, "http://app.example"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			_, err = exchange.New(c.options).Do(r, 1)
			var e *exchange.Error
			if !errors.As(err, &e) || e.Reached {
				t.Errorf("got %v, want an error without a connection", err)
			}
			if strings.Contains(fmt.Sprint(err), c.url) {
				t.Errorf("%v has the URL", err)
			}
		})
	}
}

// A proxy from the environment would be dialled in place of what was allowed.
func TestNoProxy(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	dialled := ""
	c := exchange.New(exchange.Options{Guard: dialling(func(address string) error {
		dialled = address
		return errors.New("refused")
	})})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://app.example:8080", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c.Do(r, 1)
	if dialled != "app.example:8080" {
		t.Errorf("dialled %q", dialled)
	}
}

// dialling is a guard that refuses what it is asked to dial.
func dialling(refuse func(address string) error) func(*http.Transport, time.Duration) exchange.Transport {
	return func(base *http.Transport, _ time.Duration) exchange.Transport {
		base.DialContext = func(_ context.Context, _, address string) (net.Conn, error) { return nil, refuse(address) }
		return base
	}
}
