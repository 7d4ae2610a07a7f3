package identity

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/gatehouse-proxy/gatehouse/backends/identity"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
)

func init() { caddy.RegisterModule(new(Backend)) }

// CaddyModule is the backend's registration.
func (*Backend) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "gatehouse.backends.identity", New: func() caddy.Module { return new(Backend) }}
}

// UnmarshalCaddyfile reads the settings. Syntax:
//
//	backend identity {
//		issuer        STRING      # iss of the tokens, default gatehouse; a URL for discovery
//		audience      STRING      # aud of the tokens, default api
//		ttl           DURATION    # life of an access token, 1s to 366d, default 24h
//		secret        NAME        # signs instead of the generated Ed25519 key: a PEM private key, or 32 raw bytes or more for HS256
//		refresh_ttl   DURATION    # life of a refresh token, 1s to 366d, default 30d; each refresh begins it anew
//		refresh_grace DURATION    # how long a used refresh token may be used again, up to 5m, default 0s
//		attempts      N/DURATION  # failed logins to one account, default 10/15m; they count over all instances on one database
//		ip_attempts   N/DURATION  # failed logins from one client address, default 100/15m; they count in the same way
//		admin_secret  NAME        # lets into the admin API over HTTP, as Authorization: Bearer; 16 bytes or more, wrong ones are limited as by ip_attempts
//	}
func (b *Backend) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the backend's name
	if err := dispense.End(d, "identity"); err != nil {
		return err
	}
	err := dispense.Block(d, "backend identity",
		dispense.Option{Name: "issuer", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &b.Issuer) }},
		dispense.Option{Name: "audience", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &b.Audience) }},
		dispense.Option{Name: "ttl", Parse: func(d *caddyfile.Dispenser) error { return dispense.Duration(d, &b.TTL) }},
		dispense.Option{Name: "secret", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &b.Secret) }},
		dispense.Option{Name: "refresh_ttl", Parse: func(d *caddyfile.Dispenser) error { return dispense.Duration(d, &b.RefreshTTL) }},
		dispense.Option{Name: "refresh_grace", Parse: func(d *caddyfile.Dispenser) error { return dispense.Duration(d, &b.RefreshGrace) }},
		dispense.Option{Name: "attempts", Parse: func(d *caddyfile.Dispenser) error { return attempts(d, &b.Attempts) }},
		dispense.Option{Name: "ip_attempts", Parse: func(d *caddyfile.Dispenser) error { return attempts(d, &b.IPAttempts) }},
		dispense.Option{Name: "admin_secret", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &b.AdminSecret) }},
	)
	if err != nil {
		return err
	}
	if err = b.Config.Validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func attempts(d *caddyfile.Dispenser, v *identity.Attempts) (err error) {
	var s string
	name := d.Val()
	if err = dispense.String(d, &s); err != nil {
		return err
	}
	if *v, err = identity.ParseAttempts(s); err != nil {
		return d.Errf("%s: %v", name, err)
	}
	return nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Backend)(nil)
