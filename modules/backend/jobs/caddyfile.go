package jobs

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/gatehouse-proxy/gatehouse/backends/jobs"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
)

func init() { caddy.RegisterModule(new(Backend)) }

// UnmarshalCaddyfile reads the settings. Syntax:
//
//	backend jobs {
//		queue NAME {
//			target      URL                   # http or https; default none, so each job names its own
//			concurrency N                     # jobs at once, default 10
//			attempts    N                     # tries before a job is dead, default 5
//			backoff     exponential DURATION  # full jitter, at most 1h; default exponential 2s
//			backoff     fixed DURATION
//			timeout     DURATION              # of one attempt, default 30s
//			keep        completed N           # finished jobs kept, default 1000
//			keep        failed N              # dead jobs kept, and cancelled ones, default 5000
//		}
//		allow HOST[:PORT]...                      # further hosts that jobs may name as their target
//	}
func (b *Backend) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the backend's name
	if err := dispense.End(d, "jobs"); err != nil {
		return err
	}
	return dispense.Block(d, "backend jobs",
		dispense.Option{Name: "queue", Repeats: true, Parse: b.parseQueue},
		dispense.Option{Name: "allow", Repeats: true, Parse: b.parseAllow},
	)
}

// check turns what the configuration finds wrong into an error with a line.
func (b *Backend) check(d *caddyfile.Dispenser) error {
	if err := b.Config.Validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (b *Backend) parseQueue(d *caddyfile.Dispenser) error {
	var name string
	if err := dispense.String(d, &name); err != nil {
		return err
	}
	if _, ok := b.Queues[name]; ok {
		return d.Errf("queue %s is given twice, keep one block", name)
	}
	var q jobs.Queue
	err := dispense.Block(d, "queue",
		dispense.Option{Name: "target", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &q.Target) }},
		dispense.Option{Name: "concurrency", Parse: func(d *caddyfile.Dispenser) error { return dispense.Int(d, &q.Concurrency, 1) }},
		dispense.Option{Name: "attempts", Parse: func(d *caddyfile.Dispenser) error { return dispense.Int(d, &q.Attempts, 1) }},
		dispense.Option{Name: "backoff", Parse: func(d *caddyfile.Dispenser) error { return parseBackoff(d, &q.Backoff) }},
		dispense.Option{Name: "timeout", Parse: func(d *caddyfile.Dispenser) error {
			if err := dispense.Duration(d, &q.Timeout); err != nil {
				return err
			}
			if q.Timeout == 0 {
				return d.Err("timeout must be above 0")
			}
			return nil
		}},
		dispense.Option{Name: "keep", Repeats: true, Parse: func(d *caddyfile.Dispenser) error { return parseKeep(d, &q.Keep) }},
	)
	if err != nil {
		return err
	}
	if b.Queues == nil {
		b.Queues = map[string]jobs.Queue{}
	}
	b.Queues[name] = q
	return b.check(d)
}

func (b *Backend) parseAllow(d *caddyfile.Dispenser) error {
	if err := dispense.Strings(d, &b.Allow); err != nil {
		return err
	}
	return b.check(d)
}

func parseBackoff(d *caddyfile.Dispenser, b *jobs.Backoff) error {
	args := d.RemainingArgs()
	if len(args) != 2 {
		return d.Err("backoff needs a kind and a duration, such as: backoff exponential 2s")
	}
	v, err := jobs.ParseBackoff(args[0] + " " + args[1])
	if err != nil {
		return d.WrapErr(err)
	}
	*b = v
	return nil
}

func parseKeep(d *caddyfile.Dispenser, k *jobs.Keep) error {
	if !d.NextArg() {
		return d.Err("keep needs a state and a number, such as: keep completed 1000")
	}
	n := new(int)
	switch state := d.Val(); {
	case state == "completed" && k.Completed == nil:
		k.Completed = n
	case state == "failed" && k.Failed == nil:
		k.Failed = n
	case state == "completed" || state == "failed":
		return d.Errf("keep %s is given twice, keep one of the lines", state)
	default:
		return d.Errf("keep: %s", dispense.Unknown("state", state, []string{"completed", "failed"}))
	}
	return dispense.Int(d, n, 0)
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Backend)(nil)
