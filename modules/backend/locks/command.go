package locks

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/gatehouse-proxy/gatehouse/backends/locks"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/command"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "lock",
		Usage: "run NAME [flags] -- COMMAND [ARGUMENT...]",
		Short: "Runs a command only where a lock is held",
		Long: `
Runs a command while a lock of the gateway is held, so that of several machines that start
it at once one runs it: gatehouse lock run daily-report -- ./report.sh

The command gets the lock's name and fence as GATEHOUSE_LOCK_NAME and GATEHOUSE_LOCK_FENCE.
What it writes should carry the fence, and the store should refuse a smaller one than it has
seen: that alone is safe from a machine that sleeps past its lock. The lock is renewed after
each third of --ttl. When it is lost, or cannot be renewed until a sixth of --ttl is left,
the command and all that it started get SIGTERM, and SIGKILL after --grace; at a terminal
the command alone does. Signals are passed on to the command.

The exit code is the command's, 128 and the signal's number if one ended it. Of our own:
75 another has the lock and the command was not run (0 with --skip-ok), 76 the lock was lost
and the command stopped, 126 and 127 the command cannot be run or found, 1 failed, 2 called
in a wrong way, 3 no gateway answers at the address.
`,
		CobraFunc: lockCommand,
	})
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "locks",
		Usage: "ls",
		Short: "Shows the locks that are held",
		Long: `
Shows the locks of the running gateway that are held, in the order in which they were acquired.

Exit codes: 0 done, 1 failed, 2 called in a wrong way, 3 no gateway answers at the address.
`,
		CobraFunc: locksCommand,
	})
}

// where is the gateway, as flags say.
type where struct {
	admin          command.Admin
	url, tokenFile string
	json           bool
}

func (w *where) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&w.url, "url", "", "the URL that stands before /locks, instead of the admin endpoint, such as https://api.example.com")
	f.StringVar(&w.tokenFile, "token-file", "", "the file with the bearer token for --url; read anew for each request")
	w.admin.Flags(f)
}

// api is the API there.
func (w *where) api() (*api, error) {
	switch {
	case w.url != "" && (w.admin.At != "" || w.admin.Config != ""):
		return nil, command.Usage(errors.New("--url names a gateway's API, --address and --config its admin endpoint: give one of them"))
	case w.url != "":
		return remote(w.url, w.tokenFile)
	case w.tokenFile != "":
		return nil, command.Usage(errors.New("--token-file is for --url, the admin endpoint asks for no token"))
	}
	client, base, err := w.admin.Client()
	return &api{client: client, base: base + "/gatehouse/backends/locks"}, err
}

func lockCommand(cmd *cobra.Command) {
	var w where
	var ttl, wait, grace string
	var skipOK bool
	run := &cobra.Command{Use: "run NAME [flags] -- COMMAND [ARGUMENT...]", Short: "Runs a command while the lock NAME is held"}
	run.RunE = func(cmd *cobra.Command, args []string) error {
		r := &runner{skipOK: skipOK, say: lines(cmd.ErrOrStderr(), w.json)}
		switch dash := cmd.ArgsLenAtDash(); {
		case dash != 1 || len(args) < 2:
			return command.Fail(cmd, w.json, command.Usage(errors.New("a name and a command are needed, with -- between them, such as: gatehouse lock run daily-report -- ./report.sh")))
		default:
			r.name, r.args = args[0], args[1:]
		}
		err := errors.Join(parse("ttl", ttl, 100*time.Millisecond, &r.ttl), parse("wait", wait, 0, &r.wait), parse("grace", grace, 0, &r.grace))
		if err == nil && !locks.ValidName(r.name) {
			err = errors.New("the lock's name must be 1 to 256 bytes of printable UTF-8")
		}
		if err != nil {
			return command.Fail(cmd, w.json, command.Usage(err))
		}
		if r.api, err = w.api(); err != nil {
			return command.Fail(cmd, w.json, err)
		}
		code, err := r.run(cmd.Context())
		if err != nil {
			return command.Fail(cmd, w.json, err)
		}
		return command.Quit(cmd, code)
	}
	f := run.Flags()
	f.StringVar(&ttl, "ttl", "30s", "how long the lock lasts without being renewed, from 100ms")
	f.StringVar(&wait, "wait", "0s", "how long to wait for a lock that another has, and for a gateway that is away")
	f.StringVar(&grace, "grace", "10s", "from SIGTERM to SIGKILL for a command whose lock is lost")
	f.BoolVar(&skipOK, "skip-ok", false, "exit with 0, not 75, if another has the lock")
	w.flags(run)
	cmd.PersistentFlags().BoolVar(&w.json, "json", false, "print messages as JSON")
	command.Group(cmd, &w.json, run)
}

// parse reads the duration of a flag.
func parse(flag, s string, least time.Duration, v *time.Duration) error {
	d, err := unit.ParseDuration(s)
	if err == nil && d.Std() < least {
		err = fmt.Errorf("it must be at least %s", least)
	}
	if err != nil {
		return fmt.Errorf("--%s: %w", flag, err)
	}
	*v = d.Std()
	return nil
}

func locksCommand(cmd *cobra.Command) {
	var w where
	ls := &cobra.Command{Use: "ls", Short: "Lists the locks that are held"}
	ls.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return command.Fail(cmd, w.json, command.WrongArguments(cmd, len(args)))
		}
		a, err := w.api()
		if err != nil {
			return command.Fail(cmd, w.json, err)
		}
		all, err := a.list(cmd.Context())
		if err != nil {
			return command.Fail(cmd, w.json, err)
		}
		out := cmd.OutOrStdout()
		if w.json {
			return json.NewEncoder(out).Encode(map[string]any{"items": all})
		}
		t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(t, "NAME\tFENCE\tENDS IN\tAT")
		for _, l := range all {
			left := max(0, time.Until(l.ExpiresAt)).Truncate(time.Second)
			_, _ = fmt.Fprintf(t, "%s\t%d\t%s\t%s\n", l.Name, l.Fence, left, l.ExpiresAt.Format(time.RFC3339))
		}
		return t.Flush()
	}
	w.flags(ls)
	cmd.PersistentFlags().BoolVar(&w.json, "json", false, "print JSON")
	command.Group(cmd, &w.json, ls)
}
