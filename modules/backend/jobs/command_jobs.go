package jobs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/gatehouse-proxy/gatehouse/backends/jobs"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/command"
)

func jobsCommand(cmd *cobra.Command) {
	o := new(options)
	o.group(cmd, enqueueCommand(o), lsCommand(o), showCommand(o), retryCommand(o), cancelCommand(o), groupsCommand(o),
		statsCommand(o), tailCommand(o), benchCommand(o))
}

// choice are the flags that choose jobs.
type choice struct{ queue, state, kind, key, text, since, until string }

func (c *choice) flags(f *pflag.FlagSet) {
	f.StringVar(&c.queue, "queue", "", "only jobs of this queue")
	f.StringVar(&c.state, "state", "", "only jobs in this state: scheduled, queued, running, retrying, completed, dead or cancelled")
	f.StringVar(&c.kind, "kind", "", "only jobs of this kind: push, or a kind of the queue internal")
	f.StringVar(&c.key, "key", "", "only jobs of this key (tenant)")
	f.StringVar(&c.text, "error", "", "only jobs whose last error has this text in it")
	f.StringVar(&c.since, "since", "", "only jobs that ended, or were created, since: a time, or how long ago, such as 2h")
	f.StringVar(&c.until, "until", "", "only jobs that ended, or were created, until: a time, or how long ago")
}

// members are what was chosen, by the names of the API.
func (c *choice) members(now time.Time) (map[string]string, error) {
	since, err := moment("since", c.since, now)
	if err != nil {
		return nil, err
	}
	until, err := moment("until", c.until, now)
	if err != nil {
		return nil, err
	}
	all := map[string]string{"queue": c.queue, "state": c.state, "kind": c.kind, "key": c.key, "error": c.text, "since": since, "until": until}
	for name, value := range all {
		if value == "" {
			delete(all, name)
		}
	}
	return all, nil
}

func (c *choice) query(now time.Time) (url.Values, error) {
	members, err := c.members(now)
	q := url.Values{}
	for name, value := range members {
		q.Set(name, value)
	}
	return q, err
}

func enqueueCommand(o *options) *cobra.Command {
	text := map[string]*string{}
	var priority, attempts int
	c := &cobra.Command{Use: "enqueue PAYLOAD", Short: "Enqueues a job; PAYLOAD is JSON, or - to read it from the standard input"}
	f := c.Flags()
	for _, flag := range [][2]string{
		{"queue", "the queue (default: default)"},
		{"target", "the URL to push the job to (default the queue's)"},
		{"delay", "run it after this time, such as 10m"},
		{"run-at", "run it at this time, such as 2027-06-01T09:00:00Z"},
		{"unique-key", "do nothing if a job with this key waits, runs or was completed lately"},
		{"key", "the tenant: keys take turns"},
		{"backoff", `the wait after a failed attempt, such as "exponential 2s"`},
		{"timeout", "how long one attempt may take"},
		{"max-age", "how long the job is tried at most"},
		{"callback", "the URL that is told of the end"},
	} {
		text[flag[0]] = f.String(flag[0], "", flag[1])
	}
	f.IntVar(&priority, "priority", 0, "1, the first to run, to 4")
	f.IntVar(&attempts, "attempts", 0, "tries before the job is dead")
	members := map[string]string{"run-at": "run_at", "unique-key": "unique_key", "max-age": "max_age"}
	c.RunE = o.run(1, 1, func(cmd *cobra.Command, args []string) error {
		p, err := payload(cmd.InOrStdin(), args[0])
		if err != nil {
			return err
		}
		body := map[string]any{"payload": p}
		for flag, value := range text {
			if name, ok := members[flag]; ok && *value != "" {
				body[name] = *value
			} else if *value != "" {
				body[flag] = *value
			}
		}
		if f.Changed("priority") {
			body["priority"] = priority
		}
		if f.Changed("attempts") {
			body["attempts"] = attempts
		}
		var r jobs.Receipt
		raw, err := o.call(http.MethodPost, "/jobs", nil, body, &r)
		if err != nil {
			return err
		}
		return o.print(cmd.OutOrStdout(), raw, func(w io.Writer) {
			if r.Duplicate {
				_, _ = fmt.Fprintf(w, "Nothing was enqueued: the job %s, which is %s, has that unique key.\n", r.ID, r.State)
				return
			}
			_, _ = fmt.Fprintf(w, "The job %s is %s.\n", r.ID, r.State)
		})
	})
	return c
}

func lsCommand(o *options) *cobra.Command {
	var pick choice
	var n int
	var cursor string
	c := &cobra.Command{Use: "ls", Short: "Lists jobs, the newest first"}
	pick.flags(c.Flags())
	c.Flags().IntVarP(&n, "lines", "n", 20, "how many jobs, 1 to 1000")
	c.Flags().StringVar(&cursor, "cursor", "", "the page that begins here, as the page before said")
	c.RunE = o.run(0, 0, func(cmd *cobra.Command, _ []string) error {
		q, err := pick.query(time.Now())
		if err != nil {
			return err
		}
		q.Set("limit", strconv.Itoa(n))
		if cursor != "" {
			q.Set("cursor", cursor)
		}
		var page struct {
			Items      []jobs.View `json:"items"`
			NextCursor string      `json:"next_cursor"`
		}
		raw, err := o.call(http.MethodGet, "/jobs", q, nil, &page)
		if err != nil {
			return err
		}
		return o.print(cmd.OutOrStdout(), raw, func(w io.Writer) {
			row(w, "ID", "QUEUE", "STATE", "TRIES", "CREATED", "LAST ERROR")
			for i := range page.Items {
				v := &page.Items[i]
				row(w, v.ID, short(v.Queue, 16), v.State, tries(v), clock(&v.CreatedAt), lastError(v, 32))
			}
			if page.NextCursor != "" {
				_, _ = fmt.Fprintf(w, "\nThere are more: --cursor %s\n", page.NextCursor)
			}
		})
	})
	return c
}

func tries(v *jobs.View) string { return fmt.Sprintf("%d/%d", v.Attempt, v.MaxAttempts) }

// lastError is the newest failure in n characters.
func lastError(v *jobs.View, n int) string {
	if len(v.Errors) == 0 {
		return "-"
	}
	f := v.Errors[len(v.Errors)-1]
	if f.Status > 0 {
		return short(strconv.Itoa(f.Status)+" "+f.Message, n)
	}
	return short(f.Message, n)
}

func showCommand(o *options) *cobra.Command {
	return &cobra.Command{Use: "show ID", Short: "Prints all of a job: its payload, its attempts and what they ended in", RunE: o.run(1, 1, func(cmd *cobra.Command, args []string) error {
		var v jobs.View
		raw, err := o.call(http.MethodGet, "/jobs/"+url.PathEscape(args[0]), nil, nil, &v)
		if err != nil {
			return err
		}
		return o.print(cmd.OutOrStdout(), raw, func(w io.Writer) { showJob(w, &v) })
	})}
}

func showJob(w io.Writer, v *jobs.View) {
	row(w, "id", v.ID)
	row(w, "queue", v.Queue)
	row(w, "state", v.State)
	row(w, "tries", tries(v))
	for _, line := range [][2]string{
		{"waiting for", v.WaitingFor},
		{"kind", v.Kind}, {"target", v.Target}, {"key", v.Key}, {"unique key", v.UniqueKey}, {"schedule", v.Schedule}, {"callback", v.Callback},
		{"worker", v.Worker}, {"progress", string(v.Progress)}, {"result", string(v.Result)},
	} {
		if line[1] != "" {
			row(w, line[0], short(line[1], 80))
		}
	}
	row(w, "created", clock(&v.CreatedAt))
	row(w, "runs at", clock(&v.RunAt))
	row(w, "started", clock(v.StartedAt))
	row(w, "finished", clock(v.FinishedAt))
	if len(v.Payload) > 0 {
		row(w, "payload", short(string(v.Payload), 80))
	}
	if len(v.Errors) == 0 {
		return
	}
	row(w)
	row(w, "TRY", "AT", "STATUS", "ERROR")
	for _, f := range v.Errors {
		status := "-"
		if f.Status > 0 {
			status = strconv.Itoa(f.Status)
		}
		row(w, f.Attempt, clock(&f.Time), status, short(f.Message, 56))
	}
}

// bulkFlags are those of retry and cancel.
type bulkFlags struct {
	choice
	cause  string
	limit  int
	dryRun bool
}

func (b *bulkFlags) flags(f *pflag.FlagSet) {
	b.choice.flags(f)
	f.StringVar(&b.cause, "cause", "", "only jobs of this group, as jobs groups prints it with --json")
	f.IntVar(&b.limit, "limit", 0, "the most jobs, the newest first (default all)")
	f.BoolVar(&b.dryRun, "dry-run", false, "say how many there are, and change nothing")
}

// bulk changes the jobs that the flags choose.
func (o *options) bulk(out io.Writer, b *bulkFlags, verb, done string) error {
	members, err := b.members(time.Now())
	if err != nil {
		return err
	}
	if len(members) == 0 && b.cause == "" {
		return command.Usage(fmt.Errorf("name the jobs to %s, or choose them by a flag, such as --queue email", verb))
	}
	body := map[string]any{"dry_run": b.dryRun}
	for name, value := range members {
		body[name] = value
	}
	if b.cause != "" {
		body["cause"] = b.cause
	}
	if b.limit > 0 {
		body["limit"] = b.limit
	}
	var r jobs.BulkReceipt
	raw, err := o.call(http.MethodPost, "/jobs/"+verb, nil, body, &r)
	if err != nil {
		return err
	}
	return o.print(out, raw, func(w io.Writer) {
		if b.dryRun {
			_, _ = fmt.Fprintf(w, "%s would be %s.\n", plural(r.Count), done)
			return
		}
		if r.Count == 1 {
			_, _ = fmt.Fprintf(w, "1 job is %s.\n", done)
		} else {
			_, _ = fmt.Fprintf(w, "%d jobs are %s.\n", r.Count, done)
		}
		if r.Skipped > 0 {
			_, _ = fmt.Fprintf(w, "%s left alone, as other jobs have taken over the unique keys.\n", plural(r.Skipped))
		}
	})
}

func plural(n int) string {
	if n == 1 {
		return "1 job"
	}
	return strconv.Itoa(n) + " jobs"
}

// each does one thing to each named job and prints what became of it. It goes on after one that fails.
func (o *options) each(cmd *cobra.Command, ids []string, b *bulkFlags, body any, method, suffix string) error {
	if b.dryRun {
		return command.Usage(errors.New("--dry-run counts what flags choose; it cannot stand beside named jobs"))
	}
	if members, err := b.members(time.Now()); err != nil || len(members) > 0 || b.cause != "" {
		return command.Usage(errors.New("name jobs, or choose them by flags, not both"))
	}
	var failed error
	for _, id := range ids {
		var r jobs.Receipt
		raw, err := o.call(method, "/jobs/"+url.PathEscape(id)+suffix, nil, body, &r)
		if err == nil {
			err = o.print(cmd.OutOrStdout(), raw, func(w io.Writer) {
				if r.Cancelling {
					_, _ = fmt.Fprintf(w, "The job %s runs and is asked to stop.\n", r.ID)
					return
				}
				_, _ = fmt.Fprintf(w, "The job %s is %s.\n", r.ID, r.State)
			})
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

func retryCommand(o *options) *cobra.Command {
	var b bulkFlags
	var with string
	c := &cobra.Command{Use: "retry [ID...]", Short: "Puts jobs back into their queues: the named ones, or those that flags choose (dead ones without --state)"}
	b.flags(c.Flags())
	c.Flags().StringVar(&with, "payload", "", "another payload for the named job")
	c.RunE = o.run(0, -1, func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			if with != "" {
				return command.Usage(errors.New("--payload needs the job whose payload it shall be"))
			}
			return o.bulk(cmd.OutOrStdout(), &b, "retry", "queued again")
		}
		var body any
		if with != "" {
			p, err := payload(cmd.InOrStdin(), with)
			if err != nil {
				return err
			}
			body = map[string]json.RawMessage{"payload": p}
		}
		return o.each(cmd, args, &b, body, http.MethodPost, "/retry")
	})
	return c
}

func cancelCommand(o *options) *cobra.Command {
	var b bulkFlags
	c := &cobra.Command{Use: "cancel [ID...]", Short: "Cancels jobs: the named ones, or those that flags choose; one that runs is asked to stop"}
	b.flags(c.Flags())
	c.RunE = o.run(0, -1, func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return o.bulk(cmd.OutOrStdout(), &b, "cancel", "cancelled")
		}
		return o.each(cmd, args, &b, nil, http.MethodDelete, "")
	})
	return c
}

func groupsCommand(o *options) *cobra.Command {
	var pick choice
	c := &cobra.Command{Use: "groups", Short: "Lists dead jobs by what killed them, the largest group first"}
	pick.flags(c.Flags())
	c.RunE = o.run(0, 0, func(cmd *cobra.Command, _ []string) error {
		q, err := pick.query(time.Now())
		if err != nil {
			return err
		}
		var page struct{ Items []jobs.Group }
		raw, err := o.call(http.MethodGet, "/jobs/groups", q, nil, &page)
		if err != nil {
			return err
		}
		return o.print(cmd.OutOrStdout(), raw, func(w io.Writer) {
			row(w, "JOBS", "QUEUE", "STATUS", "LAST", "EXAMPLE", "MESSAGE")
			for _, g := range page.Items {
				status := "-"
				if g.Status > 0 {
					status = strconv.Itoa(g.Status)
				}
				row(w, g.Count, short(g.Queue, 16), status, clock(&g.Last), g.ExampleID, short(g.Message, 32))
			}
		})
	})
	return c
}
