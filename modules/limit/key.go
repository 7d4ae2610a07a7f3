package limit

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"net/netip"
	"regexp"
	"strings"
)

const (
	maxTemplate = 1024
	maxParts    = 8
)

// Key stands for a client in a table. It is two independent 64-bit hashes with seeds that only this
// process knows, so that no client can find the key of another, and has one size whatever was sent.
type Key struct{ a, b uint64 }

// space is a range of keys that shares none with another space.
type space struct{ a, b maphash.Seed }

var (
	// byTemplate holds the keys of requests that have what the template asks for.
	byTemplate = space{maphash.MakeSeed(), maphash.MakeSeed()}
	// byAddress holds the keys of those that have not: anonymous clients, by their address.
	byAddress = space{maphash.MakeSeed(), maphash.MakeSeed()}
)

func (s space) of(value string) Key {
	return Key{maphash.String(s.a, value), maphash.String(s.b, value)}
}

// ofAddress is the key of an IP address: an IPv6 address counts as its /64, which one client has
// whole, and an IPv4 address is the same in its IPv6 notation. What is no address is a plain value.
func (s space) ofAddress(value string) Key {
	ip, err := netip.ParseAddr(value)
	if err != nil {
		return s.of(value)
	}
	b := ip.Unmap().As16()
	if ip.Unmap().Is6() {
		clear(b[8:])
	}
	return Key{maphash.Bytes(s.a, b[:]), maphash.Bytes(s.b, b[:])}
}

// join is the key of several parts. Parts are hashed one by one, so that no value can pass for
// two: "a-b" and "c" differ from "a" and "b-c".
func (s space) join(parts []Key) Key {
	if len(parts) == 1 {
		return parts[0]
	}
	var buf [maxParts * 16]byte
	b := buf[:0]
	for _, k := range parts {
		b = binary.LittleEndian.AppendUint64(b, k.a)
		b = binary.LittleEndian.AppendUint64(b, k.b)
	}
	return Key{maphash.Bytes(s.a, b), maphash.Bytes(s.b, b)}
}

var placeholderName = regexp.MustCompile(`^[A-Za-z0-9_.\-\[\]/:=,]+$`)

// parseTemplate reads a key template and returns the names of its placeholders. What stands
// between them is the same for all requests, so it does not matter.
func parseTemplate(s string) ([]string, error) {
	if len(s) > maxTemplate {
		return nil, fmt.Errorf("by: the key has %d bytes, at most %d make sense", len(s), maxTemplate)
	}
	var names []string
	for rest := s; ; {
		i := strings.IndexAny(rest, "{}")
		if i < 0 {
			break
		}
		end := strings.IndexByte(rest, '}')
		if rest[i] == '}' || end < 0 {
			return nil, fmt.Errorf("by: the braces in %q do not match, write placeholders as {name}", s)
		}
		name := rest[i+1 : end]
		if !placeholderName.MatchString(name) {
			return nil, fmt.Errorf("by: {%s} in %q is not a placeholder, write a name such as {client_ip}", name, s)
		}
		names = append(names, name)
		rest = rest[end+1:]
	}
	switch {
	case len(names) == 0:
		return nil, fmt.Errorf("by: %q is the same for all clients, name a placeholder such as {client_ip}", s)
	case len(names) > maxParts:
		return nil, fmt.Errorf("by: %d placeholders are too many, at most %d make a key", len(names), maxParts)
	}
	return names, nil
}
