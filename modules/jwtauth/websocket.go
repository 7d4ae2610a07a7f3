package jwtauth

import (
	"bufio"
	"net"
	"net/http"
	"sync"
	"time"
)

// ending makes a WebSocket end at a time: the connection is closed, as the other side takes part in no protocol
// of ours. Over HTTP/2 and HTTP/3 it is the stream.
func ending(w http.ResponseWriter, r *http.Request, at time.Time) http.ResponseWriter {
	if r.ProtoMajor >= 2 {
		stream := http.NewResponseController(w)
		_, _ = stream.SetReadDeadline(at), stream.SetWriteDeadline(at)
		return w
	}
	return &endingWriter{w, at}
}

type endingWriter struct {
	http.ResponseWriter
	at time.Time
}

// Unwrap is for http.ResponseController.
func (w *endingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Hijack implements http.Hijacker.
func (w *endingWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	e := &endingConn{Conn: c}
	e.timer = time.AfterFunc(time.Hour, func() { _ = e.Close() })
	e.timer.Reset(time.Until(w.at)) // now that Close knows it
	return e, rw, nil
}

// endingConn is closed by a timer, unless it is closed before.
type endingConn struct {
	net.Conn
	timer *time.Timer
	once  sync.Once
	err   error
}

// Close closes the connection.
func (c *endingConn) Close() error {
	c.once.Do(func() {
		c.timer.Stop()
		c.err = c.Conn.Close()
	})
	return c.err
}
