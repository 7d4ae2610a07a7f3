package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/riverqueue/river"
	"golang.org/x/net/http/httpguts"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/exchange"
	"github.com/gatehouse-proxy/gatehouse/internal/egress"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

const (
	// maxAnswer is how much of the answer of a target that did not take the job is looked at.
	maxAnswer = 4 << 10
	// maxResult is the largest result of a job that is kept, in bytes of JSON.
	maxResult = 64 << 10
	// maxMessage is how much of it is kept in the job's record of errors.
	maxMessage = 1 << 10
	// defaultPostpone is the wait after a 429 or 503 that does not say how long.
	defaultPostpone = 5 * time.Second
)

// postponed is a push that the target does not want now.
type postponed struct {
	error
	after time.Duration
}

func (p postponed) RetryAfter() time.Duration { return p.after }

// refused is a push that the target will never take.
type refused struct{ error }

func (refused) Permanent() bool { return true }

// push delivers the job once. It returns nil when the target took it.
func (s *Service) push(ctx context.Context, job *river.Job[pushArgs]) (err error) {
	target, parse := job.Args.Target, parseTarget
	if target == "" {
		target, parse = s.settings(job.Queue).Target, parseQueueTarget
	}
	if target == "" {
		return errors.New("neither the job nor its queue has a target, give the queue one")
	}
	u, err := parse(target)
	if _, socket := socketOf(u); err != nil || !socket && s.targets.Check(u) != nil {
		return refused{errors.New("the target is not allowed by the configuration")}
	}
	q := s.settings(job.Queue)
	trial, again, ok := s.breakers.begin(job.Queue, target, &q, job.Attempt > 1)
	if !ok {
		return postponed{errors.New("the target is down, its jobs wait"), again}
	}
	o := targetMute // as a panic leaves it
	var result []byte
	defer func() {
		if j := s.judged(trial, o, job.Queue); j.free && err != nil {
			down := max(time.Until(j.again), time.Millisecond)
			err = postponed{fmt.Errorf("the target is down: %w", err), down + rand.N(down/4+1)}
		}
	}()
	o, result, err = s.deliver(ctx, u, job)
	if err == nil && result != nil {
		return recordResult(ctx, result)
	}
	return err
}

// judged ends a trial, and wakes and tells who it concerns.
func (s *Service) judged(t *trial, o outcome, queue string) judged {
	j := s.breakers.end(t, o)
	if !j.again.IsZero() {
		s.wake.pokeAt(j.again, queue)
	}
	for _, freed := range j.freed {
		if freed == "" { // a route of many queues
			s.Poke()
			break
		}
		s.wake.poke(freed)
	}
	if j.tripped {
		s.tripped(t, queue)
	}
	return j
}

// deliver makes the request and says what its outcome means for the target, and for the job.
func (s *Service) deliver(ctx context.Context, u *url.URL, job *river.Job[pushArgs]) (outcome, []byte, error) {
	req := newPush(ctx, u, job)
	s.settings(job.Queue).dress(req)
	if req.Header.Get("Webhook-Signature") == "" {
		s.signer.sign(req.Header, fmt.Sprintf("job_%d", job.ID), time.Now(), job.Args.Body)
	}
	if name := unsendable(req.Header); name != "" { // which is no fault of the target's
		return targetMute, nil, refused{fmt.Errorf("the header %s has signs that cannot be sent", clean(name))}
	}
	resp, err := s.client(job.Queue, u).Do(req, maxResult)
	if errors.Is(err, egress.ErrOwn) {
		return targetMute, nil, refused{errors.New("the target is not allowed: its name leads to the gateway itself")}
	}
	if err != nil {
		return s.unanswered(ctx, job, err), nil, failure(ctx, err)
	}
	err = verdict(resp.Status, resp.Header.Get("Retry-After"), resp.Body[:min(len(resp.Body), maxAnswer)], time.Now())
	switch {
	case resp.Status == http.StatusBadGateway, resp.Status == http.StatusServiceUnavailable, resp.Status == http.StatusGatewayTimeout:
		return targetDown, nil, err
	case resp.Status >= 500:
		return targetFailing, nil, err
	case err == nil && resp.Cut != nil:
		return s.unanswered(ctx, job, resp.Cut), nil, failure(ctx, resp.Cut)
	case err == nil && !resp.More && len(resp.Body) > 0 && json.Valid(resp.Body) && utf8.Valid(resp.Body):
		return targetWell, resp.Body, nil
	}
	return targetWell, nil, err
}

// unsendable is the name of a header that no transport sends, "" if there is none.
func unsendable(h http.Header) string {
	for name, values := range h {
		if !httpguts.ValidHeaderFieldName(name) || slices.ContainsFunc(values, func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) }) {
			return name
		}
	}
	return ""
}

// unanswered is what a push without a whole answer says about its target. Neither one that was called off
// nor one that gave the target less time than the queue does tells that it is in trouble.
func (s *Service) unanswered(ctx context.Context, job *river.Job[pushArgs], err error) outcome {
	hasty := errors.Is(ctx.Err(), context.DeadlineExceeded) && job.Args.Timeout > 0 && job.Args.Timeout < s.settings(job.Queue).Timeout
	if hasty || errors.Is(ctx.Err(), context.Canceled) {
		return targetMute
	}
	if e, ok := errors.AsType[*exchange.Error](err); ok && !e.Reached {
		return targetDown
	}
	return targetFailing
}

// recordResult keeps a JSON text as the job's result. It is stored as a string, since PostgreSQL takes
// less than all of JSON.
func recordResult(ctx context.Context, text []byte) error {
	if err := river.RecordOutput(ctx, string(text)); err != nil {
		return fmt.Errorf("recording the result: %w", err)
	}
	return nil
}

// connection are the headers that belong to one connection or to the transport, not to the message.
var connection = []string{"Connection", "Content-Length", "Host", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// newPush is the request of one attempt. The job's headers go first, ours are set over them.
func newPush(ctx context.Context, u *url.URL, job *river.Job[pushArgs]) *http.Request {
	req := (&http.Request{Method: http.MethodPost, URL: u, Host: u.Host, Header: http.Header{}}).WithContext(ctx)
	req.Body = io.NopCloser(bytes.NewReader(job.Args.Body))
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(job.Args.Body)), nil }
	req.ContentLength = int64(len(job.Args.Body))
	for name, values := range job.Args.Header {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	for _, name := range connection {
		req.Header.Del(name)
	}
	if req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", "Gatehouse-Jobs")
	}
	req.Header.Set("Gatehouse-Job-Id", strconv.FormatInt(job.ID, 10))
	req.Header.Set("Gatehouse-Job-Queue", job.Queue)
	req.Header.Set("Gatehouse-Job-Attempt", strconv.Itoa(job.Attempt))
	if isRedelivered(job.JobRow) {
		req.Header.Set("Gatehouse-Job-Redelivered", "true")
	}
	if name := job.Args.Schedule; name != "" {
		req.Header.Set("Gatehouse-Schedule", service.Unscoped(name))
	}
	if at := job.Args.ScheduledFor; at != nil {
		req.Header.Set("Gatehouse-Scheduled-For", at.UTC().Format(time.RFC3339Nano))
	}
	if deadline, ok := ctx.Deadline(); ok {
		req.Header.Set("Gatehouse-Job-Deadline", deadline.UTC().Format("2006-01-02T15:04:05.000Z07:00"))
	}
	return req
}

// failure is a push that got no answer. The URL is left out, as it may hold a token.
func failure(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errors.New("the target did not answer before the job's timeout")
	}
	return errors.New(clean(err.Error()))
}

// verdict is what the target's answer means for the job: nil is done, a postponed uses no attempt,
// a refused is dead, any other is retried.
func verdict(status int, retryAfter string, text []byte, now time.Time) error {
	if status >= 200 && status < 300 {
		return nil
	}
	err := statusError(status, text)
	switch {
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		return postponed{err, parseRetryAfter(retryAfter, now)}
	case status == http.StatusRequestTimeout, status == http.StatusConflict, status == http.StatusTooEarly:
		return err
	case status >= 400 && status < 500:
		return refused{err}
	}
	return err
}

// statusPrefix begins the record of an answer; statusOf reads it back.
const statusPrefix = "HTTP "

func statusError(status int, text []byte) error {
	s := statusPrefix + strconv.Itoa(status)
	if status >= 300 && status < 400 {
		s += ": redirects are not followed"
	} else if message := clean(string(text)); message != "" {
		s += ": " + message
	}
	return errors.New(s)
}

// statusOf splits a record into the status of the answer, 0 if there was none, and the message.
func statusOf(record string) (status int, message string) {
	rest, ok := strings.CutPrefix(record, statusPrefix)
	if !ok {
		return 0, record
	}
	code, message, _ := strings.Cut(rest, ": ")
	status, err := strconv.Atoi(code)
	if err != nil || status < 100 || status > 999 {
		return 0, record
	}
	return status, message
}

// clean makes foreign text fit for a record: valid UTF-8, one line, no control or invisible
// characters, at most 1 KiB.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if s = strings.TrimSpace(s); len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "…"
	}
	return s
}

// parseRetryAfter reads a Retry-After (RFC 9110 section 10.2.3), seconds or a date, within 1 s and
// 24 h. Absent or malformed it is 5 s.
func parseRetryAfter(s string, now time.Time) time.Duration {
	s = strings.TrimSpace(s)
	if s == "" {
		return defaultPostpone
	}
	if strings.Trim(s, "0123456789") == "" {
		n, err := strconv.ParseInt(s, 10, 32)
		if err != nil {
			return maxPostpone
		}
		return min(max(time.Duration(n)*time.Second, time.Second), maxPostpone)
	}
	at, err := http.ParseTime(s)
	if err != nil {
		return defaultPostpone
	}
	return min(max(at.Sub(now), time.Second), maxPostpone)
}
