package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The clients send a body of so many bytes and print the status and Retry-After of the answer.
const (
	pythonClient = `
import http.client, sys
c = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]), timeout=20)
c.request('POST', sys.argv[2], b'x' * int(sys.argv[3]), {'Content-Type': 'application/octet-stream'})
r = c.getresponse(); r.read()
print(r.status, r.getheader('Retry-After'))
`
	pythonStream = `
import http.client, sys
c = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]), timeout=20)
chunks = (b'x' * 65536 for _ in range(int(sys.argv[3]) // 65536))
c.request('POST', sys.argv[2], chunks, {'Content-Type': 'application/octet-stream'}, encode_chunked=True)
r = c.getresponse(); r.read()
print(r.status, r.getheader('Retry-After'))
`
	nodeClient = `
const [port, path, n] = process.argv.slice(1);
const r = require('http').request({port, path, host: '127.0.0.1', method: 'POST', headers: {'Content-Length': n}}, res => {
  res.resume(); res.on('end', () => console.log(res.statusCode, res.headers['retry-after'] ?? 'None'));
});
r.on('error', e => { console.log('error', e.code); });
r.end(Buffer.alloc(+n));
`
	nodeFetch = `
const [port, path, n] = process.argv.slice(1);
fetch('http://127.0.0.1:' + port + path, {method: 'POST', body: Buffer.alloc(+n)}).then(async r => {
  await r.arrayBuffer(); console.log(r.status, r.headers.get('retry-after') ?? 'None');
}).catch(e => console.log('error', e.cause?.code));
`
)

const refusingSites = `{
	admin off
	gatehouse {
		data_dir data
		body_memory 8MiB
		secret key file key
	}
}
http://127.0.0.1:PORT {
	handle /limit {
		limit 1/1h {
			by {http.request.method}
		}
		respond ok
	}
	handle /token {
		jwt_auth {
			secret key
		}
		respond ok
	}
	handle /hook {
		webhook_verify github {
			secret key
		}
		respond ok
	}
}
http://127.0.0.1:ROUTED {
	handle /limit {
		limit 1/1h {
			by {http.request.method}
		}
		respond ok
	}
	handle_errors {
		problem
	}
}
http://127.0.0.1:FOREIGN {
	handle /limit {
		limit 1/1h {
			by {http.request.method}
		}
		respond ok
	}
	handle_errors {
		respond "sorry" {err.status_code}
	}
}
`

// refusing serves refusingSites.
func refusing(t *testing.T) (p *process, port, routed, foreign string) {
	t.Helper()
	dir := t.TempDir()
	port, routed, foreign = freePort(t), freePort(t), freePort(t)
	config := strings.NewReplacer("PORT", port, "ROUTED", routed, "FOREIGN", foreign).Replace(refusingSites)
	for name, content := range map[string]string{"Caddyfile": config, "key": strings.Repeat("k", 40)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p = start(t, dir, "gatehouse", "run", "--config", "Caddyfile")
	p.waitFor("http://127.0.0.1:" + port + "/token")
	for _, port := range []string{port, routed, foreign} { // use the allowance up
		resp, err := http.Post("http://127.0.0.1:"+port+"/limit", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	return p, port, routed, foreign
}

func runClient(t *testing.T, script string, args ...string) string {
	t.Helper()
	name, flag := "/usr/bin/python3", "-c"
	if script == nodeClient || script == nodeFetch {
		name, flag = "node", "-e"
	}
	out, err := exec.CommandContext(t.Context(), name, append([]string{flag, script}, args...)...).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, tail(string(out), 3))
	}
	return strings.TrimSpace(string(out))
}

// TestClientsReadWhyTheyAreRefused: with their body half sent they get the status and Retry-After, and no reset.
func TestClientsReadWhyTheyAreRefused(t *testing.T) {
	_, port, routed, foreign := refusing(t)
	clients := map[string]string{"python": pythonClient, "node-http": nodeClient, "node-fetch": nodeFetch}
	for name, script := range clients {
		for _, size := range []int{1 << 20, 10 << 20} {
			t.Run(fmt.Sprintf("%s-%d-mib", name, size>>20), func(t *testing.T) {
				n := strconv.Itoa(size)
				for _, at := range []string{port, routed, foreign} {
					if got := runClient(t, script, at, "/limit", n); !strings.HasPrefix(got, "429 3") {
						t.Errorf("limit at %s: got %q, want 429 with Retry-After of an hour", at, got)
					}
				}
				for _, path := range []string{"/token", "/hook"} {
					if got := runClient(t, script, port, path, n); got != "401 None" {
						t.Errorf("%s: got %q, want 401", path, got)
					}
				}
			})
		}
	}
	if got := runClient(t, pythonStream, port, "/limit", strconv.Itoa(1<<20)); !strings.HasPrefix(got, "429 3") {
		t.Errorf("chunked: got %q", got)
	}
}

// TestRefusalsDoNotWaitForTheBody: the answer is there at once, whatever was promised, and what comes then
// is never taken for a request.
func TestRefusalsDoNotWaitForTheBody(t *testing.T) {
	_, port, _, _ := refusing(t)
	for name, tc := range map[string]struct {
		length string
		sent   string
	}{
		"nothing-sent":    {"Content-Length: 100", ""},
		"half-sent":       {"Content-Length: 100000", "GET /token HTTP/1.1\r\nHost: h\r\n\r\n"},
		"large":           {"Content-Length: 100000000", "x"},
		"chunks":          {"Transfer-Encoding: chunked", "5\r\nhello\r\n"},
		"waits-to-be-let": {"Content-Length: 100\r\nExpect: 100-continue", ""},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", "127.0.0.1:"+port)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			began := time.Now()
			_, _ = io.WriteString(conn, "POST /hook HTTP/1.1\r\nHost: 127.0.0.1:"+port+"\r\n"+tc.length+"\r\n\r\n"+tc.sent)
			in := bufio.NewReader(conn)
			_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
			resp, err := http.ReadResponse(in, nil)
			if err != nil || resp.StatusCode != http.StatusUnauthorized {
				t.Fatalf("got %v, %v", resp, err)
			}
			if d := time.Since(began); d > 1500*time.Millisecond {
				t.Errorf("the answer took %s", d)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			if rest, err := io.ReadAll(in); len(rest) > 0 || err != nil {
				t.Errorf("after the answer came %q, %v, want the end of the connection", rest, err)
			}
		})
	}
}

// TestRefusedConnectionsGoOn: a client that has sent its body keeps its connection.
func TestRefusedConnectionsGoOn(t *testing.T) {
	_, port, _, _ := refusing(t)
	conn, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	in := bufio.NewReader(conn)
	for _, size := range []int{10, 100_000, 900_000} {
		_, _ = fmt.Fprintf(conn, "POST /limit HTTP/1.1\r\nHost: 127.0.0.1:%s\r\nContent-Length: %d\r\n\r\n%s", port, size, strings.Repeat("x", size))
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != http.StatusTooManyRequests || resp.Close {
			t.Fatalf("%d bytes: got %v, %v, want 429 and the connection", size, resp, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
	}
}

// TestHalfSentBodiesHaveOneBudget: beyond it webhooks are refused for the moment, and no longer. One client
// has a share of it.
func TestHalfSentBodiesHaveOneBudget(t *testing.T) {
	p, port, _, _ := refusing(t)
	before := residentBytes(t, p)
	var conns []net.Conn
	hook := func(client, sent int) net.Conn {
		from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(client))}}
		conn, err := from.DialContext(t.Context(), "tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
		_, _ = fmt.Fprintf(conn, "POST /hook HTTP/1.1\r\nHost: 127.0.0.1:%s\r\nX-Hub-Signature-256: sha256=%064d\r\nContent-Length: 1000000\r\n\r\n%s", port, 0, strings.Repeat("x", sent))
		return conn
	}
	refused := func(client, status int) {
		t.Helper()
		eventually(t, 30*time.Second, func() error {
			conn := hook(client, 900_000)
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				return err
			}
			if resp.StatusCode != status || resp.Header.Get("Retry-After") == "" {
				return fmt.Errorf("got %d %v, want %d with Retry-After", resp.StatusCode, resp.Header, status)
			}
			return nil
		})
	}
	for range 5 {
		hook(100, 900_000)
	}
	refused(100, http.StatusTooManyRequests)
	for i := range 50 {
		hook(10+i, 900_000)
	}
	refused(101, http.StatusServiceUnavailable)
	most := int64(100 << 20)
	if raceEnabled { // which keeps shadows of all that was ever read
		most *= 3
	}
	if grown := residentBytes(t, p) - before; grown > most {
		t.Errorf("the process has grown by %d MiB, for a budget of 8", grown>>20)
	}
	for _, conn := range conns {
		_ = conn.Close()
	}
	eventually(t, 30*time.Second, func() error {
		conn := hook(102, 1_000_000)
		defer func() { _ = conn.Close() }()
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusUnauthorized {
			return fmt.Errorf("got %d, want 401: there is room again", resp.StatusCode)
		}
		return nil
	})
}

// residentBytes is the memory of the process.
func residentBytes(t *testing.T, p *process) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		t.Skip(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}
