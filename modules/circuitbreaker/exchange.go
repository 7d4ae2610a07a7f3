package circuitbreaker

import (
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/clientbody"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/refuse"
)

// maxDropped is how much of the body of a failed answer is read so that its connection can be used again.
const maxDropped = 64 << 10

var errDropped = errors.New("the answer has failed and is asked for again")

// exchange is one request that has been admitted and the way of its answer. It reports to the
// circuit when the answer's header arrives, and again if the body breaks off.
type exchange struct {
	http.ResponseWriter
	h      *Handler
	r      *http.Request
	ticket Ticket
	start  time.Time
	body   *clientbody.Body // nil for none
	// spare says that this is not the last attempt: a failure may be dropped and asked for again.
	spare bool

	status   int // the final one, 0 before
	err      int // the status of the error that the handler returned instead
	outcome  Outcome
	reported bool
	lost     bool // the client does not take the answer
	dropped  int  // bytes of a failed answer, which the client does not get; with dropping
	dropping bool
}

// WriteHeader passes informational responses on as they are and reports the final one.
func (x *exchange) WriteHeader(status int) {
	if x.dropping {
		return
	}
	if x.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		x.status = status
		x.report(x.judge(status))
		if x.spare && x.outcome == Failure && unreachable(status) && x.h.again(x) {
			x.dropping = true
			return
		}
	}
	x.ResponseWriter.WriteHeader(status)
}

// judge is the outcome of an answer whose header has arrived.
func (x *exchange) judge(status int) Outcome {
	switch {
	case status == statusClientClosed, x.body.Broken():
		return Ignored
	case refuse.Written(x.r):
		return Ignored
	case x.h.failures.include(status), grpcFailed(x.Header()), x.tooSlow():
		return Failure
	}
	return Success
}

// tooSlow says whether the answer took longer than the option slow allows. What the client needed to
// send its body does not count.
func (x *exchange) tooSlow() bool {
	if x.h.Slow <= 0 {
		return false
	}
	from := x.start
	if x.body != nil {
		end := x.body.End.Load()
		if end == nil {
			return false
		}
		from = *end
	}
	return time.Since(from) > x.h.Slow.Std()
}

// now costs less than time.Now.
func (x *exchange) now() time.Time { return x.start.Add(time.Since(x.start)) }

// report tells the circuit the outcome, once.
func (x *exchange) report(o Outcome) {
	if x.reported {
		return
	}
	x.reported, x.outcome = true, o
	x.h.zone.meters.outcomes[o].Inc()
	x.h.changed(x.h.zone.breaker.Report(x.now(), x.ticket, o))
}

// finish reports a request whose handler has returned.
func (x *exchange) finish(err error) {
	switch {
	case x.reported:
		if x.outcome == Success && err == nil && !x.lost && grpcFailed(x.Header()) {
			x.broken()
		}
	case err != nil:
		o, status := x.h.judgeError(x, err)
		x.err = status
		x.report(o)
	default:
		x.report(Success) // an empty 200
	}
}

// abort reports a request whose handler panics, as reverse_proxy does where the answer breaks off.
func (x *exchange) abort() {
	if x.status == 0 || x.lost || clientLeft(x.r) || x.outcome != Success {
		x.report(Ignored)
		return
	}
	x.broken()
}

// broken tells the circuit that an answer which began well did not end so.
func (x *exchange) broken() {
	x.outcome = Failure
	x.h.zone.meters.broken.Inc()
	x.h.changed(x.h.zone.breaker.Broken(x.now(), x.ticket))
}

func (x *exchange) begin() {
	if x.status == 0 {
		x.WriteHeader(http.StatusOK)
	}
}

// Write passes p on.
func (x *exchange) Write(p []byte) (int, error) {
	x.begin()
	if x.dropping {
		if x.dropped += len(p); x.dropped > maxDropped {
			return 0, errDropped
		}
		return len(p), nil
	}
	n, err := x.ResponseWriter.Write(p)
	if err != nil {
		x.lost = true
	}
	return n, err
}

// ReadFrom passes src on in the way that the writer below does best.
func (x *exchange) ReadFrom(src io.Reader) (int64, error) {
	x.begin()
	if rf, ok := x.ResponseWriter.(io.ReaderFrom); ok && !x.dropping {
		return rf.ReadFrom(src)
	}
	return io.Copy(struct{ io.Writer }{x}, src)
}

// FlushError sends what the writer below has buffered.
func (x *exchange) FlushError() error {
	x.begin()
	if x.dropping {
		return nil
	}
	return http.NewResponseController(x.ResponseWriter).Flush()
}

// Push passes a server push on where the writer below knows it.
func (x *exchange) Push(target string, opts *http.PushOptions) error {
	if p, ok := x.ResponseWriter.(http.Pusher); ok {
		return p.Push(target, opts)
	}
	return http.ErrNotSupported
}

// Unwrap is for http.ResponseController.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }
