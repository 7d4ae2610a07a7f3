package body

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

func request(t *testing.T, body io.Reader) (*http.Request, context.CancelFunc) {
	ctx, cancel := context.WithCancel(t.Context())
	return httptest.NewRequest(http.MethodPost, "/", body).WithContext(ctx), cancel
}

func bounded(n int64) *Budget {
	b := new(Budget)
	b.max.Store(n)
	return b
}

func TestRead(t *testing.T) {
	whole := strings.Repeat("x", 10<<10)
	for name, tc := range map[string]struct {
		body  io.Reader
		limit int64
		want  problem.Code
	}{
		"declared":         {strings.NewReader(whole), 10 << 10, ""},
		"streamed":         {struct{ io.Reader }{strings.NewReader(whole)}, 10 << 10, ""},
		"empty":            {strings.NewReader(""), 10, ""},
		"too-large":        {strings.NewReader(whole), 10<<10 - 1, problem.ContentTooLarge},
		"streamed-too-far": {struct{ io.Reader }{strings.NewReader(whole)}, 10<<10 - 1, problem.ContentTooLarge},
		"over-the-budget":  {struct{ io.Reader }{strings.NewReader(whole + whole)}, 100 << 10, problem.Unavailable},
		"breaks-off":       {io.MultiReader(strings.NewReader("x"), broken{}), 100, problem.InvalidRequest},
	} {
		t.Run(name, func(t *testing.T) {
			b := bounded(16 << 10)
			r, end := request(t, tc.body)
			got, err := b.read(httptest.NewRecorder(), r, tc.limit, "")
			if tc.want != "" {
				if err == nil || problem.From(err).Code != tc.want {
					t.Errorf("got %v, want %s", err, tc.want)
				}
			} else if err != nil || name != "empty" && string(got) != whole {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
			end()
			within(t, "the bytes are given back", func() bool { return b.used.Load() == 0 })
		})
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("broken") }

func within(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !done(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("it takes too long until %s", what)
		}
	}
}

// TestBodiesTakeWhatHasArrived: promises of large bodies cost next to nothing, and what was read counts
// until the request ends.
func TestBodiesTakeWhatHasArrived(t *testing.T) {
	b := bounded(1 << 20)
	for range 100 {
		pr, pw := io.Pipe()
		defer func() { _ = pw.Close() }()
		r, end := request(t, pr)
		r.ContentLength = 1 << 20
		defer end()
		go func() { _, _ = b.read(httptest.NewRecorder(), r, 1<<20, "") }()
	}
	within(t, "all have begun", func() bool { return b.used.Load() == 100*first })

	r, end := request(t, strings.NewReader(strings.Repeat("x", 300<<10)))
	if _, err := b.read(httptest.NewRecorder(), r, 1<<20, ""); err != nil {
		t.Fatalf("a body beside 100 that were begun: %v", err)
	}
	r, _ = request(t, strings.NewReader(strings.Repeat("x", 600<<10)))
	_, err := b.read(httptest.NewRecorder(), r, 1<<20, "")
	if e := problem.From(err); e.Code != problem.Unavailable || e.RetryAfter == 0 {
		t.Errorf("beyond the budget: got %v, want unavailable with Retry-After", err)
	}
	end()
	within(t, "the request has ended", func() bool { return b.used.Load() == 100*first })
}

// TestOneClientLeavesRoom: a client has its share, whatever address of its network it comes from, and the last
// of the budget is for small bodies.
func TestOneClientLeavesRoom(t *testing.T) {
	b := bounded(1 << 20)
	take := func(client string, n int) (func(), error) {
		r, end := request(t, strings.NewReader(strings.Repeat("x", n)))
		_, err := b.read(httptest.NewRecorder(), r, 1<<20, client)
		return end, err
	}
	want := func(err error, code problem.Code) {
		t.Helper()
		if e := problem.From(err); err == nil || e.Code != code || e.RetryAfter == 0 {
			t.Errorf("got %v, want %s with Retry-After", err, code)
		}
	}
	var ends []func()
	for _, client := range []string{"2001:db8::1", "2001:db8::2"} {
		end, err := take(client, 100<<10)
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, end)
	}
	_, err := take("2001:db8::3", 100<<10)
	want(err, problem.QuotaExceeded)
	for _, client := range []string{"2001:db8:0:1::1", "192.0.2.1", "192.0.2.2"} {
		if _, err := take(client, 200<<10); err != nil {
			t.Errorf("another client: %v", err)
		}
	}
	_, err = take("192.0.2.3", 200<<10)
	want(err, problem.Unavailable)
	if _, err = take("192.0.2.3", 10<<10); err != nil {
		t.Errorf("a small body: %v", err)
	}
	for _, end := range ends {
		end()
	}
	within(t, "the client's bodies are gone", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.clients["2001:db8::/64"] == 0
	})
	if _, err = take("2001:db8::3", 100<<10); err != nil {
		t.Errorf("after the end of the others: %v", err)
	}
}

// TestPace sends bodies over a socket, whole and in drips.
func TestPace(t *testing.T) {
	errs := make(chan error, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := Paced(w, r.Body, 200*time.Millisecond, 10<<10)
		_, err := io.Copy(io.Discard, p)
		if err == nil {
			p.Done()
		}
		errs <- err
	}))
	defer srv.Close()
	for name, tc := range map[string]struct {
		drip string
		fast bool
		slow bool
	}{
		"stalled": {"", false, true},
		"dripped": {"x", false, true},
		"burst":   {strings.Repeat("x", 1<<20), true, false},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", srv.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1048576\r\n\r\n")
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			if tc.fast {
				_, _ = io.WriteString(conn, tc.drip)
			}
			for timeout := time.After(20 * time.Second); ; {
				select {
				case <-tick.C:
					if !tc.fast {
						_, _ = io.WriteString(conn, tc.drip)
					}
				case err := <-errs:
					if (err != nil) != tc.slow || err != nil && problem.From(failed(err)).Code != problem.RequestTimeout {
						t.Errorf("got %v, want too slow: %v", err, tc.slow)
					}
					return
				case <-timeout:
					t.Fatal("the body is still being read")
				}
			}
		})
	}
}

func TestCheckEncoding(t *testing.T) {
	for value, refused := range map[string]bool{"": false, "identity": false, "gzip": true, "br": true, "identity, gzip": true} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.Header["Content-Encoding"] = []string{value}
		err := CheckEncoding(r)
		if (err != nil) != refused {
			t.Errorf("%q: got %v", value, err)
		}
		if e := problem.From(err); refused && (e.Code != problem.UnsupportedMediaType || e.Header.Get("Accept-Encoding") == "") {
			t.Errorf("%q: got %v %v", value, e, e.Header)
		}
	}
}
