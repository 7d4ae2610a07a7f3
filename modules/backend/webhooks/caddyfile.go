package webhooks

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	_ "github.com/gatehouse-proxy/gatehouse/modules/backend/jobs" // runs the deliveries
	"github.com/gatehouse-proxy/gatehouse/modules/internal/authority"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
)

func init() { caddy.RegisterModule(new(Backend)) }

// CaddyModule is the backend's registration.
func (*Backend) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "gatehouse.backends.webhooks", New: func() caddy.Module { return new(Backend) }}
}

// UnmarshalCaddyfile reads the settings. Syntax:
//
//	backend webhooks {
//		allow_private CIDR|HOST:PORT[/PREFIX]...  # what events may be sent to although it is not public, default none
//		user_private              # also to users' endpoints; default to nobody's alone
//		owner_bytes   SIZE        # of the events of one owner, more are answered 429; default unbounded
//		timeout       DURATION    # of one attempt, up to 2m, default 15s
//		owner         TEMPLATE  # whose endpoints and events a caller's are, such as {http.auth.user.tenant}; default {http.auth.user.id}
//		admin_role    ROLE      # whose holders are operators; default admin
//		service_scope SCOPE     # whose holders are services, the app itself; default webhooks:write
//	}
func (b *Backend) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the backend's name
	if err := dispense.End(d, "webhooks"); err != nil {
		return err
	}
	err := dispense.Block(d, "backend webhooks", append(authority.Options(&b.Authority),
		dispense.Option{Name: "allow_private", Repeats: true, Parse: func(d *caddyfile.Dispenser) error { return dispense.Strings(d, &b.AllowPrivate) }},
		dispense.Option{Name: "user_private", Parse: func(d *caddyfile.Dispenser) error { return dispense.Flag(d, &b.UserPrivate) }},
		dispense.Option{Name: "owner_bytes", Parse: func(d *caddyfile.Dispenser) error { return dispense.Size(d, &b.OwnerBytes) }},
		dispense.Option{Name: "timeout", Parse: func(d *caddyfile.Dispenser) error { return dispense.Duration(d, &b.Timeout) }},
	)...)
	if err != nil {
		return err
	}
	if err = b.Config.Validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Backend)(nil)
