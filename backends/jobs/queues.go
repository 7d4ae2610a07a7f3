package jobs

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// pauseWait bounds how long the answer to a pause waits for the fetcher to stop.
const pauseWait = time.Second

// QueueView is a queue as the API shows it.
type QueueView struct {
	Name   string `json:"name"`
	Target string `json:"target,omitempty"`
	// Pull says that workers lease the jobs.
	Pull bool `json:"pull,omitempty"`
	// Concurrency is 0 for a queue that still holds jobs but is no longer configured: nobody works it.
	Concurrency int  `json:"concurrency"`
	Paused      bool `json:"paused"`
	// Draining says that no new jobs are taken.
	Draining bool        `json:"draining"`
	Limits   QueueLimits `json:"limits"`
	// OldestWaiting is since when the first job that is due waits, OldestWaitingAge for how long.
	OldestWaiting    *time.Time     `json:"oldest_waiting,omitempty"`
	OldestWaitingAge string         `json:"oldest_waiting_age,omitempty"`
	Counts           map[string]int `json:"counts"`
	// Breakers are the targets whose jobs are held back, as the instance that answers sees them.
	Breakers []BreakerView `json:"breakers,omitempty"`
}

// QueueLimits are the configured bounds of a queue. One that is absent does not bound.
type QueueLimits struct {
	Rate           Rate   `json:"rate,omitzero"`
	KeyConcurrency int    `json:"key_concurrency,omitempty"`
	KeyRate        Rate   `json:"key_rate,omitzero"`
	Waiting        int    `json:"waiting,omitempty"`
	KeyWaiting     int    `json:"key_waiting,omitempty"`
	Attempts       int    `json:"attempts,omitempty"`
	Timeout        string `json:"timeout,omitempty"`
	MaxAge         string `json:"max_age,omitempty"`
	// Ordered says that the jobs of a key run one after the other.
	Ordered bool `json:"ordered,omitempty"`
	// OnDuplicate is absent for keep.
	OnDuplicate string `json:"on_duplicate,omitempty"`
	// MaxPayload is in bytes.
	MaxPayload int `json:"max_payload"`
}

func limitsOf(q Queue) QueueLimits {
	l := QueueLimits{
		Rate: q.Rate, KeyConcurrency: q.KeyConcurrency, KeyRate: q.KeyRate, Waiting: q.Waiting, KeyWaiting: q.KeyWaiting, Attempts: q.Attempts,
		Ordered: q.Ordered, MaxPayload: q.maxPayload(),
	}
	if q.OnDuplicate != (OnDuplicate{}) {
		l.OnDuplicate = q.OnDuplicate.String()
	}
	if q.Timeout > 0 {
		l.Timeout = q.Timeout.String()
	}
	if q.MaxAge > 0 {
		l.MaxAge = q.MaxAge.String()
	}
	return l
}

func (s *Service) getQueues(w http.ResponseWriter, r *http.Request) error {
	counts, err := s.counts(r.Context(), "")
	if err != nil {
		return err
	}
	for _, name := range s.workedQueues() {
		if counts[name] == nil {
			counts[name] = map[string]int{}
		}
	}
	items, err := s.queueViews(r.Context(), counts)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, httpapi.Page[QueueView]{Items: items})
}

func (s *Service) getQueue(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("queue")
	known := slices.Contains(s.workedQueues(), name)
	if !known && (len(name) > maxName || hasControl(name)) {
		return s.noQueue()
	}
	counts, err := s.counts(r.Context(), name)
	if err != nil {
		return err
	}
	if counts[name] == nil {
		if !known {
			return s.noQueue()
		}
		counts[name] = map[string]int{}
	}
	items, err := s.queueViews(r.Context(), counts)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, items[0])
}

// queueViews are the queues of counts by name.
func (s *Service) queueViews(ctx context.Context, counts map[string]map[string]int) ([]QueueView, error) {
	paused, err := s.paused(ctx)
	if err != nil {
		return nil, err
	}
	draining, err := s.drains(ctx)
	if err != nil {
		return nil, err
	}
	views := []QueueView{}
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		q, known := s.queues[name]
		if !known {
			q, _ = s.innerQueue(name)
		}
		v := QueueView{
			Name: name, Target: q.Target, Pull: q.Pull, Concurrency: q.Concurrency, Paused: paused[name], Draining: draining[name],
			Limits: limitsOf(q), Breakers: s.breakers.held(name), Counts: map[string]int{},
		}
		for state := range engineStates {
			v.Counts[state] = counts[name][state]
		}
		if v.Counts[stateQueued] > 0 {
			if v.OldestWaiting, err = s.oldestWaiting(ctx, name); err != nil {
				return nil, err
			}
		}
		if v.OldestWaiting != nil {
			v.OldestWaitingAge = max(time.Since(*v.OldestWaiting), 0).Truncate(time.Millisecond).String()
		}
		views = append(views, v)
	}
	return views, nil
}

// oldestWaiting is since when the first due job of the queue waits. It reads one entry of an index for
// each priority.
func (s *Service) oldestWaiting(ctx context.Context, queue string) (*time.Time, error) {
	var oldest *time.Time
	for priority := 1; priority <= 4; priority++ {
		var at time.Time
		err := s.db.Read.QueryRowContext(ctx, `SELECT j.scheduled_at FROM river_job j
			WHERE j.state = 'available' AND j.queue = $1 AND j.priority = $2 AND j.scheduled_at <= `+s.q.now+`
			ORDER BY j.scheduled_at LIMIT 1`, queue, priority).Scan(&at)
		if noRows(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading the oldest job of a queue: %w", err)
		}
		if at = at.UTC(); oldest == nil || at.Before(*oldest) {
			oldest = &at
		}
	}
	return oldest, nil
}

// counts are the numbers of jobs by queue and state, of one queue unless it is empty. An index counts
// by the states of the engine; rows are read where those leave the user's open.
func (s *Service) counts(ctx context.Context, queue string) (map[string]map[string]int, error) {
	where, args := " WHERE j.state IN ("+everyState+")", []any(nil)
	if queue != "" {
		where, args = where+" AND j.queue = $1", []any{queue}
	}
	rows, err := s.db.Read.QueryContext(ctx, `
		SELECT 1, j.queue, `+s.q.state()+`, count(*) FROM river_job j`+where+` GROUP BY j.state, j.queue
		UNION ALL SELECT 2, j.queue, `+s.q.userState()+`, count(*) FROM river_job j`+where+` AND j.state = 'scheduled' GROUP BY 2, 3
		UNION ALL SELECT 3, j.queue, `+s.q.userState()+`, count(*) FROM river_job j`+where+` AND j.state = 'available' AND j.scheduled_at > `+s.q.now+` GROUP BY 2, 3`, args...)
	if err != nil {
		return nil, fmt.Errorf("counting jobs: %w", err)
	}
	defer func() { _ = rows.Close() }()
	all := map[string]map[string]int{}
	for rows.Next() {
		var part, n int
		var queue, state string
		if err = rows.Scan(&part, &queue, &state, &n); err != nil {
			return nil, fmt.Errorf("counting jobs: %w", err)
		}
		if all[queue] == nil {
			all[queue] = map[string]int{}
		}
		switch {
		case part == 1 && state == string(rivertype.JobStateScheduled):
			continue // part 2 tells
		case part == 1:
			state = countedAs(state)
		case part == 3:
			all[queue][stateQueued] -= n
		}
		all[queue][state] += n
	}
	return all, rows.Err()
}

// countedAs is the user's state of most of the jobs that are in a state of the engine.
func countedAs(state string) string {
	switch rivertype.JobState(state) {
	case rivertype.JobStateAvailable, rivertype.JobStatePending:
		return stateQueued
	case rivertype.JobStateRetryable:
		return stateRetrying
	case rivertype.JobStateDiscarded:
		return stateDead
	default:
		return state
	}
}

// paused are the names of the paused queues.
func (s *Service) paused(ctx context.Context) (map[string]bool, error) {
	return names(ctx, s.db.Read, "SELECT name FROM river_queue WHERE paused_at IS NOT NULL")
}

// names is the set of the one column of a query.
func names(ctx context.Context, db *sql.DB, query string) (map[string]bool, error) {
	all, err := column[string](db.QueryContext(ctx, query))
	if err != nil {
		return nil, fmt.Errorf("reading the queues: %w", err)
	}
	set := make(map[string]bool, len(all))
	for _, name := range all {
		set[name] = true
	}
	return set, nil
}

// QueueReceipt is the answer to what changes a queue.
type QueueReceipt struct {
	Name     string `json:"name"`
	Paused   bool   `json:"paused"`
	Draining bool   `json:"draining"`
}

func (s *Service) writeQueue(w http.ResponseWriter, r *http.Request, name string, paused bool) error {
	draining, err := s.drains(r.Context())
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, QueueReceipt{Name: name, Paused: paused, Draining: draining[name]})
}

// pauseQueue stops the fetching of a queue; what runs runs on. The answer waits until this process
// fetches no more.
func (s *Service) pauseQueue(w http.ResponseWriter, r *http.Request) error {
	name, err := s.knownQueue(r)
	if err != nil {
		return err
	}
	paused, err := s.paused(r.Context())
	if err != nil {
		return err
	}
	if !paused[name] {
		stopped, cancel := s.river.Subscribe(river.EventKindQueuePaused)
		defer cancel()
		if err = s.river.QueuePause(r.Context(), name, nil); err != nil {
			return fmt.Errorf("pausing a queue: %w", err)
		}
		s.wake.look()
		if s.running.Load() && !s.settings(name).Pull {
			await(r.Context(), stopped, name)
		}
	}
	return s.writeQueue(w, r, name, true)
}

// await waits for the event of the queue, but no longer than pauseWait.
func await(ctx context.Context, events <-chan *river.Event, queue string) {
	late := time.NewTimer(pauseWait)
	defer late.Stop()
	for {
		select {
		case e, open := <-events:
			if !open || e.Queue != nil && e.Queue.Name == queue {
				return
			}
		case <-late.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// resumeQueue ends a pause, and a drain.
func (s *Service) resumeQueue(w http.ResponseWriter, r *http.Request) error {
	name, err := s.knownQueue(r)
	if err != nil {
		return err
	}
	if _, err = s.db.Write.ExecContext(r.Context(), "DELETE FROM jobs_drains WHERE queue = $1", name); err != nil {
		return fmt.Errorf("ending a drain: %w", err)
	}
	s.drained.forget()
	if err = s.river.QueueResume(r.Context(), name, nil); err != nil {
		return fmt.Errorf("resuming a queue: %w", err)
	}
	s.wake.look()
	s.bells.ring(name)
	s.schedules.wake() // for the ticks that waited
	return s.writeQueue(w, r, name, false)
}

// drainQueue refuses new jobs of the queue from now on, while those that are there run. Jobs that other
// backends put in, such as received webhooks, are still taken: their senders were promised it.
func (s *Service) drainQueue(w http.ResponseWriter, r *http.Request) error {
	name, err := s.knownQueue(r)
	if err != nil {
		return err
	}
	_, err = s.db.Write.ExecContext(r.Context(), "INSERT INTO jobs_drains (queue, created_at) VALUES ($1, $2) ON CONFLICT (queue) DO NOTHING",
		name, time.Now().UnixMilli())
	if err != nil {
		return fmt.Errorf("beginning a drain: %w", err)
	}
	s.drained.forget()
	paused, err := s.paused(r.Context())
	if err != nil {
		return err
	}
	return s.writeQueue(w, r, name, paused[name])
}

// drains are the names of the queues that are being drained.
func (s *Service) drains(ctx context.Context) (map[string]bool, error) {
	return names(ctx, s.db.Read, "SELECT queue FROM jobs_drains")
}

func (s *Service) knownQueue(r *http.Request) (string, error) {
	name := r.PathValue("queue")
	if isInternal(name) {
		return "", problem.New(problem.Forbidden, "The queue %.64s is the other backends' own and goes on.", name)
	}
	if _, ok := s.queues[name]; !ok {
		return "", s.noQueue()
	}
	return name, nil
}

func (s *Service) noQueue() error {
	return problem.New(problem.NotFound, "There is no queue of that name, known are: %s.", strings.Join(slices.Sorted(maps.Keys(s.queues)), ", "))
}
