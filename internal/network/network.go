// Package network says which addresses count as one client.
package network

import "net/netip"

// Of returns what a client at the address is counted by: an IPv4 address, or the /64 of an IPv6 address, all of
// which one customer has.
func Of(addr netip.Addr) string {
	const customer = 64
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		if p, err := addr.Prefix(customer); err == nil {
			return p.String()
		}
	}
	return addr.String()
}
