package jwtauth

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	_ "github.com/gatehouse-proxy/gatehouse/modules/backend/identity" // issues the tokens that a bare jwt_auth accepts
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
	_ "github.com/gatehouse-proxy/gatehouse/modules/internal/journey" // the directive's place
)

func init() {
	caddy.RegisterModule(new(Handler))
	httpcaddyfile.RegisterHandlerDirective("jwt_auth", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		m := new(Handler)
		return m, m.UnmarshalCaddyfile(h.Dispenser)
	})
}

// CaddyModule is the handler's registration.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.jwt_auth", New: func() caddy.Module { return new(Handler) }}
}

// UnmarshalCaddyfile reads the directive. Without a block, and without secret and jwks in it, the
// tokens are those of the identity backend. Syntax:
//
//	jwt_auth {
//		secret       NAME                  # raw bytes for HS256, or a PEM PUBLIC KEY or PRIVATE KEY
//		jwks         URL                   # https, or http on this machine
//		jwks         file PATH
//		issuer       STRING                # iss to the letter; needs secret or jwks, there is no discovery
//		audience     STRING...             # aud must hold one of them
//		require      scope SCOPE...        # all of them; repeatable, as the next two: every line must hold
//		require      role ROLE...          # any of them
//		require      claim NAME VALUE...   # any of them
//		claim_header CLAIM HEADER          # repeatable
//		leeway       DURATION              # 0s to 5m, default 30s
//		optional                           # a missing token passes, an invalid one does not
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if err := dispense.End(d, "jwt_auth"); err != nil {
		return err
	}
	err := dispense.Block(d, "jwt_auth",
		dispense.Option{Name: "secret", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &h.Secret) }},
		dispense.Option{Name: "jwks", Parse: h.parseJWKS},
		dispense.Option{Name: "issuer", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &h.Issuer) }},
		dispense.Option{Name: "audience", Parse: func(d *caddyfile.Dispenser) error { return dispense.Strings(d, &h.Audience) }},
		dispense.Option{Name: "require", Repeats: true, Parse: h.parseRequire},
		dispense.Option{Name: "claim_header", Repeats: true, Parse: h.parseClaimHeader},
		dispense.Option{Name: "leeway", Parse: func(d *caddyfile.Dispenser) error {
			h.Leeway = new(unit.Duration)
			return dispense.Duration(d, h.Leeway)
		}},
		dispense.Option{Name: "optional", Parse: func(d *caddyfile.Dispenser) error { return dispense.Flag(d, &h.Optional) }},
	)
	if err != nil {
		return err
	}
	if err = h.checkKeys(); err != nil {
		return d.WrapErr(err)
	}
	if err = h.Policy.Validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (h *Handler) parseJWKS(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	switch {
	case len(args) == 1 && args[0] != "file":
		h.JWKS = args[0]
	case len(args) == 2 && args[0] == "file":
		h.JWKSFile = args[1]
	default:
		return d.Err("jwks needs a URL or a file, such as: jwks https://idp.example.com/jwks.json, or: jwks file /etc/keys.json")
	}
	return nil
}

func (h *Handler) parseRequire(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 2 {
		return d.Err("require needs a kind and values, such as: require scope orders:read, require role admin, or: require claim plan pro")
	}
	var r Rule
	switch kind, values := args[0], args[1:]; kind {
	case "scope":
		r.Scope = values
	case "role":
		r.Role = values
	case "claim":
		r.Claim, r.Values = values[0], values[1:]
	default:
		return d.Err(dispense.Unknown("kind of require", kind, []string{"scope", "role", "claim"}))
	}
	h.Require = append(h.Require, r)
	return nil
}

func (h *Handler) parseClaimHeader(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 2 {
		return d.Err("claim_header needs a claim and a header, such as: claim_header sub X-User-Id")
	}
	h.ClaimHeaders = append(h.ClaimHeaders, ClaimHeader{Claim: args[0], Header: args[1]})
	return nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Handler)(nil)
