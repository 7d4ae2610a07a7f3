package redisconn

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	dialTimeout = 200 * time.Millisecond
	// ioTimeout bounds a command of a caller whose context has no deadline.
	ioTimeout = 250 * time.Millisecond
	poolSize  = 64
	// reloadEvery is how old the client's map of a Cluster gets.
	reloadEvery = time.Second
)

// linger is how long a connection stays open after its last user gave it back: requests of the old
// configuration are still in flight then, and the new one may want it in a moment.
const linger = 30 * time.Second

// Conn is a client shared by all who opened the same configuration.
type Conn struct {
	client redis.UniversalClient
	key    connKey
	alone  bool // not in the pool

	refs  int         // guarded by pool.mu
	timer *time.Timer // closes the client, if refs is 0
}

var pool = struct {
	mu    sync.Mutex
	conns map[connKey]*Conn
}{conns: map[connKey]*Conn{}}

// quiet drops the driver's own log: it writes a line for every failed dial. Who uses a connection
// reports when Redis goes and comes.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

var silence = sync.OnceFunc(func() { redis.SetLogger(quiet{}) })

// Open is the connection for a configuration. It dials nothing: that is the first command's.
// Whoever opened it closes it. Passwords of secret sets are those in force when a network connection
// is made, so the sets must be kept up to date as long as it is open.
func Open(c Config, secrets Secrets) (*Conn, error) {
	o, sets, err := c.options(secrets)
	if err != nil {
		return nil, err
	}
	key := keyOf(c, sets)
	pool.mu.Lock()
	defer pool.mu.Unlock()
	conn := pool.conns[key]
	if conn == nil {
		conn = &Conn{client: connect(o, sets), key: key}
		pool.conns[key] = conn
	}
	if conn.timer != nil {
		conn.timer.Stop()
		conn.timer = nil
	}
	conn.refs++
	return conn, nil
}

// New is a connection of the caller's own, which its Close closes at once: for a command or a test.
func New(c Config, secrets Secrets) (*Conn, error) {
	o, sets, err := c.options(secrets)
	if err != nil {
		return nil, err
	}
	return &Conn{client: connect(o, sets), alone: true}, nil
}

// connKey identifies a configuration and the sets of its passwords, whatever versions they have: a
// set is one for its name and source.
type connKey struct {
	config [sha256.Size]byte
	sets   passwords
}

func keyOf(c Config, sets passwords) connKey {
	// By parts, because a Config prints without the passwords in its URLs.
	return connKey{sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q %v", c.Addresses, c.Sentinel, c.Server, c.CA, c.Cluster)), sets}
}

// Client speaks to Redis. A command waits no longer than its context's deadline and is never retried.
func (c *Conn) Client() redis.UniversalClient { return c.client }

// ReloadState reads the map of a Cluster anew; for when a node does not answer. Otherwise it does nothing.
func (c *Conn) ReloadState(ctx context.Context) {
	if cluster, ok := c.client.(*redis.ClusterClient); ok {
		cluster.ReloadState(ctx)
	}
}

// Close gives the connection back. It is closed 30 s after the last one did, and lives on if it is
// opened again before.
func (c *Conn) Close() {
	if c.alone {
		_ = c.client.Close() // only network connections that nobody waits for
		return
	}
	pool.mu.Lock()
	defer pool.mu.Unlock()
	if c.refs--; c.refs > 0 {
		return
	}
	c.timer = time.AfterFunc(linger, c.expire)
}

func (c *Conn) expire() {
	pool.mu.Lock()
	defer pool.mu.Unlock()
	if c.refs == 0 && pool.conns[c.key] == c {
		delete(pool.conns, c.key)
		_ = c.client.Close() // as in Close
	}
}

func connect(o *redis.UniversalOptions, sets passwords) redis.UniversalClient {
	silence()
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout = dialTimeout, ioTimeout, ioTimeout
	o.DialerRetries = 1
	o.ContextTimeoutEnabled = true
	o.MaxRetries = -1
	o.PoolSize, o.PipelinePoolSize = poolSize, -1
	o.PoolTimeout = dialTimeout
	o.ConnMaxIdleTime = 5 * time.Minute
	o.DisableIdentity = true
	o.FailingTimeoutSeconds = 1
	// RESP2 says all that is used here, and every dialect speaks it.
	o.Protocol = 2
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	o.Dialer = login{o.Username, sets}.dialer(o, dialer(o.TLSConfig))
	if sets.server != nil {
		o.Username = "" // the dialer logs in
	}
	switch {
	case o.MasterName != "":
		client := redis.NewFailoverClient(o.Failover())
		client.AddHook(serverDials{})
		return client
	case o.IsClusterMode:
		// NewUniversalClient would keep the map of a Cluster for a minute, and go on dialling a dead node.
		cluster := o.Cluster()
		cluster.ClusterStateReloadInterval = reloadEvery
		return redis.NewClusterClient(cluster)
	}
	return redis.NewClient(o.Simple())
}

// dialer dials, and gives a connection that fails if nobody answers. The driver counts failed dials
// and after some of them tries only once a second, in which case it would not see that Redis is back.
func dialer(config *tls.Config) func(ctx context.Context, network, addr string) (net.Conn, error) {
	plain := &net.Dialer{Timeout: dialTimeout, KeepAlive: time.Minute}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		var conn net.Conn
		var err error
		if config == nil {
			conn, err = plain.DialContext(ctx, network, addr)
		} else {
			conn, err = (&tls.Dialer{NetDialer: plain, Config: config}).DialContext(ctx, network, addr)
		}
		if err != nil {
			return failed{err}, nil //nolint:nilerr // the connection's first use gives it
		}
		return conn, nil
	}
}

// failed is the connection that could not be made.
type failed struct{ err error }

func (f failed) Read([]byte) (int, error)       { return 0, f.err }
func (f failed) Write([]byte) (int, error)      { return 0, f.err }
func (failed) Close() error                     { return nil }
func (failed) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (failed) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (failed) SetDeadline(time.Time) error      { return nil }
func (failed) SetReadDeadline(time.Time) error  { return nil }
func (failed) SetWriteDeadline(time.Time) error { return nil }
