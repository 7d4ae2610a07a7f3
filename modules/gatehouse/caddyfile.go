package gatehouse

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/gatehouse-proxy/gatehouse/internal/redisconn"
	"github.com/gatehouse-proxy/gatehouse/internal/secret/aws"
	"github.com/gatehouse-proxy/gatehouse/internal/secret/source"
	"github.com/gatehouse-proxy/gatehouse/internal/secret/vault"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/capture"
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
//		body_memory SIZE                 # for all bodies of requests that are held at once; default 1/8 of the memory limit, at least 64MiB
//		secret   NAME file PATH {        # the value, of which one trailing newline is no part, or {"versions":[...]}
//			overlap 24h              # how long a replaced value goes on verifying; default 0
//			poll    30s              # 1s to 1m; files are watched besides
//			generate                 # the file is made at the first start, with 32 random bytes, if it is not there
//		}
//		secret   NAME dir  PATH          # each file is a version, the last in natural order the newest; same block
//		secret   NAME env  VARIABLE      # never changes; overlap alone
//		secret   NAME vault MOUNT/PATH { # HashiCorp Vault, key-value store of version 2; also overlap and poll
//			address   URL
//			namespace NAME
//			field     NAME
//			auth      approle ROLE_ID_FILE SECRET_ID_FILE [MOUNT]  # one of the three
//			auth      kubernetes ROLE [MOUNT [TOKEN_FILE]]         # the file of the service account's token
//			auth      token_file PATH
//			mount     PATH           # of the store, if it has a slash; then secret NAME vault PATH_BELOW_IT
//			ca        PATH
//		}
//		secret   NAME aws SECRET_ID {    # AWS Secrets Manager; also overlap and poll
//			region   NAME
//			field    JSON_KEY
//			endpoint URL
//		}
//		backend  NAME {                  # settings of a bundled backend, see its own grammar
//			...
//		}
//		database postgres://USER@HOST[:PORT]/DB[?OPTION=VALUE...] {  # default: SQLite in data_dir
//			password SECRET          # options are those of libpq, such as sslmode, and pool_max_conns
//		}
//		redis ADDRESS... {               # redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// for TLS; several: a Cluster
//			password SECRET          # instead of one in the address
//			ca       PATH            # certificates in PEM that the server's must be signed by
//			cluster                  # a single address is one of a Cluster too
//		}
//		redis sentinel MASTER HOST:PORT... [redis://[USER@]/[DB]] {  # the URL is for the master, rediss:// for TLS
//			password          SECRET
//			sentinel_password SECRET
//			ca                PATH
//		}
//		profile {                        # captures of overloads in data_dir/profiles; profile off: none
//			cpu       90% for 30s    # share of the processors that the process may use
//			scheduler 100ms for 30s  # wait of goroutines for their turn, 99th percentile
//			length    30s            # of the CPU profile
//			keep      5              # the oldest are removed
//			cooldown  10m            # from the end of one to the next
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
		dispense.Option{Name: "body_memory", Parse: func(d *caddyfile.Dispenser) error { return dispense.Size(d, &a.BodyMemory) }},
		dispense.Option{Name: "secret", Repeats: true, Parse: a.parseSecret},
		dispense.Option{Name: "backend", Repeats: true, Parse: a.parseBackend},
		dispense.Option{Name: "profile", Parse: a.parseProfile},
		dispense.Option{Name: "redis", Parse: a.parseRedis},
		dispense.Option{Name: "database", Parse: a.parseDatabase},
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
	name, kind, arg := args[0], args[1], args[2]
	if _, ok := a.Secrets[name]; ok {
		return d.Errf("secret %s is given twice, keep one of the lines", name)
	}
	s := source.Source{At: d.File() + ":" + strconv.Itoa(d.Line())}
	var options []dispense.Option
	switch kind {
	case "file":
		s.File = arg
		options = []dispense.Option{{Name: "generate", Parse: func(d *caddyfile.Dispenser) error { return dispense.Flag(d, &s.Generate) }}}
	case "dir":
		s.Dir = arg
	case "env":
		s.Env = arg
	case "vault":
		s.Vault = &vault.Config{Path: arg}
		options = vaultOptions(s.Vault)
	case "aws":
		s.AWS = &aws.Config{SecretID: arg}
		options = awsOptions(s.AWS)
	default:
		return d.Errf("secret %s: %s", name, dispense.Unknown("source", kind, source.Kinds))
	}
	options = append(options,
		dispense.Option{Name: "overlap", Parse: func(d *caddyfile.Dispenser) error { return dispense.Duration(d, &s.Overlap) }},
		dispense.Option{Name: "poll", Parse: func(d *caddyfile.Dispenser) error { return dispense.Duration(d, &s.Poll) }},
	)
	if err := dispense.Block(d, "secret "+name+" "+kind, options...); err != nil {
		return err
	}
	if s.Vault != nil && s.Vault.Mount != "" {
		s.Vault.Path = s.Vault.Mount + "/" + arg
	}
	if err := s.Validate(); err != nil {
		return fmt.Errorf("secret %s: %w, at %s", name, err, s.At)
	}
	if a.Secrets == nil {
		a.Secrets = map[string]source.Source{}
	}
	a.Secrets[name] = s
	return nil
}

func vaultOptions(c *vault.Config) []dispense.Option {
	return []dispense.Option{
		{Name: "address", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &c.Address) }},
		{Name: "namespace", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &c.Namespace) }},
		{Name: "field", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &c.Field) }},
		{Name: "auth", Parse: func(d *caddyfile.Dispenser) error { return parseVaultAuth(d, c) }},
		{Name: "mount", Parse: func(d *caddyfile.Dispenser) error { return parseMount(d, &c.Mount) }},
		{Name: "ca", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &c.CA) }},
	}
}

// parseMount reads where the key-value store is mounted.
func parseMount(d *caddyfile.Dispenser, mount *string) error {
	if err := dispense.String(d, mount); err != nil {
		return err
	}
	if path := strings.Trim(*mount, "/"); path != *mount || path == "" {
		return d.Errf("mount %s: write it without a slash before or after it, such as: mount teams/a/kv", *mount)
	}
	return nil
}

func parseVaultAuth(d *caddyfile.Dispenser, c *vault.Config) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Err("auth needs a method, such as: auth approle /run/secrets/role-id /run/secrets/secret-id")
	}
	method, args := args[0], args[1:]
	switch method {
	case "approle":
		if len(args) != 2 && len(args) != 3 {
			return d.Err("auth approle needs the file of the role ID and that of the secret ID, and may have a mount, such as: auth approle /run/secrets/role-id /run/secrets/secret-id")
		}
		c.AppRole = &vault.AppRole{RoleIDFile: args[0], SecretIDFile: args[1], Mount: at(args, 2)}
		return checkAuthMount(d, c.AppRole.Mount, "auth approle /run/secrets/role-id /run/secrets/secret-id approle")
	case "kubernetes":
		if len(args) < 1 || len(args) > 3 {
			return d.Err("auth kubernetes needs a role, and may have a mount and the file of the token, such as: auth kubernetes gatehouse")
		}
		c.Kubernetes = &vault.Kubernetes{Role: args[0], Mount: at(args, 1), TokenFile: at(args, 2)}
		return checkAuthMount(d, c.Kubernetes.Mount, "auth kubernetes gatehouse kubernetes /var/run/secrets/vault/token")
	case "token_file":
		if len(args) != 1 {
			return d.Err("auth token_file needs the file of the token, such as: auth token_file /run/secrets/vault-token")
		}
		c.TokenFile = args[0]
	default:
		return d.Errf("%s", dispense.Unknown("method of auth", method, []string{"approle", "kubernetes", "token_file"}))
	}
	return nil
}

// at is the argument of that index, or "" if there is none.
func at(args []string, i int) string {
	if i < len(args) {
		return args[i]
	}
	return ""
}

// checkAuthMount tells the mount of a method from a file, and from a path with auth/; example shows the form.
func checkAuthMount(d *caddyfile.Dispenser, mount, example string) error {
	if strings.HasPrefix(mount, "/") || strings.HasPrefix(mount, "auth/") {
		return d.Errf("%s stands where the mount of the method does, which begins with neither / nor auth/, such as: %s", mount, example)
	}
	return nil
}

func awsOptions(c *aws.Config) []dispense.Option {
	return []dispense.Option{
		{Name: "region", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &c.Region) }},
		{Name: "field", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &c.Field) }},
		{Name: "endpoint", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &c.Endpoint) }},
	}
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

func (a *App) parseDatabase(d *caddyfile.Dispenser) error {
	if args := d.RemainingArgs(); len(args) == 1 {
		a.Database = args[0]
	} else {
		return d.Err("database needs one URL, such as: database postgres://user@host/db")
	}
	if err := a.CheckDatabaseURL(); err != nil { // while the dispenser is on its line
		return d.WrapErr(err)
	}
	return dispense.Block(d, "database",
		dispense.Option{Name: "password", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &a.DatabasePassword) }},
	)
}

func (a *App) parseRedis(d *caddyfile.Dispenser) error {
	c := new(redisconn.Config)
	a.Settings.Redis = c
	args := d.RemainingArgs()
	if len(args) > 0 && args[0] == "sentinel" {
		if len(args) < 3 {
			return d.Err("redis sentinel needs the master's name and the sentinels, such as: redis sentinel mymaster s1:26379 s2:26379")
		}
		c.Sentinel, args = args[1], args[2:]
		if last := len(args) - 1; strings.Contains(args[last], "://") {
			c.Server, args = args[last], args[:last]
		}
	}
	c.Addresses = args
	if err := c.CheckAddresses(); err != nil { // while the dispenser is on its line
		return d.WrapErr(err)
	}
	return dispense.Block(d, "redis",
		dispense.Option{Name: "password", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &c.Password) }},
		dispense.Option{Name: "sentinel_password", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &c.SentinelPassword) }},
		dispense.Option{Name: "ca", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &c.CA) }},
		dispense.Option{Name: "cluster", Parse: func(d *caddyfile.Dispenser) error { return dispense.Flag(d, &c.Cluster) }},
	)
}

func (a *App) parseProfile(d *caddyfile.Dispenser) error {
	c := new(capture.Config)
	a.Profile = c
	if d.NextArg() {
		if d.Val() != "off" {
			return d.Errf("%s", dispense.Unknown("value of profile", d.Val(), []string{"off"}))
		}
		c.Off = true
		return dispense.End(d, "profile off")
	}
	option := func(name string, parse func(d *caddyfile.Dispenser) error) dispense.Option {
		return dispense.Option{Name: name, Parse: func(d *caddyfile.Dispenser) error {
			if err := parse(d); err != nil {
				return err
			}
			if err := c.Validate(); err != nil { // while the dispenser is on its line
				return d.WrapErr(err)
			}
			return nil
		}}
	}
	return dispense.Block(d, "profile",
		option("cpu", func(d *caddyfile.Dispenser) (err error) {
			c.CPU = new(capture.CPU)
			return parseThreshold(d, "cpu 90% for 30s", &c.CPU.For, func(s string) error {
				c.CPU.Over, err = capture.ParsePercent(s)
				return err
			})
		}),
		option("scheduler", func(d *caddyfile.Dispenser) (err error) {
			c.Scheduler = new(capture.Scheduler)
			return parseThreshold(d, "scheduler 100ms for 30s", &c.Scheduler.For, func(s string) error {
				c.Scheduler.Over, err = unit.ParseDuration(s)
				return err
			})
		}),
		option("length", func(d *caddyfile.Dispenser) error { return parsePositive(d, &c.Length) }),
		option("keep", func(d *caddyfile.Dispenser) error { return dispense.Int(d, &c.Keep, 1) }),
		option("cooldown", func(d *caddyfile.Dispenser) error { return parsePositive(d, &c.Cooldown) }),
	)
}

// parseThreshold reads VALUE [for DURATION]; example shows the form.
func parseThreshold(d *caddyfile.Dispenser, example string, lasts *unit.Duration, over func(string) error) error {
	name, args := d.Val(), d.RemainingArgs()
	if len(args) != 1 && (len(args) != 3 || args[1] != "for") {
		return d.Errf("%s needs a threshold and how long it must last, such as: %s", name, example)
	}
	if err := over(args[0]); err != nil {
		return d.Errf("%s: %v", name, err)
	}
	if len(args) == 1 {
		return nil
	}
	var err error
	if *lasts, err = unit.ParseDuration(args[2]); err != nil {
		return d.Errf("%s: %v", name, err)
	}
	if *lasts == 0 {
		return d.Errf("%s: how long it must last is more than 0, such as: %s", name, example)
	}
	return nil
}

// parsePositive reads a duration for which 0 makes no sense.
func parsePositive(d *caddyfile.Dispenser, v *unit.Duration) error {
	name := d.Val()
	if err := dispense.Duration(d, v); err != nil {
		return err
	}
	if *v == 0 {
		return d.Errf("%s must be more than 0", name)
	}
	return nil
}

// Interface guards
var _ caddyfile.Unmarshaler = (*App)(nil)
