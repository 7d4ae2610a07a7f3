package jobs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/riverqueue/river/rivertype"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// listTime bounds a list, a group or a page of a bulk change: a search reads what it must.
const listTime = 10 * time.Second

func (s *Service) routes() *httpapi.Router {
	rt := httpapi.NewRouter(s.log)
	users := s.guard(rt, service.Caller.Check)
	users.Handle(http.MethodPost, "/jobs", s.postJob)
	users.Handle(http.MethodGet, "/jobs", s.getJobs)
	users.Handle(http.MethodPost, "/jobs/batch", s.postBatch)
	users.Handle(http.MethodGet, "/jobs/groups", s.getGroups)
	users.Handle(http.MethodPost, "/jobs/retry", s.retryJobs)
	users.Handle(http.MethodPost, "/jobs/cancel", s.cancelJobs)
	users.Handle(http.MethodGet, "/jobs/{id}", s.getJob)
	users.Handle(http.MethodPut, "/jobs/{id}", s.putJob)
	users.Handle(http.MethodDelete, "/jobs/{id}", s.deleteJob)
	users.Handle(http.MethodPost, "/jobs/{id}/retry", s.retryJob)
	s.scheduleRoutes(users)
	services := s.guard(rt, service.Caller.CheckAny)
	services.Handle(http.MethodPost, "/jobs/{id}/heartbeat", s.postHeartbeat)
	services.Handle(http.MethodPost, "/jobs/{id}/complete", s.postComplete)
	services.Handle(http.MethodPost, "/jobs/{id}/fail", s.postFail)
	services.Handle(http.MethodGet, "/queues", s.getQueues)
	services.Handle(http.MethodGet, "/queues/{queue}", s.getQueue)
	services.Handle(http.MethodPost, "/queues/{queue}/lease", s.postLease)
	operators := s.guard(rt, service.Caller.CheckOperator)
	operators.Handle(http.MethodPost, "/queues/{queue}/pause", s.pauseQueue)
	operators.Handle(http.MethodPost, "/queues/{queue}/resume", s.resumeQueue)
	operators.Handle(http.MethodPost, "/queues/{queue}/drain", s.drainQueue)
	operators.Handle(http.MethodPost, "/queues/{queue}/breaker/reset", s.resetBreaker)
	return rt
}

// Receipt is the answer to what changes a job.
type Receipt struct {
	ID    string `json:"id"`
	State string `json:"state"`
	// Duplicate says that nothing was enqueued, as this job holds the unique key.
	Duplicate bool `json:"duplicate,omitempty"`
	// Replaced says that the job, which waits, has taken over what this order says.
	Replaced bool `json:"replaced,omitempty"`
	// Cancelling says that the job runs and was asked to stop.
	Cancelling bool `json:"cancelling,omitempty"`
}

func (i inserted) receipt() Receipt {
	return Receipt{ID: itoa(i.id), State: i.state, Duplicate: i.duplicate, Replaced: i.replaced}
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// decode is httpapi.DecodeJSON for a body that was read.
func decode(w http.ResponseWriter, r *http.Request, body []byte, v any) error {
	r.Body = io.NopCloser(bytes.NewReader(body))
	return httpapi.DecodeJSON(w, r, int64(len(body)), v)
}

// traceOf is the header that a job hands on, nil without a valid one.
func traceOf(r *http.Request) http.Header {
	if t := r.Header.Get("Traceparent"); validTraceparent(t) {
		return http.Header{"Traceparent": {t}}
	}
	return nil
}

func (s *Service) postJob(w http.ResponseWriter, r *http.Request) error {
	wait, err := waitOf(r)
	if err != nil {
		return err
	}
	body, err := httpapi.ReadBody(w, r, s.maxRequest())
	if err != nil {
		return err
	}
	var q request
	if err = decode(w, r, body, &q); err != nil {
		return err
	}
	o, err := s.orderOf(r.Context(), &q, time.Now())
	if err != nil {
		return err
	}
	o.args.Header = traceOf(r)
	if o.idempotency, err = idempotencyOf(r, "POST /jobs", body); err != nil {
		return err
	}
	all, err := s.place(r, []order{o})
	if err != nil {
		return err
	}
	if all[0].replayed {
		w.Header().Set("Idempotency-Replayed", "true")
	}
	receipt := all[0].receipt()
	w.Header().Set("Location", "/jobs/"+receipt.ID)
	if wait > 0 {
		if v, ended, err := s.awaitJob(w, r, all[0].id, wait); err != nil || ended {
			return s.writeJob(w, r, v, err)
		}
	}
	return httpapi.WriteJSON(w, http.StatusAccepted, receipt)
}

// place inserts the orders of one request, all or none. What an Idempotency-Key has been answered
// before is answered again, whatever may have happened to the queue since.
func (s *Service) place(r *http.Request, orders []order) ([]inserted, error) {
	ctx := r.Context()
	if orders[0].idempotency != nil {
		all := make([]inserted, len(orders))
		for i := range orders {
			first, found, err := orders[i].idempotency.replay(ctx, s.db.Read)
			if err != nil {
				return nil, err
			}
			if !found {
				break
			}
			if all[i] = first; i == len(orders)-1 {
				return all, nil
			}
		}
	}
	stored, err := s.db.Reserve(len(orders), payloadBytes(orders))
	if err != nil {
		return nil, err
	}
	defer stored()
	if err = s.admit(ctx, orders); err != nil {
		return nil, err
	}
	if len(orders) > 1 {
		return s.insertAll(ctx, orders)
	}
	made, err := s.insert(ctx, orders[0])
	return []inserted{made}, err
}

func payloadBytes(orders []order) (n int) {
	for i := range orders {
		n += len(orders[i].args.Body)
	}
	return n
}

func (s *Service) getJob(w http.ResponseWriter, r *http.Request) error {
	id, err := jobID(r)
	if err != nil {
		return err
	}
	wait, err := waitOf(r)
	if err != nil {
		return err
	}
	v, _, err := s.awaitJob(w, r, id, wait)
	return s.writeJob(w, r, v, err)
}

func (s *Service) writeJob(w http.ResponseWriter, r *http.Request, v View, err error) error {
	if err != nil {
		return err
	}
	w.Header().Set("Etag", etag(v)) // of what is stored
	if v.WaitingFor, err = s.waitingFor(r.Context(), &v); err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, v)
}

// etag names the job as v shows it.
func etag(v View) string {
	b, _ := json.Marshal(v) //nolint:errchkjson // what is shown always encodes
	sum := sha256.Sum256(b)
	return `"` + hex.EncodeToString(sum[:12]) + `"`
}

func jobID(r *http.Request) (int64, error) {
	if id := parseID(r.PathValue("id")); id > 0 {
		return id, nil
	}
	return 0, problem.New(problem.NotFound, "There is no such job: an id is a whole number.")
}

func (s *Service) getJobs(w http.ResponseWriter, r *http.Request) error {
	limit, before, err := httpapi.NumberedPageOf(r, math.MaxInt64)
	if err != nil {
		return err
	}
	f, err := filterOf(r.URL.Query())
	if err != nil {
		return err
	}
	f.restrict(httpapi.CallerOf(r.Context()))
	ctx, cancel := context.WithTimeout(r.Context(), listTime)
	defer cancel()
	items, err := s.list(ctx, f, before, limit+1)
	if err != nil {
		return slow(ctx, err)
	}
	return httpapi.WriteJSON(w, http.StatusOK, httpapi.PageFrom(items, limit, func(v View) string { return v.ID }, httpapi.Itself))
}

// slow is err, or what to do about a search that took too long.
func slow(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return problem.New(problem.Unavailable, "The search took longer than %s: narrow it by queue, state, since and until.", listTime).Because(err)
	}
	return err
}

func (s *Service) retryJob(w http.ResponseWriter, r *http.Request) error {
	id, err := jobID(r)
	if err != nil {
		return err
	}
	payload, err := s.retryPayload(w, r)
	if err != nil {
		return err
	}
	var queue string
	err = s.db.InTx(r.Context(), func(tx *sql.Tx) error {
		state, q, err := s.lookUp(r.Context(), tx, id)
		if err != nil {
			return err
		}
		if queue = q; state == stateRunning {
			return problem.New(problem.Conflict, "The job %d is running, so there is nothing to retry yet.", id)
		}
		if payload != nil {
			if err = s.editTx(r.Context(), tx, id, q, payload); err != nil {
				return err
			}
		}
		_, others, err := s.retryTx(r.Context(), tx, []int64{id}, "")
		if err == nil && len(others) > 0 {
			return problem.New(problem.Conflict, "The job %d has taken over the unique key of this one.", others[0])
		}
		return err
	})
	if err != nil {
		return err
	}
	s.wakeQueue(queue)
	return httpapi.WriteJSON(w, http.StatusAccepted, Receipt{ID: itoa(id), State: stateQueued})
}

// retryPayload reads the body of a retry, which may be absent. It is nil if it has no payload.
func (s *Service) retryPayload(w http.ResponseWriter, r *http.Request) (json.RawMessage, error) {
	body, err := httpapi.ReadBody(w, r, s.maxRequest())
	if err != nil || len(body) == 0 {
		return nil, err
	}
	var edit struct {
		Payload json.RawMessage `json:"payload"`
	}
	if err = decode(w, r, body, &edit); err != nil || edit.Payload == nil {
		return nil, err
	}
	return edit.Payload, nil
}

// wakeQueue has the due jobs of a queue fetched.
func (s *Service) wakeQueue(queue string) {
	s.wake.poke(queue)
	s.bells.ring(queue)
}

// wakeQueueAt is wakeQueue at a time, unless the engine's scheduler sees to it.
func (s *Service) wakeQueueAt(at time.Time, queue string) {
	if time.Until(at) < scheduleAhead {
		s.wake.pokeAt(at, queue)
		s.bells.ringAt(at, queue)
	}
}

func (s *Service) deleteJob(w http.ResponseWriter, r *http.Request) error {
	id, err := jobID(r)
	if err != nil {
		return err
	}
	var row *rivertype.JobRow
	err = s.db.InTx(r.Context(), func(tx *sql.Tx) error {
		state, queue, err := s.lookUp(r.Context(), tx, id)
		if err != nil {
			return err
		}
		if isInternal(queue) {
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
	receipt := Receipt{ID: itoa(id), State: stateCancelled}
	if row.State == rivertype.JobStateRunning {
		receipt.State, receipt.Cancelling = stateRunning, true
		return httpapi.WriteJSON(w, http.StatusAccepted, receipt)
	}
	s.callbacks.poke()
	return httpapi.WriteJSON(w, http.StatusOK, receipt)
}

// lookUp locks the job and reads what a change of it depends on.
func (s *Service) lookUp(ctx context.Context, tx *sql.Tx, id int64) (state, queue string, err error) {
	var owner string
	err = tx.QueryRowContext(ctx, "SELECT "+s.q.userState()+", j.queue, coalesce(j.metadata ->> 'owner', '') FROM river_job j WHERE j.id = $1"+s.q.forUpdate(), id).
		Scan(&state, &queue, &owner)
	if noRows(err) || err == nil && !httpapi.MayUse(ctx, owner) {
		return "", "", noJob(id)
	}
	if err != nil {
		return "", "", fmt.Errorf("reading a job: %w", err)
	}
	return state, queue, nil
}
