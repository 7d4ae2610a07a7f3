package egress

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ErrOwn is the refusal to dial this process itself.
var ErrOwn = errors.New("the address is the gateway's own")

// Listener is where this process answers.
type Listener struct {
	// Host is the IP address that it listens on. Empty, unspecified or a name means every address of this
	// machine.
	Host string
	// Elsewhere means that Host may be a name of another machine, so it is resolved each time that its port
	// is dialled.
	Elsewhere bool
	// From and To are the ports, both included. To may be 0 for From alone.
	From, To uint16
	// Socket is the path of a unix socket, instead of all of the above.
	Socket string
	// Never means that it is never dialled, whatever the configuration names: an admin endpoint, or a
	// listener that believes who calls.
	Never bool
}

// ParseListener reads HOST:PORT.
func ParseListener(s string) (Listener, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return Listener{}, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return Listener{}, errors.New("a port is from 1 to 65535")
	}
	return Listener{Host: host, From: uint16(n)}, nil
}

// own is where this process listens: one entry for each configuration that is at work.
var own struct {
	mu  sync.RWMutex
	all []*[]Listener
}

// Listen says where this process answers, until release is called.
func Listen(listeners []Listener) (release func()) {
	entry := &listeners
	own.mu.Lock()
	defer own.mu.Unlock()
	own.all = append(own.all, entry)
	return func() {
		own.mu.Lock()
		defer own.mu.Unlock()
		own.all = slices.DeleteFunc(own.all, func(e *[]Listener) bool { return e == entry })
	}
}

// checkOwn returns ErrOwn if one of our listeners answers at the address. named means that our own sites
// may be dialled there.
func checkOwn(ap netip.AddrPort, named bool) error {
	return findOwn(named, func(l Listener) bool { return l.at(ap) })
}

// checkSocket is checkOwn for a unix socket.
func checkSocket(path string, named bool) error {
	return findOwn(named, func(l Listener) bool { return l.Socket != "" && samePath(l.Socket, path) })
}

func findOwn(named bool, at func(Listener) bool) error {
	own.mu.RLock()
	defer own.mu.RUnlock()
	for _, listeners := range own.all {
		for _, l := range *listeners {
			if (l.Never || !named) && at(l) {
				return ErrOwn
			}
		}
	}
	return nil
}

func samePath(a, b string) bool {
	resolve := func(path string) string {
		if abs, err := filepath.Abs(path); err == nil {
			path = abs
		}
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = real
		}
		return path
	}
	return resolve(a) == resolve(b)
}

// at reports whether a connection to the address would reach the listener.
func (l Listener) at(ap netip.AddrPort) bool {
	if l.Socket != "" || ap.Port() < l.From || ap.Port() > cmp.Or(l.To, l.From) {
		return false
	}
	bound, everywhere := l.addresses()
	for ip := range readings(ap.Addr()) {
		if ip.IsUnspecified() || slices.Contains(bound, ip) || everywhere && thisMachine(ip) {
			return true
		}
	}
	return false
}

// addresses returns what the listener is bound to; everywhere means every address of this machine.
func (l Listener) addresses() (bound []netip.Addr, everywhere bool) {
	host := strings.Trim(l.Host, "[]")
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip.Unmap().WithZone("")}, ip.IsUnspecified()
	}
	if !l.Elsewhere || host == "" || host == "localhost" {
		return nil, true
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupTime)
	defer cancel()
	found, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", host) // what cannot be resolved cannot be reached
	for i, ip := range found {
		found[i] = ip.Unmap().WithZone("")
	}
	return found, false
}

// lookupTime bounds the resolving of a listener's name.
const lookupTime = 2 * time.Second

// readings yields the address, and the IPv4 address that it carries, if a translator may make it of it.
func readings(ip netip.Addr) func(func(netip.Addr) bool) {
	return func(yield func(netip.Addr) bool) {
		ip = ip.Unmap().WithZone("")
		if !yield(ip) || ip.Is4() {
			return
		}
		b := ip.As16()
		for prefix, at := range carriers {
			if prefix.Contains(ip) && !yield(netip.AddrFrom4([4]byte(b[at:at+4]))) {
				return
			}
		}
	}
}

// carriers are the networks whose addresses carry an IPv4 address, and where in them it begins.
var carriers = map[netip.Prefix]int{
	netip.MustParsePrefix("::/96"):          12, // IPv4-compatible, RFC 4291 section 2.5.5.1
	netip.MustParsePrefix("64:ff9b::/96"):   12, // NAT64, RFC 6052
	netip.MustParsePrefix("64:ff9b:1::/48"): 12, // NAT64 of a site, RFC 8215, with a prefix of 96 bits
	netip.MustParsePrefix("2002::/16"):      2,  // 6to4, RFC 3056
}

// thisMachine reports whether the address is one of this machine's.
func thisMachine(ip netip.Addr) bool {
	if ip.IsLoopback() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true // rather refused than reached
	}
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		if !ok {
			return false
		}
		mine, ok := netip.AddrFromSlice(n.IP)
		return ok && mine.Unmap() == ip
	})
}
