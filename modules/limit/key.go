package limit

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/maphash"
	"net/http"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

const (
	maxTemplate = 1024
	maxParts    = 8
	// maxText is the greatest length of a key as operators see it.
	maxText = 128
)

// subject is whom a request is counted for: the values of the placeholders of the key, or the
// client's network if one of them is empty.
type subject struct {
	values  [maxParts]string
	n       int
	network netip.Addr // where it is valid it is the key, or the address part of it
	at      int        // which part that is
	// anonymous says that the request has not what the template asks for.
	anonymous bool
}

// part is one placeholder of a template.
type part struct {
	name    string
	header  string // the canonical header field whose value is meant, if it is one
	address bool   // the value is an IP address
	secret  bool   // the value is a credential
}

const headerPrefix = "http.request.header."

func compile(option, template string) ([]part, error) {
	names, err := parseTemplate(option, template)
	if err != nil {
		return nil, err
	}
	parts := make([]part, len(names))
	for i, name := range names {
		if name == "client_ip" {
			name = clientIP
		}
		p := part{name: name, address: name == clientIP || name == "http.request.remote.host", secret: isSecret(name)}
		if field, ok := strings.CutPrefix(name, headerPrefix); ok {
			p.header = http.CanonicalHeaderKey(field)
		}
		if p.header == "Host" {
			return nil, fmt.Errorf("%s: {%s} is always empty, write {http.request.host}", option, name)
		}
		parts[i] = p
	}
	return parts, nil
}

// grouping is how many bits of an IPv6 address stand for one client: 64, 56 or 48.
type grouping int

// prefixes are those that networks are given out by.
var prefixes = []int{48, 56, 64}

// defaultGrouping is what a provider gives a single network.
const defaultGrouping grouping = 64

// network is the part of an IP address that stands for one client: all of an IPv4 address, in
// whichever notation, and the first bits of an IPv6 address. It is not valid for what is no address.
func (g grouping) network(value string) netip.Addr {
	ip, err := netip.ParseAddr(value)
	if err != nil {
		return netip.Addr{}
	}
	if ip = ip.Unmap().WithZone(""); ip.Is4() {
		return ip
	}
	b := ip.As16()
	clear(b[g/8:])
	return netip.AddrFrom16(b)
}

// add adds the value of one placeholder.
func (s *subject) add(value string, address bool, g grouping) {
	if address && !s.network.IsValid() {
		if s.network = g.network(value); s.network.IsValid() {
			s.at = s.n
			return
		}
	}
	s.values[s.n] = value
	s.n++
}

// seed hashes keys within this process. Only this process knows it, so that no client can find the
// key of another.
var seed = maphash.MakeSeed()

// local is the key in the tables of this process; it is never 0. Parts are hashed one by one, so that
// no value can pass for two: "a-b" and "c" differ from "a" and "b-c".
func (s *subject) local() uint64 {
	switch {
	case s.n == 0:
		return s.mix(maphash.Comparable(seed, s.network)) | 1
	case s.n == 1 && !s.network.IsValid():
		return s.mix(maphash.String(seed, s.values[0])) | 1
	}
	var buf [maxParts * 8]byte
	b := buf[:0]
	for _, v := range s.values[:s.n] {
		b = binary.LittleEndian.AppendUint64(b, maphash.String(seed, v))
	}
	if s.network.IsValid() {
		b = binary.LittleEndian.AppendUint64(b, maphash.Comparable(seed, s.network))
	}
	return maphash.Bytes(seed, b) | 1
}

// mix keeps anonymous clients apart from those that are counted by their address.
func (s *subject) mix(hash uint64) uint64 {
	if s.anonymous {
		return ^hash
	}
	return hash
}

// id is the key in a store that instances share.
func (s *subject) id(zone string) [16]byte {
	buf := make([]byte, 0, 256)
	part := func(v string) {
		buf = binary.AppendUvarint(buf, uint64(len(v)))
		buf = append(buf, v...)
	}
	part(zone)
	part(strconv.FormatBool(s.anonymous))
	if s.network.IsValid() {
		part("network")
		part(s.network.String())
	}
	for _, v := range s.values[:s.n] {
		part(v)
	}
	sum := sha256.Sum256(buf)
	return [16]byte(sum[:16])
}

// text is the key as operators see it, with the values of secret parts hashed.
func (s *subject) text(parts []part) string {
	var list []string
	if s.anonymous {
		list = append(list, "anonymous")
	}
	i := 0
	for n, p := range parts {
		switch {
		case s.anonymous || s.network.IsValid() && n == s.at:
		case p.secret:
			sum := sha256.Sum256([]byte(s.values[i]))
			list = append(list, "sha256:"+hex.EncodeToString(sum[:6]))
			i++
		default:
			list = append(list, printable(s.values[i]))
			i++
		}
	}
	if s.network.IsValid() {
		list = append(list, s.network.String())
	}
	return strings.Join(list, " ")
}

// printable is s without anything that could forge a line, and of bounded length.
func printable(s string) string {
	cut := s
	if len(cut) > maxText {
		cut = cut[:maxText]
	}
	q := strconv.QuoteToASCII(cut)
	if q = q[1 : len(q)-1]; len(s) > maxText {
		q += "…"
	}
	return q
}

var secretName = regexp.MustCompile(`(?i)auth|key|token|secret|session|cookie|password|signature`)

// isSecret says whether the value of a placeholder should not be shown: a credential by its name.
func isSecret(placeholder string) bool {
	if strings.HasPrefix(placeholder, "http.auth.user.") {
		return false
	}
	return secretName.MatchString(placeholder)
}

var placeholderName = regexp.MustCompile(`^[A-Za-z0-9_.\-\[\]/:=,]+$`)

// parseTemplate reads a key template and returns the names of its placeholders. What stands
// between them is the same for all requests, so it does not matter.
func parseTemplate(option, s string) ([]string, error) {
	if len(s) > maxTemplate {
		return nil, fmt.Errorf("%s: the key has %d bytes, at most %d make sense", option, len(s), maxTemplate)
	}
	var names []string
	for rest := s; ; {
		i := strings.IndexAny(rest, "{}")
		if i < 0 {
			break
		}
		end := strings.IndexByte(rest, '}')
		if rest[i] == '}' || end < 0 {
			return nil, fmt.Errorf("%s: the braces in %q do not match, write placeholders as {name}", option, s)
		}
		name := rest[i+1 : end]
		if !placeholderName.MatchString(name) {
			return nil, fmt.Errorf("%s: {%s} in %q is not a placeholder, write a name such as {client_ip}", option, name, s)
		}
		names = append(names, name)
		rest = rest[end+1:]
	}
	switch {
	case len(names) == 0:
		return nil, fmt.Errorf("%s: %q is the same for all clients, name a placeholder such as {client_ip}", option, s)
	case len(names) > maxParts:
		return nil, fmt.Errorf("%s: %d placeholders are too many, at most %d make a key", option, len(names), maxParts)
	}
	return names, nil
}
