// Package jobs puts the jobs backend into the gateway: its settings stand in the global option
// `gatehouse { backend jobs { … } }`.
package jobs

import (
	"github.com/caddyserver/caddy/v2"

	"github.com/gatehouse-proxy/gatehouse/backends/jobs"
)

// Backend is the settings of the jobs backend.
type Backend struct {
	jobs.Config
}

// CaddyModule is the guest's registration.
func (*Backend) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "gatehouse.backends.jobs", New: func() caddy.Module { return new(Backend) }}
}

// Validate checks the settings.
func (b *Backend) Validate() error { return b.Config.Validate() }

// Interface guards
var _ caddy.Validator = (*Backend)(nil)
