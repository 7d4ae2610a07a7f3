package gatehouse

import (
	"sync"

	"github.com/gatehouse-proxy/gatehouse/internal/redisconn"
)

// redisRef is a configuration's hold on its Redis, if it has come to need it.
type redisRef struct {
	mu   sync.Mutex
	conn *redisconn.Conn
	done bool
}

// Redis is the connection to the Redis of this configuration; ok is false if none is configured. It
// is opened at the first call and not dialled before its first command. It stays open until the
// configuration has gone and its requests are over.
func (a *App) Redis() (conn *redisconn.Conn, ok bool) {
	if a.Settings.Redis == nil {
		return nil, false
	}
	r := &a.redis
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == nil && !r.done {
		c, err := redisconn.Open(*a.Settings.Redis, a.Secret)
		if err != nil { // Provision has checked it
			a.log.Error("opening redis", "error", err)
			return nil, false
		}
		r.conn = c
	}
	return r.conn, r.conn != nil
}

// checkRedis is Redis's part of Provision.
func (a *App) checkRedis() error {
	c := a.Settings.Redis
	if c == nil {
		return nil
	}
	if err := c.Check(a.Secret); err != nil {
		return err
	}
	if c.HasPassword() {
		a.log.Warn("the password of redis stands in the configuration: put it into a secret, and name that in the block, redis ADDRESS { password SECRET }", "redis", c)
	}
	return nil
}

// release gives the connection back. Requests that hold it go on with it for a while.
func (r *redisRef) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn != nil {
		r.conn.Close()
	}
	r.conn, r.done = nil, true
}
