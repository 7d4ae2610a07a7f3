package flags

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/authority"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
)

func init() { caddy.RegisterModule(Backend{}) }

// UnmarshalCaddyfile reads the backend's line. Syntax:
//
//	backend flags {
//		admin_role    ROLE   # whose holders are operators and may change flags; default admin
//		service_scope SCOPE  # whose holders are services, the app itself, and may as well; default flags:write
//	}
func (b *Backend) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the backend's name
	if err := dispense.End(d, "backend flags"); err != nil {
		return err
	}
	return dispense.Block(d, "backend flags", authority.RankOptions(&b.Ranks)...)
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Backend)(nil)
