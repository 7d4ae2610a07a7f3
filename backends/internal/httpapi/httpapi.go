// Package httpapi is how every backend speaks HTTP: handlers that return errors, a router that
// answers unknown paths and wrong methods with problems, strict bounded JSON in, JSON out, and
// lists in pages.
package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"mime"
	"net/http"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/gatehouse-proxy/gatehouse/internal/body"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

// fullRetry is the Retry-After while a disk is full: somebody or a sweep has to make room.
const fullRetry = 10 * time.Second

// Handler answers a request or returns why it could not. An error that is not of package problem
// becomes a 500 with a fixed sentence and is logged.
type Handler func(w http.ResponseWriter, r *http.Request) error

// Router dispatches by path and method. Unknown paths answer 404, known ones with another method
// 405 with Allow, both as problems. HEAD is served by GET, OPTIONS by the router.
type Router struct {
	mux *http.ServeMux
	log *slog.Logger
	// refused is of 503, failed of our other failures.
	refused, failed *often
	routes          map[string]map[string]Handler
}

// NewRouter is a router without routes. log takes what goes wrong on our side.
func NewRouter(log *slog.Logger) *Router {
	rt := &Router{mux: http.NewServeMux(), log: log, refused: newOften(), failed: newOften(), routes: map[string]map[string]Handler{}}
	rt.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problem.Write(w, r, problem.New(problem.NotFound, "There is nothing at %s.", r.URL.Path))
	})
	return rt
}

// Handle adds a route. pattern is one of http.ServeMux without a method.
func (rt *Router) Handle(method, pattern string, h Handler) {
	methods, ok := rt.routes[pattern]
	if !ok {
		methods = map[string]Handler{}
		rt.routes[pattern] = methods
		rt.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { rt.dispatch(w, r, methods) })
	}
	methods[method] = h
}

func (rt *Router) dispatch(w http.ResponseWriter, r *http.Request, methods map[string]Handler) {
	h := methods[r.Method]
	if h == nil && r.Method == http.MethodHead {
		h = methods[http.MethodGet]
	}
	if h == nil {
		allow := slices.Sorted(maps.Keys(methods))
		if methods[http.MethodGet] != nil && methods[http.MethodHead] == nil {
			allow = append(allow, http.MethodHead)
		}
		allow = append(allow, http.MethodOptions)
		if r.Method == http.MethodOptions {
			w.Header().Set("Allow", strings.Join(allow, ", "))
			w.WriteHeader(http.StatusNoContent)
			return
		}
		e := problem.New(problem.MethodNotAllowed, "%s is not allowed here, try %s.", printable(r.Method), strings.Join(allow, ", "))
		e.Header = http.Header{"Allow": {strings.Join(allow, ", ")}}
		problem.Write(w, r, e)
		return
	}
	if err := h(w, r); err != nil {
		rt.Fail(w, r, err)
	}
}

// Fail answers with err as the error of a handler. Failures of our side are logged: the first few, then one a second
// with how many there were. Those with 503, which may be many, are counted apart.
func (rt *Router) Fail(w http.ResponseWriter, r *http.Request, err error) {
	e := problem.From(err)
	if e.Code == problem.Internal && sqldb.IsFull(err) {
		e = &problem.Error{Code: problem.Unavailable, Detail: "There is no room to store this right now.", RetryAfter: fullRetry, Cause: err}
	}
	if e.Code == problem.Internal && sqldb.IsBusy(err) {
		e = &problem.Error{Code: problem.Unavailable, Detail: "The database cannot take this right now.", RetryAfter: time.Second, Cause: err}
	}
	if e.Code == problem.Internal && sqldb.IsNotText(err) {
		e = problem.New(problem.InvalidRequest, "The request has a text that is not UTF-8, or has a NUL in it.")
	}
	if status := e.Code.Status(); status >= http.StatusInternalServerError {
		log := rt.failed
		if status == http.StatusServiceUnavailable {
			log = rt.refused
		}
		log.do(func(times int64) {
			rt.log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "times", times, "error", err)
		})
	}
	problem.Write(w, r, e)
}

// often does the first few, then one a second.
type often struct {
	sometimes rate.Sometimes
	times     atomic.Int64
}

func newOften() *often {
	return &often{sometimes: rate.Sometimes{First: 5, Interval: time.Second}}
}

// do calls f, if it is time, with how often do was called since f was.
func (o *often) do(f func(times int64)) {
	o.times.Add(1)
	o.sometimes.Do(func() { f(o.times.Swap(0)) })
}

// ServeHTTP dispatches the request. A path that changes when it is cleaned is refused: what stands in
// front may have read it as another path, and have let it pass for that one.
func (rt *Router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !clean(r.URL.Path) {
		problem.Write(w, r, problem.New(problem.InvalidRequest, "The path must have no empty, . or .. segments."))
		return
	}
	rt.mux.ServeHTTP(w, r)
}

func clean(p string) bool {
	if p == "/" || p == "*" {
		return true
	}
	return path.Clean(p) == strings.TrimSuffix(p, "/")
}

// printable keeps a client's word short and free of control characters.
func printable(s string) string {
	if len(s) > 32 {
		s = s[:32]
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return -1
		}
		return c
	}, s)
}

// ReadBody reads the whole body, at most limit bytes; a larger one is content-too-large, one with a
// Content-Encoding unsupported-media-type. The other errors are those of body.Read.
func ReadBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if err := body.CheckEncoding(r); err != nil {
		return nil, err
	}
	client := r.Header.Get(service.ClientIPHeader)
	if r.Header.Get(service.RankHeader) != "" { // the app itself, for all of its users
		client = ""
	}
	return body.Read(w, r, limit, client)
}

// DecodeJSON reads the body as exactly one JSON object into v, at most limit bytes. A wrong media
// type is unsupported-media-type; malformed JSON, unknown members and wrong types are
// invalid-request with a sentence that names the member.
func DecodeJSON(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	if ct := r.Header.Get("Content-Type"); ct != "" {
		mt, _, err := mime.ParseMediaType(ct)
		if err != nil || mt != "application/json" && !strings.HasSuffix(mt, "+json") && mt != "application/x-www-form-urlencoded" {
			return problem.New(problem.UnsupportedMediaType, "The body must be JSON, sent as application/json.")
		}
	}
	b, err := ReadBody(w, r, limit)
	if err != nil {
		return err
	}
	return UnmarshalStrict(b, v)
}

// UnmarshalStrict is DecodeJSON for bytes already read.
func UnmarshalStrict(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return badJSON(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return problem.New(problem.InvalidRequest, "The body must hold one JSON value and nothing after it.")
	}
	return nil
}

func badJSON(err error) error {
	if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		what := "The body"
		if t.Field != "" {
			what = strconv.Quote(printable(t.Field))
		}
		return problem.New(problem.InvalidRequest, "%s must be %s, not %s.", what, jsonKind(t.Type), t.Value).Because(err)
	}
	if s, ok := errors.AsType[*json.SyntaxError](err); ok {
		return problem.New(problem.InvalidRequest, "The body is not valid JSON, it goes wrong at byte %d.", s.Offset).Because(err)
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return problem.New(problem.InvalidRequest, "The member %s is unknown.", printable(name)).Because(err)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return problem.New(problem.InvalidRequest, "The body is empty or ends in the middle of its JSON.").Because(err)
	}
	return problem.New(problem.InvalidRequest, "The body does not fit: %s.", printableSentence(err.Error())).Because(err)
}

// jsonKind is what JSON calls the values of a Go type.
func jsonKind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Pointer:
		return jsonKind(t.Elem())
	default:
		return "a whole number"
	}
}

func printableSentence(s string) string {
	if len(s) > 200 {
		s = s[:200]
	}
	return strings.ToValidUTF8(s, "")
}

// WriteJSON answers with v as JSON.
func WriteJSON(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
	return nil
}

// Page is one page of a list. NextCursor is empty on the last one.
type Page[T any] struct {
	Items      []T    `json:"items"`
	NextCursor string `json:"next_cursor,omitempty"`
}

// PageFrom is a page of at most limit rows, of which one more was read if there was one. cursor is where
// the next page goes on after a row, view what is shown of it.
func PageFrom[R, T any](rows []R, limit int, cursor func(R) string, view func(R) T) Page[T] {
	p := Page[T]{Items: make([]T, 0, min(limit, len(rows)))}
	if len(rows) > limit {
		rows = rows[:limit]
		p.NextCursor = cursor(rows[limit-1])
	}
	for _, row := range rows {
		p.Items = append(p.Items, view(row))
	}
	return p
}

// Itself is the view of a row that is shown as it is.
func Itself[T any](row T) T { return row }

// PageOf reads ?limit= (1 to 1000, default 50) and ?cursor= (opaque, empty for the first page).
func PageOf(r *http.Request) (limit int, cursor string, err error) {
	q := r.URL.Query()
	limit = 50
	if s := q.Get("limit"); s != "" {
		limit, err = strconv.Atoi(s)
		if err != nil || limit < 1 || limit > 1000 {
			return 0, "", problem.New(problem.InvalidRequest, "limit must be a whole number from 1 to 1000.")
		}
	}
	cursor = q.Get("cursor")
	if len(cursor) > 256 {
		return 0, "", errCursor()
	}
	return limit, cursor, nil
}

func errCursor() error {
	return problem.New(problem.InvalidRequest, "cursor is not one that this list gave out.")
}

// NumberedPageOf is PageOf for a list whose cursors are the numbers of its rows, from 1 on. from is first
// on the first page.
func NumberedPageOf(r *http.Request, first int64) (limit int, from int64, err error) {
	limit, cursor, err := PageOf(r)
	if err != nil || cursor == "" {
		return limit, first, err
	}
	if from, err = strconv.ParseInt(cursor, 10, 64); err != nil || from < 1 {
		return 0, 0, errCursor()
	}
	return limit, from, nil
}
