package webhooks

import (
	"errors"
	"net/netip"
	"net/url"
	"strings"

	"code.dny.dev/ssrf"

	"github.com/gatehouse-proxy/gatehouse/internal/egress"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// maxURL is the longest URL of an endpoint.
const maxURL = 2048

// guard keeps deliveries away from networks that only the operator's own machines should reach. It
// judges the address that is dialled, so a name that resolves to one is caught as well, whenever it does.
type guard struct {
	private []netip.Prefix
	places  egress.Places
	public  *ssrf.Guardian
}

func newGuard(allowPrivate []string) (*guard, error) {
	private, places, err := parsePrivate(allowPrivate)
	if err != nil {
		return nil, err
	}
	return &guard{private: private, places: places, public: ssrf.New(ssrf.WithAnyPort())}, nil
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

// The classes of URLs, as indexes of classes.
const (
	overTLS = iota
	overPlain
	inPlace // which the operator named by host and port
)

// classes say what may be dialled: over http private networks that are allowed alone, and in places that are
// allowed whatever their names stand for.
func (g *guard) classes() []egress.Class {
	return []egress.Class{overTLS: {Allows: g.allows}, overPlain: {Allows: g.allowsPrivate}, inPlace: {Own: true}}
}

func (g *guard) classOf(u *url.URL) int {
	switch allowed, _ := g.places.Allows(u); {
	case allowed:
		return inPlace
	case u.Scheme == "https":
		return overTLS
	}
	return overPlain
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
	class := g.classOf(u)
	err = g.classes()[class].CheckURL(u)
	switch {
	case errors.Is(err, egress.ErrOwn):
		return problem.New(problem.InvalidRequest, "url must not point to the gateway itself.")
	case class == overPlain && (err != nil || !egress.IsAddress(u) && len(g.private) == 0):
		return problem.New(problem.InvalidRequest, "url must begin with https://; plain http is for what allow_private names, and user_private opens to endpoints with an owner.")
	case err != nil:
		return problem.New(problem.InvalidRequest, "url must not point to a private or reserved address; allow_private can allow its network, and user_private opens that to endpoints with an owner.")
	}
	return nil
}
