package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// script is what a target does with a request, the nth one on its connection. again says that it reads
// another one; else it hangs up.
type script struct {
	name   string
	answer func(c net.Conn, nth int) (again bool)
	// taken says that a push to it is done, filled that a fill has its value.
	taken, filled bool
	// hangs says that it is the timeout that ends an exchange.
	hangs bool
}

const (
	wellAnswer   = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	answerPrefix = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
)

// scripts are the behaviours of targets that nobody would write on purpose.
var scripts = []script{
	{name: "switches", answer: says("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", silence)},
	{name: "switches-drips", answer: says("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", drips("x"))},
	{name: "continues", answer: says("", drips("HTTP/1.1 100 Continue\r\n\r\n")), hangs: true},
	{name: "hints", answer: says("", drips("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")), hangs: true},
	{name: "header-drips", answer: says("HTTP/1.1 200 OK\r\n", drips("X-More: header\r\n")), hangs: true},
	{name: "status-stops", answer: says("HTTP/1.1 20", silence), hangs: true},
	{name: "body-drips", answer: says(answerPrefix+"\r\n", drips("x")), hangs: true},
	{name: "length-drips", answer: says(answerPrefix+"Content-Length: 100000\r\n\r\n", drips("x")), hangs: true},
	{name: "chunks-drip", answer: says(answerPrefix+"Transfer-Encoding: chunked\r\n\r\n", drips("1\r\nx\r\n")), hangs: true},
	{name: "failure-drips", answer: says("HTTP/1.1 500 No\r\n\r\n", drips("x")), hangs: true},
	{name: "silent", answer: says("", silence), hangs: true},
	{name: "truncates", answer: says(answerPrefix+"Content-Length: 10\r\n\r\nabc", nil)},
	{name: "cuts-chunks", answer: says(answerPrefix+"Transfer-Encoding: chunked\r\n\r\na\r\nabc", nil)},
	{name: "misses-the-end", answer: says(answerPrefix+"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", nil)},
	{name: "babbles", answer: says("\x00\x01\x02SSH-2.0-Open\r\n\r\n", nil)},
	{name: "hangs-up", answer: says("", nil)},
	{name: "never-ends", answer: says(answerPrefix+"\r\n", floods), taken: true},
	{name: "no-length", answer: says(answerPrefix+"\r\nabc", nil), taken: true, filled: true},
	{name: "no-body", answer: says("HTTP/1.1 204 No Content\r\n\r\n", nil), taken: true, filled: true},
	{name: "hints-then-well", answer: says("HTTP/1.1 103 Early Hints\r\n\r\n"+wellAnswer, nil), taken: true, filled: true},
}

// stale answers the first request of a connection, and closes the connection as the next one comes.
var stale = script{name: "stale", taken: true, filled: true, answer: func(c net.Conn, nth int) bool {
	if nth > 1 {
		return false
	}
	_, err := io.WriteString(c, wellAnswer)
	return err == nil
}}

// says sends the text, does the rest, and hangs up.
func says(text string, rest func(net.Conn)) func(net.Conn, int) bool {
	return func(c net.Conn, _ int) bool {
		if _, err := io.WriteString(c, text); err == nil && rest != nil {
			rest(c)
		}
		return false
	}
}

// silence lasts until the client hangs up.
func silence(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// drips sends the piece now and then until the client hangs up.
func drips(piece string) func(net.Conn) {
	return func(c net.Conn) {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if _, err := io.WriteString(c, piece); err != nil {
				return
			}
		}
	}
}

// floods sends as much as the client takes.
func floods(c net.Conn) {
	piece := strings.Repeat("x", 64<<10)
	for {
		if _, err := io.WriteString(c, piece); err != nil {
			return
		}
	}
}

// scripted is a target that follows a script, on a port of its own. The second attempt of a job it takes.
type scripted struct {
	script
	url  string
	well atomic.Bool // from now on it answers 200 to all

	mu    sync.Mutex
	asked []asked
	open  map[net.Conn]bool
}

// asked is a request that the target got.
type asked struct {
	path   string
	header http.Header
	nth    int // on its connection
}

func (s script) start(t testing.TB) *scripted {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := &scripted{script: s, url: "http://" + l.Addr().String(), open: map[net.Conn]bool{}}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			target.note(c, true)
			conns.Go(func() {
				defer target.note(c, false)
				target.serve(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		target.mu.Lock()
		for c := range target.open {
			_ = c.Close()
		}
		target.mu.Unlock()
		conns.Wait()
	})
	return target
}

func (s *scripted) serve(c net.Conn) {
	in := bufio.NewReader(c)
	for nth := 1; ; nth++ {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if _, err = io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		s.mu.Lock()
		s.asked = append(s.asked, asked{r.URL.Path, r.Header, nth})
		s.mu.Unlock()
		if s.well.Load() || r.Header.Get("Gatehouse-Job-Attempt") == "2" {
			if _, err = io.WriteString(c, wellAnswer); err != nil {
				return
			}
			continue
		}
		if !s.answer(c, nth) {
			return
		}
	}
}

// note keeps account of the connections, and closes those that are done with.
func (s *scripted) note(c net.Conn, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if open {
		s.open[c] = true
		return
	}
	delete(s.open, c)
	_ = c.Close()
}

// connections is how many the gateway has to the target.
func (s *scripted) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// count is how many requests the target got that are so.
func (s *scripted) count(is func(asked) bool) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.asked {
		if is(a) {
			n++
		}
	}
	return n
}

// starts begins all targets.
func starts(t testing.TB, all ...script) (targets []*scripted) {
	t.Helper()
	for _, s := range all {
		targets = append(targets, s.start(t))
	}
	return targets
}

// sending is a gateway with everything that sends requests, to whoever asks as an operator.
type sending struct {
	*process
	dir, base string
}

const sendingGateway = `{
	admin 127.0.0.1:%[1]s
	auto_https off
	persist_config off
	gatehouse {
		data_dir %[2]s/data
		profile  off
		backend jobs {
			allow 127.0.0.1
			drain 3s
%[4]s		}
		backend webhooks {
			allow_private 127.0.0.0/8
			timeout       %[5]s
		}
		backend cache {
			fill_allow 127.0.0.1
		}
	}
}
http://127.0.0.1:%[3]s {
	@jobs path /jobs* /queues*
	handle @jobs {
		backend jobs as operator
	}
	@webhooks path /endpoints* /events* /deliveries*
	handle @webhooks {
		backend webhooks as operator
	}
	handle /cache/* {
		backend cache as operator
	}
}
`

// newSending starts the gateway; queues are blocks of the backend jobs, timeout is that of the webhooks.
func newSending(t testing.TB, timeout time.Duration, queues string) *sending {
	t.Helper()
	port := freePort(t)
	g := &sending{dir: t.TempDir(), base: "http://127.0.0.1:" + port}
	text := fmt.Sprintf(sendingGateway, freePort(t), g.dir, port, queues, timeout)
	if err := os.WriteFile(filepath.Join(g.dir, "Caddyfile"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	g.run(t)
	return g
}

// run starts the gateway, also again.
func (g *sending) run(t testing.TB) {
	t.Helper()
	g.process = start(t, g.dir, "gatehouse", "run", "--config", "Caddyfile", "--adapter", "caddyfile")
	g.waitFor(g.base + "/queues")
}

// post makes a request that must be answered with a status below 300, and returns a member of the answer.
func (g *sending) post(t testing.TB, path, body, member string) string {
	t.Helper()
	status, answer := call(t, http.MethodPost, g.base+path, "", body)
	if status >= 300 {
		t.Fatalf("POST %s %s: got %d %s", path, body, status, answer)
	}
	return field(t, answer, member)
}

// read gets what the path shows.
func (g *sending) read(t testing.TB, path string, v any) {
	t.Helper()
	status, answer := call(t, http.MethodGet, g.base+path, "", "")
	if err := json.Unmarshal([]byte(answer), v); err != nil || status != http.StatusOK {
		t.Fatalf("GET %s: got %d %s", path, status, answer)
	}
}

// job is a job as the gateway shows it.
type job struct {
	State   string
	Attempt int
	Errors  []struct{ Message string }
}

// ended waits for the end of a job.
func (g *sending) ended(t testing.TB, id string, limit time.Duration) (j job) {
	t.Helper()
	eventually(t, limit, func() error {
		g.read(t, "/jobs/"+id, &j)
		if j.State != "completed" && j.State != "dead" && j.State != "cancelled" {
			return fmt.Errorf("the job %s is %+v", id, j)
		}
		return nil
	})
	return j
}

// delivery is a delivery as the gateway shows it.
type delivery struct {
	EventID   string `json:"event_id"`
	State     string
	Attempts  int
	LastError string `json:"last_error"`
}

// attempted waits until the delivery of an event to an endpoint has been attempted.
func (g *sending) attempted(t testing.TB, endpoint, event string, limit time.Duration) (d delivery) {
	t.Helper()
	eventually(t, limit, func() error {
		var page struct{ Items []delivery }
		g.read(t, "/deliveries?endpoint="+endpoint, &page)
		for _, d = range page.Items {
			if d.EventID == event && d.Attempts > 0 {
				return nil
			}
		}
		return fmt.Errorf("the event %s was not attempted: %+v", event, page.Items)
	})
	return d
}
