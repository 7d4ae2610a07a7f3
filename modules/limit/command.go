package limit

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/command"
	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "limits",
		Usage: "top|show|reset|simulate",
		Short: "Shows and changes what limit and quota count",
		Long: `
Shows the hottest keys of the running gateway, shows where a key stands, forgets what it
has used, and tells from an access log whom a proposed limit would have refused.

Exit codes: 0 done, 1 failed, 2 called in a wrong way, 3 no gateway answers at the address.
`,
		CobraFunc: limitsCommand,
	})
}

// options are the flags of the commands.
type options struct {
	json  bool
	zone  string
	n     int
	admin command.Admin
}

func limitsCommand(cmd *cobra.Command) {
	var o options
	run := func(least int, do func(out io.Writer, args []string) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, args []string) error {
			if len(args) < least || least == 0 && len(args) > 0 {
				return command.Fail(cmd, o.json, command.WrongArguments(cmd, len(args)))
			}
			if err := do(cmd.OutOrStdout(), args); err != nil {
				return command.Fail(cmd, o.json, err)
			}
			return nil
		}
	}
	top := &cobra.Command{Use: "top", Short: "Prints the hottest keys and how many of their requests are refused", RunE: run(0, o.top)}
	top.Flags().IntVarP(&o.n, "lines", "n", 20, "how many keys")
	show := &cobra.Command{Use: "show KEY...", Short: "Prints where a key stands; a key of several placeholders has as many arguments",
		RunE: run(1, o.show)}
	reset := &cobra.Command{Use: "reset KEY...", Short: "Forgets what a key has used",
		RunE: run(1, o.reset)}
	for _, c := range []*cobra.Command{top, show, reset} {
		c.Flags().StringVar(&o.zone, "zone", "", "the zone (default all)")
		o.admin.Flags(c.Flags())
	}
	cmd.PersistentFlags().BoolVar(&o.json, "json", false, "print JSON")
	command.Group(cmd, &o.json, top, show, reset, simulateCommand(&o, run))
}

func (o *options) query(key []string) url.Values {
	q := url.Values{}
	if o.zone != "" {
		q.Set("zone", o.zone)
	}
	for _, k := range key {
		q.Add("key", k)
	}
	return q
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

func (o *options) top(out io.Writer, _ []string) error {
	var answer struct {
		Items []ZoneHot `json:"items"`
	}
	q := o.query(nil)
	q.Set("n", strconv.Itoa(o.n))
	if err := o.admin.Call(http.MethodGet, "/gatehouse/limits/top?"+q.Encode(), nil, &answer); err != nil {
		return err
	}
	return o.print(out, answer, func(w io.Writer) {
		_, _ = fmt.Fprintln(w, "ZONE\tKEY\tREQUESTS\tREFUSED")
		for _, h := range answer.Items {
			_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%.0f%%\n", h.Zone, h.Key, h.Requests, 100*h.RefusedShare)
		}
	})
}

func (o *options) show(out io.Writer, key []string) error {
	var answer struct {
		Items []Standing `json:"items"`
	}
	if err := o.admin.Call(http.MethodGet, "/gatehouse/limits/key?"+o.query(key).Encode(), nil, &answer); err != nil {
		return err
	}
	return o.print(out, answer, func(w io.Writer) {
		_, _ = fmt.Fprintln(w, "ZONE\tKEY\tPLAN\tPOLICY\tRATE\tREMAINING\tONE MORE IN\tCOUNTED")
		for _, s := range answer.Items {
			for _, p := range s.Policies {
				_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d/%s\t%d\t%ds\t%s\n", s.Zone, s.Key, s.Plan, p.Policy, p.Quota, p.Window, p.Remaining, p.Next, s.Mode)
			}
			if s.InFlight != nil {
				_, _ = fmt.Fprintf(w, "%s\t%s\t%s\tin_flight\t%d under way\t\t\t\n", s.Zone, s.Key, s.Plan, *s.InFlight)
			}
		}
	})
}

func (o *options) reset(out io.Writer, key []string) error {
	var answer struct {
		Reset []string `json:"reset"`
	}
	if err := o.admin.Call(http.MethodDelete, "/gatehouse/limits/key?"+o.query(key).Encode(), nil, &answer); err != nil {
		return err
	}
	return o.print(out, answer, func(w io.Writer) {
		_, _ = fmt.Fprintf(w, "The key starts anew in: %s\n", strings.Join(answer.Reset, ", "))
	})
}

func simulateCommand(o *options, run func(int, func(io.Writer, []string) error) func(*cobra.Command, []string) error) *cobra.Command {
	var log, by string
	var specs []string
	var n int
	c := &cobra.Command{Use: "simulate --log FILE --policy 'N/DURATION [burst B]'", Short: "Replays an access log of Caddy's in JSON against a proposed limit, and prints whom it would have refused"}
	c.RunE = run(0, func(out io.Writer, _ []string) error {
		policies, err := parsePolicies(specs)
		if err != nil {
			return command.Usage(err)
		}
		if log == "" {
			return command.Usage(errors.New("--log is missing: name an access log in JSON, or - for the standard input"))
		}
		if _, err = parseBy(by); err != nil {
			return command.Usage(fmt.Errorf("--by: %w", err))
		}
		in, err := openLog(log)
		if err != nil {
			return err
		}
		defer func() { _ = in.Close() }()
		s, err := simulate(in, policies, by, n)
		if err != nil {
			return err
		}
		if s.Requests == 0 {
			return fmt.Errorf("%s has no request in it: an access log in JSON is needed, as the directive log { format json } writes it", log)
		}
		return o.print(out, s, func(w io.Writer) { printSimulation(w, s, policies) })
	})
	f := c.Flags()
	f.StringVar(&log, "log", "", "the access log, plain or gzipped; - for the standard input (required)")
	f.StringArrayVar(&specs, "policy", nil, "a rate as in the configuration, such as '100/1m burst 20' or 'minute 100/1m sliding'; may be repeated (required)")
	f.StringVar(&by, "by", "{client_ip}", "the key: {client_ip}, {http.auth.user.id}, {host} or {header.NAME}")
	f.IntVarP(&n, "lines", "n", 20, "how many keys are printed")
	return c
}

func parsePolicies(specs []string) ([]policy.Policy, error) {
	var all []policy.Policy
	for i, spec := range specs {
		words := strings.Fields(spec)
		name := "policy" + strconv.Itoa(i+1)
		if len(words) > 1 && !strings.Contains(words[0], "/") {
			name, words = words[0], words[1:]
		}
		if len(words) == 0 {
			return nil, errors.New("--policy is empty, write a rate such as '100/1m burst 20'")
		}
		p, err := policy.ParseWords(name, words)
		if err != nil {
			return nil, fmt.Errorf("--policy: %w", err)
		}
		all = append(all, p)
	}
	if len(all) == 0 {
		return nil, errors.New("--policy is missing, such as --policy '100/1m burst 20'")
	}
	return all, policy.CheckAll(all)
}

func openLog(path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(os.Stdin), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("the log cannot be read: %w", err)
	}
	if !strings.HasSuffix(path, ".gz") {
		return f, nil
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("the log %s is not gzipped: %w", path, err)
	}
	return z, nil
}

func printSimulation(w io.Writer, s *Simulation, policies []policy.Policy) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }
	p("%d of %d requests would have been refused (%.1f%%), of %d of %d keys, from %s to %s.\n", s.Refused, s.Requests,
		100*float64(s.Refused)/float64(s.Requests), s.RefusedKeys, s.Keys, s.From.Format(time.RFC3339), s.To.Format(time.RFC3339))
	if s.LeftOut > 0 {
		p("%d lines are no requests and were left out.\n", s.LeftOut)
	}
	for _, q := range policies {
		p("Policy %s, %d per %s: %d refused.\n", q.Name, q.Quota, policy.Short(q.Window.Std()), s.ByPolicy[q.Name])
	}
	if len(s.Items) == 0 {
		return
	}
	p("\nKEY\tREQUESTS\tREFUSED\tFIRST REFUSED\n")
	for _, k := range s.Items {
		p("%s\t%d\t%d\t%s\n", k.Key, k.Requests, k.Refused, k.First.Format(time.RFC3339))
	}
}
