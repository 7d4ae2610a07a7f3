package jobs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/exchange"
	"github.com/gatehouse-proxy/gatehouse/internal/egress"
)

// unixHost ends the host of a URL that stands for a socket; before it stands the path in hexadecimal, so
// that each socket has connections of its own. No name ends so (RFC 6761 section 6.4).
const unixHost = ".unix.invalid"

// unixPrefix begins the target that is a socket, as in Caddy's network addresses.
const unixPrefix = "unix/"

// parseQueueTarget is parseTarget for the target of a queue, which may be a unix socket as well.
func parseQueueTarget(s string) (*url.URL, error) {
	rest, ok := strings.CutPrefix(s, unixPrefix)
	if !ok {
		return parseTarget(s)
	}
	socket, path, _ := strings.Cut(rest, ":")
	if len(s) > maxTarget || !filepath.IsAbs(socket) || strings.Contains(socket, "\x00") || path != "" && path[0] != '/' {
		return nil, fmt.Errorf("%.80q is not a socket: write unix/, its absolute path, a colon and the path of the URL, such as unix//run/app.sock:/tasks", s)
	}
	u, err := url.Parse("http://" + hex.EncodeToString([]byte(socket)) + unixHost + path)
	if err != nil {
		return nil, fmt.Errorf("%.80q: the part after the colon is not the path of a URL", s)
	}
	return u, nil
}

// socketOf is the path of the socket that u stands for.
func socketOf(u *url.URL) (path string, ok bool) {
	if u == nil {
		return "", false
	}
	name, ok := strings.CutSuffix(u.Host, unixHost)
	if !ok {
		return "", false
	}
	b, err := hex.DecodeString(name)
	return string(b), err == nil
}

// methods are what a push may be.
var methods = []string{http.MethodPost, http.MethodPut, http.MethodPatch}

// validatePush says what is wrong with how the queue pushes.
func (q Queue) validatePush() error {
	if q.Method != "" && !slices.Contains(methods, q.Method) {
		return fmt.Errorf("method must be POST, PUT or PATCH, not %.80q", q.Method)
	}
	for name, value := range q.Header {
		name = textproto.CanonicalMIMEHeaderKey(name)
		switch {
		case !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value):
			return fmt.Errorf("header %.80q is not a header with a value that can be sent", name)
		case slices.Contains(connection, name) || strings.HasPrefix(name, "Gatehouse-") || strings.HasPrefix(name, "Webhook-"):
			return fmt.Errorf("header %s is set by the gateway itself, leave it out", name)
		}
	}
	if q.Pull && (q.Method != "" || len(q.Header) > 0 || q.CA != "" || q.ClientCert != nil) {
		return errors.New("a pull queue pushes nothing, remove method, header, ca and client_cert")
	}
	return q.files().check()
}

// dress gives the request what the queue says of its pushes.
func (q Queue) dress(req *http.Request) {
	if q.Method != "" {
		req.Method = q.Method
	}
	for name, value := range q.Header {
		req.Header.Set(name, value)
	}
	if _, ok := socketOf(req.URL); ok {
		req.Host = "localhost"
	}
}

// tlsFiles are the files of a queue's TLS. Those that have changed are read again for the next push.
type tlsFiles struct {
	ca, cert, key string

	mu      sync.Mutex
	stamp   string // of the files that config was made of
	config  *tls.Config
	failing bool
}

func (q Queue) files() *tlsFiles {
	f := &tlsFiles{ca: q.CA}
	if q.ClientCert != nil {
		f.cert, f.key = q.ClientCert.Cert, q.ClientCert.Key
	}
	return f
}

// check says what is wrong with the names, without a look at the files.
func (f *tlsFiles) check() error {
	if (f.cert == "") != (f.key == "") {
		return errors.New("client_cert needs two files, the certificate and its key")
	}
	return nil
}

// CheckCA says what is wrong with the file of a queue's ca.
func CheckCA(path string) error {
	_, err := (&tlsFiles{ca: path}).read()
	return err
}

// CheckClientCert says what is wrong with the files of a queue's client_cert.
func CheckClientCert(c ClientCert) error {
	_, err := (&tlsFiles{cert: c.Cert, key: c.Key}).read()
	return err
}

// read makes the configuration of the files as they are.
func (f *tlsFiles) read() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.ca != "" {
		pem, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: %s has no certificate in PEM", f.ca)
		}
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, fmt.Errorf("client_cert: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// current is the configuration of the files, read again if one of them has changed. While they cannot be
// read, the last one that could be stays in force.
func (f *tlsFiles) current(log *slog.Logger) *tls.Config {
	f.mu.Lock()
	defer f.mu.Unlock()
	stamp := ""
	for _, path := range []string{f.ca, f.cert, f.key} {
		if info, err := os.Stat(path); err == nil {
			stamp += fmt.Sprint(info.ModTime().UnixNano(), info.Size(), " ")
		}
	}
	if stamp == f.stamp {
		return f.config
	}
	c, err := f.read()
	if err != nil {
		if !f.failing {
			log.Error("the certificates of a queue cannot be read, those read before stay in force", "error", err)
		}
		f.failing = true
		return f.config
	}
	f.config, f.stamp, f.failing = c, stamp, false
	return c
}

// secured is the client of a queue with certificates of its own. Another one takes its place when the files
// have changed.
type secured struct {
	files *tlsFiles
	log   *slog.Logger
	with  func(*tls.Config) *exchange.Client

	mu     sync.Mutex
	config *tls.Config // of client
	client *exchange.Client
}

// newClients makes the clients of the queues with certificates of their own. with is the client that pushes
// with a configuration.
func newClients(queues map[string]Queue, with func(*tls.Config) *exchange.Client, log *slog.Logger) (map[string]*secured, error) {
	clients := map[string]*secured{}
	for name, q := range queues {
		if q.CA == "" && q.ClientCert == nil {
			continue
		}
		c := &secured{files: q.files(), log: log.With("queue", name), with: with}
		var err error
		if c.files.config, err = c.files.read(); err != nil {
			return nil, fmt.Errorf("queue %s: %w", name, err)
		}
		clients[name] = c
	}
	return clients, nil
}

func (c *secured) current() *exchange.Client {
	config := c.files.current(c.log)
	c.mu.Lock()
	defer c.mu.Unlock()
	if config != c.config {
		if c.client != nil {
			c.client.CloseIdle()
		}
		c.config, c.client = config, c.with(config)
	}
	return c.client
}

// close closes the idle connections.
func (c *secured) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client != nil {
		c.client.CloseIdle()
	}
}

// newSocketClient dials the socket that a URL stands for.
func newSocketClient() *exchange.Client {
	own := egress.Class{Own: true}
	return exchange.New(exchange.Options{
		IdlePerHost: 64,
		Guard: func(base *http.Transport, dialTimeout time.Duration) exchange.Transport {
			base.DialContext = func(ctx context.Context, _, addr string) (net.Conn, error) {
				host, _, err := net.SplitHostPort(addr)
				if err != nil {
					return nil, err
				}
				path, ok := socketOf(&url.URL{Host: host})
				if !ok {
					return nil, fmt.Errorf("%s is not a socket", addr)
				}
				dialer := net.Dialer{Timeout: dialTimeout, Control: own.Control()}
				return dialer.DialContext(ctx, "unix", path)
			}
			return base
		},
	})
}

// client is what pushes to u for the queue.
func (s *Service) client(queue string, u *url.URL) *exchange.Client {
	if _, ok := socketOf(u); ok {
		return s.sockets
	}
	if c, ok := s.clients[queue]; ok {
		return c.current()
	}
	return s.http
}
