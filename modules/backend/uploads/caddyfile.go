package uploads

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/authority"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
)

func init() { caddy.RegisterModule(new(Uploads)) }

// CaddyModule is the backend's registration.
func (*Uploads) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "gatehouse.backends.uploads", New: func() caddy.Module { return new(Uploads) }}
}

// UnmarshalCaddyfile reads the block in the global options. Syntax:
//
//	backend uploads {
//		allow      TYPE...    # media types; default image/jpeg image/png image/webp application/pdf
//		max_size   SIZE       # default 10MiB
//		expires    DURATION   # life of a presigned URL; default 5m
//		public_url URL        # scheme and host of presigned URLs; default those of the request
//		allow_empty           # files of zero bytes, too
//		quota      SIZE       # of all uploads of one owner; default none
//		owner         TEMPLATE  # whose a caller's uploads are, such as {http.auth.user.tenant}; default {http.auth.user.id}
//		admin_role    ROLE      # whose holders see and change everybody's; default admin
//		service_scope SCOPE     # whose holders are the app itself, which acts for all of its users; default uploads:write
//	}
//
// A site mounts it by `handle /uploads/* { backend uploads }`. It must be handle and not
// handle_path, since signatures cover the path; and what stands in front of /uploads/objects/* must
// let requests without a token pass, since there the URL itself is the permission.
func (u *Uploads) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the backend's name
	if err := dispense.End(d, "uploads"); err != nil {
		return err
	}
	if err := dispense.Block(d, "uploads", append(authority.Options(&u.Authority),
		dispense.Option{Name: "allow", Repeats: true, Parse: func(d *caddyfile.Dispenser) error { return dispense.Strings(d, &u.Allow) }},
		dispense.Option{Name: "max_size", Parse: func(d *caddyfile.Dispenser) error { return dispense.Size(d, &u.MaxSize) }},
		dispense.Option{Name: "expires", Parse: func(d *caddyfile.Dispenser) error { return dispense.Duration(d, &u.Expires) }},
		dispense.Option{Name: "public_url", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &u.PublicURL) }},
		dispense.Option{Name: "allow_empty", Parse: func(d *caddyfile.Dispenser) error { return dispense.Flag(d, &u.AllowEmpty) }},
		dispense.Option{Name: "quota", Parse: func(d *caddyfile.Dispenser) error { return dispense.Size(d, &u.Quota) }},
	)...); err != nil {
		return err
	}
	if err := u.Validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*Uploads)(nil)
	_ service.Opener        = (*Uploads)(nil)
)
