package integration

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// scripted is a target that speaks as its script says, byte by byte. A request to /CHANNEL/ACT gets the act of
// that name, until the target is healed: then all get a 200.
type scripted struct {
	addr   string
	end    chan struct{}
	healed atomic.Bool

	mu   sync.Mutex
	seen map[string][]*http.Request // by path
}

// drip writes the piece again and again, until the connection or the test ends.
func (s *scripted) drip(c net.Conn, piece string) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := io.WriteString(c, piece); err != nil {
			return
		}
		select {
		case <-tick.C:
		case <-s.end:
			return
		}
	}
}

// hold leaves the connection open, until the test ends.
func (s *scripted) hold() { <-s.end }

// acts are what a target may do that is no answer. None of them is a success.
var acts = map[string]func(s *scripted, c net.Conn){
	"switch": func(s *scripted, c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		s.hold()
	},
	"hints":   func(s *scripted, c net.Conn) { s.drip(c, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n") },
	"headers": func(s *scripted, c net.Conn) { s.after(c, "HTTP/1.1 200 OK\r\n", "X-More: yes\r\n") },
	"drip":    func(s *scripted, c net.Conn) { s.after(c, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", "x") },
	"silent":  func(s *scripted, _ net.Conn) { s.hold() },
	"close":   func(*scripted, net.Conn) {},
	"garbage": func(_ *scripted, c net.Conn) { _, _ = io.WriteString(c, "\x16\x03\x01 not HTTP\r\n\r\n") },
	"truncated": func(_ *scripted, c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
	},
	"cut-chunk": func(_ *scripted, c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100\r\nhalf")
	},
}

func (s *scripted) after(c net.Conn, head, piece string) {
	if _, err := io.WriteString(c, head); err == nil {
		s.drip(c, piece)
	}
}

const wholeAnswer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"

func newScripted(t testing.TB) *scripted {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &scripted{addr: l.Addr().String(), end: make(chan struct{}), seen: map[string][]*http.Request{}}
	var all sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		close(s.end)
		all.Wait()
	})
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer func() { _ = c.Close() }()
				s.speak(c)
			})
		}
	})
	return s
}

// speak answers the requests of a connection.
func (s *scripted) speak(c net.Conn) {
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Minute))
	in := bufio.NewReader(c)
	for n := 0; ; n++ {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if _, err = io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		if name == "stale" && n == 1 { // the server closed what it had kept, just as the request was on its way
			return
		}
		s.mu.Lock()
		s.seen[r.URL.Path] = append(s.seen[r.URL.Path], r)
		s.mu.Unlock()
		if act := acts[name]; act != nil && !s.healed.Load() {
			act(s, c)
			return
		}
		if _, err = io.WriteString(c, wholeAnswer); err != nil {
			return
		}
	}
}

func (s *scripted) requests(path string) []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen[path])
}

// names are the acts, and what is no failure.
func actNames() []string {
	names := []string{"stale"}
	for name := range acts {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// towards is a gateway with a queue for each act, whose caller is an operator. timeout is that of a push and of
// a delivery.
func (s *scripted) towards(e *example, port, timeout string) string {
	var queues strings.Builder
	for _, name := range actNames() {
		fmt.Fprintf(&queues, "\t\t\tqueue %[1]s {\n\t\t\t\ttarget http://%[2]s/jobs/%[1]s\n\t\t\t\ttimeout %[3]s\n\t\t\t\tattempts 1\n\t\t\t\tconcurrency 2\n\t\t\t}\n", name, s.addr, timeout)
	}
	return fmt.Sprintf(`{
	admin %[1]s
	persist_config off
	grace_period 2s
	gatehouse {
		data_dir %[2]s/data
		profile off
		backend jobs {
			drain 3s
%[3]s			queue good {
				target http://%[4]s/jobs/good
			}
			allow %[4]s
		}
		backend webhooks {
			allow_private %[4]s
			timeout %[5]s
		}
		backend cache {
			fill_allow %[4]s
		}
		backend identity
	}
}
http://127.0.0.1:%[6]s {
	handle /.well-known/* {
		backend identity
	}
	@jobs path /jobs /jobs/* /queues /queues/*
	handle @jobs {
		backend jobs as operator
	}
	@webhooks path /events /endpoints /endpoints/* /deliveries /deliveries/*
	handle @webhooks {
		backend webhooks as operator
	}
	handle /cache/* {
		backend cache as operator
	}
}
`, e.admin, e.dir, queues.String(), s.addr, timeout, port)
}

func (s *scripted) gateway(t *testing.T, timeout string) (*example, *process) {
	t.Helper()
	e := &example{dir: t.TempDir(), admin: "127.0.0.1:" + freePort(t)}
	port := freePort(t)
	e.base = "http://127.0.0.1:" + port
	e.config = filepath.Join(e.dir, "Caddyfile")
	if err := os.WriteFile(e.config, []byte(s.towards(e, port, timeout)), 0o600); err != nil {
		t.Fatal(err)
	}
	return e, e.run(t)
}

// ask is call whose answer is JSON and whose status must be want.
func (e *example) ask(t testing.TB, method, path, body string, want int) (got map[string]any) {
	t.Helper()
	status, answer := call(t, method, e.base+path, "", body)
	if status != want {
		t.Fatalf("%s %s %s: got %d %s, want %d", method, path, body, status, answer, want)
	}
	if err := json.Unmarshal([]byte(answer), &got); err != nil {
		t.Fatalf("%s %s: %v in %s", method, path, err, answer)
	}
	return got
}

// until polls a resource until its state is one of those, and returns it.
func (e *example) until(t *testing.T, path string, limit time.Duration, states ...string) (got map[string]any) {
	t.Helper()
	eventually(t, limit, func() error {
		got = e.ask(t, http.MethodGet, path, "", http.StatusOK)
		if state, _ := got["state"].(string); !slices.Contains(states, state) {
			return fmt.Errorf("%s is %v, want %v", path, got, states)
		}
		return nil
	})
	return got
}

func idIn(got map[string]any) string { id, _ := got["id"].(string); return id }

// patience is how late an exchange may end on a busy machine.
const patience = 30 * time.Second

// TestWhateverTheTargetSends: every exchange ends, and none is taken for a success that was none, whoever
// makes it. A connection that was closed while it was kept is none of the target's failures.
func TestWhateverTheTargetSends(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	e, _ := s.gateway(t, "2s")
	t.Run("all", func(t *testing.T) {
		t.Run("callbacks", func(t *testing.T) { t.Parallel(); s.callbacks(t, e) })
		for _, name := range actNames() {
			t.Run("job-"+name, func(t *testing.T) { t.Parallel(); s.jobs(t, e, name) })
			t.Run("webhook-"+name, func(t *testing.T) { t.Parallel(); s.webhooks(t, e, name) })
			t.Run("fill-"+name, func(t *testing.T) { t.Parallel(); s.fills(t, e, name) })
		}
	})
	s.healed.Store(true)
	for _, name := range actNames() {
		id := idIn(e.ask(t, http.MethodPost, "/jobs", `{"queue":"`+name+`","payload":1}`, http.StatusAccepted))
		e.until(t, "/jobs/"+id, patience, "completed")
	}
}

// jobs fills the places of the queue twice. A place that was lost would keep the last ones waiting.
func (s *scripted) jobs(t *testing.T, e *example, name string) {
	want := "dead"
	if name == "stale" {
		want = "completed"
	}
	var ids []string
	for range 4 {
		ids = append(ids, idIn(e.ask(t, http.MethodPost, "/jobs", `{"queue":"`+name+`","payload":1}`, http.StatusAccepted)))
	}
	for _, id := range ids {
		got := e.until(t, "/jobs/"+id, patience, "dead", "completed", "cancelled")
		if got["state"] != want {
			t.Errorf("got %v, want the job %s", got, want)
		}
	}
	if n := len(s.requests("/jobs/" + name)); n != len(ids) && name != "close" { // which may have been a kept connection
		t.Errorf("the target saw %d requests of %d jobs", n, len(ids))
	}
}

func (s *scripted) webhooks(t *testing.T, e *example, name string) {
	made := e.ask(t, http.MethodPost, "/endpoints", `{"url":"http://`+s.addr+`/hooks/`+name+`","types":["t.`+name+`"]}`, http.StatusCreated)
	for range 2 {
		e.ask(t, http.MethodPost, "/events", `{"type":"t.`+name+`","payload":1}`, http.StatusAccepted)
	}
	list := e.ask(t, http.MethodGet, "/deliveries?endpoint="+idIn(made), "", http.StatusOK)
	items, _ := list["items"].([]any)
	if len(items) != 2 {
		t.Fatalf("got the deliveries %v, want two", list)
	}
	for _, item := range items {
		path := "/deliveries/" + idIn(item.(map[string]any))
		if name == "stale" {
			e.until(t, path, patience, "delivered")
			continue
		}
		got := e.until(t, path, patience, "retrying", "failed", "delivered")
		if why, _ := got["last_error"].(string); got["state"] == "delivered" || why == "" {
			t.Errorf("got %v, want a failed attempt with its reason", got)
		}
	}
}

func (s *scripted) fills(t *testing.T, e *example, name string) {
	for i := range times(2) {
		key := fmt.Sprintf("/cache/%s-%d", name, i)
		began := time.Now()
		status, answer := call(t, http.MethodPost, e.base+key+"/fill", "", `{"url":"http://`+s.addr+`/fill/`+name+`"}`)
		if name == "stale" {
			if status != http.StatusOK || answer != "ok" {
				t.Errorf("got %d %q, want the value", status, answer)
			}
			continue
		}
		if status != http.StatusBadGateway && status != http.StatusGatewayTimeout || !strings.Contains(answer, "/problems/") {
			t.Errorf("got %d %s, want a problem with 502 or 504", status, answer)
		}
		if took := time.Since(began); took > patience {
			t.Errorf("the fill took %s", took)
		}
		if status, answer = call(t, http.MethodGet, e.base+key, "", ""); status != http.StatusNotFound {
			t.Errorf("half a value is kept: got %d %q", status, answer)
		}
	}
}

// times is n in the long suite, and 1 otherwise: a fill and a callback have their time, whatever the
// configuration says.
func times(n int) int {
	if os.Getenv("GATEHOUSE_LONG") == "" {
		return 1
	}
	return n
}

// callbacks tells of the end of a job for each act. All at once: those that hang, for half a minute, leave
// places for the others.
func (s *scripted) callbacks(t *testing.T, e *example) {
	names := slices.DeleteFunc(actNames(), func(name string) bool {
		return times(2) == 1 && (name == "drip" || name == "hints" || name == "headers")
	})
	for _, name := range names {
		e.ask(t, http.MethodPost, "/jobs", `{"queue":"good","payload":1,"callback":"http://`+s.addr+`/callbacks/`+name+`"}`, http.StatusAccepted)
	}
	eventually(t, 2*patience, func() error {
		for _, name := range names {
			if n := len(s.requests("/callbacks/" + name)); n == 0 || n < 2 && name != "stale" {
				return fmt.Errorf("%d attempts at the callback %s, want another one after the failure", n, name)
			}
		}
		return nil
	})
	list := e.ask(t, http.MethodGet, "/jobs?queue=internal-callbacks&limit=100", "", http.StatusOK)
	completed := 0
	for _, item := range list["items"].([]any) {
		if item.(map[string]any)["state"] == "completed" {
			completed++
		}
	}
	if completed != 1 {
		t.Errorf("%d callbacks are completed, want that of the kept connection alone: %v", completed, list)
	}
}

// TestTerminationAmongHangingTargets: SIGTERM ends the process in its grace whatever hangs, and what was
// called off is done after the next start.
func TestTerminationAmongHangingTargets(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	e, p := s.gateway(t, "1m")
	hanging := []string{"silent", "drip", "hints", "headers"}
	var jobs, deliveries []string
	for _, name := range hanging {
		jobs = append(jobs, idIn(e.ask(t, http.MethodPost, "/jobs", `{"queue":"`+name+`","payload":1}`, http.StatusAccepted)))
		e.ask(t, http.MethodPost, "/jobs", `{"queue":"good","payload":1,"callback":"http://`+s.addr+`/callbacks/`+name+`"}`, http.StatusAccepted)
		made := e.ask(t, http.MethodPost, "/endpoints", `{"url":"http://`+s.addr+`/hooks/`+name+`","types":["t.`+name+`"]}`, http.StatusCreated)
		e.ask(t, http.MethodPost, "/events", `{"type":"t.`+name+`","payload":1}`, http.StatusAccepted)
		items, _ := e.ask(t, http.MethodGet, "/deliveries?endpoint="+idIn(made), "", http.StatusOK)["items"].([]any)
		deliveries = append(deliveries, idIn(items[0].(map[string]any)))
	}
	var fills sync.WaitGroup
	for _, name := range hanging {
		fills.Go(func() {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, e.base+"/cache/"+name+"/fill", strings.NewReader(`{"url":"http://`+s.addr+`/fill/`+name+`"}`))
			if err != nil {
				t.Error(err)
				return
			}
			if resp, err := http.DefaultClient.Do(r); err == nil {
				_ = resp.Body.Close()
			}
		})
	}
	eventually(t, patience, func() error {
		for _, name := range hanging {
			for _, channel := range []string{"jobs", "callbacks", "hooks", "fill"} {
				if len(s.requests("/"+channel+"/"+name)) == 0 {
					return errors.New("nothing hangs yet in /" + channel + "/" + name)
				}
			}
		}
		return nil
	})
	began := time.Now()
	p.terminate()
	// 3 s for what runs, and none of the minute that the exchanges have.
	if took, code := time.Since(began), p.cmd.ProcessState.ExitCode(); took > patience || code != 0 {
		t.Errorf("the process ended %s after SIGTERM with %d", took, code)
	}
	fills.Wait()

	s.healed.Store(true)
	e.run(t)
	for i, name := range hanging {
		e.until(t, "/jobs/"+jobs[i], 2*patience, "completed")
		pushes := s.requests("/jobs/" + name)
		if last := pushes[len(pushes)-1]; last.Header.Get("Gatehouse-Job-Redelivered") != "true" || pushes[0].Header.Get("Gatehouse-Job-Redelivered") != "" {
			t.Errorf("%s: got the headers %v, want a redelivery that says so", name, last.Header)
		}
		e.until(t, "/deliveries/"+deliveries[i], 2*patience, "delivered")
		eventually(t, 2*patience, func() error {
			if n := len(s.requests("/callbacks/" + name)); n < 2 {
				return fmt.Errorf("%d requests to the callback %s, want another one after the restart", n, name)
			}
			return nil
		})
	}
}
