package main

import (
	"io"
	"net/http"
)

// maxDrain is how much of a refused body is still read.
const maxDrain = 16 << 20

// drain reads what is left of a request's body before an error goes out. A proxy that is still
// sending when it has the answer may take the rest of the body for the next request of its client.
func drain(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(&drainer{ResponseWriter: w, body: r.Body}, r)
	})
}

type drainer struct {
	http.ResponseWriter
	body io.Reader
}

// WriteHeader drains the body of a refused request.
func (d *drainer) WriteHeader(status int) {
	if status >= http.StatusBadRequest {
		_, _ = io.CopyN(io.Discard, d.body, maxDrain)
	}
	d.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (d *drainer) Unwrap() http.ResponseWriter { return d.ResponseWriter }
