// Package clientbody tells how far a client has come with the body of its request: an app that fails
// because its client breaks off has not failed by itself.
package clientbody

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// Body is the body of a request.
type Body struct {
	io.ReadCloser
	// Failed says that the client has broken off.
	Failed atomic.Bool
	// End is when the last of the body was there; nil before.
	End atomic.Pointer[time.Time]
}

// Watch puts a Body in the place of the request's body. It is nil for a request without one.
func Watch(r *http.Request) *Body {
	if r.ContentLength == 0 || r.Body == nil {
		return nil
	}
	b := &Body{ReadCloser: r.Body}
	r.Body = b
	return b
}

// Broken says whether there is a body that the client has broken off.
func (b *Body) Broken() bool { return b != nil && b.Failed.Load() }

// Read reads from the client.
func (b *Body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		now := time.Now()
		b.End.CompareAndSwap(nil, &now)
	default:
		b.Failed.Store(true)
	}
	return n, err
}
