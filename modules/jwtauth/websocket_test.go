package jwtauth_test

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/modtest"
)

// TestTokensInHeadersAreNotLogged: Caddy hides Authorization and Cookie, and knows of no other.
func TestTokensInHeadersAreNotLogged(t *testing.T) {
	token := sign(t, r1, good(nil), keys().rsa)
	for name, c := range map[string]struct {
		from   string
		header http.Header
		errors string
	}{
		"header":       {"from header Cf-Access-Jwt-Assertion", http.Header{"Cf-Access-Jwt-Assertion": {token}}, ""},
		"header-twice": {"from header Cf-Access-Jwt-Assertion", http.Header{"Cf-Access-Jwt-Assertion": {token, token}}, ""},
		"other-prefix": {"from header X-Token Bearer", http.Header{"X-Token": {"Other " + token}}, "handle_errors {\n\t\trespond page\n\t}"},
		"protocol":     {"from websocket_protocol", http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Protocol": {"chat, " + token}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := modtest.Start(t, "{\n\tgatehouse {\n\t\tdata_dir @@data@@\n\t}\n\tlog {\n\t\toutput file @@data@@/log\n\t}\n}\n:80 {\n\tlog\n\tjwt_auth {\n\t\tjwks file "+
				keyFile(t, publicSet(t))+"\n"+c.from+"\n\t}\n\trespond ok\n\t"+c.errors+"\n}\n")
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header = c.header.Clone()
			ask(g, r)
			log, err := os.ReadFile(filepath.Join(g.Dir, "log"))
			if err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(log, []byte("handled request")); n != 1 || !bytes.Contains(log, []byte("REDACTED")) {
				t.Errorf("got %d lines of access, want 1 with REDACTED:\n%s", n, log)
			}
			for _, part := range strings.Split(token, ".") {
				if bytes.Contains(log, []byte(part[:20])) {
					t.Errorf("the token is in the log:\n%s", log)
				}
			}
		})
	}
}

// TestWebSocketsEndWithTheirToken, if that is asked for; others go on.
func TestWebSocketsEndWithTheirToken(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		w.WriteHeader(http.StatusSwitchingProtocols)
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		for {
			line, err := rw.ReadString('\n')
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "echo "+line)
		}
	}))
	defer app.Close()
	options := "jwks file " + keyFile(t, publicSet(t)) + "\nleeway 0s\n"
	url, _ := serve(t, "handle /ending {\njwt_auth {\n"+options+"end_websockets\n}\nreverse_proxy "+app.Listener.Addr().String()+
		"\n}\nhandle {\njwt_auth {\n"+options+"}\nreverse_proxy "+app.Listener.Addr().String()+"\n}\n")
	open := func(path string, until time.Time) (io.ReadWriteCloser, *bufio.Reader) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}
		r.Header.Set("Authorization", "Bearer "+sign(t, r1, good(claims{"exp": float64(until.UnixMilli()) / 1000}), keys().rsa))
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		conn, ok := resp.Body.(io.ReadWriteCloser)
		if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
			t.Fatalf("got %s, want 101", resp.Status)
		}
		t.Cleanup(func() { _ = conn.Close() })
		in := bufio.NewReader(conn)
		if _, err = io.WriteString(conn, "hello\n"); err != nil {
			t.Fatal(err)
		}
		if line, err := in.ReadString('\n'); line != "echo hello\n" {
			t.Fatalf("got %q (%v)", line, err)
		}
		return conn, in
	}
	until := time.Now().Add(3 * time.Second)
	other, otherIn := open("/other", until)
	_, in := open("/ending", until)
	ended := make(chan error, 1)
	go func() {
		_, err := in.ReadString('\n')
		ended <- err
	}()
	select {
	case err := <-ended:
		if early := time.Until(until); early > 50*time.Millisecond || err == nil {
			t.Errorf("it ended %s before its token, with %v", early, err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the WebSocket goes on without a token")
	}
	if _, err := io.WriteString(other, "still\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := otherIn.ReadString('\n'); line != "echo still\n" {
		t.Errorf("without the option: got %q (%v), want that it goes on", line, err)
	}
}
