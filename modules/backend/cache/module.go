// Package cache is the Caddyfile of the bundled cache.
package cache

import (
	"github.com/caddyserver/caddy/v2"

	"github.com/gatehouse-proxy/gatehouse/backends/cache"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// Backend is the settings of the bundled cache, which are checked by its Validate.
type Backend struct {
	cache.Config
}

// Interface guards
var (
	_ caddy.Validator = (*Backend)(nil)
	_ service.Opener  = (*Backend)(nil)
)
