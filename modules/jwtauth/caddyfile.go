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
	caddy.RegisterModule(new(Authenticator))
	httpcaddyfile.RegisterHandlerDirective("jwt_auth", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		m := new(Handler)
		return m, m.UnmarshalCaddyfile(h.Dispenser)
	})
}

// CaddyModule is the handler's registration.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.jwt_auth", New: func() caddy.Module { return new(Handler) }}
}

// UnmarshalCaddyfile reads the directive. Without a block, and without keys and issuer in it, the
// tokens are those of the identity backend. Syntax:
//
//	jwt_auth {
//		secret       NAME                  # raw bytes for HS256, or a PEM PUBLIC KEY or PRIVATE KEY
//		jwks         URL                   # https, or http on this machine
//		jwks         file PATH             # read again when it changes, as is the next
//		key          file PATH             # a public key in PEM, or a JWK
//		key          TEXT                  # the same here in the configuration
//		issuer       STRING                # iss to the letter; without keys a URL, whose metadata name them
//		audience     STRING...             # aud must hold one of them
//		algorithms   ALG...                # also those that a key is for which names none
//		stale_for    DURATION              # 0s to 168h, default 12h: fetched keys while their server fails
//		max_key_age  DURATION              # 1m to 24h, default 1h: fetched keys are fetched again by then
//		insecure                           # plain http for keys
//		issuer       STRING {              # repeatable: further issuers, each with keys of its own
//			allow CLAIM VALUE...           # for an issuer such as https://login.microsoftonline.com/{tid}/v2.0
//			secret | jwks | key | audience | algorithms | stale_for | max_key_age | insecure
//		}
//		identity                           # beside them the tokens of the identity backend
//		from         header                # repeatable, in order; default: header
//		from         cookie NAME
//		from         header NAME [PREFIX]  # another header than Authorization: Bearer
//		from         query NAME            # taken out of the URL
//		from         websocket_protocol [PREFIX] # taken out of Sec-WebSocket-Protocol
//		type         at+jwt                # or JWT; default: either, or none
//		require      scope SCOPE...        # all of them; repeatable, as the next five: every line must hold
//		require      role ROLE...          # any of them
//		require      claim NAME VALUE...   # any of them; a dotted path leads into objects, names in quotes as they stand
//		require      acr VALUE...          # any of them
//		require      max_age DURATION      # since auth_time
//		any {                              # repeatable: one of its lines must hold
//			require scope | role | claim …
//		}
//		claim_header CLAIM HEADER          # repeatable
//		resource_metadata URL              # named in challenges (RFC 9728)
//		end_websockets                     # when their token expires
//		leeway       DURATION              # 0s to 5m, default 30s
//		max_size     SIZE                  # of a token, up to 1MiB; default what the server lets pass
//		claim_too_large refuse|drop        # where a claim does not fit into its header; default refuse
//		numeric_subject                    # sub may be an integer
//		optional                           # a missing token passes, an invalid one does not
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if err := dispense.End(d, "jwt_auth"); err != nil {
		return err
	}
	options := append(h.options(),
		dispense.Option{Name: "issuer", Repeats: true, Parse: h.parseIssuer},
		dispense.Option{Name: "identity", Parse: func(d *caddyfile.Dispenser) error { return dispense.Flag(d, &h.Identity) }},
		dispense.Option{Name: "from", Repeats: true, Parse: h.parseFrom},
		dispense.Option{Name: "type", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &h.Type) }},
		dispense.Option{Name: "require", Repeats: true, Parse: h.parseRequire},
		dispense.Option{Name: "any", Repeats: true, Parse: h.parseAny},
		dispense.Option{Name: "claim_header", Repeats: true, Parse: h.parseClaimHeader},
		dispense.Option{Name: "leeway", Parse: func(d *caddyfile.Dispenser) error {
			h.Leeway = new(unit.Duration)
			return dispense.Duration(d, h.Leeway)
		}},
		dispense.Option{Name: "resource_metadata", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &h.ResourceMetadata) }},
		dispense.Option{Name: "end_websockets", Parse: func(d *caddyfile.Dispenser) error { return dispense.Flag(d, &h.EndWebSockets) }},
		dispense.Option{Name: "max_size", Parse: func(d *caddyfile.Dispenser) error { return dispense.Size(d, &h.MaxSize) }},
		dispense.Option{Name: "claim_too_large", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &h.ClaimTooLarge) }},
		dispense.Option{Name: "numeric_subject", Parse: func(d *caddyfile.Dispenser) error { return dispense.Flag(d, &h.NumericSubject) }},
		dispense.Option{Name: "optional", Parse: func(d *caddyfile.Dispenser) error { return dispense.Flag(d, &h.Optional) }},
	)
	if err := dispense.Block(d, "jwt_auth", options...); err != nil {
		return err
	}
	if err := h.Validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// options are those that an issuer has, in its block or for the one of the short form.
func (t *Trusted) options() []dispense.Option {
	return []dispense.Option{
		{Name: "secret", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &t.Secret) }},
		{Name: "jwks", Parse: t.parseJWKS},
		{Name: "key", Parse: t.parseKey},
		{Name: "audience", Parse: func(d *caddyfile.Dispenser) error { return dispense.Strings(d, &t.Audience) }},
		{Name: "algorithms", Parse: func(d *caddyfile.Dispenser) error { return dispense.Strings(d, &t.Algorithms) }},
		{Name: "stale_for", Parse: func(d *caddyfile.Dispenser) error {
			t.StaleFor = new(unit.Duration)
			return dispense.Duration(d, t.StaleFor)
		}},
		{Name: "max_key_age", Parse: func(d *caddyfile.Dispenser) error {
			t.MaxKeyAge = new(unit.Duration)
			return dispense.Duration(d, t.MaxKeyAge)
		}},
		{Name: "insecure", Parse: func(d *caddyfile.Dispenser) error { return dispense.Flag(d, &t.Insecure) }},
	}
}

// parseIssuer reads an issuer. The first without a block is that of the short form, which keys beside
// it belong to.
func (h *Handler) parseIssuer(d *caddyfile.Dispenser) error {
	var t Trusted
	if !d.NextArg() {
		return d.ArgErr()
	}
	t.Issuer = d.Val()
	if d.NextArg() {
		return d.Errf("issuer: %q is one value too many", d.Val())
	}
	if err := dispense.Block(d, "issuer "+t.Issuer, append(t.options(), dispense.Option{Name: "allow", Parse: t.parseAllow})...); err != nil {
		return err
	}
	if t.bare() && h.Issuer == "" {
		h.Issuer = t.Issuer
		return nil
	}
	h.Issuers = append(h.Issuers, t)
	return nil
}

// parseAllow reads the values of the claim that the issuer has in braces.
func (t *Trusted) parseAllow(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 2 {
		return d.Err("allow needs the claim that the issuer has in braces, and its values, such as: allow tid 8f1e… 77ab…")
	}
	t.Allow = map[string][]string{args[0]: args[1:]}
	return nil
}

// bare says that nothing but the issuer is set.
func (t *Trusted) bare() bool {
	return t.sources() == 0 && len(t.Allow) == 0 && len(t.Audience) == 0 && len(t.Algorithms) == 0 && t.StaleFor == nil && t.MaxKeyAge == nil && !t.Insecure
}

func (t *Trusted) parseJWKS(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	switch {
	case len(args) == 1 && args[0] != "file":
		t.JWKS = args[0]
	case len(args) == 2 && args[0] == "file":
		t.JWKSFile = args[1]
	default:
		return d.Err("jwks needs a URL or a file, such as: jwks https://idp.example.com/jwks.json, or: jwks file /etc/keys.json")
	}
	return nil
}

func (t *Trusted) parseKey(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	switch {
	case len(args) == 1 && args[0] != "file":
		t.Key = args[0]
	case len(args) == 2 && args[0] == "file":
		t.KeyFile = args[1]
	default:
		return d.Err("key needs a public key or a file with one, such as: key file /etc/issuer.pem; a symmetric key is a secret: secret NAME")
	}
	return nil
}

func (h *Handler) parseFrom(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 0 || len(args) > 3 {
		return d.Err("from needs a place, such as: from header, from header Cf-Access-Jwt-Assertion, from cookie session, from query access_token, or: from websocket_protocol")
	}
	f := From{In: args[0]}
	switch rest := args[1:]; {
	case len(rest) == 0:
	case f.In == inProtocol && len(rest) == 1:
		f.Prefix = rest[0]
	case f.In == inProtocol:
		return d.Errf("from websocket_protocol: %q is one value too many", rest[1])
	default:
		if f.Name = rest[0]; len(rest) == 2 {
			f.Prefix = rest[1]
		}
	}
	h.From = append(h.From, f)
	return nil
}

func (h *Handler) parseRequire(d *caddyfile.Dispenser) error {
	r, err := parseRule(d)
	if err == nil {
		h.Require = append(h.Require, r)
	}
	return err
}

// parseAny reads a block of requirements of which one must hold.
func (h *Handler) parseAny(d *caddyfile.Dispenser) error {
	if err := dispense.End(d, "any"); err != nil {
		return err
	}
	var any Rule
	err := dispense.Block(d, "any", dispense.Option{Name: "require", Repeats: true, Parse: func(d *caddyfile.Dispenser) error {
		r, err := parseRule(d)
		if err == nil {
			any.Any = append(any.Any, r)
		}
		return err
	}})
	if err != nil {
		return err
	}
	if len(any.Any) == 0 {
		return d.Err("any needs a block of requirements, such as: any { require scope orders:read }")
	}
	h.Require = append(h.Require, any)
	return nil
}

func parseRule(d *caddyfile.Dispenser) (r Rule, err error) {
	args := d.RemainingArgs()
	if len(args) < 2 {
		return r, d.Err("require needs a kind and values, such as: require scope orders:read, require role admin, require claim plan pro, require acr gold, or: require max_age 15m")
	}
	switch kind, values := args[0], args[1:]; kind {
	case "scope":
		r.Scope = values
	case "role":
		r.Role = values
	case "claim":
		r.Claim, r.Values = values[0], values[1:]
	case "acr":
		r.ACR = values
	case "max_age":
		if len(values) > 1 {
			return r, d.Errf("require max_age: %q is one value too many", values[1])
		}
		age, err := unit.ParseDuration(values[0])
		if err != nil || age == 0 {
			return r, d.Errf("require max_age: %q is not a duration of at least 1s, write it as 15m", values[0])
		}
		r.MaxAge = age
	default:
		return r, d.Err(dispense.Unknown("kind of require", kind, []string{"scope", "role", "claim", "acr", "max_age"}))
	}
	return r, nil
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
