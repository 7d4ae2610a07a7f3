package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/command"
)

const tokensHelp = `
Revokes access tokens before they expire, and lists what is revoked. It asks the admin
endpoint of the running gateway; the revocation holds on every instance within a second.

Exit codes: 0 done, 1 failed, 2 called in a wrong way, 3 no gateway answers at the address.
`

const revocationsPath = "/gatehouse/backends/identity/revocations"

// tokensOptions are the flags of the commands that ask the admin endpoint.
type tokensOptions struct {
	options
	admin command.Admin
}

// revocation is one as the gateway shows it.
type revocation struct {
	ID           string     `json:"id,omitempty"`
	JTI          string     `json:"jti,omitempty"`
	Sub          string     `json:"sub,omitempty"`
	SID          string     `json:"sid,omitempty"`
	Issuer       string     `json:"issuer,omitempty"`
	IssuedBefore *time.Time `json:"issued_before,omitempty"`
	RevokedAt    *time.Time `json:"revoked_at,omitempty"`
	ExpiresAt    *time.Time `json:"expires_at,omitempty"`
}

func tokensCommand(cmd *cobra.Command) {
	o := new(tokensOptions)
	cmd.PersistentFlags().BoolVar(&o.json, "json", false, "print JSON")
	o.admin.Flags(cmd.PersistentFlags())
	command.Group(cmd, &o.json, revokeCommand(o), undoCommand(o), revocationsCommand(o))
}

func revokeCommand(o *tokensOptions) *cobra.Command {
	var want revocation
	var before, expires string
	c := &cobra.Command{Use: "revoke --jti J | --sub S | --sid X", Short: "Revokes a token, the tokens of a subject, or a session, and prints the revocation's id"}
	f := c.Flags()
	f.StringVar(&want.JTI, "jti", "", "the jti of the token")
	f.StringVar(&want.Sub, "sub", "", "the subject whose tokens are revoked; the sessions of a user of ours end too")
	f.StringVar(&want.SID, "sid", "", "the session that ends")
	f.StringVar(&want.Issuer, "issuer", "", "only tokens of this issuer")
	f.StringVar(&before, "before", "", "with --sub: tokens issued at or before this time, as 2027-06-01T09:00:00Z or how long ago, such as 2h (default now)")
	f.StringVar(&expires, "expires", "", "when the tokens expire, as 2027-06-01T09:00:00Z (default in 366 days): the revocation is kept until then")
	c.RunE = run(&o.options, 0, func(cmd *cobra.Command, _ []string) (err error) {
		if n := given(want.JTI) + given(want.Sub) + given(want.SID); n != 1 {
			return command.Usage(errors.New("give one of --jti, --sub and --sid"))
		}
		if want.IssuedBefore, err = moment("before", before, time.Now()); err != nil {
			return err
		}
		if want.ExpiresAt, err = moment("expires", expires, time.Now()); err != nil {
			return err
		}
		var made revocation
		if err = o.admin.Call(http.MethodPost, revocationsPath, want, &made); err != nil {
			return err
		}
		return show(cmd.OutOrStdout(), o.options, made, made.ID)
	})
	return c
}

func given(s string) int {
	if s == "" {
		return 0
	}
	return 1
}

// moment reads a time as RFC 3339, or a duration as so long ago.
func moment(flag, s string, now time.Time) (*time.Time, error) {
	if s == "" {
		return nil, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return &t, nil
	}
	d, err := unit.ParseDuration(s)
	if err != nil || flag != "before" {
		return nil, command.Usage(fmt.Errorf("--%s: %q is not a time such as 2027-06-01T09:00:00Z", flag, s))
	}
	return new(now.Add(-d.Std())), nil
}

func undoCommand(o *tokensOptions) *cobra.Command {
	return &cobra.Command{Use: "unrevoke ID", Short: "Takes a revocation back", RunE: run(&o.options, 1, func(cmd *cobra.Command, args []string) error {
		if err := o.admin.Call(http.MethodDelete, revocationsPath+"/"+url.PathEscape(args[0]), nil, nil); err != nil {
			return err
		}
		return show(cmd.OutOrStdout(), o.options, map[string]any{"id": args[0], "revoked": false}, "The revocation "+args[0]+" is taken back.")
	})}
}

func revocationsCommand(o *tokensOptions) *cobra.Command {
	return &cobra.Command{Use: "revocations", Short: "Lists what is revoked", RunE: run(&o.options, 0, func(cmd *cobra.Command, _ []string) error {
		list := []revocation{}
		for cursor := ""; ; {
			var page struct {
				Items      []revocation `json:"items"`
				NextCursor string       `json:"next_cursor"`
			}
			if err := o.admin.Call(http.MethodGet, revocationsPath+"?limit=1000&cursor="+url.QueryEscape(cursor), nil, &page); err != nil {
				return err
			}
			list = append(list, page.Items...)
			if cursor = page.NextCursor; cursor == "" {
				break
			}
		}
		return listRevocations(cmd.OutOrStdout(), o.json, list)
	})}
}

func listRevocations(out io.Writer, asJSON bool, list []revocation) error {
	if asJSON {
		return json.NewEncoder(out).Encode(map[string]any{"items": list})
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "ID\tREVOKES\tISSUED UNTIL\tISSUER\tREVOKED\tKEPT UNTIL")
	for _, r := range list {
		what := "sub " + r.Sub
		switch {
		case r.JTI != "":
			what = "jti " + r.JTI
		case r.SID != "":
			what = "sid " + r.SID
		}
		issuer := r.Issuer
		if issuer == "" {
			issuer = "any"
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", r.ID, what, clock(r.IssuedBefore), issuer, clock(r.RevokedAt), clock(r.ExpiresAt))
	}
	return table.Flush()
}

func clock(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
