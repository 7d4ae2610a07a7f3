package jobs

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatehouse-proxy/gatehouse/backends/jobs"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/command"
)

const (
	// tailPage is how many of the newest jobs each look sees, tailPages how many pages of them at most.
	tailPage, tailPages = 200, 5
	// tailOld is how many jobs that are no longer among the newest are looked at each time.
	tailOld = 50
)

// tail remembers what was seen of jobs, by id.
type tail struct {
	o     *options
	query url.Values
	seen  map[string]string
	open  []string // ids of seen jobs that are not finished, the oldest first
	first bool     // nothing was looked at yet
}

func tailCommand(o *options) *cobra.Command {
	var pick choice
	var every, stop string
	c := &cobra.Command{Use: "tail", Short: "Prints each job that changes its state, until it is interrupted"}
	c.Flags().StringVar(&pick.queue, "queue", "", "only jobs of this queue")
	c.Flags().StringVar(&pick.kind, "kind", "", "only jobs of this kind")
	c.Flags().StringVar(&pick.key, "key", "", "only jobs of this key (tenant)")
	c.Flags().StringVar(&every, "interval", "1s", "how often to look, at least 100ms")
	c.Flags().StringVar(&stop, "for", "", "end after this time (default never)")
	c.RunE = o.run(0, 0, func(cmd *cobra.Command, _ []string) error {
		interval, err := unit.ParseDuration(every)
		if err != nil || interval.Std() < 100*time.Millisecond {
			return command.Usage(fmt.Errorf("--interval must be a duration of at least 100ms, such as 1s, not %q", every))
		}
		var ends <-chan time.Time
		if stop != "" {
			d, err := unit.ParseDuration(stop)
			if err != nil {
				return command.Usage(fmt.Errorf("--for: %w", err))
			}
			ends = time.After(d.Std())
		}
		q, err := pick.query(time.Now())
		if err != nil {
			return err
		}
		t := &tail{o: o, query: q, seen: map[string]string{}, first: true}
		tick := time.NewTicker(interval.Std())
		defer tick.Stop()
		for {
			if err = t.look(cmd.OutOrStdout()); err != nil {
				return err
			}
			select {
			case <-tick.C:
			case <-ends:
				return t.look(cmd.OutOrStdout())
			case <-cmd.Context().Done():
				return nil
			}
		}
	})
	return c
}

// look prints what changed since the look before.
func (t *tail) look(out io.Writer) error {
	found, err := t.newest()
	if err != nil {
		return err
	}
	for _, v := range slices.Concat(t.older(found), found) {
		if err = t.report(out, &v); err != nil {
			return err
		}
	}
	t.first = false
	return nil
}

// newest are the newest jobs, the oldest of them first, down to one that was seen before.
func (t *tail) newest() (all []jobs.View, err error) {
	q := url.Values{"limit": {strconv.Itoa(tailPage)}}
	for name, value := range t.query {
		q[name] = value
	}
	for range tailPages {
		var page struct {
			Items      []jobs.View
			NextCursor string `json:"next_cursor"`
		}
		if _, err = t.o.call(http.MethodGet, "/jobs", q, nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		known := slices.ContainsFunc(page.Items, func(v jobs.View) bool { return t.seen[v.ID] != "" })
		if known || t.first || page.NextCursor == "" {
			break
		}
		q.Set("cursor", page.NextCursor)
	}
	slices.Reverse(all)
	return all, nil
}

// older are jobs that were seen, are not finished, and are not among the newest.
func (t *tail) older(newest []jobs.View) (all []jobs.View) {
	var missing []string
	for _, id := range t.open {
		if !slices.ContainsFunc(newest, func(v jobs.View) bool { return v.ID == id }) {
			missing = append(missing, id)
		}
	}
	t.open = nil
	for i, id := range missing {
		if i >= tailOld {
			t.open = append(t.open, id)
			continue
		}
		var v jobs.View
		if _, err := t.o.call(http.MethodGet, "/jobs/"+id, nil, nil, &v); err != nil {
			delete(t.seen, id) // it is no longer kept
			continue
		}
		all = append(all, v)
	}
	return all
}

// report prints the job if it is in another state, or at another attempt, than it was.
func (t *tail) report(out io.Writer, v *jobs.View) error {
	now := v.State + " " + strconv.Itoa(v.Attempt)
	if v.FinishedAt == nil {
		t.open = append(t.open, v.ID)
	}
	if t.seen[v.ID] == now {
		return nil
	}
	t.seen[v.ID] = now
	if t.first {
		return nil
	}
	if t.o.json {
		return json.NewEncoder(out).Encode(v)
	}
	_, err := fmt.Fprintf(out, "%s  %-8s  %-14s  %-9s  %-5s  %s\n",
		time.Now().UTC().Format(time.TimeOnly), v.ID, short(v.Queue, 14), v.State, tries(v), lastError(v, 44))
	return err
}
