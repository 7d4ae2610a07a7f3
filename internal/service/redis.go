package service

import (
	"errors"
	"sync"

	"github.com/gatehouse-proxy/gatehouse/internal/redisconn"
)

// redisRef is a host's hold on the Redis of its settings, if a backend has come to need it.
type redisRef struct {
	mu     sync.Mutex
	config *redisconn.Config
	conn   *redisconn.Conn
}

// Redis is the connection to the Redis of the settings, for an Opener. It is opened at the first call, not
// dialled before its first command, and stays open until the host is closed. If the settings have none,
// that is an error.
func (h *Host) Redis() (*redisconn.Conn, error) {
	r := &h.redis
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.config == nil {
		return nil, errors.New("no Redis is configured, name it in the settings of all backends: redis redis://127.0.0.1:6379")
	}
	if r.conn == nil {
		conn, err := redisconn.Open(*r.config, h.Secret)
		if err != nil {
			return nil, err
		}
		r.conn = conn
	}
	return r.conn, nil
}

// release gives the connection back.
func (r *redisRef) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn != nil {
		r.conn.Close()
		r.conn = nil
	}
}
