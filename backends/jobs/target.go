package jobs

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const maxTarget = 2048

// parseTarget reads the URL that a job is pushed to.
func parseTarget(s string) (*url.URL, error) {
	if len(s) > maxTarget {
		return nil, fmt.Errorf("is longer than %d bytes, shorten the URL", maxTarget)
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%q is not a URL: write one such as http://127.0.0.1:3000/tasks", s)
	case u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		return nil, fmt.Errorf("%q must be an absolute http or https URL, such as http://127.0.0.1:3000/tasks", s)
	case u.User != nil:
		return nil, errors.New("must not hold a user name or password: the signature is what authenticates a push")
	}
	if _, err = address(u.Hostname(), portOf(u)); err != nil {
		return nil, fmt.Errorf("%q: %w", s, err)
	}
	return u, nil
}

// portOf is the port that is dialled for u.
func portOf(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "https":
		return "443"
	}
	return "80"
}

// allowed is one host that may be dialled. An empty port stands for all of them.
type allowed struct{ host, port string }

// address is a host and port in the form that is compared. An empty port stays empty.
func address(host, port string) (allowed, error) {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if ip := net.ParseIP(host); ip != nil {
		host = ip.String()
	}
	if host == "" || strings.ContainsAny(host, "/?#@ ,") {
		return allowed{}, fmt.Errorf("%q is not a host", host)
	}
	if port == "" {
		return allowed{host: host}, nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return allowed{}, fmt.Errorf("%q is not a port", port)
	}
	return allowed{host: host, port: strconv.FormatUint(n, 10)}, nil
}

// parseAllowed reads HOST or HOST:PORT. An IPv6 address with a port stands in brackets.
func parseAllowed(entry string) (allowed, error) {
	host, port := strings.Trim(entry, "[]"), ""
	if net.ParseIP(host) == nil {
		if h, p, err := net.SplitHostPort(entry); err == nil {
			host, port = h, p
		}
		if strings.Contains(host, ":") && net.ParseIP(host) == nil {
			return allowed{}, fmt.Errorf("allow: %q must be a host or host:port without a scheme, such as 127.0.0.1:3000", entry)
		}
	}
	a, err := address(host, port)
	if err != nil {
		return allowed{}, fmt.Errorf("allow: %q must be a host or host:port without a scheme, such as 127.0.0.1:3000: %w", entry, err)
	}
	return a, nil
}

// allowList decides which addresses may be dialled.
type allowList []allowed

// newAllowList is the list of a valid configuration: what allow names, and each queue's own target.
func newAllowList(c Config) allowList {
	var l allowList
	for _, entry := range c.Allow {
		if a, err := parseAllowed(entry); err == nil {
			l = append(l, a)
		}
	}
	for _, q := range c.Queues {
		if u, err := parseTarget(q.Target); err == nil {
			a, _ := address(u.Hostname(), portOf(u))
			l = append(l, a)
		}
	}
	return l
}

// permits says whether u's host and port may be dialled.
func (l allowList) permits(u *url.URL) bool {
	a, err := address(u.Hostname(), portOf(u))
	return err == nil && (slices.Contains(l, a) || slices.Contains(l, allowed{host: a.host}))
}
