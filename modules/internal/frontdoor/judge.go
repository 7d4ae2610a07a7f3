package frontdoor

import (
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Config is what a site may say about its front door.
type Config struct {
	// Upgrade are the protocols that a client may switch to, by the whole value of the field Upgrade and in
	// lower case, and by :protocol of an extended CONNECT (RFC 8441, RFC 9220). To others the request goes on
	// as if the client had not asked; an extended CONNECT is refused. ["off"] allows none. Default: websocket.
	Upgrade []string `json:"upgrade,omitempty"`
	// Paths says what happens to a path that two parsers could take for different ones: "refuse" answers 400,
	// "pass" sends it on as it came. Default: refuse.
	Paths string `json:"paths,omitempty"`
}

var websocket = []string{"websocket"}

func (s *Config) allowed() []string {
	if s == nil || len(s.Upgrade) == 0 {
		return websocket
	}
	return s.Upgrade
}

func (s *Config) passesPaths() bool { return s != nil && s.Paths == "pass" }

// finder finds the settings for a request. It is asked only where they matter.
type finder interface{ find(*http.Request) *Config }

// judge says why the request must be refused, "" if it may go on, and takes from it what is not for the
// app. A plain request costs no allocation and asks for no settings.
func judge(r *http.Request, in finder) reason {
	u := r.URL
	if r.Method == http.MethodConnect || u.Scheme != "" || u.Host != "" || u.Opaque != "" || u.User != nil {
		if why := judgeTarget(r, in); why != "" {
			return why
		}
	}
	if !usualMethod(r.Method) && !httpguts.ValidHeaderFieldName(r.Method) { // HTTP/2 takes any
		return method
	}
	if why := judgePath(u.Path, u.RawPath); why != "" && (why == target || !in.find(r).passesPaths()) {
		return why
	}
	if strings.IndexByte(u.RawQuery, '#') >= 0 {
		return fragment
	}
	if hasUpper(r.Host) { // one spelling for those that compare or count by it
		r.Host = strings.ToLower(r.Host)
	}
	if r.ProtoMajor < 2 {
		judgeConnection(r, in)
	} else if names, ok := r.Header["Host"]; ok {
		if len(names) != 1 || !strings.EqualFold(names[0], r.Host) { // RFC 9113 section 8.3.1
			return host
		}
		delete(r.Header, "Host")
	}
	judgeNames(r.Header)
	if len(r.Trailer) > 0 {
		return judgeTrailers(r)
	}
	return ""
}

// judgeTarget sees to request targets that are not a path.
func judgeTarget(r *http.Request, in finder) reason {
	u := r.URL
	switch {
	case r.Method == http.MethodConnect:
		if !slices.Contains(in.find(r).allowed(), extendedProtocol(r)) {
			return target
		}
	case u.Opaque != "" || u.User != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return target
	case r.ProtoMajor >= 2: // the host stands in :authority
		return target
	case u.Path == "": // http://host is http://host/ (RFC 9110 section 4.2.3)
		u.Path = "/"
	}
	return ""
}

// usualMethod is for speed.
func usualMethod(m string) bool {
	switch m {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodHead, http.MethodOptions:
		return true
	}
	return false
}

func hasUpper(s string) bool {
	for i := range len(s) {
		if s[i]-'A' < 26 {
			return true
		}
	}
	return false
}

// extendedProtocol is what a CONNECT asks for, "" for a tunnel.
func extendedProtocol(r *http.Request) string {
	switch r.ProtoMajor {
	case 2:
		return strings.ToLower(r.Header.Get(":protocol"))
	case 3:
		if !strings.HasPrefix(r.Proto, "HTTP/") {
			return strings.ToLower(r.Proto)
		}
	}
	return ""
}
