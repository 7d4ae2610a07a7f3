package gatehouse

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/capture"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/command"
)

const (
	maxSeconds = 300
	topRows    = 20
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "profile",
		Usage: "[--seconds N] [--top] [--json] [--output FILE] [--address ADMIN | --config FILE [--adapter NAME]]",
		Short: "Takes a CPU profile of the running gateway",
		Long: `
Takes a CPU profile of the running gateway through its admin endpoint, and says where the
time goes: with --top as a table of functions, without it as a file for go tool pprof.
The gateway goes on answering meanwhile.

Exit codes: 0 done, 1 failed, 2 called in a wrong way, 3 no gateway answers at the address.
`,
		CobraFunc: profileCommand,
	})
}

// profileOptions are the flags of the command.
type profileOptions struct {
	seconds   int
	top, json bool
	output    string
	admin     command.Admin
}

func profileCommand(cmd *cobra.Command) {
	var o profileOptions
	f := cmd.Flags()
	f.IntVar(&o.seconds, "seconds", 30, "how long the profile is taken, 1 to 300")
	f.BoolVar(&o.top, "top", false, "print the functions that use most time")
	f.BoolVar(&o.json, "json", false, "print JSON")
	f.StringVar(&o.output, "output", "", "the file for the profile (default gatehouse-TIME.pprof, none with --top)")
	o.admin.Flags(f)
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return command.Fail(c, o.json, command.Usage(err)) })
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := o.run(cmd.OutOrStdout(), cmd.ErrOrStderr(), args); err != nil {
			return command.Fail(cmd, o.json, err)
		}
		return nil
	}
}

// run takes the profile.
func (o profileOptions) run(out, progress io.Writer, args []string) error {
	switch {
	case len(args) > 0:
		return command.Usage(fmt.Errorf("%q is one argument too many: the command has flags alone", args[0]))
	case o.seconds < 1 || o.seconds > maxSeconds:
		return command.Usage(fmt.Errorf("--seconds must be from 1 to %d, not %d", maxSeconds, o.seconds))
	}
	address, err := o.admin.Address()
	if err != nil {
		return err
	}
	if !o.json {
		_, _ = fmt.Fprintf(progress, "taking a CPU profile of the gateway at %s for %d s\n", address, o.seconds)
	}
	cpu, err := o.fetch()
	if err != nil {
		return err
	}
	top, err := capture.ParseTop(bytes.NewReader(cpu))
	if err != nil {
		return err
	}
	if o.output == "" && !o.top {
		o.output = "gatehouse-" + time.Now().UTC().Format("20060102T150405Z") + ".pprof"
	}
	if o.output != "" {
		if err = os.WriteFile(o.output, cpu, 0o600); err != nil {
			return fmt.Errorf("saving the profile: %w", err)
		}
	}
	return o.show(out, top)
}

// fetch asks the gateway for the profile.
func (o profileOptions) fetch() ([]byte, error) {
	body, err := o.admin.Get(fmt.Sprintf("/debug/pprof/profile?seconds=%d", o.seconds))
	if err != nil {
		if strings.Contains(err.Error(), "profiling already in use") {
			return nil, errors.New("the gateway is taking a CPU profile already, such as one of an overload: try again when it is done, 30 s as a rule")
		}
		return nil, err
	}
	defer func() { _ = body.Close() }()
	cpu, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("the gateway went away before the profile was done: %w", err)
	}
	return cpu, nil
}

// show prints the result.
func (o profileOptions) show(out io.Writer, top capture.Top) error {
	if o.json {
		type function struct {
			Name              string  `json:"function"`
			Flat              string  `json:"flat"`
			FlatPercent       float64 `json:"flat_percent"`
			Cumulative        string  `json:"cum"`
			CumulativePercent float64 `json:"cum_percent"`
		}
		functions := []function{}
		for _, f := range top.Functions[:min(topRows, len(top.Functions))] {
			functions = append(functions, function{f.Name, f.Flat.String(), tenths(top.Percent(f.Flat)), f.Cumulative.String(), tenths(top.Percent(f.Cumulative))})
		}
		return json.NewEncoder(out).Encode(map[string]any{
			"seconds": o.seconds, "cpu_time": top.Total.String(), "output": o.output, "functions": functions,
		})
	}
	if o.top {
		if err := top.Write(out, topRows); err != nil {
			return err
		}
	}
	if o.output == "" {
		return nil
	}
	_, err := fmt.Fprintf(out, "The profile is in %s. Look at it with: go tool pprof -http=localhost:0 %s\n", o.output, o.output)
	return err
}

func tenths(f float64) float64 { return math.Round(10*f) / 10 }
