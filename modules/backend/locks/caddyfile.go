package locks

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
)

func init() { caddy.RegisterModule(Backend{}) }

// UnmarshalCaddyfile reads the backend's block. Syntax:
//
//	backend locks {
//		max_ttl DURATION   # the longest that a client may ask for, 100ms to 24h; default 24h
//	}
func (b *Backend) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the backend's name
	if err := dispense.End(d, "backend locks"); err != nil {
		return err
	}
	return dispense.Block(d, "backend locks",
		dispense.Option{Name: "max_ttl", Parse: func(d *caddyfile.Dispenser) error {
			if err := dispense.Duration(d, &b.MaxTTL); err != nil {
				return err
			}
			if err := b.Validate(); err != nil {
				return d.WrapErr(err)
			}
			return nil
		}},
	)
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Backend)(nil)
