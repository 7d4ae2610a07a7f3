package jobs

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"

	"github.com/spf13/cobra"

	"github.com/gatehouse-proxy/gatehouse/backends/jobs"
)

// states are the states of a job in the order in which it goes through them.
var states = []string{"scheduled", "queued", "running", "retrying", "completed", "dead", "cancelled"}

func queuesCommand(cmd *cobra.Command) {
	o := new(options)
	act := func(verb, does, done string) *cobra.Command {
		return &cobra.Command{Use: verb + " NAME", Short: does, RunE: o.run(1, 1, func(cmd *cobra.Command, args []string) error {
			raw, err := o.call(http.MethodPost, "/queues/"+url.PathEscape(args[0])+"/"+verb, nil, nil, new(jobs.QueueView))
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), raw, func(w io.Writer) { _, _ = fmt.Fprintf(w, "The queue %s %s.\n", args[0], done) })
		})}
	}
	o.group(cmd,
		&cobra.Command{Use: "ls", Short: "Lists the queues", RunE: o.run(0, 0, func(cmd *cobra.Command, _ []string) error {
			queues, raw, err := o.queues()
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), raw, func(w io.Writer) {
				row(w, "QUEUE", "STATE", "AT ONCE", "RATE", "WAITING", "OLDEST", "RUNNING", "DEAD")
				for i := range queues {
					q := &queues[i]
					row(w, short(q.Name, 24), queueState(q), q.Concurrency, rateOf(q.Limits.Rate), waiting(q), or(q.OldestWaitingAge), q.Counts["running"], q.Counts["dead"])
				}
			})
		})},
		&cobra.Command{Use: "show NAME", Short: "Prints all of a queue: its settings and how many jobs are in each state", RunE: o.run(1, 1, func(cmd *cobra.Command, args []string) error {
			var q jobs.QueueView
			raw, err := o.call(http.MethodGet, "/queues/"+url.PathEscape(args[0]), nil, nil, &q)
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), raw, func(w io.Writer) { showQueue(w, &q) })
		})},
		act("pause", "Starts no more jobs of a queue; those that run go on", "is paused"),
		act("resume", "Lets a paused or drained queue go on", "goes on"),
		breakerCommand(o),
		act("drain", "Takes no new jobs into a queue and works those that it has", "takes no new jobs"),
	)
}

// queues are all queues, and the answer as it came.
func (o *options) queues() (queues []jobs.QueueView, raw []byte, err error) {
	var page struct{ Items []jobs.QueueView }
	raw, err = o.call(http.MethodGet, "/queues", nil, nil, &page)
	return page.Items, raw, err
}

func queueState(q *jobs.QueueView) string {
	switch {
	case q.Paused:
		return "paused"
	case q.Draining:
		return "draining"
	}
	return "active"
}

func rateOf(r jobs.Rate) string {
	if r == (jobs.Rate{}) {
		return "-"
	}
	return r.String()
}

// waiting are the jobs that will still run.
func waiting(q *jobs.QueueView) int {
	return q.Counts["queued"] + q.Counts["scheduled"] + q.Counts["retrying"]
}

func showQueue(w io.Writer, q *jobs.QueueView) {
	row(w, "queue", q.Name)
	row(w, "state", queueState(q))
	switch {
	case q.Pull:
		row(w, "worked by", "workers that lease its jobs")
	default:
		row(w, "target", or(q.Target))
	}
	row(w, "concurrency", q.Concurrency)
	row(w, "rate", rateOf(q.Limits.Rate))
	if q.Limits.KeyConcurrency > 0 || q.Limits.KeyRate != (jobs.Rate{}) {
		row(w, "of one key", fmt.Sprintf("%d at once, rate %s", q.Limits.KeyConcurrency, rateOf(q.Limits.KeyRate)))
	}
	if q.Limits.Waiting > 0 {
		row(w, "may wait", q.Limits.Waiting)
	}
	row(w, "attempts", q.Limits.Attempts)
	row(w, "timeout", or(q.Limits.Timeout))
	row(w, "oldest waits", or(q.OldestWaitingAge))
	for _, b := range q.Breakers {
		row(w, "held back", fmt.Sprintf("%s is %s, next probe %s", b.Target, b.Cause, clock(&b.NextProbe)))
	}
	row(w)
	row(w, "STATE", "JOBS")
	for _, s := range states {
		row(w, s, q.Counts[s])
	}
}

func statsCommand(o *options) *cobra.Command {
	return &cobra.Command{Use: "stats", Short: "Prints how many jobs each queue has in each state", RunE: o.run(0, 0, func(cmd *cobra.Command, _ []string) error {
		queues, raw, err := o.queues()
		if err != nil {
			return err
		}
		return o.print(cmd.OutOrStdout(), raw, func(w io.Writer) {
			row(w, "QUEUE", "SCHEDULED", "QUEUED", "RUNNING", "RETRYING", "COMPLETED", "DEAD", "CANCELLED")
			sum := jobs.QueueView{Name: "all", Counts: map[string]int{}}
			for i := range queues {
				for _, s := range states {
					sum.Counts[s] += queues[i].Counts[s]
				}
			}
			for _, q := range slices.Concat(queues, []jobs.QueueView{sum}) {
				cells := []any{short(q.Name, 20)}
				for _, s := range states {
					cells = append(cells, q.Counts[s])
				}
				row(w, cells...)
			}
		})
	})}
}
