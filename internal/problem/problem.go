// Package problem is the one vocabulary of failure: a closed table of codes, an error that keeps
// its public sentence apart from its private cause, and the renderer of RFC 9457 problem details.
package problem

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/drain"
)

// Code names one kind of failure. It never changes once released: clients match on the type it maps to.
type Code string

// The codes, by status.
const (
	InvalidRequest       Code = "invalid-request"
	AmbiguousRequest     Code = "ambiguous-request"
	InvalidCredentials   Code = "invalid-credentials" //nolint:gosec // the name of a failure
	MissingToken         Code = "missing-token"
	InvalidToken         Code = "invalid-token"
	InvalidSignature     Code = "invalid-signature"
	InsufficientLogin    Code = "insufficient-user-authentication" // RFC 9470
	InsufficientScope    Code = "insufficient-scope"
	Forbidden            Code = "forbidden"
	NotFound             Code = "not-found"
	MethodNotAllowed     Code = "method-not-allowed"
	RequestTimeout       Code = "request-timeout"
	Conflict             Code = "conflict"
	LockHeld             Code = "lock-held"
	LeaseLost            Code = "lease-lost"
	VersionSunset        Code = "version-sunset"
	Gone                 Code = "gone"
	PreconditionFailed   Code = "precondition-failed"
	ContentTooLarge      Code = "content-too-large"
	UnsupportedMediaType Code = "unsupported-media-type"
	Unprocessable        Code = "unprocessable"
	QuotaExceeded        Code = "quota-exceeded"
	ClientClosedRequest  Code = "client-closed-request"
	Internal             Code = "internal"
	UpstreamFailed       Code = "upstream-failed"
	Unavailable          Code = "unavailable"
	ReducedCapacity      Code = "temporary-reduced-capacity"
	KeysUnavailable      Code = "keys-unavailable"
	UpstreamTimeout      Code = "upstream-timeout"
	InsufficientStorage  Code = "insufficient-storage"
)

const (
	ours = "https://gatehouse-proxy.github.io/problems/"
	// iana is the registry of draft-ietf-httpapi-ratelimit-headers, section "Problem Types".
	iana = "https://iana.org/assignments/http-problem-types#"
)

type entry struct {
	status int
	typ    string
	title  string
}

// table maps every code to its status, its stable type URI and its title.
var table = map[Code]entry{
	InvalidRequest:       {http.StatusBadRequest, ours + "invalid-request", "The request is not valid"},
	AmbiguousRequest:     {http.StatusBadRequest, ours + "ambiguous-request", "The request can be read in more than one way"},
	InvalidCredentials:   {http.StatusUnauthorized, ours + "invalid-credentials", "The credentials are not valid"},
	MissingToken:         {http.StatusUnauthorized, ours + "missing-token", "An access token is required"},
	InvalidToken:         {http.StatusUnauthorized, ours + "invalid-token", "The access token is not valid"},
	InvalidSignature:     {http.StatusUnauthorized, ours + "invalid-signature", "The signature is not valid"},
	InsufficientLogin:    {http.StatusUnauthorized, ours + "insufficient-user-authentication", "A stronger or a more recent login is required"},
	InsufficientScope:    {http.StatusForbidden, ours + "insufficient-scope", "The access token does not allow this"},
	Forbidden:            {http.StatusForbidden, ours + "forbidden", "This is not allowed"},
	NotFound:             {http.StatusNotFound, ours + "not-found", "Nothing is here"},
	MethodNotAllowed:     {http.StatusMethodNotAllowed, ours + "method-not-allowed", "The method is not allowed here"},
	RequestTimeout:       {http.StatusRequestTimeout, ours + "request-timeout", "The request took too long to arrive"},
	Conflict:             {http.StatusConflict, ours + "conflict", "The request conflicts with the current state"},
	LockHeld:             {http.StatusConflict, ours + "lock-held", "The lock is held by another owner"},
	LeaseLost:            {http.StatusConflict, ours + "lease-lost", "The lease of the job is over"},
	VersionSunset:        {http.StatusGone, ours + "version-sunset", "This API version has been retired"},
	Gone:                 {http.StatusGone, ours + "gone", "This is no longer here"},
	PreconditionFailed:   {http.StatusPreconditionFailed, ours + "precondition-failed", "The resource has changed"},
	ContentTooLarge:      {http.StatusRequestEntityTooLarge, ours + "content-too-large", "The body is too large"},
	UnsupportedMediaType: {http.StatusUnsupportedMediaType, ours + "unsupported-media-type", "The media type is not accepted"},
	Unprocessable:        {http.StatusUnprocessableEntity, ours + "unprocessable", "The request was understood but cannot be done"},
	QuotaExceeded:        {http.StatusTooManyRequests, iana + "quota-exceeded", "Request cannot be satisfied as assigned quota has been exceeded"},
	ClientClosedRequest:  {499, ours + "client-closed-request", "The client went away"},
	Internal:             {http.StatusInternalServerError, ours + "internal", "Something went wrong on our side"},
	UpstreamFailed:       {http.StatusBadGateway, ours + "upstream-failed", "The app behind the gateway did not answer properly"},
	Unavailable:          {http.StatusServiceUnavailable, ours + "unavailable", "The service is not available right now"},
	ReducedCapacity:      {http.StatusServiceUnavailable, iana + "temporary-reduced-capacity", "Request cannot be satisfied due to temporary server capacity constraints"},
	KeysUnavailable:      {http.StatusServiceUnavailable, ours + "keys-unavailable", "The keys that verify tokens are not available right now"},
	UpstreamTimeout:      {http.StatusGatewayTimeout, ours + "upstream-timeout", "The app behind the gateway did not answer in time"},
	InsufficientStorage:  {http.StatusInsufficientStorage, ours + "insufficient-storage", "There is no room to store this"},
}

// byStatus is the code that a bare status stands for, for errors that are not ours.
var byStatus = map[int]Code{
	400: InvalidRequest, 401: InvalidCredentials, 403: Forbidden, 404: NotFound, 405: MethodNotAllowed, 408: RequestTimeout, 409: Conflict,
	410: Gone, 412: PreconditionFailed, 413: ContentTooLarge, 415: UnsupportedMediaType, 422: Unprocessable,
	429: QuotaExceeded, 499: ClientClosedRequest, 500: Internal, 502: UpstreamFailed, 503: Unavailable,
	504: UpstreamTimeout, 507: InsufficientStorage,
}

// Status is the HTTP status of the code; 500 for one that is not in the table.
func (c Code) Status() int {
	if e, ok := table[c]; ok {
		return e.status
	}
	return http.StatusInternalServerError
}

// Title is the title of the code.
func (c Code) Title() string { return table[c].title }

// Type is the code's stable problem type URI.
func (c Code) Type() string { return table[c].typ }

// Error is a failure with two faces: Code, Detail, Extra and Header are for the client, Cause is for the log.
type Error struct {
	// Code says what kind of failure this is. Required.
	Code Code
	// Detail is one public sentence on this occurrence: what is wrong and what to do. It never holds a secret.
	Detail string
	// Extra are named members added to the problem document (RFC 9457 section 3.2).
	Extra map[string]any
	// RetryAfter is sent as Retry-After in whole seconds, rounded up, at least 1. Zero sends none.
	RetryAfter time.Duration
	// Header are further response headers, such as WWW-Authenticate or Allow.
	Header http.Header
	// Cause is the private reason; it is logged where the error is handled and never sent.
	Cause error
}

// New is an error of the given code with its public sentence.
func New(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// Because returns e with its private cause set.
func (e *Error) Because(cause error) *Error {
	e.Cause = cause
	return e
}

func (e *Error) Error() string {
	s := string(e.Code)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Cause }

// From turns any error into one of the table: an Error is itself, a body over its cap is
// content-too-large, a client that left is client-closed-request, all else is internal.
func From(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return New(ContentTooLarge, "The body must not be larger than %d bytes.", tooLarge.Limit).Because(err)
	}
	if errors.Is(err, context.Canceled) {
		return New(ClientClosedRequest, "").Because(err)
	}
	return New(Internal, "").Because(err)
}

// FromStatus is the error a bare HTTP status stands for; an unknown status keeps its class.
func FromStatus(status int) *Error {
	code, ok := byStatus[status]
	switch {
	case ok:
	case status >= 400 && status < 500:
		code = InvalidRequest
	default:
		code = Internal
	}
	return &Error{Code: code}
}

// Document is a problem document as it stands on the wire (RFC 9457 section 3).
func (e *Error) Document(status int, instance string) map[string]any {
	doc := make(map[string]any, len(e.Extra)+5)
	maps.Copy(doc, e.Extra)
	t := table[e.Code]
	if t.status != status { // another's status: its class decided the code, the phrase is the status's own
		t.typ, t.title = "about:blank", cmp.Or(http.StatusText(status), "Error")
	}
	doc["type"], doc["title"], doc["status"] = t.typ, t.title, status
	if e.Detail != "" {
		doc["detail"] = e.Detail
	}
	if instance != "" {
		doc["instance"] = instance
	}
	return doc
}

// SetHeader puts the error's headers on h: those it carries, Retry-After, and no-store, since
// several of these statuses may be cached by heuristics (RFC 9110 section 15.1).
func (e *Error) SetHeader(h http.Header) {
	for name, values := range e.Header {
		h[name] = values
	}
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(Seconds(e.RetryAfter)))
	}
	h.Set("Cache-Control", "no-store")
}

// Seconds rounds d up to whole seconds, at least 1: a client that waits so long has waited enough.
func Seconds(d time.Duration) int {
	return max(1, int(math.Ceil(d.Seconds())))
}

// Write renders err as the whole response. The body is left out for HEAD.
func Write(w http.ResponseWriter, r *http.Request, err error) {
	e := From(err)
	e.SetHeader(w.Header())
	WriteStatus(w, r, e, e.Code.Status())
}

// WriteStatus renders e under a status that something else decided. It sets no header of e's but the media
// type. A client that is still sending its body can read the answer; one that speaks gRPC gets 200 with the
// grpc-status that status stands for.
func WriteStatus(w http.ResponseWriter, r *http.Request, e *Error, status int) {
	drain.Answer(w, r, func() {
		if IsGRPC(r.Header.Get("Content-Type")) {
			writeGRPC(w, r, e, status)
			return
		}
		writeDocument(w, r, e, status)
	})
}

func writeDocument(w http.ResponseWriter, r *http.Request, e *Error, status int) {
	body, err := json.Marshal(e.Document(status, RequestID(r.Context())))
	if err != nil { // an Extra that JSON cannot hold: the document without it
		body, _ = json.Marshal((&Error{Code: e.Code, Detail: e.Detail}).Document(status, "")) //nolint:errchkjson // strings and a number always encode
	}
	h := w.Header()
	h["Content-Type"] = contentType
	h.Set("Content-Length", strconv.Itoa(len(body)+1))
	h.Del("Content-Encoding")
	h.Del("Etag")
	h.Del("Last-Modified")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(append(body, '\n'))
	}
}

var contentType = []string{"application/problem+json"}

type requestIDKey struct{}

// WithRequestID returns a context whose problems carry id as their instance.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestID is the instance of problems in ctx: "urn:uuid:" and the request's id, or a new one.
func RequestID(ctx context.Context) string {
	if id, ok := ctx.Value(requestIDKey{}).(string); ok {
		return "urn:uuid:" + id
	}
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
