package httpcache_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// serve puts the gateway on a socket, where connections can break.
func serve(t *testing.T, a *app, inner string) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(start(t, a, inner))
	t.Cleanup(srv.Close)
	return srv
}

func fetch(t *testing.T, url string) (resp *http.Response, body string, err error) {
	t.Helper()
	resp, err = http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

func isHit(resp *http.Response) bool {
	return strings.Contains(resp.Header.Get("Cache-Status"), "gatehouse; hit")
}

func TestIncompleteIsNeverStored(t *testing.T) {
	for name, breakOff := range map[string]func(w http.ResponseWriter){
		"content-length": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "100000")
			_, _ = io.WriteString(w, strings.Repeat("x", 5000))
			panic(http.ErrAbortHandler)
		},
		"chunked": func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, strings.Repeat("x", 5000))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newApp(t, nil)
			a.answer = func(w http.ResponseWriter, r *http.Request) {
				if a.hits.Load() > 1 {
					a.fresh()(w, r)
					return
				}
				w.Header().Set("Cache-Control", "max-age=3600")
				breakOff(w)
			}
			srv := serve(t, a, "")
			if _, body, err := fetch(t, srv.URL+"/x"); err == nil {
				t.Fatalf("the client got %d bytes as a whole response", len(body))
			}
			resp, body, err := fetch(t, srv.URL+"/x")
			if err != nil || isHit(resp) || body != "answer 2" {
				t.Errorf("got %q, hit %t, %v, want a new answer", body, isHit(resp), err)
			}
		})
	}
}

func TestClientAbortIsNotStored(t *testing.T) {
	a := newApp(t, nil)
	left := make(chan struct{})
	a.answer = func(w http.ResponseWriter, r *http.Request) {
		if a.hits.Load() > 1 {
			a.fresh()(w, r)
			return
		}
		w.Header().Set("Cache-Control", "max-age=3600")
		for range 1000 {
			if _, err := io.WriteString(w, strings.Repeat("x", 100)); err != nil {
				break
			}
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
				close(left)
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	srv := serve(t, a, "")
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+"/x", nil)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.ReadFull(resp.Body, make([]byte, 500))
	cancel()
	_ = resp.Body.Close()
	select {
	case <-left:
	case <-time.After(10 * time.Second):
		t.Fatal("the app does not learn that the client went away")
	}
	if resp, body, err := fetch(t, srv.URL+"/x"); err != nil || isHit(resp) || body != "answer 2" {
		t.Errorf("got %d bytes, hit %t, %v, want a new answer", len(body), isHit(resp), err)
	}
}

func TestLargeBodiesPassUnstored(t *testing.T) {
	for name, c := range map[string]struct {
		size    int
		chunked bool
		want    bool
	}{
		"small-with-length": {1000, false, true},
		"small-chunked":     {100_000, true, true},
		"large-with-length": {1<<20 + 1, false, false},
		"large-chunked":     {1<<20 + 1, true, false},
		"at-the-limit":      {1 << 20, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			a := newApp(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Cache-Control", "max-age=3600")
				if !c.chunked {
					w.Header().Set("Content-Length", fmt.Sprint(c.size))
				}
				_, _ = w.Write(make([]byte, c.size/2))
				_ = http.NewResponseController(w).Flush()
				_, _ = w.Write(make([]byte, c.size-c.size/2))
			})
			srv := serve(t, a, "")
			for i := range 2 {
				resp, body, err := fetch(t, srv.URL+"/x")
				if err != nil || len(body) != c.size {
					t.Fatalf("got %d bytes, %v, want %d", len(body), err, c.size)
				}
				if got, want := isHit(resp), i == 1 && c.want; got != want {
					t.Errorf("request %d: hit %t, want %t", i+1, got, want)
				}
			}
		})
	}
}

func TestEventsStreamThrough(t *testing.T) {
	release := make(chan bool)
	a := newApp(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Cache-Control", "max-age=3600")
		_, _ = io.WriteString(w, "data: one\n\n")
		_ = http.NewResponseController(w).Flush()
		<-release
		_, _ = io.WriteString(w, "data: two\n\n")
	})
	srv := serve(t, a, "")
	resp, err := http.Get(srv.URL + "/x")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewReader(resp.Body)
	if line, err := lines.ReadString('\n'); err != nil || line != "data: one\n" {
		t.Fatalf("got %q, %v before the second event was sent", line, err)
	}
	close(release)
	rest, err := io.ReadAll(lines)
	if err != nil || !strings.Contains(string(rest), "data: two") {
		t.Errorf("got %q, %v", rest, err)
	}
}

func TestUpgradePassesThrough(t *testing.T) {
	a := newApp(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		line, _ := rw.ReadString('\n')
		_, _ = conn.Write([]byte("echo " + line))
	})
	srv := serve(t, a, "")
	req, _ := http.NewRequest(http.MethodGet, srv.URL+"/x", nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "websocket")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	conn, ok := resp.Body.(io.ReadWriter)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
		t.Fatalf("got %d, want 101", resp.StatusCode)
	}
	_, _ = io.WriteString(conn, "hello\n")
	if got, _ := bufio.NewReader(conn).ReadString('\n'); got != "echo hello\n" {
		t.Errorf("got %q", got)
	}
}

func TestEarlyHintsPassThrough(t *testing.T) {
	a := newApp(t, nil)
	a.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</early>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		a.fresh()(w, r)
	}
	srv := serve(t, a, "")
	for i := range 2 {
		resp, body, err := fetch(t, srv.URL+"/x")
		if err != nil || body != "answer 1" || resp.StatusCode != 200 || isHit(resp) != (i == 1) || resp.Header.Get("Link") != "" {
			t.Errorf("request %d: got %d %q %v, hit %t, Link %q", i+1, resp.StatusCode, body, err, isHit(resp), resp.Header.Get("Link"))
		}
	}
}

func TestEncodedVariants(t *testing.T) {
	a := newApp(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "max-age=3600")
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, strings.Repeat("compress me ", 200))
	})
	g := start(t, a, "encode gzip")
	for i := range 2 {
		plain, zipped := get(g, "http://h/x"), get(g, "http://h/x", "Accept-Encoding", "gzip")
		if !strings.HasPrefix(plain.body, "compress me") || plain.Header.Get("Content-Encoding") != "" || plain.hit() != (i == 1) {
			t.Errorf("round %d: the plain variant is %q with %q", i, plain.body[:10], plain.cacheStatus())
		}
		if zipped.Header.Get("Content-Encoding") != "gzip" || !strings.HasPrefix(zipped.body, "\x1f\x8b") || zipped.hit() != (i == 1) {
			t.Errorf("round %d: the encoded variant has %q, %q", i, zipped.Header.Get("Content-Encoding"), zipped.cacheStatus())
		}
	}
}

func TestErrorsOfTheGatewayAreNotStored(t *testing.T) {
	a := newApp(t, nil)
	a.answer = a.fresh()
	a.Close()
	g := start(t, a, "")
	for range 2 {
		if got := get(g, "http://h/x"); got.StatusCode != 502 || got.hit() {
			t.Errorf("got %d with %q", got.StatusCode, got.cacheStatus())
		}
	}
}
