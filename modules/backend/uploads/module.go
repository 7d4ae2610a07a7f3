// Package uploads makes the bundled backend uploads a guest of the gateway: its settings as Caddy
// JSON and as a Caddyfile block.
package uploads

import (
	"github.com/caddyserver/caddy/v2"

	"github.com/gatehouse-proxy/gatehouse/backends/uploads"
)

// Uploads is the backend uploads. Clients send files straight to the object store with presigned
// URLs; the backend serves its API and these URLs under /uploads/.
type Uploads struct {
	uploads.Config
}

// Provision checks the settings; the app opens the backend when it starts.
func (u *Uploads) Provision(caddy.Context) error { return u.Validate() }

// Interface guards
var _ caddy.Provisioner = (*Uploads)(nil)
