// Package webhooks brings the webhooks backend into the gateway: its settings in the Caddyfile.
package webhooks

import (
	"github.com/caddyserver/caddy/v2"

	"github.com/gatehouse-proxy/gatehouse/backends/webhooks"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// Backend are the settings of the webhooks backend.
type Backend struct {
	webhooks.Config
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
