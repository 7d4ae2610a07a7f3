package secrets

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
	"github.com/gatehouse-proxy/gatehouse/internal/secret/source"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/command"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "secrets",
		Usage: "status|rotate NAME",
		Short: "Shows the versions of secrets and rotates them",
		Long: `
Shows the versions of the running gateway's secrets and of the keys that it has made itself:
which are active, when each was last used, and which old one is safe to retire. Rotates a
secret that is kept in a file, a directory, Vault or AWS Secrets Manager, or a key: a new
version signs from then on, or as soon as all gateways know it, and those before it go on
verifying for the overlap. No value is ever printed.

Exit codes: 0 done, 1 failed, 2 called in a wrong way, 3 no gateway answers at the address.
`,
		CobraFunc: secretsCommand,
	})
}

// options are the flags of the commands.
type options struct {
	json           bool
	overlap, value string
	admin          command.Admin
}

func secretsCommand(cmd *cobra.Command) {
	var o options
	run := func(arguments int, do func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
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
	status := &cobra.Command{Use: "status", Short: "Prints the versions of all secrets, their last use and their end",
		RunE: run(0, func(cmd *cobra.Command, _ []string) error { return o.status(cmd.OutOrStdout()) })}
	rotate := &cobra.Command{Use: "rotate NAME [--overlap 24h] [--value -]", Short: "Puts a new version of a secret in force",
		RunE: run(1, func(cmd *cobra.Command, args []string) error {
			return o.rotate(cmd.InOrStdin(), cmd.OutOrStdout(), args[0])
		})}
	rotate.Flags().StringVar(&o.overlap, "overlap", "24h", "how long the versions before it go on verifying")
	rotate.Flags().StringVar(&o.value, "value", "", "- reads the new value from the standard input (default one of the same kind is made)")
	for _, c := range []*cobra.Command{status, rotate} {
		o.admin.Flags(c.Flags())
	}
	cmd.PersistentFlags().BoolVar(&o.json, "json", false, "print JSON")
	command.Group(cmd, &o.json, status, rotate)
}

func (o *options) status(out io.Writer) error {
	var answer Statuses
	if err := o.admin.Call(http.MethodGet, statusPath, nil, &answer); err != nil {
		return err
	}
	if o.json {
		return json.NewEncoder(out).Encode(answer)
	}
	if len(answer.Items) == 0 {
		_, err := fmt.Fprintln(out, "The gateway has no secrets.")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "SECRET\tSOURCE\tVERSION\tSTATE\tLAST USED\tRETIRES\tSAFE TO RETIRE")
	for _, s := range answer.Items {
		for _, v := range s.Versions {
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", shown(s.Name), s.Source, shown(v.Label), state(v), since(v.LastUsed), until(v.RetireAt), safe(v))
		}
		if len(s.Versions) == 0 {
			_, _ = fmt.Fprintf(w, "%s\t%s\tnone\t\t\t\t\n", shown(s.Name), s.Source)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, s := range answer.Items {
		if s.Error != "" {
			_, _ = fmt.Fprintf(out, "\n%s cannot be read or used, what was good when it was read %s ago is in force: %s\n", shown(s.Name), short(time.Duration(s.AgeSeconds*float64(time.Second))), shown(s.Error))
		}
	}
	_, err := fmt.Fprintln(out, "\nUses are those of this gateway since it knows the secret; other instances have their own.")
	return err
}

// shown is text that does nothing to a terminal: a label may be the name of a file that anyone has written.
func shown(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}

func state(v source.VersionStatus) string {
	switch {
	case v.Newest:
		return v.State + ", signs"
	case v.State == "coming" && v.ActiveFrom != nil:
		return "from " + v.ActiveFrom.Format(time.RFC3339)
	}
	return v.State
}

func since(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return short(time.Since(*t)) + " ago"
}

func until(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Format(time.RFC3339)
}

func safe(v source.VersionStatus) string {
	switch {
	case v.SafeToRetire:
		return "yes"
	case v.Newest || v.State == "coming":
		return "-"
	}
	return "no"
}

// short is a duration in its largest unit.
func short(d time.Duration) string {
	for _, u := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}} {
		if d >= u.size {
			return fmt.Sprintf("%d%s", d/u.size, u.name)
		}
	}
	return fmt.Sprintf("%ds", max(0, d/time.Second))
}

func (o *options) rotate(in io.Reader, out io.Writer, name string) error {
	overlap, err := unit.ParseDuration(o.overlap)
	if err != nil {
		return command.Usage(fmt.Errorf("--overlap: %w", err))
	}
	want := Rotation{Name: name, Overlap: &overlap}
	switch o.value {
	case "":
	case "-":
		value, err := io.ReadAll(io.LimitReader(in, secret.MaxContent+1))
		if err != nil {
			return fmt.Errorf("reading the value from the standard input: %w", err)
		}
		text := string(value)
		want.Value = &text
	default: // it would be seen in the list of processes
		return command.Usage(errors.New("--value takes - alone: the value is read from the standard input, where other users cannot see it"))
	}
	var answer source.Rotated
	if err = o.admin.Call(http.MethodPost, rotatePath, want, &answer); err != nil {
		return err
	}
	if o.json {
		return json.NewEncoder(out).Encode(answer)
	}
	when := "now"
	if answer.ActiveFrom != nil && time.Now().Before(*answer.ActiveFrom) {
		when = "from " + until(answer.ActiveFrom) + " on, when every instance knows it"
	}
	_, _ = fmt.Fprintf(out, "%s signs with the version %s %s.\n", shown(name), shown(answer.Newest), when)
	for _, v := range answer.Retiring {
		_, _ = fmt.Fprintf(out, "The version %s goes on verifying until %s.\n", shown(v.Label), until(v.RetireAt))
	}
	return nil
}
