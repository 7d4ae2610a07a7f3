package identity

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

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
//		issuer   STRING     # iss of the tokens, default gatehouse
//		audience STRING     # aud of the tokens, default api
//		ttl      DURATION   # life of a token, 1s to 366d, default 24h
//		secret   NAME       # signs instead of the generated Ed25519 key: a PEM private key, or 32 raw bytes or more for HS256
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
	)
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
