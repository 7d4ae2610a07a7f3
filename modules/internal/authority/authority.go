// Package authority reads the options of backends that say whose tokens may do what.
package authority

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
)

// Options are owner, admin_role and service_scope:
//
//	owner         TEMPLATE  # whose resources a caller's are, such as {http.auth.user.tenant}; default {http.auth.user.id}
//	admin_role    ROLE      # whose holders are operators; default admin
//	service_scope SCOPE     # whose holders are services: the app itself; default the backend's name and :write
func Options(a *service.Authority) []dispense.Option {
	return append([]dispense.Option{option("owner", &a.Owner, func() error { return a.Validate() })}, RankOptions(&a.Ranks)...)
}

// RankOptions are admin_role and service_scope, for a backend whose resources have no owners.
func RankOptions(r *service.Ranks) []dispense.Option {
	check := func() error { return r.Validate() }
	return []dispense.Option{option("admin_role", &r.AdminRole, check), option("service_scope", &r.ServiceScope, check)}
}

// option reads a value and checks it while the dispenser is on its line.
func option(name string, v *string, check func() error) dispense.Option {
	return dispense.Option{Name: name, Parse: func(d *caddyfile.Dispenser) error {
		if err := dispense.String(d, v); err != nil {
			return err
		}
		if *v == "" {
			return d.Errf("%s must not be empty: leave it out for the default", name)
		}
		if err := check(); err != nil {
			return d.WrapErr(err)
		}
		return nil
	}}
}
