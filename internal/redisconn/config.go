// Package redisconn makes the Redis client that everything of one configuration shares: a single
// server, a Cluster or one behind Sentinel, with small timeouts and no retries, because each caller
// has its own deadline and its own answer to a Redis that is away. Connections are pooled by
// configuration, so that a reload keeps them.
package redisconn

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

// Config says where Redis is. It prints without passwords.
type Config struct {
	// Addresses are redis://[user:password@]host:port[/database], or rediss:// for TLS. Several are
	// seeds of one Cluster; user, password and scheme are then those of the first, or the same in all.
	// With Sentinel set they are the sentinels, as host:port. Required.
	Addresses []string `json:"addresses"`
	// Cluster says that a single address is one of a Cluster. Several always are.
	Cluster bool `json:"cluster,omitempty"`
	// Sentinel is the name of the master that the sentinels watch. Default: empty, Redis is addressed itself.
	Sentinel string `json:"sentinel,omitempty"`
	// Server says how the master behind the sentinels is reached, as a URL without a host:
	// redis://[user:password@]/[database], or rediss:// for TLS to it and to the sentinels. Default: redis:///0.
	Server string `json:"server,omitempty"`
	// Password names the secret set that holds the password of Redis, instead of one in a URL.
	Password string `json:"password,omitempty"`
	// SentinelPassword names the secret set that holds the password of the sentinels. Default: none is needed.
	SentinelPassword string `json:"sentinel_password,omitempty"`
	// CA is the path of a PEM file with the certificates that the server's must be signed by.
	// Default: the system's.
	CA string `json:"ca,omitempty"`
}

// Secrets gives a named secret set.
type Secrets func(name string) (*secret.Set, error)

const forms = "write redis://[user:password@]host:port[/database], rediss:// for TLS, several for a Cluster, or sentinel NAME host:port…"

// Check says what is wrong with c, without dialling.
func (c Config) Check(secrets Secrets) error {
	_, _, err := c.options(secrets)
	return err
}

// CheckAddresses says what is wrong with the addresses alone.
func (c Config) CheckAddresses() error {
	_, err := Config{Addresses: c.Addresses, Sentinel: c.Sentinel, Server: c.Server}.plainOptions()
	return err
}

// HasPassword says whether a password stands in c itself.
func (c Config) HasPassword() bool {
	for _, s := range append([]string{c.Server}, c.Addresses...) {
		if u, err := url.Parse(s); err == nil && u.User != nil {
			if p, ok := u.User.Password(); ok && p != "" {
				return true
			}
		}
	}
	return false
}

// String shows c without its passwords.
func (c Config) String() string {
	var parts []string
	if c.Sentinel != "" {
		parts = append(parts, "sentinel", c.Sentinel)
	}
	for _, a := range c.Addresses {
		parts = append(parts, redact(a))
	}
	if c.Server != "" {
		parts = append(parts, redact(c.Server))
	}
	return strings.Join(parts, " ")
}

// Format makes every fmt verb print String.
func (c Config) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(c.String())) }

// LogValue makes slog write String.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// redact hides all that may be a password, also in what is no URL.
func redact(s string) string {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		scheme, rest = "", s
	} else {
		scheme += "://"
	}
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		rest = "REDACTED" + rest[at:]
	}
	host, _, _ := strings.Cut(rest, "/")
	if colon := strings.LastIndexByte(host, ':'); colon >= 0 && !isPort(host[colon+1:]) {
		rest = rest[:colon+1] + "REDACTED" // a password whose host is missing
	}
	if query := strings.IndexByte(rest, '?'); query >= 0 {
		rest = rest[:query] + "?REDACTED"
	}
	return scheme + rest
}

// target is one parsed URL.
type target struct {
	host, user, password string
	tls                  bool
	db                   int
}

// parse reads a URL. Its errors do not show passwords: url.Parse's own would.
func parse(s string, withHost bool) (t target, err error) {
	bad := func(why string) (target, error) {
		return target{}, fmt.Errorf("redis: %.200q %s: %s", redact(s), why, forms)
	}
	u, err := url.Parse(s)
	if err != nil {
		return bad("is not a URL (a special character in a password must be %-encoded)")
	}
	switch u.Scheme {
	case "redis":
	case "rediss":
		t.tls = true
	default:
		return bad("does not begin with redis:// or rediss://")
	}
	switch {
	case u.Opaque != "":
		return bad("has no // after the scheme")
	case u.RawQuery != "" || u.Fragment != "":
		return bad("has parameters, which are not supported")
	case withHost && u.Hostname() == "":
		return bad("has no host")
	case !withHost && u.Host != "":
		return bad("has a host, but the sentinels say which it is")
	}
	if withHost {
		port := u.Port()
		if port == "" {
			port = "6379"
		}
		if !isPort(port) {
			return bad("has no valid port")
		}
		t.host = net.JoinHostPort(u.Hostname(), port)
	}
	if path := strings.Trim(u.Path, "/"); path != "" {
		if t.db, err = strconv.Atoi(path); err != nil || t.db < 0 {
			return bad("has a path that is not the number of a database")
		}
	}
	if u.User != nil {
		t.user = u.User.Username()
		t.password, _ = u.User.Password()
	}
	return t, nil
}

func isPort(s string) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n > 0 && n < 65536
}

// passwords are the secret sets of a configuration, nil where it names none.
type passwords struct{ server, sentinel *secret.Set }

// options are the client's, without the passwords of sets.
func (c Config) options(secrets Secrets) (o *redis.UniversalOptions, sets passwords, err error) {
	if o, err = c.plainOptions(); err != nil {
		return nil, sets, err
	}
	if c.Password != "" {
		if o.Password != "" {
			return nil, sets, errors.New("redis: the password is given twice, keep it either in the URL or as password SECRET")
		}
		if sets.server, err = named(secrets, c.Password); err != nil {
			return nil, sets, err
		}
	}
	if c.SentinelPassword != "" {
		if c.Sentinel == "" {
			return nil, sets, errors.New("redis: sentinel_password is for sentinel NAME host:port…, for the password of Redis write password SECRET")
		}
		if sets.sentinel, err = named(secrets, c.SentinelPassword); err != nil {
			return nil, sets, err
		}
	}
	return o, sets, c.trust(o)
}

// plainOptions are the options that need no secret and no file.
func (c Config) plainOptions() (*redis.UniversalOptions, error) {
	if len(c.Addresses) == 0 {
		return nil, errors.New("redis: an address is missing: " + forms)
	}
	o := &redis.UniversalOptions{MasterName: c.Sentinel}
	server, err := c.server(o)
	if err != nil {
		return nil, err
	}
	o.Username, o.Password, o.DB = server.user, server.password, server.db
	if c.Cluster && c.Sentinel != "" {
		return nil, errors.New("redis: sentinels watch no Cluster, leave out one of the two")
	}
	if o.IsClusterMode = c.Sentinel == "" && (c.Cluster || len(o.Addrs) > 1); o.IsClusterMode && o.DB != 0 {
		return nil, errors.New("redis: a Cluster has no databases, leave out the number after the addresses")
	}
	if server.tls {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return o, nil
}

// server fills in the addresses, and returns how to speak to the servers.
func (c Config) server(o *redis.UniversalOptions) (target, error) {
	if c.Sentinel != "" {
		for _, a := range c.Addresses {
			host, port, err := net.SplitHostPort(a)
			if err != nil || host == "" || !isPort(port) {
				return target{}, fmt.Errorf("redis: the sentinel %.200q must be host:port: write sentinel %s host:port… [redis://user@/0]", redact(a), c.Sentinel)
			}
			o.Addrs = append(o.Addrs, a)
		}
		if c.Server == "" {
			return target{}, nil
		}
		return parse(c.Server, false)
	}
	if c.Server != "" {
		return target{}, errors.New("redis: server is for sentinel NAME host:port…, write an address instead")
	}
	var first target
	for i, a := range c.Addresses {
		t, err := parse(a, true)
		if err != nil {
			return target{}, err
		}
		o.Addrs = append(o.Addrs, t.host)
		if t.host = ""; i == 0 {
			first = t
		} else if t.tls != first.tls || t != (target{tls: first.tls}) && t != first {
			return target{}, errors.New("redis: the addresses of a Cluster must agree in scheme, user and password, write them in the first one only")
		}
	}
	return first, nil
}

func (c Config) trust(o *redis.UniversalOptions) error {
	if c.CA == "" {
		return nil
	}
	if o.TLSConfig == nil {
		return errors.New("redis: ca is for TLS only, write rediss:// or leave it out")
	}
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		return fmt.Errorf("redis: the ca file cannot be read, create it or correct the path: %w", err)
	}
	o.TLSConfig.RootCAs = x509.NewCertPool()
	if !o.TLSConfig.RootCAs.AppendCertsFromPEM(pem) {
		return fmt.Errorf("redis: the ca file %s holds no certificate in PEM", c.CA)
	}
	return nil
}

func named(secrets Secrets, name string) (*secret.Set, error) {
	if secrets == nil {
		return nil, fmt.Errorf("redis: there are no secrets here, but password %s needs one", name)
	}
	set, err := secrets(name)
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	return set, nil
}
