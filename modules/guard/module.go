// Package guard is the directive `guard`: settings of the front door, which every server with a directive
// of ours has (see modules/internal/frontdoor). In a server without one it puts the front door up.
package guard

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http/httpguts"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/frontdoor"
)

// Handler is the settings of the front door for the requests that the routes around it match. Where
// several guards fit, the innermost one holds. A request that is refused is answered 400.
type Handler struct {
	frontdoor.Config

	placed atomic.Bool
}

// Provision puts the front door up.
func (h *Handler) Provision(ctx caddy.Context) error { return frontdoor.Stand(ctx) }

// Validate checks the settings.
func (h *Handler) Validate() error {
	if h.Paths != "" && h.Paths != "refuse" && h.Paths != "pass" {
		return fmt.Errorf("guard: paths must be refuse or pass, not %q", h.Paths)
	}
	for _, p := range h.Upgrade {
		if p != strings.ToLower(p) || !httpguts.ValidHeaderFieldName(strings.ReplaceAll(p, "/", "")) {
			return fmt.Errorf("guard: upgrade %q is not the name of a protocol in lower case, such as websocket", p)
		}
	}
	if len(h.Upgrade) > 1 && slices.Contains(h.Upgrade, "off") {
		return fmt.Errorf("guard: upgrade off stands alone")
	}
	return nil
}

// Settings are for the front door.
func (h *Handler) Settings() *frontdoor.Config { return &h.Config }

// Placed is called by the front door.
func (h *Handler) Placed() { h.placed.Store(true) }

// ServeHTTP judges only where the front door did not know of this handler, as in a named route.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if !h.placed.Load() && !frontdoor.Judge(w, r, &h.Config) {
		return nil
	}
	return next.ServeHTTP(w, r)
}

// Interface guards
var (
	_ caddy.Provisioner = (*Handler)(nil)
	_ caddy.Validator   = (*Handler)(nil)
	_ frontdoor.Guard   = (*Handler)(nil)
)
