package jobs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/gatehouse-proxy/gatehouse/backends/jobs"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/command"
)

func schedulesCommand(cmd *cobra.Command) {
	o := new(options)
	pause := func(verb, does, done string) *cobra.Command {
		return &cobra.Command{Use: verb + " NAME", Short: does, RunE: o.run(1, 1, func(cmd *cobra.Command, args []string) error {
			raw, err := o.call(http.MethodPost, schedulePath(args[0])+"/"+verb, nil, nil, new(jobs.ScheduleView))
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), raw, func(w io.Writer) { _, _ = fmt.Fprintf(w, "The schedule %s %s.\n", args[0], done) })
		})}
	}
	o.group(cmd,
		schedulesLs(o),
		&cobra.Command{Use: "show NAME", Short: "Prints all of a schedule and its next ticks", RunE: o.run(1, 1, func(cmd *cobra.Command, args []string) error {
			var v jobs.ScheduleView
			raw, err := o.call(http.MethodGet, schedulePath(args[0]), nil, nil, &v)
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), raw, func(w io.Writer) { showSchedule(w, &v) })
		})},
		&cobra.Command{Use: "run NAME", Short: "Enqueues the schedule's job now; its ticks stay where they are", RunE: o.run(1, 1, func(cmd *cobra.Command, args []string) error {
			var r jobs.Receipt
			raw, err := o.call(http.MethodPost, schedulePath(args[0])+"/run", nil, nil, &r)
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), raw, func(w io.Writer) { _, _ = fmt.Fprintf(w, "The job %s is %s.\n", r.ID, r.State) })
		})},
		pause("pause", "Stops the ticks of a schedule", "is paused"),
		pause("resume", "Lets a schedule go on with its next tick; those in between are not made up for", "goes on"),
		schedulesSet(o),
		&cobra.Command{Use: "rm NAME", Short: "Removes a schedule; the jobs that it made stay", RunE: o.run(1, 1, func(cmd *cobra.Command, args []string) error {
			if _, err := o.call(http.MethodDelete, schedulePath(args[0]), nil, nil, nil); err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), json.RawMessage(`{"name":`+strconv.Quote(args[0])+`,"removed":true}`), func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "The schedule %s is removed.\n", args[0])
			})
		})},
	)
}

func schedulePath(name string) string { return "/schedules/" + url.PathEscape(name) }

func schedulesLs(o *options) *cobra.Command {
	var n int
	var cursor string
	c := &cobra.Command{Use: "ls", Short: "Lists the schedules"}
	c.Flags().IntVarP(&n, "lines", "n", 100, "how many schedules, 1 to 1000")
	c.Flags().StringVar(&cursor, "cursor", "", "the page that begins here, as the page before said")
	c.RunE = o.run(0, 0, func(cmd *cobra.Command, _ []string) error {
		var page struct {
			Items      []jobs.ScheduleView
			NextCursor string `json:"next_cursor"`
		}
		raw, err := o.call(http.MethodGet, "/schedules", url.Values{"limit": {strconv.Itoa(n)}, "cursor": {cursor}}, nil, &page)
		if err != nil {
			return err
		}
		return o.print(cmd.OutOrStdout(), raw, func(w io.Writer) {
			row(w, "NAME", "CRON", "TIMEZONE", "QUEUE", "STATE", "NEXT (UTC)")
			for i := range page.Items {
				v := &page.Items[i]
				row(w, short(v.Name, 20), short(v.Cron, 18), short(v.Timezone, 18), short(v.Queue, 14), scheduleState(v), clock(v.NextAt))
			}
			if page.NextCursor != "" {
				_, _ = fmt.Fprintf(w, "\nThere are more: --cursor %s\n", page.NextCursor)
			}
		})
	})
	return c
}

func scheduleState(v *jobs.ScheduleView) string {
	if v.Paused {
		return "paused"
	}
	return "active"
}

func showSchedule(w io.Writer, v *jobs.ScheduleView) {
	row(w, "name", v.Name)
	row(w, "cron", v.Cron)
	row(w, "timezone", v.Timezone)
	row(w, "queue", v.Queue)
	if v.Target != "" {
		row(w, "target", v.Target)
	}
	row(w, "payload", short(string(v.Payload), 80))
	row(w, "missed", v.Missed)
	row(w, "overlap", v.Overlap)
	for _, option := range []struct {
		name  string
		given bool
		value any
	}{
		{"jitter", v.Jitter > 0, v.Jitter}, {"start", v.Start != "", v.Start}, {"end", v.End != "", v.End}, {"key", v.Key != "", v.Key},
		{"unique key", v.UniqueKey != "", v.UniqueKey}, {"priority", v.Priority > 0, v.Priority}, {"attempts", v.Attempts > 0, v.Attempts},
		{"timeout", v.Timeout > 0, v.Timeout},
	} {
		if option.given {
			row(w, option.name, fmt.Sprint(option.value))
		}
	}
	from := "the API"
	if v.Configured {
		from = "the configuration"
	}
	row(w, "made by", from)
	row(w, "state", scheduleState(v))
	row(w, "last tick", clock(v.LastAt))
	row(w, "last job", or(v.LastJob))
	for i := range v.Upcoming {
		name := ""
		if i == 0 {
			name = "next ticks"
		}
		row(w, name, clock(&v.Upcoming[i]))
	}
}

func schedulesSet(o *options) *cobra.Command {
	var sc jobs.Schedule
	var data string
	c := &cobra.Command{Use: "set NAME --cron CRON", Short: "Adds a schedule, or replaces one that does not stand in the configuration"}
	f := c.Flags()
	f.StringVar(&sc.Cron, "cron", "", `when: five fields such as "30 2 * * *", or @hourly, or "@every 15m" (required)`)
	f.StringVar(&sc.Timezone, "timezone", "", "by whose clock, such as Europe/Berlin (default UTC)")
	f.StringVar(&sc.Queue, "queue", "", "the queue of the jobs (default: default)")
	f.StringVar(&data, "payload", "", "the payload of the jobs, JSON, or - to read it from the standard input (default null)")
	f.StringVar(&sc.Target, "target", "", "the URL to push the jobs to (default the queue's)")
	f.StringVar(&sc.Missed, "missed", "", "what becomes of ticks when no instance ran: skip, once or all (default once)")
	f.StringVar(&sc.Overlap, "overlap", "", "what a tick does while the run before is not finished: allow, skip or cancel (default allow)")
	f.Func("jitter", "each job is late by a random time up to this, such as 5m", into(&sc.Jitter))
	f.StringVar(&sc.Start, "start", "", "no tick before this time, as in RFC 3339, such as 2027-06-01T09:00:00Z")
	f.StringVar(&sc.End, "end", "", "no tick after this time")
	f.StringVar(&sc.Key, "key", "", "the key of the jobs")
	f.StringVar(&sc.UniqueKey, "unique-key", "", "the unique key of the jobs")
	f.IntVar(&sc.Priority, "priority", 0, "the priority of the jobs, 1 (the first to run) to 4")
	f.IntVar(&sc.Attempts, "attempts", 0, "how many times a job is tried (default the queue's)")
	f.Func("timeout", "how long one attempt may take, such as 30s (default the queue's)", into(&sc.Timeout))
	c.RunE = o.run(1, 1, func(cmd *cobra.Command, args []string) (err error) {
		if sc.Cron == "" {
			return command.Usage(errors.New(`--cron is missing, such as --cron "30 2 * * *"`))
		}
		if err = sc.CheckTime(); err != nil {
			return command.Usage(err)
		}
		if data != "" {
			if sc.Payload, err = payload(cmd.InOrStdin(), data); err != nil {
				return err
			}
		}
		var v jobs.ScheduleView
		raw, err := o.call(http.MethodPut, schedulePath(args[0]), nil, sc, &v)
		if err != nil {
			return err
		}
		return o.print(cmd.OutOrStdout(), raw, func(w io.Writer) {
			if v.NextAt == nil {
				_, _ = fmt.Fprintf(w, "The schedule %s is stored; it is paused.\n", v.Name)
				return
			}
			_, _ = fmt.Fprintf(w, "The schedule %s runs next at %s.\n", v.Name, v.NextAt.UTC().Format("2006-01-02 15:04:05 UTC"))
		})
	})
	return c
}

// into reads the value of a flag as a duration.
func into(v *unit.Duration) func(string) error {
	return func(s string) (err error) {
		*v, err = unit.ParseDuration(s)
		return err
	}
}
