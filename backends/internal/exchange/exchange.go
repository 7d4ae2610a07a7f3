// Package exchange makes HTTP requests to servers that nobody vouches for: the targets of jobs, endpoints of
// webhooks, origins of fills. Each exchange ends with the context of its request, whatever the server sends:
// a switch of protocols, a body without end, one that drips, none, or noise.
//
// It exists because a 101 leaves the body of net/http's response to the caller for as long as the peer
// likes, past the context, and because net/http does not send a POST again that a kept-alive connection lost.
package exchange

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// idleTime is how long a connection is kept for the next request. Common servers close theirs after 5 s,
// and a request must not meet the close.
const idleTime = 3 * time.Second

// ErrSwitched is the error of an exchange whose server answered 101 Switching Protocols.
var ErrSwitched = errors.New("the server switched protocols (101), which it was not asked to")

// Options say how a Client connects. The zero value is a working default.
type Options struct {
	// DialTimeout bounds the connecting, and the TLS handshake by itself. Default: 10s.
	DialTimeout time.Duration
	// Guard makes the transport that dials out of the settings, which have no dialler yet, and decides which
	// addresses may be dialled. Default: TCP to any address.
	Guard func(base *http.Transport, dialTimeout time.Duration) Transport
	// TLS is the configuration of TLS. Default: TLS 1.2 and later, the system's roots.
	TLS *tls.Config
	// MaxHeader bounds the headers of a response in bytes. Default: 64 KiB.
	MaxHeader int64
	// Compression asks for compressed bodies and expands them, up to the bytes that are asked for. Default: off.
	Compression bool
	// IdlePerHost is how many connections to one host are kept. Default: 16.
	IdlePerHost int
	// Redirect decides on redirects as in http.Client. Default: the redirect is the response.
	Redirect func(next *http.Request, via []*http.Request) error
}

// Transport is an http.Transport, or what guards one.
type Transport interface {
	http.RoundTripper
	CloseIdleConnections()
}

// Client makes exchanges. It uses no proxy of the environment and keeps no cookies.
type Client struct {
	pooled, fresh *http.Client
}

// New returns a Client.
func New(o Options) *Client {
	if o.DialTimeout == 0 {
		o.DialTimeout = 10 * time.Second
	}
	if o.Guard == nil {
		o.Guard = func(base *http.Transport, dialTimeout time.Duration) Transport {
			base.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
			return base
		}
	}
	if o.TLS == nil {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if o.MaxHeader == 0 {
		o.MaxHeader = 64 << 10
	}
	if o.IdlePerHost == 0 {
		o.IdlePerHost = 16
	}
	if o.Redirect == nil {
		o.Redirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	pooled := &http.Transport{
		TLSClientConfig:        o.TLS,
		TLSHandshakeTimeout:    o.DialTimeout,
		ForceAttemptHTTP2:      true,
		DisableCompression:     !o.Compression,
		MaxResponseHeaderBytes: o.MaxHeader,
		MaxIdleConnsPerHost:    o.IdlePerHost,
		IdleConnTimeout:        idleTime,
	}
	fresh := pooled.Clone()
	fresh.DisableKeepAlives = true
	return With(o.Guard(pooled, o.DialTimeout), o.Guard(fresh, o.DialTimeout), o.Redirect)
}

// With returns a Client over transports: the one that keeps connections, and the one that each request has a
// connection of its own from.
func With(pooled, fresh http.RoundTripper, redirect func(*http.Request, []*http.Request) error) *Client {
	return &Client{
		pooled: &http.Client{Transport: pooled, CheckRedirect: redirect},
		fresh:  &http.Client{Transport: fresh, CheckRedirect: redirect},
	}
}

// CloseIdle closes the connections that no exchange uses.
func (c *Client) CloseIdle() { c.pooled.CloseIdleConnections() }

// Response is what a server sent.
type Response struct {
	Status int
	Header http.Header
	// Body is as much of the body as was asked for.
	Body []byte
	// More tells that the body goes on behind Body.
	More bool
	// Cut is why the body ended before its end, nil if it did not: the connection broke, or time was up.
	// A success whose body is cut is none.
	Cut error
}

// Error is the error of an exchange without a response.
type Error struct {
	// Reached tells that there was a connection, with TLS where it is wanted, when it went wrong.
	Reached bool
	cause   error
}

// Error leaves out the URL, which may hold a secret.
func (e *Error) Error() string { return e.cause.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// Do sends the request and reads up to most bytes of the response's body. It returns with the request's
// context at the latest. A request whose kept-alive connection turns out to be closed before any byte of
// the response came is sent once more, on a new connection, if its body can be had again. All errors are
// of type *Error.
func (c *Client) Do(r *http.Request, most int) (*Response, error) {
	a := attempt{}
	resp, err := a.do(c.pooled, r, most)
	if err == nil || !a.stale() || !closed(err) || r.Context().Err() != nil {
		return resp, err
	}
	again := r.Clone(r.Context())
	if r.Body != nil && r.Body != http.NoBody {
		if r.GetBody == nil {
			return resp, err
		}
		body, bodyErr := r.GetBody()
		if bodyErr != nil {
			return resp, err
		}
		again.Body = body
	}
	return new(attempt).do(c.fresh, again, most)
}

// attempt is one try at an exchange, and what is known of its connection.
type attempt struct {
	reached, reused, answered atomic.Bool
}

// stale reports whether the connection was one that the server may have closed before it saw the request.
func (a *attempt) stale() bool { return a.reused.Load() && !a.answered.Load() }

// closed reports whether err is what the end of a connection looks like. net/http does not export what it
// returns where it saw the end before it wrote.
func closed(err error) bool {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, net.ErrClosed} {
		if errors.Is(err, end) {
			return true
		}
	}
	return strings.Contains(err.Error(), "server closed idle connection")
}

func (a *attempt) do(client *http.Client, r *http.Request, most int) (*Response, error) {
	trace := &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) {
			a.reached.Store(true)
			a.reused.Store(i.Reused)
		},
		GotFirstResponseByte: func() { a.answered.Store(true) },
	}
	resp, err := client.Do(r.WithContext(httptrace.WithClientTrace(r.Context(), trace))) //nolint:gosec // the transport has judged the target, see Options.Guard
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return nil, &Error{Reached: a.reached.Load(), cause: err}
	}
	// Where the body is not read to its end, this closes the connection.
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return nil, &Error{Reached: true, cause: ErrSwitched}
	}
	body, cut := io.ReadAll(io.LimitReader(resp.Body, int64(most)+1))
	got := &Response{Status: resp.StatusCode, Header: resp.Header, Body: body}
	if len(body) > most {
		got.Body, got.More = body[:most], true
	}
	if cut != nil && !got.More {
		got.Cut = fmt.Errorf("the response's body broke off: %w", cut)
		if ctxErr := r.Context().Err(); ctxErr != nil {
			got.Cut = fmt.Errorf("the response's body did not end in time: %w", ctxErr)
		}
	}
	return got, nil
}
