package body

import (
	"io"
	"net/http"
	"time"
)

const (
	// Grace is how long a body may stand still.
	Grace = 10 * time.Second
	// MinRate is how many bytes a second must come, beyond Grace.
	MinRate = 1 << 10
	// HurriedRate is MinRate while the memory for bodies runs short.
	HurriedRate = 16 << 10
)

// Pacer reads a body that must come at a pace. A sender has Grace from the start; what it sends buys it
// more time, at so many bytes a second, and never more than Grace from then on. So a body of n bytes takes
// at most Grace and n/rate, whether it is dripped or stalled in between.
type Pacer struct {
	body  io.Reader
	conn  *http.ResponseController
	grace time.Duration
	rate  int // 0 for the process's
	until time.Time
}

// Paced reads the body of the request that w answers. A read after the sender has fallen behind fails with
// os.ErrDeadlineExceeded. rate is in bytes a second, 0 for MinRate, or HurriedRate while memory runs short.
func Paced(w http.ResponseWriter, body io.Reader, grace time.Duration, rate int) *Pacer {
	return &Pacer{body: body, conn: http.NewResponseController(w), grace: grace, rate: rate, until: time.Now().Add(grace)}
}

// Read reads from the sender.
func (p *Pacer) Read(b []byte) (int, error) {
	_ = p.conn.SetReadDeadline(p.until) // not every connection has one
	n, err := p.body.Read(b)
	now := time.Now()
	p.until = p.until.Add(time.Duration(n) * time.Second / time.Duration(p.bytes()))
	if latest := now.Add(p.grace); p.until.After(latest) {
		p.until = latest
	}
	return n, err
}

func (p *Pacer) bytes() int {
	switch {
	case p.rate > 0:
		return p.rate
	case shared.hurried():
		return HurriedRate
	}
	return MinRate
}

// Done takes the time limit off the connection, once the body was read to its end. Without it the limit
// stays: the server must not wait for the rest of a body that was given up either.
func (p *Pacer) Done() { _ = p.conn.SetReadDeadline(time.Time{}) }
