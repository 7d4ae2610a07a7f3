package jobs

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
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
	// maxPayload is the largest payload that POST /jobs takes.
	maxPayload = 256 << 10
	// maxRequest leaves room for the other members.
	maxRequest = maxPayload + 16<<10
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
	Queue     string          `json:"queue"`
	Payload   json.RawMessage `json:"payload"`
	Target    string          `json:"target"`
	RunAt     string          `json:"run_at"`
	Delay     string          `json:"delay"`
	Priority  *int            `json:"priority"`
	UniqueKey *string         `json:"unique_key"`
	Attempts  *int            `json:"attempts"`
	Backoff   string          `json:"backoff"`
	Timeout   string          `json:"timeout"`
}

// order is a checked request: what is inserted.
type order struct {
	args  pushArgs
	queue string
	opts  river.InsertOpts
	// now says that the job is due at once.
	now bool
}

// check turns the request into an order or says what is wrong with it.
func (s *Service) check(q *request, now time.Time) (o order, err error) {
	unfit := func(format string, args ...any) (order, error) {
		return order{}, problem.New(problem.Unprocessable, format, args...)
	}
	queue := cmp.Or(q.Queue, defaultQueue)
	settings, ok := s.queues[queue]
	if !ok || queue == internalQueue {
		return unfit("There is no queue of that name, known are: %s.", s.publicQueues())
	}
	switch {
	case q.Payload == nil:
		return unfit("payload is required; it may be any JSON, also null.")
	case len(q.Payload) > maxPayload:
		return order{}, problem.New(problem.ContentTooLarge, "payload must not be larger than %d bytes.", maxPayload)
	case !utf8.Valid(q.Payload):
		return order{}, problem.New(problem.InvalidRequest, "payload must be valid UTF-8.")
	}
	o = order{queue: queue, args: pushArgs{Target: q.Target, Body: q.Payload}}
	o.opts = river.InsertOpts{Queue: queue, MaxAttempts: settings.Attempts}
	if q.Target == "" && settings.Target == "" {
		return unfit("The queue %s has no target of its own, so the job must name one in target.", queue)
	}
	if q.Target != "" {
		u, err := parseTarget(q.Target)
		if err != nil {
			return unfit("target %v.", err)
		}
		if !s.targets.permits(u) {
			return unfit("target: the host %q is not allowed. Name it in the configuration of the jobs backend, such as: allow %s", u.Host, u.Host)
		}
	}
	if o.opts.ScheduledAt, err = runAt(q, now); err != nil {
		return unfit("%v.", err)
	}
	o.now = o.opts.ScheduledAt.IsZero()
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
	if k := q.UniqueKey; k != nil {
		if *k == "" || len(*k) > maxKey || !utf8.ValidString(*k) || strings.ContainsFunc(*k, unicode.IsControl) {
			return unfit("unique_key must have from 1 to %d bytes and no control characters.", maxKey)
		}
		o.args.UniqueKey = *k
	}
	return o, nil
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

// insert puts the order in, or finds the job that holds its unique key.
func (s *Service) insert(ctx context.Context, o order) (id int64, state string, duplicate bool, err error) {
	err = s.db.InTx(ctx, func(tx *sql.Tx) error {
		if o.args.UniqueKey != "" {
			id, state, err = holder(ctx, tx, o.queue, o.args.UniqueKey)
			if duplicate = id != 0; duplicate || err != nil {
				return err
			}
		}
		id, err = s.insertTx(ctx, tx, o.args, o.opts)
		if err != nil || o.args.UniqueKey == "" {
			return err
		}
		return hold(ctx, tx, o.queue, o.args.UniqueKey, id)
	})
	if err != nil || duplicate {
		return id, state, duplicate, err
	}
	if o.now {
		s.wake.poke(o.queue)
		return id, stateQueued, false, nil
	}
	if time.Until(o.opts.ScheduledAt) < scheduleAhead {
		s.wake.pokeAt(o.opts.ScheduledAt, o.queue)
	}
	return id, stateScheduled, false, nil
}

func (s *Service) insertTx(ctx context.Context, tx *sql.Tx, args river.JobArgs, opts river.InsertOpts) (int64, error) {
	res, err := s.river.InsertTx(ctx, tx, args, &opts)
	if err != nil {
		return 0, fmt.Errorf("inserting a job: %w", err)
	}
	if !opts.ScheduledAt.IsZero() && time.Until(opts.ScheduledAt) < scheduleAhead {
		if _, err = tx.ExecContext(ctx, "UPDATE river_job SET state = 'available' WHERE id = ?", res.Job.ID); err != nil {
			return 0, fmt.Errorf("scheduling a job: %w", err)
		}
	}
	return res.Job.ID, nil
}

// holder is the job that holds the unique key, 0 if none does: one that is not finished, or was
// completed in the last 24 h.
func holder(ctx context.Context, tx *sql.Tx, queue, key string) (id int64, state string, err error) {
	err = tx.QueryRowContext(ctx, `
		SELECT j.id, `+userState+` FROM jobs_keys k JOIN river_job j ON j.id = k.job_id
		WHERE k.queue = ? AND k.unique_key = ? AND (j.finalized_at IS NULL OR `+remembered+`)`, queue, key).Scan(&id, &state)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, "", fmt.Errorf("looking a unique key up: %w", err)
	}
	return id, state, nil
}

// hold gives the unique key to the job.
func hold(ctx context.Context, tx *sql.Tx, queue, key string, id int64) error {
	_, err := tx.ExecContext(ctx, `
		INSERT INTO jobs_keys (queue, unique_key, job_id) VALUES (?, ?, ?)
		ON CONFLICT (queue, unique_key) DO UPDATE SET job_id = excluded.job_id`, queue, key, id)
	if err != nil {
		return fmt.Errorf("storing a unique key: %w", err)
	}
	return nil
}

// EnqueueTx puts a job of an in-process kind into tx; it runs after the commit. Call Poke then.
func (s *Service) EnqueueTx(ctx context.Context, tx *sql.Tx, kind string, payload []byte) (id string, err error) {
	n, err := s.insertTx(ctx, tx, callArgs{Name: kind, Payload: payload},
		river.InsertOpts{Queue: internalQueue, MaxAttempts: internalSettings.Attempts})
	if err != nil {
		return "", err
	}
	return strconv.FormatInt(n, 10), nil
}

// EnqueuePushTx puts a push to the target of the named queue into tx; it runs after the commit.
// Body and header are sent as they are, but for the headers of the connection and those of the job.
// With a Webhook-Signature in header the push is not signed again. Call Poke after the commit.
func (s *Service) EnqueuePushTx(ctx context.Context, tx *sql.Tx, queue string, body []byte, header http.Header) (id string, err error) {
	if _, ok := s.QueueTarget(queue); !ok {
		return "", fmt.Errorf("the queue %q does not exist or has no target, known are: %s", queue, s.publicQueues())
	}
	n, err := s.insertTx(ctx, tx, pushArgs{Body: body, Header: header},
		river.InsertOpts{Queue: queue, MaxAttempts: s.queues[queue].Attempts})
	if err != nil {
		return "", err
	}
	return strconv.FormatInt(n, 10), nil
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
