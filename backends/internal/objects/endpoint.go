package objects

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
	"github.com/gatehouse-proxy/gatehouse/internal/volume"
)

const (
	responseDisposition = "response-content-disposition"
	responseType        = "response-content-type"

	// maxKey is S3's longest key in bytes.
	maxKey = 1024
	// maxPut is S3's largest object of one PUT.
	maxPut = 5 << 30
	// maxType is the longest Content-Type that is stored.
	maxType = 255
	// idle is how long an upload may take for the next pace bytes: it holds room on the disk meanwhile.
	idle = 30 * time.Second
	pace = 64 << 10
)

// Endpoint answers S3's protocol for one bucket on a Disk: presigned PUT, GET and HEAD of an object
// in path style, /bucket/key, and nothing else. It must see path, query and Host as the client sent
// them, because the signature covers them.
type Endpoint struct {
	disk  *Disk
	log   *slog.Logger
	now   func() time.Time
	idle  time.Duration
	admit func(ctx context.Context, key string) error
	// full is of answers for want of room, failed of our other failures.
	full, failed *rate.Sometimes
}

// Endpoint is the HTTP side of the store. log takes what goes wrong on our side.
func (d *Disk) Endpoint(log *slog.Logger, now func() time.Time) *Endpoint {
	admit := func(context.Context, string) error { return nil }
	return &Endpoint{disk: d, log: log, now: now, idle: idle, admit: admit, full: sometimes(), failed: sometimes()}
}

// Admitting returns the endpoint that asks admit before it takes an object with a good signature. An
// error of type *Error is answered as it is.
func (s *Endpoint) Admitting(admit func(ctx context.Context, key string) error) *Endpoint {
	e := *s
	e.admit = admit
	return &e
}

func sometimes() *rate.Sometimes { return &rate.Sometimes{First: 5, Interval: time.Second} }

// Refused is the error of an object that may not be stored, with the reason as a sentence.
func Refused(why string) error { return denied(why) }

// ServeHTTP answers one S3 request.
func (s *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	// What users upload must never run as a page of this origin.
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "sandbox")
	// Any origin may use a presigned URL: whoever has it may act, no cookie or other ambient
	// credential takes part, so there is nothing that a foreign page could abuse.
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Expose-Headers", "ETag, Content-Length, Content-Range, Content-Disposition")
	if r.Method == http.MethodOptions {
		preflight(w)
		return
	}
	if err := s.serve(w, r); err != nil {
		s.fail(w, r, err)
	}
}

const methods = "GET, HEAD, PUT"

func preflight(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Allow", methods+", OPTIONS")
	h.Set("Access-Control-Allow-Methods", methods)
	h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, If-Match, If-None-Match, If-Range, Range")
	h.Set("Access-Control-Max-Age", "7200")
	w.WriteHeader(http.StatusNoContent)
}

func (s *Endpoint) serve(w http.ResponseWriter, r *http.Request) error {
	switch r.Method {
	case http.MethodPut, http.MethodGet, http.MethodHead:
	default:
		w.Header().Set("Allow", methods+", OPTIONS")
		return &Error{http.StatusMethodNotAllowed, "MethodNotAllowed", "Use GET, HEAD or PUT."}
	}
	if r.Method == http.MethodPut && r.ContentLength < 0 {
		return &Error{http.StatusLengthRequired, "MissingContentLength", "You must provide the Content-Length HTTP header."}
	}
	if err := s.disk.keys.Verify(r, s.now()); err != nil {
		return err
	}
	key, ok := strings.CutPrefix(r.URL.Path, "/"+s.disk.bucket+"/")
	switch {
	case !ok || key == "":
		return &Error{http.StatusNotFound, "NoSuchBucket", "The specified bucket does not exist."}
	case len(key) > maxKey:
		return &Error{http.StatusBadRequest, "KeyTooLongError", "Your key is too long."}
	}
	if err := onlyKnown(r); err != nil {
		return err
	}
	if r.Method == http.MethodPut {
		return s.put(w, r, key)
	}
	return s.get(w, r, key)
}

// onlyKnown refuses requests that are signed but ask for something else than they would get.
func onlyKnown(r *http.Request) error {
	for name := range r.URL.Query() {
		switch {
		case strings.HasPrefix(name, "X-Amz-"), name == "x-id", name == responseDisposition, name == responseType:
		default:
			return notImplemented("A query parameter you provided implies functionality that is not implemented.")
		}
	}
	for name := range r.Header {
		switch {
		case name == "X-Amz-Content-Sha256", name == "X-Amz-Date":
		case strings.HasPrefix(name, "X-Amz-"), r.Method == http.MethodPut && (name == "Content-Md5" || name == "Content-Encoding" || name == "If-Match"):
			return notImplemented("A header you provided implies functionality that is not implemented.")
		}
	}
	return nil
}

func (s *Endpoint) put(w http.ResponseWriter, r *http.Request, key string) error {
	contentType := r.Header.Get("Content-Type")
	if contentType == "" {
		contentType = "application/octet-stream"
	}
	condition := r.Header.Values("If-None-Match")
	switch {
	case r.ContentLength > maxPut:
		return &Error{http.StatusBadRequest, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size."}
	case len(contentType) > maxType:
		return &Error{http.StatusBadRequest, "InvalidArgument", "The Content-Type is too long."}
	case len(condition) > 1 || len(condition) == 1 && condition[0] != "*":
		return notImplemented("If-None-Match can only be *.")
	}
	create := len(condition) == 1
	if create {
		switch _, err := s.disk.Stat(r.Context(), key); { // before the body is read for nothing
		case err == nil:
			return fs.ErrExist
		case !errors.Is(err, ErrNotFound):
			return err
		}
	}
	body := &patient{body: r.Body, conn: http.NewResponseController(w), idle: s.idle, got: pace}
	etag, err := s.disk.put(incoming{
		key: key, contentType: contentType, size: r.ContentLength, body: body, stop: body.stop, create: create,
		admit: func() error { return s.admit(r.Context(), key) },
	})
	if err != nil {
		return err // the deadline stays: the server must not wait for the rest of the body either
	}
	body.done()
	w.Header().Set("ETag", etag)
	w.WriteHeader(http.StatusOK)
	return nil
}

// patient reads a body and gives up when the sender is too slow, or when it is stopped.
type patient struct {
	body    io.Reader
	conn    *http.ResponseController
	idle    time.Duration
	got     int // bytes since the deadline was set; it begins with a pace
	stopped atomic.Bool
}

var errStopped = errors.New("the upload was stopped")

func (p *patient) Read(b []byte) (int, error) {
	if p.got >= pace {
		p.got = 0
		_ = p.conn.SetReadDeadline(time.Now().Add(p.idle)) // not every connection has one
	}
	if p.stopped.Load() { // looked at after the deadline was set, as stop sets them the other way round
		return 0, errStopped
	}
	n, err := p.body.Read(b)
	p.got += n
	return n, err
}

// stop makes a read that waits end, and those after it.
func (p *patient) stop() {
	p.stopped.Store(true)
	_ = p.conn.SetReadDeadline(time.Unix(1, 0))
}

func (p *patient) done() { _ = p.conn.SetReadDeadline(time.Time{}) }

func (s *Endpoint) get(w http.ResponseWriter, r *http.Request, key string) error {
	f, info, err := s.disk.open(key)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	h, query := w.Header(), r.URL.Query()
	h.Set("ETag", info.ETag)
	h.Set("Content-Type", first(query, responseType, info.ContentType))
	h.Set("Content-Disposition", first(query, responseDisposition, "attachment"))
	h.Set("Cache-Control", "private, no-store") // a copy would outlive the URL
	http.ServeContent(w, r, "", info.Modified, io.NewSectionReader(f, 0, info.Size))
	return nil
}

func first(query url.Values, name, def string) string {
	if v := query.Get(name); v != "" {
		return v
	}
	return def
}

// fail answers with the error that S3 has for err.
func (s *Endpoint) fail(w http.ResponseWriter, r *http.Request, err error) {
	e := toError(err)
	switch {
	case e.Status == http.StatusInsufficientStorage:
		s.full.Do(func() {
			s.log.WarnContext(r.Context(), "an upload was refused for want of room", "size", r.ContentLength, "error", err)
		})
	case e.Status >= http.StatusInternalServerError && e.Status != http.StatusNotImplemented:
		s.failed.Do(func() { s.log.ErrorContext(r.Context(), "object request failed", "method", r.Method, "error", err) })
	}
	e.write(w, r)
}

func toError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if body, ok := errors.AsType[bodyError](err); ok {
		if _, capped := errors.AsType[*http.MaxBytesError](body); capped {
			return &Error{http.StatusBadRequest, "EntityTooLarge", "Your upload exceeds the size that this server accepts."}
		}
		return &Error{http.StatusBadRequest, "IncompleteBody", "You did not provide the number of bytes specified by the Content-Length HTTP header."}
	}
	switch {
	case errors.Is(err, ErrNotFound):
		return &Error{http.StatusNotFound, "NoSuchKey", "The specified key does not exist."}
	case errors.Is(err, fs.ErrExist):
		return &Error{http.StatusPreconditionFailed, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold: the object is already there."}
	case volume.IsFull(err):
		return &Error{http.StatusInsufficientStorage, "InsufficientStorage", "There is no room to store this."}
	}
	if sqldb.IsBusy(err) {
		return &Error{http.StatusServiceUnavailable, "ServiceUnavailable", "Please reduce your request rate and try again."}
	}
	return &Error{http.StatusInternalServerError, "InternalError", "We encountered an internal error. Please try again."}
}
