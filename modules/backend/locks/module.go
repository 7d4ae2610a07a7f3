// Package locks is the backend locks as a guest of the app gatehouse.
package locks

import (
	"github.com/caddyserver/caddy/v2"

	"github.com/gatehouse-proxy/gatehouse/backends/locks"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// Backend is the settings of the backend locks: named locks with a time to live and fencing tokens.
type Backend struct {
	locks.Config
}

// CaddyModule is the guest's registration.
func (Backend) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "gatehouse.backends.locks", New: func() caddy.Module { return new(Backend) }}
}

// Interface guards
var (
	_ caddy.Validator = (*Backend)(nil)
	_ service.Opener  = (*Backend)(nil)
)
