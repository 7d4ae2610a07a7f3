package jobs

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
)

// tripped tells that pushes to a target are held back from now on.
func (s *Service) tripped(t *trial, queue string) {
	s.trips.add(queue)
	v := s.breakers.viewOf(t)
	s.tell.warn(s.log, "a target fails, its jobs wait", queue, "target", v.Target, "cause", v.Cause, "next_probe", v.NextProbe)
}

// waitingFor is what keeps the job from running, empty if nothing does or its time has not come.
func (s *Service) waitingFor(ctx context.Context, v *View) (string, error) {
	now := time.Now()
	switch {
	case v.State == stateQueued:
	case (v.State == stateRetrying || v.State == stateScheduled) && (v.Postponed > 0 || !v.RunAt.After(now)):
	default:
		return "", nil
	}
	q, known := s.queues[v.Queue]
	if !known && !isInternal(v.Queue) {
		return "a configuration with the queue " + v.Queue + ", nobody works it", nil
	}
	if !known {
		q = s.settings(v.Queue)
	}
	paused, err := s.paused(ctx)
	if err != nil {
		return "", err
	}
	if paused[v.Queue] {
		return "the queue to be resumed, it is paused", nil
	}
	if b, ok := s.breakers.holding(v.Queue, v.Target, q.Breaker); ok && v.Target != "" && (b.Cause != causeFailing || v.Attempt == 0) {
		return fmt.Sprintf("breaker %s, %s, next probe %s", b.Target, b.Cause, stamp(b.NextProbe)), nil
	}
	if v.State != stateQueued {
		return "", nil
	}
	return s.bounds(ctx, v, &q, now)
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") }

// bounds names the bound of the queue that a job which is due waits for.
func (s *Service) bounds(ctx context.Context, v *View, q *Queue, now time.Time) (string, error) {
	for _, b := range []struct {
		name, key string
		rate      Rate
	}{{"rate", queueRate, q.Rate}, {"key_rate", v.Key, q.KeyRate}} {
		if b.rate == (Rate{}) || b.name == "key_rate" && b.key == "" {
			continue
		}
		var micros int64
		err := s.db.Read.QueryRowContext(ctx, "SELECT due_at FROM jobs_rates WHERE queue = $1 AND job_key = $2", v.Queue, b.key).Scan(&micros)
		if err != nil && !noRows(err) {
			return "", fmt.Errorf("reading a rate: %w", err)
		}
		if next := b.rate.next(time.UnixMicro(micros)); next.After(now) {
			return fmt.Sprintf("%s %s, next start %s", b.name, b.rate, stamp(next)), nil
		}
	}
	if q.Pull {
		return "a worker to lease it", nil
	}
	for _, b := range []struct {
		name, where string
		most        int
		args        []any
	}{
		{"concurrency", "", q.Concurrency, []any{v.Queue}},
		{"key_concurrency", " AND " + s.q.key + " = $2", q.KeyConcurrency, []any{v.Queue, v.Key}},
	} {
		if b.most == 0 || b.name == "key_concurrency" && v.Key == "" {
			continue
		}
		var running int
		err := s.db.Read.QueryRowContext(ctx, "SELECT count(*) FROM river_job j WHERE j.queue = $1 AND j.state = 'running'"+b.where, b.args...).Scan(&running)
		if err != nil {
			return "", fmt.Errorf("counting running jobs: %w", err)
		}
		if running >= b.most {
			return fmt.Sprintf("%s %d, all are running", b.name, b.most), nil
		}
	}
	if v.Key != "" {
		return "the turn of its key", nil
	}
	return "", nil
}

// BreakerReset is the answer to POST /queues/{queue}/breaker/reset.
type BreakerReset struct {
	// Reset is how many targets are no longer held back.
	Reset int `json:"reset"`
}

// resetBreaker has the jobs of a queue go on to a target that was held back, or to all of them. It does so
// at this instance.
func (s *Service) resetBreaker(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("queue")
	if _, err := s.knownQueue(r); err != nil && !isInternal(name) {
		return err
	}
	body, err := httpapi.ReadBody(w, r, maxProgress)
	if err != nil {
		return err
	}
	var q struct {
		Target string `json:"target"`
	}
	if len(body) > 0 {
		if err = decode(w, r, body, &q); err != nil {
			return err
		}
	}
	n := s.breakers.reset(name, q.Target)
	s.wake.poke(name)
	return httpapi.WriteJSON(w, http.StatusOK, BreakerReset{n})
}
