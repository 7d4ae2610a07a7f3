package httpcache

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
)

// recorder passes a response on as it comes, and keeps a copy of its body if it is told to. It gives
// the copy up when it grows too large or cannot be whole.
type recorder struct {
	http.ResponseWriter
	// decide is called once, before the final header goes out, which it may change. It says whether
	// to keep the body, of which at most so many bytes.
	decide func(status int, h http.Header) (keep bool, limit int)
	// replace may answer in the place of a final response, which then goes nowhere. It may be nil.
	replace func(status int) bool
	// reserve and release account for the memory of the copy. They are not needed where decide never keeps.
	reserve func(n int) bool
	release func(n int)

	status   int  // the final one, 0 before
	replaced bool // the client has another response
	keeping  bool
	limit    int
	length   int // Content-Length, -1 for none
	body     []byte
	held     int // bytes reserved
}

// WriteHeader passes informational responses on as they are and decides on the final one.
func (rec *recorder) WriteHeader(status int) {
	if rec.replaced {
		return
	}
	if status >= 200 && rec.status == 0 {
		rec.status = status
		if rec.replaced = rec.replace != nil && rec.replace(status); rec.replaced {
			return
		}
		h := rec.Header()
		rec.length = -1
		if n, err := strconv.Atoi(h.Get("Content-Length")); err == nil {
			rec.length = n
		}
		rec.keeping, rec.limit = rec.decide(status, h)
		if rec.keeping && rec.length > 0 && rec.take(rec.length) {
			rec.body = make([]byte, 0, rec.length)
		}
	}
	rec.ResponseWriter.WriteHeader(status)
}

func (rec *recorder) begin() {
	if rec.status == 0 {
		rec.WriteHeader(http.StatusOK)
	}
}

// Write passes p on and keeps it.
func (rec *recorder) Write(p []byte) (int, error) {
	rec.begin()
	if rec.replaced {
		return len(p), nil
	}
	n, err := rec.ResponseWriter.Write(p)
	if err != nil {
		rec.giveUp()
		return n, err
	}
	rec.keep(p)
	return n, nil
}

// ReadFrom passes src on in the way that the writer below does best, and keeps it.
func (rec *recorder) ReadFrom(src io.Reader) (n int64, err error) {
	rec.begin()
	if rec.replaced {
		return io.Copy(io.Discard, src)
	}
	if rec.keeping {
		src = io.TeeReader(src, keeper{rec})
	}
	if rf, ok := rec.ResponseWriter.(io.ReaderFrom); ok {
		n, err = rf.ReadFrom(src)
	} else {
		n, err = io.Copy(struct{ io.Writer }{rec.ResponseWriter}, src)
	}
	if err != nil {
		rec.giveUp()
	}
	return n, err
}

// FlushError sends what the writer below has buffered.
func (rec *recorder) FlushError() error {
	rec.begin()
	return http.NewResponseController(rec.ResponseWriter).Flush()
}

// Push passes a server push on where the writer below knows it.
func (rec *recorder) Push(target string, opts *http.PushOptions) error {
	if p, ok := rec.ResponseWriter.(http.Pusher); ok {
		return p.Push(target, opts)
	}
	return http.ErrNotSupported
}

// Unwrap is for http.ResponseController.
func (rec *recorder) Unwrap() http.ResponseWriter { return rec.ResponseWriter }

type keeper struct{ rec *recorder }

func (k keeper) Write(p []byte) (int, error) {
	k.rec.keep(p)
	return len(p), nil
}

func (rec *recorder) keep(p []byte) {
	if !rec.keeping {
		return
	}
	size := len(rec.body) + len(p)
	if size > rec.limit || rec.length >= 0 && size > rec.length {
		rec.giveUp()
		return
	}
	if size > rec.held && !rec.take(size-rec.held) {
		return
	}
	rec.body = append(rec.body, p...)
}

// take reserves n more bytes or gives up.
func (rec *recorder) take(n int) bool {
	if !rec.reserve(n) {
		rec.giveUp()
		return false
	}
	rec.held += n
	return true
}

// giveUp ends the keeping. It may be called at any time, and must be in the end.
func (rec *recorder) giveUp() {
	if rec.held > 0 {
		rec.release(rec.held)
	}
	rec.keeping, rec.body, rec.held = false, nil, 0
}

// whole is the body if all of it was kept.
func (rec *recorder) whole() ([]byte, error) {
	switch {
	case !rec.keeping:
		return nil, errors.New("the response was not kept")
	case rec.length >= 0 && rec.length != len(rec.body):
		return nil, errors.New("the response ended early")
	case cap(rec.body)-len(rec.body) > len(rec.body)/8:
		return slices.Clone(rec.body), nil
	}
	return rec.body, nil
}
