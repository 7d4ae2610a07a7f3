package locks

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/authority"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
)

func init() { caddy.RegisterModule(Backend{}) }

// UnmarshalCaddyfile reads the backend's block. Syntax:
//
//	backend locks {
//		max_ttl DURATION   # the longest that a client may ask for, 100ms to 24h; default 24h
//		admin_role    ROLE   # whose holders are operators and may list the locks; default admin
//		service_scope SCOPE  # whose holders are services, the app itself, and may as well; default locks:write
//		store   sql|redis  # where they are kept: the database, the default, or the Redis of the global options
//	}
func (b *Backend) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the backend's name
	if err := dispense.End(d, "backend locks"); err != nil {
		return err
	}
	option := func(name string, parse func(d *caddyfile.Dispenser) error) dispense.Option {
		return dispense.Option{Name: name, Parse: func(d *caddyfile.Dispenser) error {
			if err := parse(d); err != nil {
				return err
			}
			if err := b.Validate(); err != nil { // while the dispenser is on its line
				return d.WrapErr(err)
			}
			return nil
		}}
	}
	return dispense.Block(d, "backend locks", append(authority.RankOptions(&b.Ranks),
		option("max_ttl", func(d *caddyfile.Dispenser) error { return dispense.Duration(d, &b.MaxTTL) }),
		option("store", func(d *caddyfile.Dispenser) error { return dispense.String(d, &b.Store) }),
	)...)
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Backend)(nil)
