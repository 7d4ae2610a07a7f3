package jwtauth

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/command"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "jwt",
		Usage: "explain TOKEN|-",
		Short: "Explains what the running gateway thinks of an access token",
		Long: `
Prints every check that each jwt_auth of the running gateway makes, and which fail. Neither
the token nor a key is printed. Give - to read the token from the standard input, which
keeps it out of the shell's history.

Exit codes: 0 some jwt_auth would let it pass, 1 none would, 2 called in a wrong way,
3 no gateway answers at the address.
`,
		CobraFunc: jwtCommand,
	})
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "keys",
		Usage: "usage",
		Short: "Shows which keys verify tokens, and how often they did in the last 24 hours",
		Long: `
Shows the keys of each issuer that jwt_auth trusts, and the tokens and requests that each
has verified in this process in the last 24 hours.

Exit codes: 0 done, 1 failed, 2 called in a wrong way, 3 no gateway answers at the address.
`,
		CobraFunc: keysCommand,
	})
}

// options are the flags of the commands.
type options struct {
	json  bool
	admin command.Admin
}

func jwtCommand(cmd *cobra.Command) {
	var o options
	explain := &cobra.Command{Use: "explain TOKEN|-", Short: "Prints every check of a token with pass or fail"}
	explain.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return command.Fail(cmd, o.json, command.WrongArguments(cmd, len(args)))
		}
		passes, err := o.explain(cmd.InOrStdin(), cmd.OutOrStdout(), args[0])
		switch {
		case err != nil:
			return command.Fail(cmd, o.json, err)
		case !passes:
			return command.Quit(cmd, 1)
		}
		return nil
	}
	o.admin.Flags(explain.Flags())
	cmd.PersistentFlags().BoolVar(&o.json, "json", false, "print JSON")
	command.Group(cmd, &o.json, explain)
}

func keysCommand(cmd *cobra.Command) {
	var o options
	usage := &cobra.Command{Use: "usage", Short: "Prints the keys with their tokens and requests of the last 24 hours"}
	usage.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) != 0 {
			return command.Fail(cmd, o.json, command.WrongArguments(cmd, len(args)))
		}
		if err := o.usage(cmd.OutOrStdout()); err != nil {
			return command.Fail(cmd, o.json, err)
		}
		return nil
	}
	refresh := &cobra.Command{Use: "refresh", Short: "Fetches the keys that come from elsewhere, now; exit code 1 if one cannot be fetched"}
	refresh.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) != 0 {
			return command.Fail(cmd, o.json, command.WrongArguments(cmd, len(args)))
		}
		whole, err := o.refresh(cmd.OutOrStdout())
		switch {
		case err != nil:
			return command.Fail(cmd, o.json, err)
		case !whole:
			return command.Quit(cmd, 1)
		}
		return nil
	}
	o.admin.Flags(usage.Flags())
	o.admin.Flags(refresh.Flags())
	cmd.PersistentFlags().BoolVar(&o.json, "json", false, "print JSON")
	command.Group(cmd, &o.json, usage, refresh)
}

// print prints v as JSON if that is asked for, or by table.
func (o *options) print(out io.Writer, v any, table func(w io.Writer)) error {
	if o.json {
		return json.NewEncoder(out).Encode(v)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	table(w)
	return w.Flush()
}

func (o *options) explain(in io.Reader, out io.Writer, token string) (passes bool, err error) {
	if token == "-" {
		raw, err := io.ReadAll(io.LimitReader(in, 1<<20))
		if err != nil {
			return false, fmt.Errorf("reading the token: %w", err)
		}
		token = string(raw)
	}
	token = strings.TrimSpace(token)
	if scheme, rest, ok := strings.Cut(token, " "); ok && strings.EqualFold(scheme, "Bearer") {
		token = strings.TrimSpace(rest)
	}
	if token == "" {
		return false, command.Usage(errors.New("the token is empty"))
	}
	var answer Explained
	if err = o.admin.Call(http.MethodPost, "/gatehouse/jwt/explain", map[string]string{"token": token}, &answer); err != nil {
		return false, err
	}
	if len(answer.Items) == 0 {
		return false, errors.New("the running configuration has no jwt_auth")
	}
	for _, x := range answer.Items {
		passes = passes || x.Passes
	}
	return passes, o.print(out, answer, func(w io.Writer) {
		for _, x := range answer.Items {
			verdict := "passes"
			if !x.Passes {
				verdict = "does not pass: " + x.Answer
			}
			_, _ = fmt.Fprintf(w, "%s\nThe token %s\n", x.Directive, verdict)
			for _, c := range x.Checks {
				mark := "ok"
				if !c.OK {
					mark = "FAIL"
				}
				_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\n", mark, c.Check, c.Detail)
			}
		}
	})
}

func (o *options) usage(out io.Writer) error {
	var answer KeyUses
	if err := o.admin.Call(http.MethodGet, "/gatehouse/jwt/keys", nil, &answer); err != nil {
		return err
	}
	return o.print(out, answer, func(w io.Writer) {
		_, _ = fmt.Fprintln(w, "ISSUER\tSOURCE\tKEY\tALG\tIN FORCE\tTOKENS 24H\tREQUESTS 24H\tLAST USED\tFETCHED")
		for _, k := range answer.Items {
			last, fetched, inForce := "-", "-", "no"
			if k.LastUsed != nil {
				last = k.LastUsed.Format(time.RFC3339)
			}
			if k.Age != nil {
				fetched = (time.Duration(*k.Age) * time.Second).String() + " ago"
			}
			if k.InForce {
				inForce = "yes"
			}
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\n", orDash(printable(k.Issuer)), k.Source, orDash(printable(k.Kid)), k.Alg, inForce, k.Tokens, k.Requests, last, fetched)
		}
	})
}

// refresh says whether all sources could be asked.
func (o *options) refresh(out io.Writer) (whole bool, err error) {
	var answer KeysRefreshed
	if err := o.admin.Call(http.MethodPost, "/gatehouse/jwt/keys/refresh", nil, &answer); err != nil {
		return false, err
	}
	whole = !slices.ContainsFunc(answer.Items, func(s Refreshed) bool { return s.Error != "" })
	return whole, o.print(out, answer, func(w io.Writer) {
		_, _ = fmt.Fprintln(w, "SOURCE\tKEYS\tERROR")
		for _, s := range answer.Items {
			_, _ = fmt.Fprintf(w, "%s\t%d\t%s\n", s.Source, s.Keys, orDash(printable(s.Error)))
		}
	})
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
