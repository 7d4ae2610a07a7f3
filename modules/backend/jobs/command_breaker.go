package jobs

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/gatehouse-proxy/gatehouse/backends/jobs"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/command"
)

// breakerCommand is queues breaker.
func breakerCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "breaker", Short: "Shows the targets whose jobs are held back, and lets them go on"}
	reset := &cobra.Command{Use: "reset [QUEUE]", Short: "Lets the jobs of a queue, or of all, go on to the targets that failed"}
	target := reset.Flags().String("target", "", "only this one of the targets that ls prints")
	reset.RunE = o.run(0, 1, func(cmd *cobra.Command, args []string) error {
		names := args
		if len(args) == 0 {
			queues, _, err := o.queues()
			if err != nil {
				return err
			}
			for i := range queues {
				if len(queues[i].Breakers) > 0 {
					names = append(names, queues[i].Name)
				}
			}
		}
		var sum jobs.BreakerReset
		for _, name := range names {
			var one jobs.BreakerReset
			_, err := o.call(http.MethodPost, "/queues/"+url.PathEscape(name)+"/breaker/reset", nil, map[string]string{"target": *target}, &one)
			if err != nil {
				return err
			}
			sum.Reset += one.Reset
		}
		raw, err := json.Marshal(sum)
		if err != nil {
			return err
		}
		return o.print(cmd.OutOrStdout(), raw, func(w io.Writer) {
			what := "targets are"
			if sum.Reset == 1 {
				what = "target is"
			}
			_, _ = fmt.Fprintf(w, "%d %s no longer held back.\n", sum.Reset, what)
		})
	})
	command.Group(cmd, &o.json,
		&cobra.Command{Use: "ls [QUEUE]", Short: "Lists the targets whose jobs are held back", RunE: o.run(0, 1, func(cmd *cobra.Command, args []string) error {
			queues, _, err := o.queues()
			if err != nil {
				return err
			}
			all := []held{}
			for i := range queues {
				for _, b := range queues[i].Breakers {
					if len(args) == 0 || args[0] == queues[i].Name {
						all = append(all, held{queues[i].Name, b})
					}
				}
			}
			raw, err := json.Marshal(map[string]any{"items": all})
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), raw, func(w io.Writer) {
				row(w, "QUEUE", "TARGET", "CAUSE", "SINCE", "NEXT PROBE")
				for i := range all {
					row(w, short(all[i].Queue, 24), short(all[i].Target, 60), all[i].Cause, clock(&all[i].Since), clock(&all[i].NextProbe))
				}
			})
		})},
		reset,
	)
	return cmd
}

// held is a target of a queue whose jobs are held back.
type held struct {
	Queue string `json:"queue"`
	jobs.BreakerView
}
