// Package flags is the backend flags as a guest of the app gatehouse.
package flags

import (
	"github.com/caddyserver/caddy/v2"

	"github.com/gatehouse-proxy/gatehouse/backends/flags"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// Backend is the settings of the backend flags: feature flags that are kept in SQL, changed over
// HTTP and evaluated in process or by OFREP. Its settings say who may change them.
type Backend struct {
	flags.Config
}

// CaddyModule is the guest's registration.
func (Backend) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "gatehouse.backends.flags", New: func() caddy.Module { return new(Backend) }}
}

// Interface guards
var (
	_ caddy.Validator = (*Backend)(nil)
	_ service.Opener  = (*Backend)(nil)
)
