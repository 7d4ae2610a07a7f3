// Package identity brings the identity backend into the gateway: its settings in the Caddyfile, and
// the commands `gatehouse users`, `gatehouse token` and `gatehouse tokens`.
package identity

import (
	"github.com/caddyserver/caddy/v2"

	"github.com/gatehouse-proxy/gatehouse/backends/identity"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// Backend are the settings of the identity backend.
type Backend struct {
	identity.Config
}

// Provision has nothing to prepare.
func (*Backend) Provision(caddy.Context) error { return nil }

// Validate checks the settings.
func (b *Backend) Validate() error { return b.Config.Validate() }

// Interface guards
var (
	_ caddy.Provisioner = (*Backend)(nil)
	_ caddy.Validator   = (*Backend)(nil)
	_ service.Opener    = (*Backend)(nil)
)
