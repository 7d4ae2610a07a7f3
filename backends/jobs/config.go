package jobs

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/egress"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

// The bounds of what a configuration and a request may ask for.
const (
	maxConcurrency = 10_000
	maxAttempts    = 1000
	maxTimeout     = 24 * time.Hour
	maxName        = 64
	// maxDrain leaves some of the host's time to store the ends of what is cut off.
	maxDrain = 25 * time.Second
)

// defaultQueue exists in every configuration.
const defaultQueue = "default"

// Config is the configuration of the jobs backend. The zero value has the queue "default" without
// a target, and works.
type Config struct {
	service.Authority

	// Queues are the queues by name. A name has lower-case letters and digits, parted by single
	// hyphens or underscores. The queue "default" always exists; "internal", and what begins with
	// "internal-", belongs to the gateway.
	Queues map[string]Queue `json:"queues,omitempty"`
	// Allow lists the places that a job may name as its target or callback, each as HOST, for any port,
	// HOST:PORT or HOST:PORT/path/prefix. What is below the target of a queue is allowed as well. Nothing
	// else is ever dialled; of the gateway itself only sites whose host and port stand here or in the target
	// of a queue, and never its admin endpoint. Default: none.
	Allow []string `json:"allow,omitempty"`
	// UI mounts a web page over the jobs at /jobs/ui, for operators. Default: off.
	UI bool `json:"ui,omitempty"`
	// Drain is how long what runs may go on when the process ends, up to 25s, and when the configuration changes
	// the time of the queues without their own. Default: 20s.
	Drain unit.Duration `json:"drain,omitempty"`
	// OwnerBytes bounds the jobs of one owner: their payloads and 1KiB for each, with those that are kept after
	// their end. More are refused with 429. It is counted once a second at most. Default: no bound.
	OwnerBytes unit.Size `json:"owner_bytes,omitempty"`
	// Breaker is that of the queues that do not have their own.
	Breaker Breaker `json:"breaker,omitzero"`
	// Schedules are the schedules by name; names are like those of queues.
	Schedules map[string]Schedule `json:"schedules,omitempty"`
}

// Queue is the configuration of one queue.
type Queue struct {
	// Target is the http or https URL that jobs are pushed to, or "unix/" with the absolute path of a socket,
	// a colon and the path of the URL, such as unix//run/app.sock:/tasks. Default: none, so each job names its own.
	Target string `json:"target,omitempty"`
	// Public says whether users may put jobs into the queue; services and operators may in any case. Default:
	// true, but for a queue that verified webhooks are put into.
	Public *bool `json:"public,omitempty"`
	// UserTargets says that users, too, may name the target and the callback of their jobs, within Allow. A
	// target of the app that believes pushes, such as that of another queue, must then not be within it.
	// Default: off.
	UserTargets bool `json:"user_targets,omitempty"`
	// Pull says that workers lease the jobs over HTTP; none is pushed, and Target must be empty.
	Pull bool `json:"pull,omitempty"`
	// Concurrency is how many jobs of the queue run at once, over all instances, 1 to 10000. Default: 10, and 10000 for
	// a pull queue, whose workers are their own bound.
	Concurrency int `json:"concurrency,omitempty"`
	// Rate bounds how many jobs start in a time, over all instances. Default: no bound.
	Rate Rate `json:"rate,omitzero"`
	// KeyConcurrency is Concurrency for the jobs of one key. Default: no bound of its own.
	KeyConcurrency int `json:"key_concurrency,omitempty"`
	// KeyRate is Rate for the jobs of one key. Default: no bound.
	KeyRate Rate `json:"key_rate,omitzero"`
	// Waiting is how many jobs may wait; more are refused with 429. Default: no bound.
	Waiting int `json:"waiting,omitempty"`
	// KeyWaiting is Waiting for the jobs of one key. Default: no bound.
	KeyWaiting int `json:"key_waiting,omitempty"`
	// Attempts is how many times a job is tried before it is dead, 1 to 1000. Default: 5.
	Attempts int `json:"attempts,omitempty"`
	// Backoff is the wait after a failed attempt: "exponential DURATION", "fixed DURATION" or
	// "schedule DURATION...". Default: "exponential 2s".
	Backoff Backoff `json:"backoff,omitzero"`
	// Timeout is how long one attempt may take, up to 24h. Default: 30s.
	Timeout unit.Duration `json:"timeout,omitempty"`
	// MaxAge is how long after its first due time a job is still tried; then it is dead. Default: no bound.
	MaxAge unit.Duration `json:"max_age,omitempty"`
	// Drain is how long the pushes of the queue that run may go on when the configuration changes, up to 24h,
	// while the new one works the queue already. When the process ends Config.Drain bounds it. What is cut off
	// goes back to the queue without losing an attempt. Default: Config.Drain.
	Drain unit.Duration `json:"drain,omitempty"`
	// Keep is how many finished jobs are kept for inspection, and how long.
	Keep Keep `json:"keep,omitzero"`
	// Breaker says when pushes are held back. What it leaves out is as in Config.Breaker.
	Breaker Breaker `json:"breaker,omitzero"`
	// Ordered says that the jobs of one key run one after the other, in the order in which they came: the
	// next one starts when the one before is completed, dead or cancelled, also while that waits for a
	// retry. One with a delay takes its place when it is due. Jobs without a key have no order. Default: off.
	Ordered bool `json:"ordered,omitempty"`
	// OnDuplicate is what becomes of a job whose unique key another job holds: "keep" answers with that
	// job, "replace" lets one that still waits take over the new payload and options, "debounce DURATION"
	// does too and has it run so long after the last of its orders. With the latter two a job holds its
	// key only until it starts. Default: keep.
	OnDuplicate OnDuplicate `json:"on_duplicate,omitzero"`
	// MaxPayload is the largest payload, up to 8MiB. Default: 256KiB.
	MaxPayload unit.Size `json:"max_payload,omitempty"`
	// Method is the method of the pushes: POST, PUT or PATCH. Default: POST.
	Method string `json:"method,omitempty"`
	// Header are further headers of the pushes. They go over those of the job, and not over those that
	// this backend sets.
	Header map[string]string `json:"header,omitempty"`
	// CA is a file with certificates in PEM: the targets of the queue are verified by these alone. It is
	// read again when it changes. Default: the system's.
	CA string `json:"ca,omitempty"`
	// ClientCert is what this gateway shows to the targets that ask for a certificate. Default: none.
	ClientCert *ClientCert `json:"client_cert,omitempty"`
}

// ClientCert is a certificate with its private key, in files in PEM that are read again when they change.
type ClientCert struct {
	Cert string `json:"cert"`
	Key  string `json:"key"`
}

// minOwnerBytes is the smallest owner_bytes: the largest payload of a queue with the default fits.
const minOwnerBytes = 1 << 20

// maxMaxPayload is the largest max_payload.
const maxMaxPayload = 8 << 20

// maxPayload is MaxPayload with its default.
func (q Queue) maxPayload() int {
	if q.MaxPayload == 0 {
		return maxPayload
	}
	return int(q.MaxPayload)
}

// Keep is how many finished jobs of a queue are kept, and how long; what is beyond either is deleted
// within a minute, the oldest first. A completed job whose unique key is still remembered is kept regardless.
type Keep struct {
	// Completed is the number of completed jobs. 0 keeps none. Default: 1000.
	Completed *int `json:"completed,omitempty"`
	// CompletedFor is how long a completed job is kept at most. Default: no bound.
	CompletedFor unit.Duration `json:"completed_for,omitempty"`
	// Failed is the number of dead jobs, and the number of cancelled ones. 0 keeps none. Default: 5000.
	Failed *int `json:"failed,omitempty"`
	// FailedFor is how long a dead or cancelled job is kept at most. Default: no bound.
	FailedFor unit.Duration `json:"failed_for,omitempty"`
}

func (k Keep) completed() int { return or(k.Completed, 1000) }
func (k Keep) failed() int    { return or(k.Failed, 5000) }

func or(n *int, def int) int {
	if n == nil {
		return def
	}
	return *n
}

// withDefaults is q with every unset field filled in.
func (q Queue) withDefaults() Queue {
	if q.Pull {
		q.Concurrency = cmp.Or(q.Concurrency, maxConcurrency)
	}
	q.Concurrency = cmp.Or(q.Concurrency, 10)
	q.Attempts = cmp.Or(q.Attempts, 5)
	q.Backoff = cmp.Or(q.Backoff, defaultBackoff)
	q.Timeout = unit.Duration(q.Timeout.Or(30 * time.Second))
	q.Breaker = q.Breaker.withDefaults()
	return q
}

// internalSettings is the queue of the in-process kinds. Its attempts span about a day, with waits of
// half an hour on the average towards the end, since a webhook's receiver may be down for a night.
var internalSettings = Queue{Concurrency: 10, Attempts: 58, Backoff: defaultBackoff, Breaker: Breaker{}.withDefaults()}

// callbackSettings is the queue of the pushes to callbacks.
var callbackSettings = Queue{
	Concurrency: callbackPlaces, KeyConcurrency: callbackPlacesEach, Attempts: internalSettings.Attempts, Backoff: defaultBackoff, Breaker: internalSettings.Breaker,
}

// queues are the configured queues with their defaults, and the two that always exist.
func (c Config) queues() map[string]Queue {
	all := map[string]Queue{defaultQueue: Queue{Breaker: c.Breaker}.withDefaults()}
	for name, q := range c.Queues {
		q.Breaker = q.Breaker.or(c.Breaker)
		all[name] = q.withDefaults()
	}
	all[internalQueue] = internalSettings
	return all
}

var queueName = regexp.MustCompile(`^[a-z0-9]+([_-][a-z0-9]+)*$`)

// Validate says what is wrong with the configuration and how to correct it.
func (c Config) Validate() error {
	for _, name := range slices.Sorted(maps.Keys(c.Queues)) {
		if err := c.Queues[name].validate(name); err != nil {
			return err
		}
	}
	for _, entry := range c.Allow {
		if _, err := egress.ParsePlace(entry); err != nil {
			return fmt.Errorf("allow: %w", err)
		}
	}
	if err := c.Authority.Validate(); err != nil {
		return err
	}
	if c.OwnerBytes < 0 || c.OwnerBytes > 0 && c.OwnerBytes < minOwnerBytes {
		return fmt.Errorf("owner_bytes %s is too small, give at least %s", c.OwnerBytes, unit.Size(minOwnerBytes))
	}
	if c.Drain < 0 || c.Drain.Std() > maxDrain {
		return fmt.Errorf("drain must be at most %s, not %s: the process waits no longer for its backends", maxDrain, c.Drain)
	}
	if err := c.Breaker.validate(); err != nil {
		return err
	}
	return c.validateSchedules()
}

func (q Queue) validate(name string) error {
	if isInternal(name) {
		return fmt.Errorf("the queue name %s is taken by the gateway's own jobs, as are all that begin with internal-: choose another", name)
	}
	if len(name) > maxName || !queueName.MatchString(name) {
		return fmt.Errorf("%q is not a queue name: use up to %d lower-case letters and digits, parted by single hyphens or underscores",
			name, maxName)
	}
	var wrong []string
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if q.Target != "" {
		if _, err := parseQueueTarget(q.Target); err != nil {
			say("target %v", err)
		}
	}
	if q.Concurrency < 0 || q.Concurrency > maxConcurrency {
		say("concurrency must be from 1 to %d, not %d", maxConcurrency, q.Concurrency)
	}
	if q.Attempts < 0 || q.Attempts > maxAttempts {
		say("attempts must be from 1 to %d, not %d", maxAttempts, q.Attempts)
	}
	if q.Pull && q.Target != "" {
		say("a pull queue has no target, remove one of the two")
	}
	if q.KeyConcurrency < 0 || q.KeyConcurrency > maxConcurrency {
		say("key_concurrency must be from 1 to %d, not %d", maxConcurrency, q.KeyConcurrency)
	}
	if err := q.Rate.validate(); err != nil {
		say("rate: %v", err)
	}
	if err := q.KeyRate.validate(); err != nil {
		say("key_rate: %v", err)
	}
	if q.Waiting < 0 || q.KeyWaiting < 0 {
		say("waiting and key_waiting must not be negative")
	}
	if q.MaxAge < 0 || q.MaxAge.Std() > maxAhead {
		say("max_age must be at most %s, not %s", unit.Duration(maxAhead), q.MaxAge)
	}
	if q.Backoff != (Backoff{}) {
		if err := q.Backoff.validate(); err != nil {
			say("%v", err)
		}
	}
	if q.Timeout < 0 || q.Timeout.Std() > maxTimeout {
		say("timeout must be at most %s, not %s", maxTimeout, q.Timeout)
	}
	if q.Drain < 0 || q.Drain.Std() > maxTimeout {
		say("drain must be at most %s, not %s", maxTimeout, q.Drain)
	}
	if err := q.Breaker.validate(); err != nil {
		say("%v", err)
	}
	if q.Keep.completed() < 0 || q.Keep.failed() < 0 || q.Keep.CompletedFor < 0 || q.Keep.FailedFor < 0 {
		say("keep must not be negative")
	}
	if q.MaxPayload < 0 || q.MaxPayload > maxMaxPayload {
		say("max_payload must be at most %s, not %s", unit.Size(maxMaxPayload), q.MaxPayload)
	}
	if err := q.OnDuplicate.validate(); err != nil {
		say("%v", err)
	}
	if err := q.validatePush(); err != nil {
		say("%v", err)
	}
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("queue %s: %s", name, strings.Join(wrong, "; "))
}
