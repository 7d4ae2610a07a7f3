package gatehouse

import (
	"encoding/json"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
)

func init() {
	caddy.RegisterModule(new(App))
	httpcaddyfile.RegisterGlobalOption("gatehouse", parseGlobal)
}

// CaddyModule is the app's registration.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "gatehouse", New: func() caddy.Module { return new(App) }}
}

func parseGlobal(d *caddyfile.Dispenser, existing any) (any, error) {
	if existing != nil {
		d.Next()
		return nil, d.Err("gatehouse is given twice in the global options, keep one block")
	}
	app := new(App)
	if err := app.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "gatehouse", Value: caddyconfig.JSON(app, nil)}, nil
}

// UnmarshalCaddyfile reads the global option. Syntax:
//
//	gatehouse {
//		data_dir PATH                    # default ./data
//		region   NAME
//		secret   NAME file PATH          # one trailing newline is not part of the value
//		secret   NAME env  VARIABLE
//		backend  NAME {                  # settings of a bundled backend, see its own grammar
//			...
//		}
//	}
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the option's name
	if err := dispense.End(d, "gatehouse"); err != nil {
		return err
	}
	return dispense.Block(d, "gatehouse",
		dispense.Option{Name: "data_dir", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &a.DataDir) }},
		dispense.Option{Name: "region", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &a.Region) }},
		dispense.Option{Name: "secret", Repeats: true, Parse: a.parseSecret},
		dispense.Option{Name: "backend", Repeats: true, Parse: a.parseBackend},
		later("redis", "counters and caches are kept in process"),
		later("database", "rows are kept in SQLite in data_dir"),
		later("objects", "objects are kept on disk in data_dir"),
	)
}

// later refuses an option that this version does not have yet.
func later(name, instead string) dispense.Option {
	return dispense.Option{Name: name, Parse: func(d *caddyfile.Dispenser) error {
		return d.Errf("%s is not supported by this version: remove the line, %s", name, instead)
	}}
}

func (a *App) parseSecret(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 3 {
		return d.Err("secret needs a name, a source and its argument, such as: secret jwt file /run/secrets/jwt")
	}
	name, source, arg := args[0], args[1], args[2]
	at := d.File() + ":" + strconv.Itoa(d.Line())
	if _, ok := a.Secrets[name]; ok {
		return d.Errf("secret %s is given twice, keep one of the lines", name)
	}
	if a.Secrets == nil {
		a.Secrets = map[string]secret.Source{}
	}
	switch source {
	case "file":
		a.Secrets[name] = secret.Source{File: arg, At: at}
	case "env":
		a.Secrets[name] = secret.Source{Env: arg, At: at}
	case "dir", "vault", "aws":
		return d.Errf("secret %s: the source %s is not supported by this version, use file or env", name, source)
	default:
		return d.Errf("secret %s: %s", name, dispense.Unknown("source", source, []string{"file", "env"}))
	}
	return nil
}

func (a *App) parseBackend(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.Err("backend needs a name, such as: backend jobs")
	}
	name := d.Val()
	if err := known(name); err != nil {
		return d.WrapErr(err)
	}
	if _, ok := a.BackendsRaw[name]; ok {
		return d.Errf("backend %s is given twice, keep one block", name)
	}
	m, err := caddyfile.UnmarshalModule(d, Namespace+"."+name)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return d.WrapErr(err)
	}
	if a.BackendsRaw == nil {
		a.BackendsRaw = caddy.ModuleMap{}
	}
	a.BackendsRaw[name] = raw
	return nil
}

// Interface guards
var _ caddyfile.Unmarshaler = (*App)(nil)
