package jobs

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

// pauseWait bounds how long the answer to a pause waits for the fetcher to stop.
const pauseWait = time.Second

func (s *Service) routes() *httpapi.Router {
	rt := httpapi.NewRouter(s.log)
	rt.Handle(http.MethodPost, "/jobs", s.postJob)
	rt.Handle(http.MethodGet, "/jobs", s.getJobs)
	rt.Handle(http.MethodGet, "/jobs/{id}", s.getJob)
	rt.Handle(http.MethodDelete, "/jobs/{id}", s.deleteJob)
	rt.Handle(http.MethodPost, "/jobs/{id}/retry", s.retryJob)
	rt.Handle(http.MethodGet, "/queues", s.getQueues)
	rt.Handle(http.MethodPost, "/queues/{queue}/pause", s.pauseQueue)
	rt.Handle(http.MethodPost, "/queues/{queue}/resume", s.resumeQueue)
	return rt
}

// Receipt is the answer to what changes a job.
type Receipt struct {
	ID    string `json:"id"`
	State string `json:"state"`
	// Duplicate says that nothing was enqueued, as this job holds the unique key.
	Duplicate bool `json:"duplicate,omitempty"`
	// Cancelling says that the job runs and was asked to stop.
	Cancelling bool `json:"cancelling,omitempty"`
}

func (s *Service) postJob(w http.ResponseWriter, r *http.Request) error {
	var q request
	if err := httpapi.DecodeJSON(w, r, maxRequest, &q); err != nil {
		return err
	}
	o, err := s.check(&q, time.Now())
	if err != nil {
		return err
	}
	if t := r.Header.Get("Traceparent"); validTraceparent(t) {
		o.args.Header = http.Header{"Traceparent": {t}}
	}
	id, state, duplicate, err := s.insert(r.Context(), o)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/jobs/"+strconv.FormatInt(id, 10))
	return httpapi.WriteJSON(w, http.StatusAccepted, Receipt{ID: strconv.FormatInt(id, 10), State: state, Duplicate: duplicate})
}

func (s *Service) getJob(w http.ResponseWriter, r *http.Request) error {
	id, err := jobID(r)
	if err != nil {
		return err
	}
	v, err := s.job(r.Context(), id)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, v)
}

func jobID(r *http.Request) (int64, error) {
	if id := parseID(r.PathValue("id")); id > 0 {
		return id, nil
	}
	return 0, problem.New(problem.NotFound, "There is no such job: an id is a whole number.")
}

func (s *Service) getJobs(w http.ResponseWriter, r *http.Request) error {
	limit, cursor, err := httpapi.PageOf(r)
	if err != nil {
		return err
	}
	before := int64(math.MaxInt64)
	if cursor != "" {
		if before = parseID(cursor); before == 0 {
			return problem.New(problem.InvalidRequest, "cursor is not one that this list gave out.")
		}
	}
	q := r.URL.Query()
	queue, state := q.Get("queue"), q.Get("state")
	if _, ok := engineStates[state]; !ok && state != "" {
		return problem.New(problem.InvalidRequest, "state must be one of: %s.", strings.Join(slices.Sorted(maps.Keys(engineStates)), ", "))
	}
	items, err := s.list(r.Context(), queue, state, before, limit+1)
	if err != nil {
		return err
	}
	page := httpapi.Page[View]{Items: items}
	if len(items) > limit {
		page.Items, page.NextCursor = items[:limit], items[limit-1].ID
	}
	return httpapi.WriteJSON(w, http.StatusOK, page)
}

func (s *Service) retryJob(w http.ResponseWriter, r *http.Request) error {
	id, err := jobID(r)
	if err != nil {
		return err
	}
	var row *rivertype.JobRow
	err = s.db.InTx(r.Context(), func(tx *sql.Tx) error {
		state, queue, key, err := lookUp(r.Context(), tx, id)
		if err != nil {
			return err
		}
		if state == stateRunning {
			return problem.New(problem.Conflict, "The job %d is running, so there is nothing to retry yet.", id)
		}
		if key != "" {
			other, _, err := holder(r.Context(), tx, queue, key)
			if err != nil {
				return err
			}
			if other != 0 && other != id {
				return problem.New(problem.Conflict, "The job %d has taken over the unique key of this one.", other)
			}
			if err = hold(r.Context(), tx, queue, key, id); err != nil {
				return err
			}
		}
		if row, err = s.river.JobRetryTx(r.Context(), tx, id); err != nil {
			return fmt.Errorf("retrying a job: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.wake.poke(row.Queue)
	return httpapi.WriteJSON(w, http.StatusAccepted, Receipt{ID: strconv.FormatInt(id, 10), State: stateQueued})
}

func (s *Service) deleteJob(w http.ResponseWriter, r *http.Request) error {
	id, err := jobID(r)
	if err != nil {
		return err
	}
	var row *rivertype.JobRow
	err = s.db.InTx(r.Context(), func(tx *sql.Tx) error {
		state, queue, _, err := lookUp(r.Context(), tx, id)
		if err != nil {
			return err
		}
		if queue == internalQueue {
			return problem.New(problem.Forbidden, "The job %d is another backend's own and is not cancelled.", id)
		}
		if state == stateCompleted || state == stateDead || state == stateCancelled {
			return problem.New(problem.Conflict, "The job %d is %s, so there is nothing to cancel.", id, state)
		}
		if row, err = s.river.JobCancelTx(r.Context(), tx, id); err != nil {
			return fmt.Errorf("cancelling a job: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.wake.look()
	receipt := Receipt{ID: strconv.FormatInt(id, 10), State: stateCancelled}
	if row.State == rivertype.JobStateRunning {
		receipt.State, receipt.Cancelling = stateRunning, true
		return httpapi.WriteJSON(w, http.StatusAccepted, receipt)
	}
	return httpapi.WriteJSON(w, http.StatusOK, receipt)
}

// lookUp reads what a change of the job depends on.
func lookUp(ctx context.Context, tx *sql.Tx, id int64) (state, queue, key string, err error) {
	err = tx.QueryRowContext(ctx, "SELECT "+userState+", j.queue, coalesce(j.args ->> '$.unique_key', '') FROM river_job j WHERE j.id = ?", id).
		Scan(&state, &queue, &key)
	if errors.Is(err, sql.ErrNoRows) {
		return "", "", "", noJob(id)
	}
	if err != nil {
		return "", "", "", fmt.Errorf("reading a job: %w", err)
	}
	return state, queue, key, nil
}

func (s *Service) getQueues(w http.ResponseWriter, r *http.Request) error {
	counts, err := s.counts(r.Context())
	if err != nil {
		return err
	}
	paused, err := s.paused(r.Context())
	if err != nil {
		return err
	}
	page := httpapi.Page[QueueView]{Items: []QueueView{}}
	for name := range s.queues {
		if counts[name] == nil {
			counts[name] = map[string]int{}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		q := s.queues[name]
		v := QueueView{Name: name, Target: q.Target, Concurrency: q.Concurrency, Paused: paused[name], Counts: map[string]int{}}
		for state := range engineStates {
			v.Counts[state] = counts[name][state]
		}
		page.Items = append(page.Items, v)
	}
	return httpapi.WriteJSON(w, http.StatusOK, page)
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
		if s.running.Load() {
			await(r.Context(), stopped, name)
		}
	}
	return httpapi.WriteJSON(w, http.StatusOK, map[string]any{"name": name, "paused": true})
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

func (s *Service) resumeQueue(w http.ResponseWriter, r *http.Request) error {
	name, err := s.knownQueue(r)
	if err != nil {
		return err
	}
	if err = s.river.QueueResume(r.Context(), name, nil); err != nil {
		return fmt.Errorf("resuming a queue: %w", err)
	}
	s.wake.look()
	return httpapi.WriteJSON(w, http.StatusOK, map[string]any{"name": name, "paused": false})
}

func (s *Service) knownQueue(r *http.Request) (string, error) {
	name := r.PathValue("queue")
	if name == internalQueue {
		return "", problem.New(problem.Forbidden, "The queue internal is the other backends' own and goes on.")
	}
	if _, ok := s.queues[name]; !ok {
		return "", problem.New(problem.NotFound, "There is no queue of that name, known are: %s.", strings.Join(slices.Sorted(maps.Keys(s.queues)), ", "))
	}
	return name, nil
}
