package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/gatehouse-proxy/gatehouse/backends/identity"
	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/command"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "token",
		Usage: "mint --sub SUBJECT | --service NAME --scope SCOPES",
		Short: "Makes access tokens",
		Long: `
Makes access tokens that are signed by the key in the data directory, which jwt_auth
trusts where it names no keys of its own. The key is generated where there is none yet.
--service makes the token of an app that calls the backends for its users, such as
--service app --scope "jobs:write webhooks:write": its sub is service:app, which no user
has, and it has the claim service.
With --database it is the key in that PostgreSQL, whose password is read from PGPASSWORD.

Exit codes: 0 done, 1 failed, 2 called in a wrong way.
`,
		CobraFunc: tokenCommand,
	})
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:      "users",
		Usage:     "add|ls|passwd|disable|enable|role|rm|logout",
		Short:     "Manages the users of the identity backend",
		Long:      usersHelp,
		CobraFunc: usersCommand,
	})
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:      "tokens",
		Usage:     "revoke|unrevoke|revocations",
		Short:     "Revokes access tokens",
		Long:      tokensHelp,
		CobraFunc: tokensCommand,
	})
}

// options are the flags that every command has.
type options struct {
	dataDir  string
	database string
	json     bool
}

func tokenCommand(cmd *cobra.Command) {
	var o options
	var ttl string
	c := identity.Claims{}
	mint := &cobra.Command{Use: "mint --sub SUBJECT | --service NAME --scope SCOPES", Short: "Prints a new token and nothing else", RunE: run(&o, 0, func(cmd *cobra.Command, _ []string) error {
		d, err := unit.ParseDuration(ttl)
		if err != nil {
			return command.Usage(fmt.Errorf("--ttl: %w", err))
		}
		switch {
		case c.Service != "" && c.Subject != "":
			return command.Usage(errors.New("give --sub for a user or --service for an app, not both"))
		case c.Service != "" && c.Scope == "":
			return command.Usage(errors.New("--scope is missing: name what the service may do, such as --scope jobs:write"))
		case c.Service == "" && c.Subject == "":
			return command.Usage(errors.New("--sub is missing: name whom the token is for, or the app with --service"))
		case strings.HasPrefix(c.Subject, identity.ServicePrefix):
			return command.Usage(fmt.Errorf("--sub %s would be taken for a service: name it with --service", c.Subject))
		}
		c.TTL = d.Std()
		return mintToken(cmd.Context(), cmd.OutOrStdout(), o, c)
	})}
	f := mint.Flags()
	f.StringVar(&c.Subject, "sub", "", "the user that the token is for")
	f.StringVar(&c.Service, "service", "", "the app that the token is for, in place of a user; its sub is service:NAME")
	f.StringVar(&c.Role, "role", "", "the claim role")
	f.StringVar(&c.Scope, "scope", "", `the claim scope, such as "orders:read orders:write"`)
	f.StringVar(&ttl, "ttl", "1h", "how long the token is valid")
	f.StringVar(&c.Audience, "audience", identity.DefaultAudience, "the claim aud")
	f.StringVar(&c.Issuer, "issuer", identity.DefaultIssuer, "the claim iss")
	group(cmd, &o, mint)
}

func mintToken(ctx context.Context, out io.Writer, o options, c identity.Claims) error {
	keys, err := signingKeys(ctx, o)
	if err != nil {
		return err
	}
	signer, err := identity.NewSigner(keys)
	if err != nil {
		return err
	}
	token, err := signer.Mint(c, time.Now())
	if err != nil {
		return err
	}
	if o.json {
		return json.NewEncoder(out).Encode(map[string]any{"token": token, "token_type": "Bearer", "expires_in": int64(c.TTL / time.Second)})
	}
	_, err = fmt.Fprintln(out, token)
	return err
}

// signingKeys are those of a gateway with these options.
func signingKeys(ctx context.Context, o options) (keys *secret.Set, err error) {
	if o.database == "" {
		return service.GeneratedKey(o.dataDir, identity.KeyName, identity.GenerateKey)
	}
	db, err := openDatabase(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return service.SharedKey(ctx, db, identity.KeyName, identity.GenerateKey)
}

// group makes cmd the parent of the given commands, which share its flags.
func group(cmd *cobra.Command, o *options, commands ...*cobra.Command) {
	cmd.PersistentFlags().StringVar(&o.dataDir, "data-dir", "./data", "the data_dir of the configuration")
	cmd.PersistentFlags().StringVar(&o.database, "database", "", "the database of the configuration, postgres://user@host/db (default SQLite in the data_dir)")
	cmd.PersistentFlags().BoolVar(&o.json, "json", false, "print JSON")
	command.Group(cmd, &o.json, commands...)
}

// run checks the number of arguments and turns an error into a sentence and an exit code.
func run(o *options, arguments int, do func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != arguments {
			return command.Fail(cmd, o.json, command.WrongArguments(cmd, len(args)))
		}
		if err := do(cmd, args); err != nil {
			return command.Fail(cmd, o.json, err)
		}
		return nil
	}
}

func openDatabase(ctx context.Context, o options) (*sqldb.DB, error) {
	if sqldb.HasPassword(o.database) {
		return nil, command.Usage(errors.New("--database holds a password, which others see on the command line: take it out and put it into PGPASSWORD"))
	}
	if o.database != "" {
		return sqldb.OpenPostgres(ctx, o.database)
	}
	if err := os.MkdirAll(o.dataDir, 0o700); err != nil {
		return nil, fmt.Errorf("the data directory cannot be created: %w", err)
	}
	return sqldb.Open(ctx, o.dataDir)
}

func show(out io.Writer, o options, v any, text string) error {
	if o.json {
		return json.NewEncoder(out).Encode(v)
	}
	_, err := fmt.Fprintln(out, text)
	return err
}
