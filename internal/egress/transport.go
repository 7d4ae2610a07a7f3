package egress

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// ErrAddress is the refusal to dial an address that is not allowed.
var ErrAddress = errors.New("the address is not allowed")

// Class is what may be dialled for a kind of URL.
type Class struct {
	// Own lets our own sites be dialled; the admin endpoint never is.
	Own bool
	// Allows judges an address as it is dialled. Default: every address.
	Allows func(netip.Addr) bool
}

// check judges an address that is about to be dialled.
func (c Class) check(network, address string) error {
	if strings.HasPrefix(network, "unix") {
		return checkSocket(address, c.Own)
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return ErrAddress
	}
	if err = checkOwn(ap, c.Own); err != nil {
		return err
	}
	if c.Allows != nil && !c.Allows(ap.Addr()) {
		return ErrAddress
	}
	return nil
}

// CheckURL judges what u says of its address before anything is resolved: an IP address, or localhost.
// It returns nil for a name, which is judged when it is dialled.
func (c Class) CheckURL(u *url.URL) error {
	port, err := Port(u)
	if err != nil {
		return err
	}
	ip, ok := literal(u)
	if !ok {
		return nil
	}
	return c.check("tcp", net.JoinHostPort(ip.String(), port))
}

// Control returns the hook of a net.Dialer that refuses what the class does not allow. It sees the address
// after DNS, so a name that resolves to something else each time is judged each time.
func (c Class) Control() func(network, address string, _ syscall.RawConn) error {
	return func(network, address string, _ syscall.RawConn) error { return c.check(network, address) }
}

// Transport sends requests to what a judge allows. Connections of different classes are kept apart, so
// that none is used again for a URL that may not have it.
type Transport struct {
	judge func(*url.URL) (class int, err error)
	lanes []*http.Transport
}

// NewTransport returns a transport with the settings of base and its own dialer. judge says for each
// request, also of a redirect, which of the classes its URL belongs to, or why it is refused.
func NewTransport(base *http.Transport, dialTimeout time.Duration, judge func(*url.URL) (class int, err error), classes ...Class) *Transport {
	t := &Transport{judge: judge}
	for _, c := range classes {
		lane := base.Clone()
		lane.Proxy = nil // behind a proxy its address would be judged
		lane.DialContext = (&net.Dialer{Timeout: dialTimeout, Control: c.Control()}).DialContext
		t.lanes = append(t.lanes, lane)
	}
	return t
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	class, err := t.judge(r.URL)
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, err
	}
	return t.lanes[class].RoundTrip(r)
}

// CloseIdleConnections closes the connections that no request uses.
func (t *Transport) CloseIdleConnections() {
	for _, lane := range t.lanes {
		lane.CloseIdleConnections()
	}
}

// Judge returns the class of u for NewPlacesTransport, and the error where it is in none of the places.
func (l Places) judge(u *url.URL) (class int, err error) {
	switch allowed, named := l.Allows(u); {
	case !allowed:
		return 0, ErrAddress
	case named:
		return 1, nil
	}
	return 0, nil
}

// NewTransport returns a transport that reaches the places alone, see the function of that name.
func (l Places) NewTransport(base *http.Transport, dialTimeout time.Duration) *Transport {
	return NewTransport(base, dialTimeout, l.judge, Class{}, Class{Own: true})
}

// Check reports with an error that u is in none of the places, ErrAddress, or that it names this process,
// ErrOwn.
func (l Places) Check(u *url.URL) error {
	class, err := l.judge(u)
	if err != nil {
		return err
	}
	return Class{Own: class == 1}.CheckURL(u)
}
