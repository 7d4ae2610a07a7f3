package webhooks

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/egress"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
	"github.com/gatehouse-proxy/gatehouse/internal/signature"
)

const (
	maxRetryAfter = 24 * time.Hour
	// maxPostponed is how many attempts an endpoint can have put off by Retry-After. Beyond, each
	// uses up one of the job's attempts, so that a delivery ends some day.
	maxPostponed = 50
	// recordTime bounds the storing of an outcome, which is not given up when the job's context ends.
	recordTime = 5 * time.Second

	endpointGone     = "the endpoint was deleted"
	endpointDisabled = "the endpoint is disabled"
)

// ended is an error that no further attempt will cure.
type ended struct{ error }

// Permanent tells the jobs backend to make no further attempt.
func (ended) Permanent() bool { return true }

// postponed is an error after which the endpoint asked for a pause.
type postponed struct {
	error
	after time.Duration
}

// RetryAfter tells the jobs backend to try again then, without using up an attempt.
func (p postponed) RetryAfter() time.Duration { return p.after }

// attempt is what one attempt needs to know.
type attempt struct {
	delivery, state, eventID, endpointID string
	attempts                             int
	body                                 []byte
	url, secret, endpointState           string // empty if the endpoint was deleted
	owner                                string
}

// deliver is the worker of deliverKind: one attempt at one delivery. It may run twice for the same
// delivery; receivers know the event by its webhook-id.
func (s *Service) deliver(ctx context.Context, payload []byte) error {
	var job deliverJob
	if err := json.Unmarshal(payload, &job); err != nil {
		return ended{fmt.Errorf("decoding the job: %w", err)}
	}
	a, err := s.attempt(ctx, job.Delivery)
	switch {
	case errors.Is(err, sql.ErrNoRows): // too old, and deleted
		return nil
	case err != nil:
		return fmt.Errorf("reading the delivery: %w", err)
	case a.state == delivered:
		return nil
	case a.endpointState == "":
		return s.giveUp(ctx, a, endpointGone)
	case a.endpointState != active:
		return s.giveUp(ctx, a, endpointDisabled)
	}
	key, err := signature.Standard.ParseKey([]byte(a.secret))
	if err != nil {
		return s.giveUp(ctx, a, "the endpoint's secret is damaged")
	}
	status, retryAfter, err := s.outlet(a.owner).sender.post(ctx, a.url, service.Unscoped(a.eventID), time.Now(), a.body, key)
	if err != nil && ctx.Err() != nil {
		return ctx.Err() // we are stopping; it was no failure of the endpoint
	}
	if err != nil {
		s.log.DebugContext(ctx, "delivery failed", "delivery", a.delivery, "error", err)
	}
	o := judge(status, retryAfter, err, a.attempts, time.Now())
	if err = s.record(ctx, a, o); err != nil {
		return err
	}
	return o.err
}

func (s *Service) attempt(ctx context.Context, id string) (a attempt, err error) {
	err = s.db.Read.QueryRowContext(ctx, `SELECT d.id, d.state, d.event_id, d.endpoint_id, d.attempts, e.body,
			COALESCE(p.url, ''), COALESCE(p.secret, ''), COALESCE(p.state, ''), COALESCE(p.owner, '')
		FROM webhooks_deliveries d
		JOIN webhooks_events e ON e.id = d.event_id
		LEFT JOIN webhooks_endpoints p ON p.id = d.endpoint_id
		WHERE d.id = $1`, id).
		Scan(&a.delivery, &a.state, &a.eventID, &a.endpointID, &a.attempts, &a.body, &a.url, &a.secret, &a.endpointState, &a.owner)
	return a, err
}

// outcome is what an attempt came to.
type outcome struct {
	state   string
	status  int
	message string
	disable bool      // the endpoint is gone for good
	nextAt  time.Time // when to try again, if the endpoint said so
	err     error     // for the jobs backend
}

// judge decides on an answer, or on its absence. attempts is how many there were before.
func judge(status int, retryAfter string, err error, attempts int, now time.Time) outcome {
	if err != nil {
		o := outcome{state: retrying, message: reason(err), err: errors.New(reason(err))}
		if errors.Is(err, egress.ErrAddress) || errors.Is(err, egress.ErrOwn) {
			o.state, o.err = failed, ended{o.err}
		}
		return o
	}
	o := outcome{status: status}
	if status >= 200 && status < 300 {
		o.state = delivered
		return o
	}
	o.state, o.message = retrying, "HTTP "+strconv.Itoa(status)
	switch {
	case status >= 300 && status < 400:
		o.message += ", redirects are not followed"
	case status == http.StatusGone:
		o.state, o.disable = failed, true
		o.message += ", the endpoint is disabled"
		o.err = ended{errors.New(o.message)}
		return o
	}
	o.err = errors.New(o.message)
	if status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable || attempts >= maxPostponed {
		return o
	}
	if after, ok := parseRetryAfter(retryAfter, now); ok {
		o.nextAt, o.err = now.Add(after), postponed{o.err, after}
	}
	return o
}

// parseRetryAfter reads a Retry-After (RFC 9110 section 10.2.3), seconds or a date, up to 24 h. It
// is not ok if it is absent, malformed, or names no time ahead.
func parseRetryAfter(s string, now time.Time) (after time.Duration, ok bool) {
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		after = time.Duration(n) * time.Second
	} else if at, err := http.ParseTime(s); err == nil {
		after = at.Sub(now)
	}
	return min(after, maxRetryAfter), after > 0
}

// giveUp ends a delivery that cannot be attempted.
func (s *Service) giveUp(ctx context.Context, a attempt, why string) error {
	_, err := s.db.Write.ExecContext(ctx, "UPDATE webhooks_deliveries SET state = $1, last_error = $2 WHERE id = $3", failed, why, a.delivery)
	if err != nil {
		return fmt.Errorf("storing the delivery: %w", err)
	}
	return ended{errors.New(why)}
}

// record stores the outcome of an attempt that was made.
func (s *Service) record(ctx context.Context, a attempt, o outcome) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	now := time.Now().UnixMilli()
	var next int64
	if !o.nextAt.IsZero() {
		next = o.nextAt.UnixMilli()
	}
	return s.db.InTx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE webhooks_deliveries
			SET state = $1, attempts = attempts + 1, last_status = $2, last_error = $3, last_attempt_at = $4, next_at = $5 WHERE id = $6`,
			o.state, o.status, o.message, now, next, a.delivery)
		if err == nil && o.disable {
			_, err = tx.ExecContext(ctx, "UPDATE webhooks_endpoints SET state = $1, updated_at = $2 WHERE id = $3", disabled, now, a.endpointID)
		}
		if err != nil {
			return fmt.Errorf("storing the attempt: %w", err)
		}
		return nil
	})
}
