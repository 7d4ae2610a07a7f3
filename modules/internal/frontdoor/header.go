package frontdoor

import (
	"io"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// ownOptions are the connection options that name no header for the next hop to lose, or one that is
// seen to here.
var ownOptions = []string{"close", "keep-alive", "upgrade", "te"}

// judgeConnection takes from a request of HTTP/1 what is meant for this hop alone: the header fields that
// Connection names, and an Upgrade to a protocol that is not among those allowed. The proxy would take them
// away behind the handlers, and with them what these have set under the same names. An Upgrade that
// Connection does not name is none (RFC 9110 section 7.8), and the proxy drops it.
func judgeConnection(r *http.Request, in finder) {
	h := r.Header
	connection := h["Connection"]
	if len(connection) == 0 || len(connection) == 1 && usualConnection(connection[0]) {
		return
	}
	upgrade, wants := h["Upgrade"]
	pass := wants && len(upgrade) == 1 && slices.Contains(in.find(r).allowed(), strings.ToLower(strings.TrimSpace(upgrade[0])))
	if wants && !pass {
		delete(h, "Upgrade")
	}
	var keep []string
	for _, line := range connection {
		for option := range strings.SplitSeq(line, ",") {
			option = strings.TrimSpace(option)
			switch name := strings.ToLower(option); {
			case name == "":
			case name == "upgrade":
				if pass {
					keep = append(keep, option)
				}
			case slices.Contains(ownOptions, name):
				keep = append(keep, option)
			default:
				delete(h, http.CanonicalHeaderKey(option))
			}
		}
	}
	if len(keep) == 0 {
		delete(h, "Connection")
	} else {
		h["Connection"] = []string{strings.Join(keep, ", ")}
	}
}

// usualConnection says that the field has one of the values that most clients send.
func usualConnection(v string) bool {
	return v == "keep-alive" || v == "Keep-Alive" || v == "close"
}

// nameSigns are the bytes that the name of a field may have here. Names with others, such as X~User~Id, are
// valid (RFC 9110 section 5.6.2), and apps of the CGI kind take them for X-User-Id. Names with an underscore
// or a dot are Caddy's own to refuse. A colon begins a pseudo header of HTTP/2.
var nameSigns = func() (t [256]bool) {
	for c := range t {
		t[c] = c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '-' || c == '_' || c == '.' || c == ':'
	}
	return t
}()

// judgeNames deletes HTTP2-Settings, and fields whose names an app may take for another one's.
func judgeNames(h http.Header) {
	for name := range h {
		if !usualName(name) || name == "Http2-Settings" {
			delete(h, name)
		}
	}
}

func usualName(name string) bool {
	for i := range len(name) {
		if !nameSigns[name[i]] {
			return false
		}
	}
	return true
}

// notInTrailers says whether a field decides about the request, so that it may only stand before the body
// (RFC 9110 section 6.5.1): apps that take trailers for headers would read it behind all checks.
func notInTrailers(name string) bool {
	name = strings.Map(func(c rune) rune {
		if c == '_' || c == '.' || c > 0x7f || !nameSigns[c] {
			return '-'
		}
		return c
	}, strings.ToLower(name))
	for _, prefix := range []string{"gatehouse-", "x-forwarded-", "x-user-", "x-auth-", "proxy-", "if-", "sec-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return slices.Contains(decisive, name)
}

var decisive = []string{
	"authorization", "cookie", "host", "forwarded", "x-real-ip", "x-api-key", "x-remote-user", "remote-user", "x-http-method-override",
	"x-original-url", "x-rewrite-url", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection", "te",
	"trailer", "upgrade", "http2-settings", "expect", "range", "max-forwards", "cache-control", "idempotency-key",
}

// judgeTrailers lets no trailer pass that decides about the request, neither announced nor at the end of
// the body.
// Who announces what is no name is refused: the proxy would fail to send it, as if the app had failed.
func judgeTrailers(r *http.Request) reason {
	for name := range r.Trailer {
		if !httpguts.ValidHeaderFieldName(name) {
			return trailer
		}
	}
	drop := func() {
		for name := range r.Trailer {
			if notInTrailers(name) {
				delete(r.Trailer, name)
			}
		}
	}
	drop()
	if r.Body != nil {
		r.Body = AfterBody(r.Body, drop)
	}
	return ""
}

// AfterBody returns the body with a call of then whenever a read says that it has ended: the trailers are there
// by then.
func AfterBody(body io.ReadCloser, then func()) io.ReadCloser { return &bodyEnd{body, then} }

type bodyEnd struct {
	io.ReadCloser
	then func()
}

func (b *bodyEnd) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.then()
	}
	return n, err
}
