package webhooks

import (
	"errors"
	"net/netip"
	"net/url"
	"strings"
	"syscall"

	"code.dny.dev/ssrf"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// maxURL is the longest URL of an endpoint.
const maxURL = 2048

// errBlocked is the refusal to dial an address.
var errBlocked = errors.New("address not allowed")

// guard keeps deliveries away from networks that only the operator's own machines should reach. It
// judges the address that is dialled, so a name that resolves to one is caught as well, whenever it does.
type guard struct {
	private []netip.Prefix
	public  *ssrf.Guardian
}

func newGuard(allowPrivate []string) (*guard, error) {
	prefixes, err := parsePrefixes(allowPrivate)
	if err != nil {
		return nil, err
	}
	return &guard{private: prefixes, public: ssrf.New(ssrf.WithAnyPort())}, nil
}

// allowsPrivate says whether the operator allowed the address by name of its network.
func (g *guard) allowsPrivate(ip netip.Addr) bool {
	ip = ip.Unmap()
	for _, p := range g.private {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

func (g *guard) allows(ip netip.Addr) bool {
	return g.allowsPrivate(ip) || g.public.SafeAddr(ip.Unmap()) == nil
}

// dialTLS is the Control of the dialer for https.
func (g *guard) dialTLS(_, address string, _ syscall.RawConn) error {
	return control(address, g.allows)
}

// dialPlain is the Control of the dialer for http, which is for allowed private networks alone.
func (g *guard) dialPlain(_, address string, _ syscall.RawConn) error {
	return control(address, g.allowsPrivate)
}

func control(address string, allows func(netip.Addr) bool) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil || !allows(ap.Addr()) {
		return errBlocked
	}
	return nil
}

// checkURL says whether an endpoint may have this URL. What it cannot see, the address behind a
// name, is judged when it is dialled.
func (g *guard) checkURL(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case raw == "":
		return problem.New(problem.InvalidRequest, "url is required.")
	case len(raw) > maxURL:
		return problem.New(problem.InvalidRequest, "url must not be longer than %d bytes.", maxURL)
	case err != nil || u.Hostname() == "":
		return problem.New(problem.InvalidRequest, "url must be an absolute URL, such as https://example.com/hooks.")
	case u.User != nil:
		return problem.New(problem.InvalidRequest, "url must not hold a user or a password.")
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return problem.New(problem.InvalidRequest, "url must not have a fragment.")
	case u.Scheme != "https" && u.Scheme != "http":
		return problem.New(problem.InvalidRequest, "url must begin with https://.")
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	ip, err := netip.ParseAddr(host)
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		ip, err = netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
	}
	isName := err != nil // not an address: the guard looks at what it resolves to when it dials
	switch {
	case u.Scheme == "http" && (isName && len(g.private) == 0 || !isName && !g.allowsPrivate(ip)):
		return problem.New(problem.InvalidRequest, "url must begin with https://; plain http is for networks that allow_private names.")
	case !isName && (ip.Zone() != "" || !g.allows(ip)):
		return problem.New(problem.InvalidRequest, "url must not point to a private or reserved address; allow_private can allow its network.")
	}
	return nil //nolint:nilerr // a name is no error
}
