// Package body reads the bodies of requests into memory. All that are held at the same time share one
// budget in the process, whoever reads them, and each must come at a pace: bodies that are begun and not
// sent must neither fill the memory nor keep it from others.
package body

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// retryAfter is when a client may try again that found the budget used up. Most bodies are gone sooner.
const retryAfter = time.Second

// first is how much is reserved for a body of unknown length, or one whose length is only promised.
const first = 4 << 10

// Read returns the whole body of the request, at most limit bytes. Its memory counts against the budget
// until the request ends, and against the share of the client at this address, of which "" has no bound. The
// errors are content-too-large, request-timeout for a client that is slower than the pace, invalid-request
// for a body that breaks off, unavailable with Retry-After where the budget is used up, and quota-exceeded where
// the client's share is.
func Read(w http.ResponseWriter, r *http.Request, limit int64, client string) ([]byte, error) {
	return shared.read(w, r, limit, client)
}

func (b *Budget) read(w http.ResponseWriter, r *http.Request, limit int64, client string) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	if r.Body == nil || r.Body == http.NoBody {
		return []byte{}, nil
	}
	held := reservation{budget: b, client: group(client)}
	buf, err := held.read(Paced(w, r.Body, Grace, b.Rate), r.ContentLength, limit)
	if err != nil {
		b.release(held.client, held.n)
		return nil, err
	}
	held.until(r.Context())
	return buf, nil
}

// read reads the body to its end, for whose bytes it reserves memory as they come.
func (h *reservation) read(paced *Pacer, declared, limit int64) ([]byte, error) {
	var buf []byte
	for {
		if len(buf) == cap(buf) {
			size := next(int64(cap(buf)), declared, limit)
			if err := h.grow(size - int64(cap(buf))); err != nil {
				return nil, err
			}
			grown := make([]byte, len(buf), size)
			copy(grown, buf)
			buf = grown
		}
		n, err := paced.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case int64(len(buf)) > limit:
			return nil, tooLarge(limit)
		case errors.Is(err, io.EOF):
			paced.Done()
			return buf, nil
		case err != nil:
			return nil, failed(err)
		}
	}
}

// next is the size of the buffer after one of size bytes: twice as much, and at most one more than the body
// can have, by which its end is seen.
func next(size, declared, limit int64) int64 {
	most := limit + 1
	if declared >= 0 {
		most = min(most, declared+1)
	}
	return min(max(2*size, first), most)
}

func tooLarge(limit int64) error {
	return problem.New(problem.ContentTooLarge, "The body must not be larger than %d bytes.", limit)
}

func exhausted() error {
	return &problem.Error{
		Code: problem.Unavailable, RetryAfter: retryAfter,
		Detail: "Too many bodies are being received right now, send this one again in a moment.",
	}
}

func greedy() error {
	return &problem.Error{
		Code: problem.QuotaExceeded, RetryAfter: retryAfter,
		Detail: "Your bodies that are being received take as much room as one client may have, send this one when they have arrived.",
	}
}

func failed(err error) error {
	if _, capped := errors.AsType[*http.MaxBytesError](err); capped {
		return err // a smaller cap of something in front
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return problem.New(problem.RequestTimeout, "The body came too slowly.").Because(err)
	}
	return problem.New(problem.InvalidRequest, "The body could not be read to its end.").Because(err)
}

// reservation is what one body has taken from the budget.
type reservation struct {
	budget *Budget
	client string
	n      int64
}

func (h *reservation) grow(n int64) error {
	if err := h.budget.reserve(h.client, h.n, n); err != nil {
		return err
	}
	h.n += n
	return nil
}

// until gives the bytes back when the request has ended. One without an end gives them back at once.
func (h *reservation) until(ctx context.Context) {
	budget, client, n := h.budget, h.client, h.n
	if ctx.Done() == nil || n == 0 {
		budget.release(client, n)
		return
	}
	context.AfterFunc(ctx, func() { budget.release(client, n) })
}

// CheckEncoding returns the problem with a request whose body is encoded, which nothing here decodes:
// unsupported-media-type, with the field that says what would be taken (RFC 9110 section 15.5.16).
func CheckEncoding(r *http.Request) error {
	for _, line := range r.Header["Content-Encoding"] {
		if line == "" || line == "identity" {
			continue
		}
		e := problem.New(problem.UnsupportedMediaType, "The body must not be compressed: send it without Content-Encoding.")
		e.Header = http.Header{"Accept-Encoding": {"identity"}}
		return e
	}
	return nil
}
