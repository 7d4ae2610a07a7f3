package integration

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// hypercornApp speaks HTTP/2 to whoever asks for an upgrade, and echoes on a WebSocket.
const hypercornApp = `
import sys, asyncio
from hypercorn.config import Config
from hypercorn.asyncio import serve
async def app(scope, receive, send):
    if scope['type'] == 'websocket':
        await receive()
        await send({'type': 'websocket.accept'})
        await receive()
        return
    if scope['type'] != 'http': return
    names = ','.join(sorted(n.decode() for n, _ in scope['headers']))
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})
    await send({'type': 'http.response.body', 'body': f"{scope['http_version']} {scope['path']} {names}".encode()})
c = Config(); c.bind = ['127.0.0.1:' + sys.argv[1]]
asyncio.run(serve(app, c))
`

func upgrade(to, more string) string {
	return "GET /hyper HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade" + more + "\r\nUpgrade: " + to + "\r\n"
}

// TestOnlyWebSocketPasses: an app that switches to HTTP/2 would answer requests that no handler has seen.
func TestOnlyWebSocketPasses(t *testing.T) {
	dir, port, admin, app := t.TempDir(), freePort(t), "127.0.0.1:"+freePort(t), freePort(t)
	config := fmt.Sprintf(guardedHead, admin, dir) + "http://127.0.0.1:" + port +
		" {\n\thandle /hyper* {\n\t\treverse_proxy 127.0.0.1:" + app + "\n\t}\n\thandle {\n\t\tjwt_auth {\n\t\t\tsecret hmac\n\t\t}\n\t\treverse_proxy 127.0.0.1:" + app + "\n\t}\n}\n"
	for name, content := range map[string]string{"hmac": strings.Repeat("k", 32), "Caddyfile": config, "app.py": hypercornApp} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	startFile(t, dir, "/usr/bin/python3", "app.py", app).waitFor("http://127.0.0.1:" + app + "/")
	start(t, dir, "gatehouse", "run", "--config", "Caddyfile", "--adapter", "caddyfile").waitFor("http://" + admin + "/startupz")

	const settings = "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
	const key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
	if status, _, _ := exchange(t, "127.0.0.1:"+app, upgrade("h2c", ", HTTP2-Settings")+settings+"\r\n"); status != http.StatusSwitchingProtocols {
		t.Fatalf("the app alone: got %d, want it to switch, or this test shows nothing", status)
	}
	for name, c := range map[string]struct {
		request string
		status  int
	}{
		"websocket":       {upgrade("websocket", "") + key, 101},
		"h2c":             {upgrade("h2c", ", HTTP2-Settings") + settings, 200},
		"h2c-upper-case":  {upgrade("H2C", ", http2-settings") + settings, 200},
		"with-websocket":  {upgrade("h2c, websocket", ", HTTP2-Settings") + settings, 200},
		"websocket-first": {upgrade("websocket, h2c", ", HTTP2-Settings") + settings, 200},
		"two-lines":       {upgrade("websocket\r\nUpgrade: h2c", ", HTTP2-Settings") + settings, 200},
		"other":           {upgrade("tls/1.2", ""), 200},
		"settings-alone":  {"GET /hyper HTTP/1.1\r\nHost: 127.0.0.1\r\n" + settings, 200},
	} {
		t.Run(name, func(t *testing.T) {
			status, body, _ := exchange(t, "127.0.0.1:"+port, c.request+"\r\n")
			if status != c.status {
				t.Errorf("got %d %q, want %d", status, body, c.status)
			}
			if strings.Contains(body, "upgrade") || strings.Contains(body, "http2-settings") || status == 200 && !strings.HasPrefix(body, "1.1 /hyper") {
				t.Errorf("the app got %q", body)
			}
		})
	}
}

// TestOneFraming: of two lengths, or a length of two kinds, the app and the gateway never see different
// ones, and what follows such a request on the connection is not taken for another request.
func TestOneFraming(t *testing.T) {
	type got struct {
		length   int64
		encoding string
		body     string
	}
	seen := make(chan got, 16)
	app := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost {
			return
		}
		seen <- got{r.ContentLength, strings.Join(r.TransferEncoding, ","), string(b)}
	}))
	defer app.Close()
	dir, port, admin := t.TempDir(), freePort(t), "127.0.0.1:"+freePort(t)
	config := fmt.Sprintf(guardedHead, admin, dir) + "http://127.0.0.1:" + port + " {\n\tlimit 1000/1s\n\treverse_proxy " + app.Listener.Addr().String() + "\n}\n"
	for name, content := range map[string]string{"hmac": strings.Repeat("k", 32), "Caddyfile": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start(t, dir, "gatehouse", "run", "--config", "Caddyfile", "--adapter", "caddyfile").waitFor("http://" + admin + "/startupz")
	const next = "GET /smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
	post := func(proto, lines, body string) string {
		return "POST / HTTP/" + proto + "\r\nHost: 127.0.0.1\r\n" + lines + "\r\n" + body + next
	}
	for name, c := range map[string]struct {
		request string
		status  int // 0 for any refusal
		app     *got
	}{
		"chunked-and-length":  {post("1.1", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 200, &got{-1, "chunked", ""}},
		"length-and-chunked":  {post("1.1", "Transfer-Encoding: chunked\r\nContent-Length: 99\r\n", "3\r\nabc\r\n0\r\n\r\n"), 200, &got{-1, "chunked", "abc"}},
		"two-lengths":         {post("1.1", "Content-Length: 3\r\nContent-Length: 5\r\n", "abc"), 400, nil},
		"list-of-lengths":     {post("1.1", "Content-Length: 3, 5\r\n", "abc"), 400, nil},
		"signed-length":       {post("1.1", "Content-Length: +3\r\n", "abc"), 400, nil},
		"length-in-hex":       {post("1.1", "Content-Length: 0x3\r\n", "abc"), 400, nil},
		"unknown-encoding":    {post("1.1", "Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), 501, nil},
		"two-encodings":       {post("1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"), 501, nil},
		"list-of-encodings":   {post("1.1", "Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), 501, nil},
		"encoding-with-tab":   {post("1.1", "Transfer-Encoding:\x0bchunked\r\n", "0\r\n\r\n"), 0, nil},
		"space-before-colon":  {post("1.1", "Transfer-Encoding : chunked\r\n", "0\r\n\r\n"), 400, nil},
		"folded":              {post("1.1", "X-A: b\r\n Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", ""), 0, nil},
		"chunked-in-1.0":      {post("1.0", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n", "abc"), 200, &got{3, "", "abc"}},
		"chunk-size-overflow": {post("1.1", "Transfer-Encoding: chunked\r\n", "10000000000000003\r\nabc\r\n0\r\n\r\n"), 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			status, body, c2 := exchange(t, "127.0.0.1:"+port, c.request)
			if status != c.status && (c.status != 0 || status == 200 && name != "folded") {
				t.Errorf("got %d %q, want %d", status, body, c.status)
			}
			if c.app != nil {
				if app := <-seen; app != *c.app {
					t.Errorf("the app got %+v, want %+v", app, *c.app)
				}
			}
			if name == "folded" {
				<-seen
				return // one reading: the field goes on, its value is forwarded on one line
			}
			if resp, err := http.ReadResponse(c2, nil); err == nil {
				_ = resp.Body.Close()
				t.Errorf("what follows was answered %d: the connection must be closed", resp.StatusCode)
			}
		})
	}
}
