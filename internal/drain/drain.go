// Package drain lets a client that is still sending its body read the answer that it has got early. Most
// clients of HTTP/1 send all of a body before they look for an answer. A server that closes the connection
// meanwhile resets it, and then the client sees the reset instead of the status and its Retry-After.
package drain

import (
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

const (
	// most is how much of a body is read for nothing, and whole how much if the client has said that no
	// more will come.
	most, whole = 1 << 20, 16 << 20
	// longest is how long.
	longest = 2 * time.Second
	// still is how long Before waits for more: nobody has an answer meanwhile.
	still = 250 * time.Millisecond
)

// Needed reports whether the client of the request may still be sending a body, on a connection that cannot
// end it otherwise: HTTP/2 and HTTP/3 can.
func Needed(r *http.Request) bool {
	return r.ContentLength != 0 && r.ProtoMajor == 1 && r.Body != nil && r.Body != http.NoBody
}

// waits reports whether the client may be waiting to be told to send its body (Expect: 100-continue). Reading
// the body would tell it.
func waits(r *http.Request) bool { return len(r.Header["Expect"]) > 0 }

// Answer calls write, which must write a whole answer to w, and makes sure that the client can read it at
// once, whether it has sent its body or not. Then it reads what is left of the body, up to 1 MiB (16 MiB
// where the length was declared) and for up to two seconds. If the body ends in them the connection goes
// on, otherwise it is closed.
func Answer(w http.ResponseWriter, r *http.Request, write func()) {
	if !Needed(r) {
		write()
		return
	}
	conn := http.NewResponseController(w)
	if conn.EnableFullDuplex() != nil {
		write() // no connection of net/http's, such as in a test
		return
	}
	room := bound(r)
	if r.ContentLength > room || waits(r) {
		w.Header().Set("Connection", "close")
	}
	end := time.Now().Add(longest)
	write()
	n, err := int64(0), errors.Join(conn.Flush(), conn.SetReadDeadline(end))
	if err == nil && !waits(r) {
		n, err = io.CopyN(io.Discard, r.Body, room)
	}
	if err == io.EOF { //nolint:errorlint // what net/http's bodies end with
		_ = conn.SetReadDeadline(time.Time{})
		return
	}
	// What is left on the connection must not be taken for a request, so it is ours from here on.
	c, _, err := conn.Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // which closes it at once
	}
	linger(c, room-n, end)
}

// bound returns how many bytes of the request's body may be read.
func bound(r *http.Request) int64 {
	if r.ContentLength > 0 && r.ContentLength <= whole {
		return whole
	}
	return most
}

// linger closes the connection in two steps, so that what was written is not lost: it says that no more
// will come, and reads until the client has understood.
func linger(c net.Conn, room int64, end time.Time) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	_ = c.SetReadDeadline(end)
	_, _ = io.CopyN(io.Discard, c, max(room, 64<<10))
	_ = c.Close()
}

// Before reads what is left of the body before an answer that something else writes, as much as Answer
// does, and gives up when nothing comes for a quarter of a second.
func Before(w http.ResponseWriter, r *http.Request) {
	if !Needed(r) || waits(r) {
		return
	}
	conn := http.NewResponseController(w)
	if conn.SetReadDeadline(time.Now().Add(still)) != nil {
		return
	}
	end := time.Now().Add(longest)
	buf := make([]byte, 32<<10)
	for room := bound(r); room > 0 && time.Now().Before(end); {
		n, err := r.Body.Read(buf)
		room -= int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			return // the deadline stays: the server must not wait for the rest of the body either
		}
		_ = conn.SetReadDeadline(time.Now().Add(still))
	}
	_ = conn.SetReadDeadline(time.Time{})
}
