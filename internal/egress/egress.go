// Package egress guards requests whose URL a client or a user chose. It has the one grammar in which an
// operator allows places, HOST[:PORT][/path/prefix], and the transport that dials nothing else. Whatever
// is allowed, the admin endpoint of this process is never dialled, and its own sites only where the
// configuration names them by host and port. What is judged is the address that is dialled, after DNS.
package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Place is an entry of a list of allowed places. The zero Place is none.
type Place struct {
	host string // in lower case; an IP address in its shortest form
	port string // empty for any
	path string // decoded, empty for any
	raw  string // path as it is escaped in a URL
}

// ParsePlace reads HOST[:PORT][/path/prefix]. An IPv6 address stands in brackets where a port or a path
// follows. Without a port, every port is meant. A prefix ends at a slash of the path: /tasks is for /tasks
// and /tasks/a, and /tasks/ for what is below it.
func ParsePlace(s string) (Place, error) {
	fail := func(why string) (Place, error) {
		return Place{}, fmt.Errorf("%q is not a place: %s; write HOST, HOST:PORT or HOST:PORT/path/prefix, such as 127.0.0.1:3000/tasks/", s, why)
	}
	if strings.Contains(s, "://") {
		return fail("it has a scheme")
	}
	if ip, err := netip.ParseAddr(s); err == nil && ip.Is6() {
		s = "[" + s + "]"
	}
	u, err := url.Parse("http://" + s)
	switch {
	case err != nil || u.Host == "" || strings.HasSuffix(u.Host, ":"):
		return fail("it has no host, or no valid port")
	case u.User != nil || strings.ContainsAny(s, "?#@"):
		return fail("it has more than a host, a port and a path")
	case !unambiguous(u.EscapedPath()):
		return fail("its path can be read in more than one way")
	}
	p := Place{port: u.Port(), path: u.Path, raw: u.EscapedPath()}
	if p.host, err = canonicalHost(u.Hostname()); err != nil {
		return fail(err.Error())
	}
	if p.port != "" {
		n, err := strconv.ParseUint(p.port, 10, 16)
		if err != nil || n == 0 {
			return fail("a port is from 1 to 65535")
		}
		p.port = strconv.FormatUint(n, 10)
	}
	if p.path == "/" {
		p.path, p.raw = "", ""
	}
	return p, nil
}

// PlaceOf returns the place of a URL that the operator wrote: its host, its port, and its path as the prefix.
func PlaceOf(u *url.URL) (Place, error) {
	host, err := canonicalHost(u.Hostname())
	if err != nil {
		return Place{}, err
	}
	port, err := Port(u)
	if err != nil {
		return Place{}, err
	}
	p := Place{host: host, port: port, path: u.Path, raw: u.EscapedPath()}
	if p.path == "/" {
		p.path, p.raw = "", ""
	}
	return p, nil
}

// Port returns the port that is dialled for u.
func Port(u *url.URL) (string, error) {
	switch port := u.Port(); {
	case port != "":
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return "", fmt.Errorf("%q is not a port", port)
		}
		return strconv.FormatUint(n, 10), nil
	case u.Scheme == "https":
		return "443", nil
	}
	return "80", nil
}

// IsAddress reports whether u has an IP address or localhost in the place of a name.
func IsAddress(u *url.URL) bool {
	_, ok := literal(u)
	return ok
}

// literal returns the IP address that u names without DNS. Names that some resolvers take for one are
// addresses, too, and not ok to use: the zero Addr.
func literal(u *url.URL) (ip netip.Addr, ok bool) {
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case err == nil && ip.Zone() == "":
		return ip, true
	case err == nil || numeric(host):
		return netip.Addr{}, true
	}
	return netip.Addr{}, false
}

// Named reports whether the place names its port: such a place may be one of our own sites.
func (p Place) Named() bool { return p.port != "" }

// SameHost reports whether both places have the same host and port.
func (p Place) SameHost(other Place) bool { return p.host == other.host && p.port == other.port }

// String returns the place as it is written.
func (p Place) String() string {
	host := p.host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if p.port != "" {
		host += ":" + p.port
	}
	return host + p.raw
}

// covers reports whether u is in the place. A path that two parsers can read differently is below none,
// except where it is the place's own to the letter.
func (p Place) covers(host, port string, u *url.URL) bool {
	if p.host != host || p.port != "" && p.port != port {
		return false
	}
	escaped := u.EscapedPath()
	if p.path == "" || escaped == p.raw {
		return true
	}
	rest, ok := strings.CutPrefix(u.Path, p.path)
	return ok && unambiguous(escaped) && (rest == "" || rest[0] == '/' || strings.HasSuffix(p.path, "/"))
}

// Places is a list of allowed places. The empty list allows nothing.
type Places []Place

// ParsePlaces reads a list of places.
func ParsePlaces(entries []string) (Places, error) {
	places := make(Places, len(entries))
	for i, entry := range entries {
		p, err := ParsePlace(entry)
		if err != nil {
			return nil, err
		}
		places[i] = p
	}
	return places, nil
}

// Allows reports whether u is in one of the places; named says that one of them names its port.
func (l Places) Allows(u *url.URL) (allowed, named bool) {
	host, err := canonicalHost(u.Hostname())
	if err != nil {
		return false, false
	}
	port, err := Port(u)
	if err != nil {
		return false, false
	}
	for _, p := range l {
		if p.covers(host, port, u) {
			allowed, named = true, named || p.Named()
		}
	}
	return allowed, named
}

// canonicalHost returns the form in which hosts are compared.
func canonicalHost(host string) (string, error) {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Zone() != "" {
			return "", errors.New("an address with a zone is not a host")
		}
		return ip.Unmap().String(), nil
	}
	if host == "" || strings.ContainsAny(host, "/\\?#@%*,:[] ") || strings.ContainsFunc(host, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", fmt.Errorf("%q is not a host", host)
	}
	if numeric(host) {
		return "", fmt.Errorf("%q is not a host: an IPv4 address has four decimal numbers", host)
	}
	return host, nil
}

// numeric reports whether some resolvers take a name that is no IP address for one, as they do with
// 2130706433, 0x7f.1 and 127.1: its last label is a number.
func numeric(host string) bool {
	host = strings.TrimSuffix(host, ".")
	last := strings.ToLower(host[strings.LastIndexByte(host, '.')+1:])
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return last != "" && strings.Trim(last, "0123456789") == ""
}

// ambiguous are the escapes that some parsers take for a part of the path's structure.
var ambiguous = []string{"%2e", "%2f", "%5c", "%00", "%25"}

// unambiguous reports whether every parser sees the same segments in an escaped path.
func unambiguous(escaped string) bool {
	lower := strings.ToLower(escaped)
	if strings.Contains(escaped, "//") || strings.ContainsAny(escaped, "\\\x00") ||
		slices.ContainsFunc(ambiguous, func(s string) bool { return strings.Contains(lower, s) }) {
		return false
	}
	for segment := range strings.SplitSeq(escaped, "/") {
		if name, _, _ := strings.Cut(segment, ";"); name == "." || name == ".." {
			return false
		}
	}
	return true
}
