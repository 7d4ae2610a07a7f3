package jobs

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/command"
)

// exitCodes is the end of each command's help.
const exitCodes = `
Exit codes: 0 done, 1 failed, 2 called in a wrong way, 3 no gateway answers at the address.
`

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "jobs",
		Usage: "enqueue|ls|show|retry|cancel|groups|stats|tail|bench",
		Short: "Enqueues, shows, retries and cancels jobs",
		Long: `
Enqueues, shows, retries and cancels the jobs of the running gateway, one or all that a
filter chooses, and lists the dead ones by what killed them.
` + exitCodes,
		CobraFunc: jobsCommand,
	})
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "queues",
		Usage: "ls|show|pause|resume|drain|breaker",
		Short: "Shows, pauses and drains the queues of jobs",
		Long: `
Shows the queues of the running gateway and how many jobs are in each state, and pauses,
drains and resumes them.
` + exitCodes,
		CobraFunc: queuesCommand,
	})
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "schedules",
		Usage: "ls|show|run|pause|resume|set|rm",
		Short: "Shows and changes the schedules of jobs",
		Long: `
Shows the schedules of the running gateway, runs one now, pauses and resumes them, and
adds, changes and removes those that do not stand in the configuration.
` + exitCodes,
		CobraFunc: schedulesCommand,
	})
}

// options are the flags that every command has.
type options struct {
	json  bool
	admin command.Admin
}

// group makes cmd the parent of the given commands, which share its flags.
func (o *options) group(cmd *cobra.Command, commands ...*cobra.Command) {
	cmd.PersistentFlags().BoolVar(&o.json, "json", false, "print JSON")
	o.admin.Flags(cmd.PersistentFlags())
	command.Group(cmd, &o.json, commands...)
}

// run checks that there are from least to most arguments, any number if most is below 0, and turns an
// error into a sentence and an exit code.
func (o *options) run(least, most int, do func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		var err error
		if len(args) < least || most >= 0 && len(args) > most {
			err = command.WrongArguments(cmd, len(args))
		} else {
			err = do(cmd, args)
		}
		if err != nil {
			return command.Fail(cmd, o.json, err)
		}
		return nil
	}
}

// call asks the jobs backend and reads the answer into answer, unless that is nil. raw is the answer as
// it came, for --json.
func (o *options) call(method, path string, query url.Values, body, answer any) (raw json.RawMessage, err error) {
	uri := "/gatehouse/backends/jobs" + path
	if len(query) > 0 {
		uri += "?" + query.Encode()
	}
	if method == http.MethodDelete && answer == nil {
		return nil, o.admin.Call(method, uri, body, nil)
	}
	if err = o.admin.Call(method, uri, body, &raw); err != nil || answer == nil {
		return raw, err
	}
	if err = json.Unmarshal(raw, answer); err != nil {
		return nil, fmt.Errorf("the gateway's answer cannot be read, it may be of another version: %w", err)
	}
	return raw, nil
}

// print prints raw if JSON is asked for, or by table.
func (o *options) print(out io.Writer, raw json.RawMessage, table func(w io.Writer)) error {
	if o.json {
		return json.NewEncoder(out).Encode(raw)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	table(w)
	return w.Flush()
}

// row writes one line of a table.
func row(w io.Writer, cells ...any) {
	for i, c := range cells {
		if i > 0 {
			_, _ = io.WriteString(w, "\t")
		}
		_, _ = fmt.Fprint(w, c)
	}
	_, _ = io.WriteString(w, "\n")
}

// short cuts s to n characters and makes it one line.
func short(s string, n int) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

// clock is a time in a table, in UTC.
func clock(t *time.Time) string {
	if t == nil || t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

// or is s, or - for nothing.
func or(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// moment reads a time as RFC 3339, or a duration as so long ago.
func moment(flag, s string, now time.Time) (string, error) {
	if s == "" {
		return "", nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t.Format(time.RFC3339), nil
	}
	d, err := unit.ParseDuration(s)
	if err != nil {
		return "", command.Usage(fmt.Errorf("--%s: %q is neither a time such as 2027-06-01T09:00:00Z nor how long ago, such as 2h", flag, s))
	}
	return now.Add(-d.Std()).UTC().Format(time.RFC3339), nil
}

// payload reads JSON from an argument, or from the standard input for -.
func payload(in io.Reader, arg string) (json.RawMessage, error) {
	b := []byte(arg)
	if arg == "-" {
		var err error
		if b, err = io.ReadAll(io.LimitReader(in, 1<<20)); err != nil {
			return nil, fmt.Errorf("reading the payload from the standard input: %w", err)
		}
	}
	if !json.Valid(b) {
		return nil, command.Usage(fmt.Errorf("the payload is not JSON, write it such as '{\"order\": 1}', or - to read it from the standard input"))
	}
	return b, nil
}
