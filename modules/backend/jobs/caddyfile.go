package jobs

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/gatehouse-proxy/gatehouse/backends/jobs"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/authority"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/dispense"
)

func init() { caddy.RegisterModule(new(Backend)) }

// UnmarshalCaddyfile reads the settings. Syntax:
//
//	backend jobs {
//		queue NAME {
//			target          URL                   # http, https or unix//run/app.sock:/path; default none, so each job names its own
//			public          on|off                # whether users may enqueue; default on, but off where verified webhooks are put in
//			user_targets                          # users, too, may name target and callback, within allow
//			pull                                  # workers lease the jobs over HTTP; excludes target
//			concurrency     N                     # jobs at once, over all instances; default 10
//			rate            N/DURATION [burst N]  # starts, evenly paced, over all instances; default unbounded
//			waiting         N                     # jobs that may wait, more are answered 429; default unbounded
//			key_concurrency N                     # the same for the jobs of one key
//			key_rate        N/DURATION [burst N]
//			key_waiting     N
//			attempts        N                     # tries before a job is dead, default 5
//			backoff         exponential DURATION  # full jitter, at most 1h; default exponential 2s
//			backoff         fixed DURATION
//			backoff         schedule DURATION...  # after the first, second, … attempt; the last one repeats
//			timeout         DURATION              # of one attempt, default 30s
//			max_age         DURATION              # a job is tried no longer than this; default unbounded
//			ordered                               # the jobs of a key run one after the other, through their retries
//			on_duplicate    keep|replace|debounce DURATION # of a unique_key that a waiting job holds; default keep
//			max_payload     SIZE                  # at most 8MiB, default 256KiB; more is answered 413
//			method          POST|PUT|PATCH        # of the pushes, default POST
//			header          NAME VALUE            # a further header of the pushes
//			ca              FILE                  # PEM; the targets are verified by these certificates alone
//			client_cert     CERT KEY              # PEM files; what is shown to targets that ask for a certificate
//			keep            completed N [DURATION]  # finished jobs kept, and how long; default 1000
//			keep            failed N [DURATION]   # dead jobs kept, and cancelled ones; default 5000
//			drain           DURATION              # what runs may go on for at a reload; default as below
//			breaker         { … }                 # when jobs are held back as their target fails, see below
//		}
//		owner         TEMPLATE                    # whose a caller's jobs are, such as {http.auth.user.tenant}; default {http.auth.user.id}
//		admin_role    ROLE                        # whose holders are operators; default admin
//		service_scope SCOPE                       # whose holders are services, the app itself; default jobs:write
//		breaker off                               # never; or the block:
//		breaker {
//			trip  N                               # failures in a row, default 5
//			pause DURATION [max DURATION]         # until one finds out how things are, default 2s max 1m
//			scope path|queue|origin|off           # which pushes fail together, default path
//		}
//		drain DURATION                            # what runs may go on for when the process ends, and at a reload; default 20s
//		owner_bytes SIZE                          # of the jobs of one owner, more are answered 429; default unbounded
//		allow HOST[:PORT][/PREFIX]...             # further places that jobs may name as their target; default below the queues' targets
//		ui                                        # a web page over the jobs at /jobs/ui, for operators
//		schedule NAME "CRON" {                    # five fields, @hourly and the like, or "@every DURATION"
//			queue    NAME                         # default: default
//			payload  JSON                         # default null
//			target   URL                          # its host must be allowed; default the queue's
//			timezone ZONE                         # such as Europe/Berlin, default UTC
//			missed   skip|once|all                # what becomes of ticks when no instance ran, default once
//			overlap  allow|skip|cancel            # what a tick does while the run before is not finished, default allow
//			jitter   DURATION                     # each job is late by a random time up to this; default none
//			start    TIME                         # no tick before, as in RFC 3339
//			end      TIME                         # no tick after
//			key      KEY                          # and unique_key, priority, attempts, timeout: those of the jobs
//		}
//	}
func (b *Backend) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the backend's name
	if err := dispense.End(d, "jobs"); err != nil {
		return err
	}
	if err := dispense.Block(d, "backend jobs", append(authority.Options(&b.Authority),
		dispense.Option{Name: "queue", Repeats: true, Parse: b.parseQueue},
		breaker(&b.Breaker),
		dispense.Option{Name: "drain", Parse: func(d *caddyfile.Dispenser) error { return parseDuration(d, &b.Drain) }},
		dispense.Option{Name: "owner_bytes", Parse: func(d *caddyfile.Dispenser) error { return dispense.Size(d, &b.OwnerBytes) }},
		dispense.Option{Name: "allow", Repeats: true, Parse: b.parseAllow},
		dispense.Option{Name: "schedule", Repeats: true, Parse: b.parseSchedule},
		dispense.Option{Name: "ui", Parse: func(d *caddyfile.Dispenser) error { return dispense.Flag(d, &b.UI) }},
	)...); err != nil {
		return err
	}
	return b.check(d, b.Config)
}

// check turns what the configuration finds wrong into an error with a line.
func (b *Backend) check(d *caddyfile.Dispenser, c jobs.Config) error {
	if err := c.Validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// name reads the name that begins a queue or a schedule.
func name(d *caddyfile.Dispenser) (string, error) {
	what := d.Val()
	if !d.NextArg() {
		return "", d.Errf("%s needs a name", what)
	}
	return d.Val(), nil
}

func (b *Backend) parseQueue(d *caddyfile.Dispenser) error {
	called, err := name(d)
	if err != nil {
		return err
	}
	if err = dispense.End(d, "queue "+called); err != nil {
		return err
	}
	if _, ok := b.Queues[called]; ok {
		return d.Errf("queue %s is given twice, keep one block", called)
	}
	var q jobs.Queue
	number := func(name string, v *int) dispense.Option {
		return dispense.Option{Name: name, Parse: func(d *caddyfile.Dispenser) error { return dispense.Int(d, v, 1) }}
	}
	rate := func(name string, v *jobs.Rate) dispense.Option {
		return dispense.Option{Name: name, Parse: func(d *caddyfile.Dispenser) error { return parseWords(d, v, jobs.ParseRate) }}
	}
	duration := func(name string, v *unit.Duration) dispense.Option {
		return dispense.Option{Name: name, Parse: func(d *caddyfile.Dispenser) error { return parseDuration(d, v) }}
	}
	err = dispense.Block(d, "queue",
		dispense.Option{Name: "target", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &q.Target) }},
		dispense.Option{Name: "public", Parse: func(d *caddyfile.Dispenser) error { return parseSwitch(d, &q.Public) }},
		dispense.Option{Name: "user_targets", Parse: func(d *caddyfile.Dispenser) error { return dispense.Flag(d, &q.UserTargets) }},
		dispense.Option{Name: "pull", Parse: func(d *caddyfile.Dispenser) error { return dispense.Flag(d, &q.Pull) }},
		number("concurrency", &q.Concurrency),
		rate("rate", &q.Rate),
		number("waiting", &q.Waiting),
		number("key_concurrency", &q.KeyConcurrency),
		rate("key_rate", &q.KeyRate),
		number("key_waiting", &q.KeyWaiting),
		number("attempts", &q.Attempts),
		dispense.Option{Name: "backoff", Parse: func(d *caddyfile.Dispenser) error { return parseWords(d, &q.Backoff, jobs.ParseBackoff) }},
		duration("timeout", &q.Timeout),
		duration("max_age", &q.MaxAge),
		duration("drain", &q.Drain),
		breaker(&q.Breaker),
		dispense.Option{Name: "ordered", Parse: func(d *caddyfile.Dispenser) error { return dispense.Flag(d, &q.Ordered) }},
		dispense.Option{Name: "on_duplicate", Parse: func(d *caddyfile.Dispenser) error { return parseWords(d, &q.OnDuplicate, jobs.ParseOnDuplicate) }},
		dispense.Option{Name: "max_payload", Parse: func(d *caddyfile.Dispenser) error { return dispense.Size(d, &q.MaxPayload) }},
		dispense.Option{Name: "method", Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, &q.Method) }},
		dispense.Option{Name: "header", Repeats: true, Parse: func(d *caddyfile.Dispenser) error { return parseHeader(d, &q.Header) }},
		dispense.Option{Name: "ca", Parse: func(d *caddyfile.Dispenser) error { return parseCA(d, &q.CA) }},
		dispense.Option{Name: "client_cert", Parse: func(d *caddyfile.Dispenser) error { return parseClientCert(d, &q.ClientCert) }},
		dispense.Option{Name: "keep", Repeats: true, Parse: func(d *caddyfile.Dispenser) error { return parseKeep(d, &q.Keep) }},
	)
	if err != nil {
		return err
	}
	if b.Queues == nil {
		b.Queues = map[string]jobs.Queue{}
	}
	b.Queues[called] = q
	return b.check(d, jobs.Config{Queues: b.Queues})
}

func (b *Backend) parseAllow(d *caddyfile.Dispenser) error {
	if err := dispense.Strings(d, &b.Allow); err != nil {
		return err
	}
	return b.check(d, jobs.Config{Allow: b.Allow})
}

// parseSchedule reads a schedule. What it depends on, its queue and target, may stand further down.
func (b *Backend) parseSchedule(d *caddyfile.Dispenser) error {
	called, err := name(d)
	if err != nil {
		return err
	}
	if _, ok := b.Schedules[called]; ok {
		return d.Errf("schedule %s is given twice, keep one block", called)
	}
	var sc jobs.Schedule
	switch args := d.RemainingArgs(); {
	case len(args) == 1:
		sc.Cron = args[0]
	case len(args) > 1 && !strings.Contains(strings.Join(args, ""), " "):
		return d.Errf("schedule %s: put the cron expression in quotes, such as: schedule %s \"%s\"", called, called, strings.Join(args, " "))
	default:
		return d.Errf("schedule %s needs one cron expression, such as: schedule %s \"30 2 * * *\"", called, called)
	}
	text := func(name string, v *string) dispense.Option {
		return dispense.Option{Name: name, Parse: func(d *caddyfile.Dispenser) error { return dispense.String(d, v) }}
	}
	err = dispense.Block(d, "schedule",
		text("queue", &sc.Queue),
		dispense.Option{Name: "payload", Parse: func(d *caddyfile.Dispenser) error { return parsePayload(d, &sc.Payload) }},
		text("target", &sc.Target),
		text("timezone", &sc.Timezone),
		text("missed", &sc.Missed),
		text("overlap", &sc.Overlap),
		dispense.Option{Name: "jitter", Parse: func(d *caddyfile.Dispenser) error { return parseDuration(d, &sc.Jitter) }},
		text("start", &sc.Start),
		text("end", &sc.End),
		text("key", &sc.Key),
		text("unique_key", &sc.UniqueKey),
		dispense.Option{Name: "priority", Parse: func(d *caddyfile.Dispenser) error { return dispense.Int(d, &sc.Priority, 1) }},
		dispense.Option{Name: "attempts", Parse: func(d *caddyfile.Dispenser) error { return dispense.Int(d, &sc.Attempts, 1) }},
		dispense.Option{Name: "timeout", Parse: func(d *caddyfile.Dispenser) error { return parseDuration(d, &sc.Timeout) }},
	)
	if err != nil {
		return err
	}
	if err = sc.CheckTime(); err != nil {
		return d.Errf("schedule %s: %v", called, err)
	}
	if b.Schedules == nil {
		b.Schedules = map[string]jobs.Schedule{}
	}
	b.Schedules[called] = sc
	return nil
}

// parsePayload reads JSON, which takes quotes or backticks around it where it has spaces.
func parsePayload(d *caddyfile.Dispenser, v *json.RawMessage) error {
	var s string
	if err := dispense.String(d, &s); err != nil {
		return err
	}
	if !json.Valid([]byte(s)) {
		return d.Errf("payload must be JSON, put it in backticks, such as: payload `{\"report\": \"daily\"}`")
	}
	*v = json.RawMessage(s)
	return nil
}

// parseWords reads the words on the rest of the line.
func parseWords[T any](d *caddyfile.Dispenser, v *T, read func(string) (T, error)) error {
	name := d.Val()
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Errf("%s needs a value", name)
	}
	value, err := read(strings.Join(args, " "))
	if err != nil {
		if !strings.HasPrefix(err.Error(), name) {
			return d.Errf("%s: %v", name, err)
		}
		return d.WrapErr(err)
	}
	*v = value
	return nil
}

// parseSwitch reads on or off.
func parseSwitch(d *caddyfile.Dispenser, v **bool) error {
	var s string
	name := d.Val()
	if err := dispense.String(d, &s); err != nil {
		return err
	}
	if s != "on" && s != "off" {
		return d.Errf("%s must be on or off, not %q", name, s)
	}
	on := s == "on"
	*v = &on
	return nil
}

// parseDuration reads a duration above 0.
func parseDuration(d *caddyfile.Dispenser, v *unit.Duration) error {
	name := d.Val()
	if err := dispense.Duration(d, v); err != nil {
		return err
	}
	if *v == 0 {
		return d.Errf("%s must be above 0", name)
	}
	return nil
}

func parseKeep(d *caddyfile.Dispenser, k *jobs.Keep) error {
	if !d.NextArg() {
		return d.Err("keep needs a state and a number, such as: keep completed 1000")
	}
	state := d.Val()
	n, age := new(int), &k.CompletedFor
	switch {
	case state == "completed" && k.Completed == nil:
		k.Completed = n
	case state == "failed" && k.Failed == nil:
		k.Failed, age = n, &k.FailedFor
	case state == "completed" || state == "failed":
		return d.Errf("keep %s is given twice, keep one of the lines", state)
	default:
		return d.Errf("keep: %s", dispense.Unknown("state", state, []string{"completed", "failed"}))
	}
	args := d.RemainingArgs()
	if len(args) < 1 || len(args) > 2 {
		return d.Errf("keep %s needs a number, and may have a duration, such as: keep %s 1000 7d", state, state)
	}
	var err error
	if *n, err = strconv.Atoi(args[0]); err != nil || *n < 0 {
		return d.Errf("keep %s: %q is not a number of jobs", state, args[0])
	}
	if len(args) == 1 {
		return nil
	}
	if *age, err = unit.ParseDuration(args[1]); err != nil {
		return d.Errf("keep %s: %v", state, err)
	}
	if *age == 0 {
		return d.Errf("keep %s: the duration must be above 0", state)
	}
	return nil
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Backend)(nil)
