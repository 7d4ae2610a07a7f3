package jobs

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

// upcomingTicks is how many ticks the view of one schedule foretells.
const upcomingTicks = 5

// scheduleRoutes adds the API of the schedules.
func (s *Service) scheduleRoutes(rt httpapi.Guard) {
	rt.Handle(http.MethodGet, "/schedules", s.getSchedules)
	rt.Handle(http.MethodGet, "/schedules/{name}", s.getSchedule)
	rt.Handle(http.MethodPut, "/schedules/{name}", s.putSchedule)
	rt.Handle(http.MethodDelete, "/schedules/{name}", s.deleteSchedule)
	rt.Handle(http.MethodPost, "/schedules/{name}/run", s.runSchedule)
	rt.Handle(http.MethodPost, "/schedules/{name}/pause", s.pauseSchedule(true))
	rt.Handle(http.MethodPost, "/schedules/{name}/resume", s.pauseSchedule(false))
}

// ScheduleView is a schedule as the API shows it.
type ScheduleView struct {
	Name string `json:"name"`
	// Owner is whose schedule it is, absent for nobody's.
	Owner    string          `json:"owner,omitempty"`
	Cron     string          `json:"cron"`
	Timezone string          `json:"timezone"`
	Queue    string          `json:"queue"`
	Payload  json.RawMessage `json:"payload"`
	// Target is the schedule's own, empty for the queue's.
	Target string `json:"target,omitempty"`
	Missed string `json:"missed"`
	ScheduleOptions
	// Configured says that it stands in the configuration, so that the API does not change or delete it.
	Configured bool `json:"configured"`
	Paused     bool `json:"paused"`
	// NextAt is the next tick, absent while the schedule is paused.
	NextAt *time.Time `json:"next_at,omitempty"`
	// LastAt is the newest tick that was fired, LastJob its job.
	LastAt  *time.Time `json:"last_at,omitempty"`
	LastJob string     `json:"last_job,omitempty"`
	// Upcoming are the next 5 ticks. A list leaves them out.
	Upcoming []time.Time `json:"upcoming,omitempty"`
}

func (sc *schedule) view() ScheduleView {
	v := ScheduleView{
		Name: service.Unscoped(sc.name), Owner: sc.owner, Cron: sc.Cron, Timezone: sc.Timezone, Queue: sc.Queue, Payload: sc.Payload, Target: sc.Target, Missed: sc.Missed,
		ScheduleOptions: sc.ScheduleOptions, Configured: sc.configured, Paused: sc.paused,
	}
	if !sc.paused && !sc.next.IsZero() {
		v.NextAt = &sc.next
	}
	if !sc.last.IsZero() {
		v.LastAt = &sc.last
	}
	if sc.lastJob != 0 {
		v.LastJob = strconv.FormatInt(sc.lastJob, 10)
	}
	return v
}

// full is the view of one schedule.
func (sc *schedule) full(now time.Time) ScheduleView {
	v := sc.view()
	c, err := sc.ticks()
	if err != nil || sc.paused {
		return v
	}
	for t := c.next(now); !t.IsZero() && len(v.Upcoming) < upcomingTicks; t = c.next(t) {
		v.Upcoming = append(v.Upcoming, t.UTC())
	}
	return v
}

func (s *Service) getSchedules(w http.ResponseWriter, r *http.Request) error {
	limit, cursor, err := httpapi.PageOf(r)
	if err != nil {
		return err
	}
	where, args := "WHERE name > $1 ORDER BY name LIMIT $2", []any{cursor, limit + 1}
	if owner := httpapi.OwnerListed(r); owner != "" {
		where, args = "WHERE name > $1 AND owner = $3 ORDER BY name LIMIT $2", append(args, owner)
	}
	all, err := querySchedules(r.Context(), s.db.Read, where, args...)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, httpapi.PageFrom(all, limit,
		func(sc schedule) string { return sc.name }, func(sc schedule) ScheduleView { return sc.view() }))
}

func (s *Service) getSchedule(w http.ResponseWriter, r *http.Request) error {
	name, err := scheduleName(r)
	if err != nil {
		return err
	}
	sc, err := readSchedule(r.Context(), s.db.Read, name)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, sc.full(time.Now()))
}

func (s *Service) putSchedule(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if !validSchedule(name) {
		return problem.New(problem.Unprocessable, "A schedule's name has up to %d lower-case letters and digits, parted by single hyphens or underscores.", maxName)
	}
	var want Schedule
	if err := httpapi.DecodeJSON(w, r, s.maxRequest(), &want); err != nil {
		return err
	}
	owner, err := httpapi.OwnerAsked(r)
	if err != nil {
		return err
	}
	name = service.Scoped(owner, name)
	want = want.withDefaults()
	asked := &request{Target: want.Target}
	if want.Key != "" {
		asked.Key = &want.Key
	}
	if err = s.checkUser(httpapi.CallerOf(r.Context()), want.Queue, asked); err != nil {
		return err
	}
	if err = want.check(s.queues, s.targets); err != nil {
		return problem.New(problem.Unprocessable, "%v.", err)
	}
	status, now := http.StatusOK, time.Now()
	var stored schedule
	err = s.db.InTx(r.Context(), func(tx *sql.Tx) error {
		switch found, n, err := findSchedule(r.Context(), tx, owner, name); {
		case err != nil:
			return err
		case found != nil && found.configured:
			return errConfigured(service.Unscoped(name))
		case found == nil && owner != "" && n.own >= maxOwnSchedules:
			return problem.New(problem.Conflict, "The owner has %d schedules already, delete one first.", n.own)
		case found == nil && n.all >= maxSchedules:
			return problem.New(problem.Conflict, "There are %d schedules already, delete one first.", n.all)
		case found == nil:
			status = http.StatusCreated
		}
		err := storeSchedule(r.Context(), tx, name, owner, want, false, now)
		if err != nil {
			return err
		}
		stored, err = readSchedule(r.Context(), tx, name)
		return err
	})
	if err != nil {
		return err
	}
	s.schedules.wake()
	return httpapi.WriteJSON(w, status, stored.full(now))
}

// scheduleName is the stored name of the schedule that the request is about.
func scheduleName(r *http.Request) (string, error) {
	owner, err := httpapi.OwnerAsked(r)
	if err != nil {
		return "", err
	}
	name := r.PathValue("name")
	if !validSchedule(name) {
		return "", noSchedule(name)
	}
	return service.Scoped(owner, name), nil
}

// scheduleCount is how many schedules there are, in all and of one owner.
type scheduleCount struct{ all, own int }

// findSchedule is the named schedule, nil if there is none, and how many there are.
func findSchedule(ctx context.Context, tx *sql.Tx, owner, name string) (found *schedule, n scheduleCount, err error) {
	err = tx.QueryRowContext(ctx, "SELECT count(*), coalesce(sum(CASE WHEN owner = $1 THEN 1 ELSE 0 END), 0) FROM jobs_schedules", owner).Scan(&n.all, &n.own)
	if err != nil {
		return nil, n, fmt.Errorf("counting schedules: %w", err)
	}
	all, err := querySchedules(ctx, tx, "WHERE name = $1", name)
	if err != nil || len(all) == 0 {
		return nil, n, err
	}
	return &all[0], n, nil
}

func (s *Service) deleteSchedule(w http.ResponseWriter, r *http.Request) error {
	name, err := scheduleName(r)
	if err != nil {
		return err
	}
	err = s.db.InTx(r.Context(), func(tx *sql.Tx) error {
		sc, err := readSchedule(r.Context(), tx, name)
		if err != nil {
			return err
		}
		if sc.configured {
			return errConfigured(sc.name)
		}
		if _, err = tx.ExecContext(r.Context(), "DELETE FROM jobs_schedules WHERE name = $1", sc.name); err != nil {
			return fmt.Errorf("deleting a schedule: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// runSchedule enqueues a job now. The ticks stay where they are.
func (s *Service) runSchedule(w http.ResponseWriter, r *http.Request) error {
	name, err := scheduleName(r)
	if err != nil {
		return err
	}
	sc, err := readSchedule(r.Context(), s.db.Read, name)
	if err != nil {
		return err
	}
	if err = s.admit(r.Context(), []order{s.scheduledOrder(&sc, time.Time{})}); err != nil {
		return err
	}
	var made inserted
	err = s.db.InTx(r.Context(), func(tx *sql.Tx) (err error) {
		if sc, err = readSchedule(r.Context(), tx, name); err != nil {
			return err
		}
		made, err = s.fireTx(r.Context(), tx, &sc, time.Time{})
		return err
	})
	if err != nil {
		return err
	}
	s.wakeFor(sc.Queue, made.at)
	receipt := made.receipt()
	w.Header().Set("Location", "/jobs/"+receipt.ID)
	return httpapi.WriteJSON(w, http.StatusAccepted, receipt)
}

// pauseSchedule stops the ticks of a schedule, or lets it go on with the first one from now: those in
// between do not count as missed.
func (s *Service) pauseSchedule(pause bool) httpapi.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		now := time.Now()
		name, err := scheduleName(r)
		if err != nil {
			return err
		}
		var sc schedule
		err = s.db.InTx(r.Context(), func(tx *sql.Tx) (err error) {
			if sc, err = readSchedule(r.Context(), tx, name); err != nil || sc.paused == pause {
				return err
			}
			if sc.paused = pause; pause {
				_, err = tx.ExecContext(r.Context(), "UPDATE jobs_schedules SET paused_at = $1 WHERE name = $2", now.UnixMilli(), sc.name)
			} else {
				var c cron
				if c, err = sc.ticks(); err != nil {
					return err
				}
				sc.next = c.next(now).UTC()
				_, err = tx.ExecContext(r.Context(), "UPDATE jobs_schedules SET paused_at = 0, next_at = $1 WHERE name = $2", toMilli(sc.next), sc.name)
			}
			if err != nil {
				return fmt.Errorf("pausing or resuming a schedule: %w", err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		s.schedules.wake()
		return httpapi.WriteJSON(w, http.StatusOK, sc.full(now))
	}
}
