package jobs

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/riverqueue/river"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const (
	// maxPayload is the largest payload that a queue takes unless it says otherwise.
	maxPayload = 256 << 10
	// otherMembers is the room for what else a request has.
	otherMembers = 16 << 10
	// maxKey is the longest unique key.
	maxKey = 255
	// scheduleAhead is how far the engine's scheduler, which looks every 5 s, may be behind. A job
	// due sooner is made available at once; fetchers wait for its time themselves.
	scheduleAhead = 6 * time.Second
	// maxAhead is how far in the future a job may be scheduled.
	maxAhead = 10 * 365 * 24 * time.Hour
)

// request is the body of POST /jobs.
type request struct {
	Queue       string          `json:"queue"`
	Payload     json.RawMessage `json:"payload"`
	Target      string          `json:"target"`
	RunAt       string          `json:"run_at"`
	Delay       string          `json:"delay"`
	Priority    *int            `json:"priority"`
	Key         *string         `json:"key"`
	UniqueKey   *string         `json:"unique_key"`
	UniqueScope string          `json:"unique_scope"`
	UniqueTTL   string          `json:"unique_ttl"`
	Attempts    *int            `json:"attempts"`
	Backoff     string          `json:"backoff"`
	Timeout     string          `json:"timeout"`
	MaxAge      string          `json:"max_age"`
	Callback    string          `json:"callback"`
	OnDuplicate string          `json:"on_duplicate"`
	// Owner is whom a service or an operator makes the job for.
	Owner string `json:"owner"`
}

// order is a checked request: what is inserted.
type order struct {
	args  pushArgs
	queue string
	opts  river.InsertOpts
	// duplicate is what becomes of the order if its unique key is held.
	duplicate OnDuplicate
	// idempotency is the Idempotency-Key that the order came with, nil without one.
	idempotency *idempotency
}

func unfit(format string, args ...any) error {
	return problem.New(problem.Unprocessable, format, args...)
}

// check turns the request into an order or says what is wrong with it.
func (s *Service) check(q *request, now time.Time) (o order, err error) {
	queue := cmp.Or(q.Queue, defaultQueue)
	settings, ok := s.queues[queue]
	if !ok || isInternal(queue) {
		return order{}, unfit("There is no queue of that name, known are: %s.", s.publicQueues())
	}
	if err = checkPayload(q.Payload, settings.maxPayload()); err != nil {
		return order{}, err
	}
	o = order{queue: queue, args: pushArgs{Target: q.Target, Callback: q.Callback, Body: q.Payload}}
	o.opts = river.InsertOpts{Queue: queue, MaxAttempts: settings.Attempts}
	if err = s.checkTargets(q, settings, queue); err != nil {
		return order{}, err
	}
	if o.opts.ScheduledAt, err = runAt(q, now); err != nil {
		return order{}, unfit("%v.", err)
	}
	if err = q.limits(&o); err != nil {
		return order{}, err
	}
	if err = q.keys(&o.args); err != nil {
		return order{}, err
	}
	return o, o.duplicates(q.OnDuplicate, settings.OnDuplicate, now)
}

func checkPayload(payload json.RawMessage, most int) error {
	switch {
	case payload == nil:
		return unfit("payload is required; it may be any JSON, also null.")
	case len(payload) > most:
		return problem.New(problem.ContentTooLarge, "payload must not be larger than %d bytes.", most)
	case !utf8.Valid(payload):
		return problem.New(problem.InvalidRequest, "payload must be valid UTF-8.")
	}
	return nil
}

// maxRequest is the size of the largest request on one job, with room for the other members.
func (s *Service) maxRequest() int64 {
	most := maxPayload
	for _, q := range s.queues {
		most = max(most, q.maxPayload())
	}
	return int64(most + otherMembers)
}

// checkTargets looks at the URLs of the request.
func (s *Service) checkTargets(q *request, settings Queue, queue string) error {
	switch {
	case settings.Pull && q.Target != "":
		return unfit("The jobs of the queue %s are leased by workers, so target must be absent.", queue)
	case !settings.Pull && q.Target == "" && settings.Target == "":
		return unfit("The queue %s has no target of its own, so the job must name one in target.", queue)
	}
	for _, member := range []struct{ name, url string }{{"target", q.Target}, {"callback", q.Callback}} {
		if member.url == "" {
			continue
		}
		u, err := parseTarget(member.url)
		if err != nil {
			return unfit("%s %v.", member.name, err)
		}
		if err = checkPlace(s.targets, u); err != nil {
			return unfit("%s: %v.", member.name, err)
		}
	}
	return nil
}

// limits puts the numbers and times of the request into the order.
func (q *request) limits(o *order) (err error) {
	if p := q.Priority; p != nil {
		if *p < 1 || *p > 4 {
			return unfit("priority must be from 1, the first to run, to 4.")
		}
		o.opts.Priority = *p
	}
	if n := q.Attempts; n != nil {
		if *n < 1 || *n > maxAttempts {
			return unfit("attempts must be from 1 to %d.", maxAttempts)
		}
		o.opts.MaxAttempts = *n
	}
	if q.Backoff != "" {
		if o.args.Backoff, err = ParseBackoff(q.Backoff); err != nil {
			return unfit("%v.", err)
		}
	}
	if q.Timeout != "" {
		o.args.Timeout, err = unit.ParseDuration(q.Timeout)
		if err != nil || o.args.Timeout <= 0 || o.args.Timeout.Std() > maxTimeout {
			return unfit("timeout must be a duration above 0 and at most 24h, such as \"30s\".")
		}
	}
	if q.MaxAge != "" {
		o.args.MaxAge, err = unit.ParseDuration(q.MaxAge)
		if err != nil || o.args.MaxAge <= 0 || o.args.MaxAge.Std() > maxAhead {
			return unfit("max_age must be a duration above 0 and at most 10 years, such as \"24h\".")
		}
	}
	return nil
}

// keys puts the tenant and the unique key of the request into the arguments of the job.
func (q *request) keys(args *pushArgs) (err error) {
	for _, member := range []struct {
		name string
		from *string
		to   *string
	}{{"key", q.Key, &args.Key}, {"unique_key", q.UniqueKey, &args.UniqueKey}} {
		if k := member.from; k != nil {
			if *k == "" || len(*k) > maxKey || hasControl(*k) {
				return unfit("%s must have from 1 to %d bytes and no control characters.", member.name, maxKey)
			}
			*member.to = *k
		}
	}
	if args.UniqueKey == "" && (q.UniqueScope != "" || q.UniqueTTL != "") {
		return unfit("unique_scope and unique_ttl need a unique_key.")
	}
	switch q.UniqueScope {
	case "", scopeQueue:
	case scopeAll:
		args.UniqueScope = scopeAll
	default:
		return unfit("unique_scope must be \"queue\", for the keys of one queue, or \"all\".")
	}
	if q.UniqueTTL != "" {
		if args.UniqueTTL, err = uniqueTTLOf(q.UniqueTTL); err != nil {
			return unfit("%v.", err)
		}
	}
	return nil
}

// hasControl says whether s has a control character, or is not UTF-8.
func hasControl(s string) bool {
	return !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl)
}

// metadataOf is what of the arguments jobs are searched by: the tenant, the owner, and whether there is a callback
// to be told.
func metadataOf(args *pushArgs) []byte {
	m := map[string]string{}
	if args.Key != "" {
		m["key"] = args.Key
	}
	if args.Callback != "" {
		m["callback"] = "due"
	}
	if args.Owner != "" {
		m["owner"] = args.Owner
	}
	if len(m) == 0 {
		return nil
	}
	b, _ := json.Marshal(m) //nolint:errchkjson // strings always encode
	return b
}

// runAt is when the job shall run, zero for at once.
func runAt(q *request, now time.Time) (at time.Time, err error) {
	switch {
	case q.RunAt != "" && q.Delay != "":
		return time.Time{}, errors.New("give either run_at or delay, not both")
	case q.RunAt != "":
		if at, err = time.Parse(time.RFC3339, q.RunAt); err != nil {
			return time.Time{}, errors.New("run_at must be a time as in RFC 3339, such as \"2027-06-01T09:00:00Z\"")
		}
	case q.Delay != "":
		d, err := unit.ParseDuration(q.Delay)
		if err != nil {
			return time.Time{}, fmt.Errorf("delay: %w", err)
		}
		at = now.Add(min(d.Std(), maxAhead+1))
	}
	if at.After(now.Add(maxAhead)) {
		return time.Time{}, errors.New("a job may be scheduled at most 10 years ahead")
	}
	if !at.After(now) {
		return time.Time{}, nil
	}
	return at, nil
}

// publicQueues lists the queues that a request may name.
func (s *Service) publicQueues() string {
	names := slices.Sorted(maps.Keys(s.queues))
	return strings.Join(slices.DeleteFunc(names, func(n string) bool { return n == internalQueue }), ", ")
}

var traceparent = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)

// validTraceparent checks the header after W3C Trace Context section 3.2.
func validTraceparent(s string) bool {
	return traceparent.MatchString(s) && s[:2] != "ff" && strings.Trim(s[3:35], "0") != "" && strings.Trim(s[36:52], "0") != ""
}

// parseID reads a job's id; 0 is none.
func parseID(s string) int64 {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || n > math.MaxInt64 || strconv.FormatUint(n, 10) != s {
		return 0
	}
	return int64(n)
}
