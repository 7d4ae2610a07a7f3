package admission

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ticket is one request's stay: its place in the queue or in flight, its response writer and its
// body, through which it sees what the app and the client do. One allocation for all of it. It is
// never used again, as a transport may read the body after the handler has returned.
type ticket struct {
	http.ResponseWriter
	body     io.ReadCloser
	zone     *zone
	class    *class
	priority priority

	// Guarded by the zone's lock.
	since      time.Time // begin of the wait, then of the stay
	prev, next *ticket   // in the queue, then in flight
	queued     bool
	held       bool // has a place
	done       bool // its stay is over
	verdict    chan verdict

	// For the request's own goroutine.
	began  time.Time     // begin of the stay
	took   time.Duration // the app's latency
	status int           // of the response, 0 before it has begun

	streams atomic.Bool  // the response has begun
	reading atomic.Bool  // waiting for the client's body
	aside   atomic.Bool  // gave its place back while waiting for the client
	client  atomic.Int64 // nanoseconds spent waiting for the client's body
}

// WriteHeader notes when the answer began. Event streams and upgrades give their place back at once.
func (t *ticket) WriteHeader(status int) {
	if t.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		t.begin(status)
	}
	t.ResponseWriter.WriteHeader(status)
}

func (t *ticket) begin(status int) {
	now := time.Now()
	t.status, t.took = status, t.latency(now)
	t.streams.Store(true)
	if status == http.StatusSwitchingProtocols || strings.HasPrefix(t.Header().Get("Content-Type"), "text/event-stream") {
		t.zone.setAside(now, t)
	}
}

func (t *ticket) Write(p []byte) (int, error) {
	if t.status == 0 {
		t.begin(http.StatusOK)
	}
	return t.ResponseWriter.Write(p)
}

// ReadFrom keeps the kernel's copy from file to socket.
func (t *ticket) ReadFrom(src io.Reader) (int64, error) {
	if t.status == 0 {
		t.begin(http.StatusOK)
	}
	if to, ok := t.ResponseWriter.(io.ReaderFrom); ok {
		return to.ReadFrom(src)
	}
	return io.Copy(struct{ io.Writer }{t.ResponseWriter}, src)
}

// FlushError sends the headers, if nothing has yet.
func (t *ticket) FlushError() error {
	if t.status == 0 {
		t.begin(http.StatusOK)
	}
	return http.NewResponseController(t.ResponseWriter).Flush()
}

// Hijack gives the place back: a connection that was taken over may live for days.
func (t *ticket) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(t.ResponseWriter).Hijack()
	if err == nil {
		if t.status == 0 {
			t.begin(http.StatusSwitchingProtocols)
		}
		t.zone.setAside(time.Now(), t)
	}
	return conn, rw, err
}

// Park gives the place back while the app, a backend in this process, waits for something to happen.
func (t *ticket) Park() (resume func()) {
	start := time.Now()
	t.zone.setAside(start, t)
	return sync.OnceFunc(func() {
		now := time.Now()
		t.client.Add(int64(now.Sub(start)))
		t.zone.rejoin(now, t)
	})
}

// Unwrap is for http.ResponseController.
func (t *ticket) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// body is the request's body through the ticket.
type body struct{ t *ticket }

// Read measures how long the client keeps the app waiting. A request that gave its place back
// meanwhile takes it again once the body is there, whether or not there is room.
func (b body) Read(p []byte) (int, error) {
	t := b.t
	start := time.Now()
	t.reading.Store(true)
	n, err := t.body.Read(p)
	t.reading.Store(false)
	now := time.Now()
	t.client.Add(int64(now.Sub(start)))
	if err != nil && t.aside.Load() && !t.streams.Load() {
		t.zone.rejoin(now, t)
	}
	return n, err
}

func (b body) Close() error { return b.t.body.Close() }

// latency is how long the app has taken for the answer's first byte, which is now, without the time
// that it waited for the client.
func (t *ticket) latency(now time.Time) time.Duration {
	return now.Sub(t.began) - time.Duration(t.client.Load())
}

// judge says what the answer means for the limiter. gone says that the client left before it was
// there, statusOf which response status an error stands for.
func (t *ticket) judge(err error, gone bool, statusOf func(error) (status int, ok bool)) outcome {
	status := t.status
	if status == 0 && err != nil {
		if code, ok := statusOf(err); ok {
			status = code
		}
	}
	switch {
	case gone || errors.Is(err, http.ErrAbortHandler) || cached(t.Header()):
		return ignored
	case status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout:
		return overloaded
	case t.status == 0 && err != nil, status >= http.StatusInternalServerError:
		return ignored
	}
	return fine
}

// cached says that the response came from our cache: it tells nothing of the app.
func cached(h http.Header) bool {
	status := h["Cache-Status"]
	return len(status) > 0 && strings.HasPrefix(status[len(status)-1], "gatehouse; hit")
}
