package identity

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatehouse-proxy/gatehouse/backends/identity"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/command"
)

const usersHelp = `
Manages the users who may log in at POST /login of the identity backend. It works on the
data directory, or with --database on that PostgreSQL, whose password is read from PGPASSWORD.
It may run while the gateway runs, which takes notice within a second. A user's password is
read from the first line of the standard input, never from the command line, where others
would see it.

passwd, disable, rm and logout end the user's sessions and revoke the tokens; role revokes
the access tokens, so that clients refresh them and get what now holds.

Exit codes: 0 done, 1 failed, 2 called in a wrong way.
`

func usersCommand(cmd *cobra.Command) {
	var o options
	group(cmd, &o, addCommand(&o), lsCommand(&o), passwdCommand(&o),
		userCommand(&o, "disable EMAIL", "Lets a user log in no more, ends the sessions and revokes the tokens", "is disabled: the sessions have ended and the tokens are revoked",
			func(ctx context.Context, users *identity.Users, email string) (map[string]any, error) {
				return map[string]any{"disabled": true}, users.Disable(ctx, email)
			}),
		userCommand(&o, "enable EMAIL", "Lets a disabled user log in again", "can log in",
			func(ctx context.Context, users *identity.Users, email string) (map[string]any, error) {
				return map[string]any{"disabled": false}, users.Change(ctx, email, identity.Change{Disabled: new(false)})
			}),
		roleCommand(&o),
		userCommand(&o, "rm EMAIL", "Removes a user and revokes the tokens", "is removed, and the tokens are revoked",
			func(ctx context.Context, users *identity.Users, email string) (map[string]any, error) {
				return map[string]any{"removed": true}, users.Delete(ctx, email)
			}),
		userCommand(&o, "logout EMAIL", "Ends all sessions of a user and revokes the tokens", "is logged out everywhere",
			func(ctx context.Context, users *identity.Users, email string) (map[string]any, error) {
				return map[string]any{"logged_out": true}, users.Logout(ctx, email)
			}))
}

// userCommand does something to one user and says so.
func userCommand(o *options, use, short, done string, do func(ctx context.Context, users *identity.Users, email string) (map[string]any, error)) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, RunE: run(o, 1, func(cmd *cobra.Command, args []string) error {
		return withUsers(cmd.Context(), *o, func(ctx context.Context, users *identity.Users) error {
			answer, err := do(ctx, users, args[0])
			if err != nil {
				return err
			}
			answer["email"] = args[0]
			return show(cmd.OutOrStdout(), *o, answer, args[0]+" "+done+".")
		})
	})}
}

func addCommand(o *options) *cobra.Command {
	var role, scope string
	add := &cobra.Command{Use: "add EMAIL", Short: "Adds a user and prints the id", RunE: run(o, 1, func(cmd *cobra.Command, args []string) error {
		password, err := readPassword(cmd.InOrStdin())
		if err != nil {
			return err
		}
		return withUsers(cmd.Context(), *o, func(ctx context.Context, users *identity.Users) error {
			u, err := users.Add(ctx, args[0], password, role, scope)
			if err != nil {
				return err
			}
			return show(cmd.OutOrStdout(), *o, u, u.ID)
		})
	})}
	add.Flags().StringVar(&role, "role", "", "the role in the user's tokens")
	add.Flags().StringVar(&scope, "scope", "", `the scope in the user's tokens, such as "orders:read orders:write"`)
	return add
}

func lsCommand(o *options) *cobra.Command {
	return &cobra.Command{Use: "ls", Short: "Lists the users", RunE: run(o, 0, func(cmd *cobra.Command, _ []string) error {
		return withUsers(cmd.Context(), *o, func(ctx context.Context, users *identity.Users) error {
			list, err := users.List(ctx)
			if err != nil {
				return err
			}
			return listUsers(cmd.OutOrStdout(), *o, list)
		})
	})}
}

func passwdCommand(o *options) *cobra.Command {
	return &cobra.Command{Use: "passwd EMAIL", Short: "Gives a user another password, ends the sessions and revokes the tokens", RunE: run(o, 1, func(cmd *cobra.Command, args []string) error {
		password, err := readPassword(cmd.InOrStdin())
		if err != nil {
			return err
		}
		return withUsers(cmd.Context(), *o, func(ctx context.Context, users *identity.Users) error {
			if err := users.SetPassword(ctx, args[0], password); err != nil {
				return err
			}
			return show(cmd.OutOrStdout(), *o, map[string]any{"email": args[0], "password_changed": true}, "The password of "+args[0]+" is changed.")
		})
	})}
}

func roleCommand(o *options) *cobra.Command {
	var role, scope string
	c := &cobra.Command{Use: "role EMAIL", Short: "Gives a user another role or scope and revokes the access tokens, which clients refresh"}
	c.Flags().StringVar(&role, "role", "", `the new role, "" for none`)
	c.Flags().StringVar(&scope, "scope", "", `the new scope, such as "orders:read orders:write", "" for none`)
	c.RunE = run(o, 1, func(cmd *cobra.Command, args []string) error {
		var change identity.Change
		answer := map[string]any{"email": args[0]}
		if cmd.Flags().Changed("role") {
			change.Role, answer["role"] = &role, role
		}
		if cmd.Flags().Changed("scope") {
			change.Scope, answer["scope"] = &scope, scope
		}
		if change == (identity.Change{}) {
			return command.Usage(errors.New("give the new --role, the new --scope, or both"))
		}
		return withUsers(cmd.Context(), *o, func(ctx context.Context, users *identity.Users) error {
			if err := users.Change(ctx, args[0], change); err != nil {
				return err
			}
			return show(cmd.OutOrStdout(), *o, answer, args[0]+" is changed, and the access tokens are revoked.")
		})
	})
	return c
}

// withUsers opens the database beside a gateway that may be running on it.
func withUsers(ctx context.Context, o options, do func(context.Context, *identity.Users) error) (err error) {
	db, err := openDatabase(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	users, err := identity.OpenUsers(ctx, db)
	if err != nil {
		return err
	}
	return do(ctx, users)
}

// readPassword is the first line of the input.
func readPassword(in io.Reader) (string, error) {
	const newline = 2
	line, err := bufio.NewReader(io.LimitReader(in, identity.MaxPassword+newline+1)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("reading the password from the standard input: %w", err)
	}
	line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
	if line == "" {
		return "", command.Usage(errors.New("the password is missing: give it as the first line of the standard input"))
	}
	return line, nil
}

func listUsers(out io.Writer, o options, list []identity.User) error {
	if o.json {
		return json.NewEncoder(out).Encode(map[string]any{"items": list})
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "ID\tEMAIL\tROLE\tSCOPE\tSTATE\tCREATED")
	for _, u := range list {
		state := "active"
		if u.Disabled {
			state = "disabled"
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", u.ID, u.Email, u.Role, u.Scope, state, u.CreatedAt.Format(time.RFC3339))
	}
	return table.Flush()
}
