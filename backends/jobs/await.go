package jobs

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

const (
	// maxJobWait is how long a request may wait for the end of a job.
	maxJobWait = time.Minute
	// awaitPoll is how late the end of a job may be seen that another instance has run.
	awaitPoll = 200 * time.Millisecond
	// maxAwaiting is how many requests may wait for the end of a job.
	maxAwaiting = 5000
)

// waitOf reads the parameter wait, 0 without one.
func waitOf(r *http.Request) (time.Duration, error) {
	return durationOf("wait", r.URL.Query().Get("wait"), 0, 0, maxJobWait)
}

// awaiting are the requests that wait for the end of a job.
type awaiting struct {
	mu    sync.Mutex
	all   int
	jobs  map[int64]*awaitedJob // by job
	again chan struct{}         // holds one token while the poll runs
}

// awaitedJob is a job that requests wait for.
type awaitedJob struct {
	n     int
	ended chan struct{}
}

func newAwaiting() *awaiting {
	return &awaiting{jobs: map[int64]*awaitedJob{}, again: make(chan struct{}, 1)}
}

// enter counts a request on the job; leave must follow.
func (a *awaiting) enter(id int64) (ended <-chan struct{}, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.all >= maxAwaiting {
		e := problem.New(problem.Unavailable, "Too many requests wait for jobs: ask without wait.")
		e.RetryAfter = time.Second
		return nil, e
	}
	a.all++
	j := a.jobs[id]
	if j == nil {
		j = &awaitedJob{ended: make(chan struct{})}
		a.jobs[id] = j
	}
	j.n++
	return j.ended, nil
}

func (a *awaiting) leave(id int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all--
	if j := a.jobs[id]; j != nil {
		if j.n--; j.n == 0 {
			delete(a.jobs, id)
		}
	}
}

// done wakes who waits for the job.
func (a *awaiting) done(ids ...int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range ids {
		if j := a.jobs[id]; j != nil {
			select {
			case <-j.ended:
			default:
				close(j.ended)
			}
		}
	}
}

// ids are the jobs that somebody waits for.
func (a *awaiting) ids() []int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make([]int64, 0, len(a.jobs))
	for id := range a.jobs {
		all = append(all, id)
	}
	return all
}

// awaitJob is the job when it has ended, or after the wait.
func (s *Service) awaitJob(w http.ResponseWriter, r *http.Request, id int64, wait time.Duration) (v View, ended bool, err error) {
	ctx := r.Context()
	if v, err = s.job(ctx, id); err != nil || wait == 0 || v.FinishedAt != nil {
		return v, v.FinishedAt != nil, err
	}
	done, err := s.awaiting.enter(id)
	if err != nil {
		return View{}, false, err
	}
	defer s.awaiting.leave(id)
	leave, err := s.polls.Begin(w, r, httpapi.CallerOf(ctx))
	if err != nil {
		return View{}, false, err
	}
	defer leave()
	late := time.NewTimer(wait)
	defer late.Stop()
	poll := time.NewTicker(awaitPoll)
	defer poll.Stop()
	for waiting := true; waiting; {
		select {
		case <-done:
			waiting = false
		case <-late.C:
			waiting = false
		case <-ctx.Done():
			waiting = false
		case <-s.bells.wait(stopBell):
			waiting = false
		case <-poll.C:
			if err = s.pollEnds(ctx); err != nil {
				return View{}, false, err
			}
		}
	}
	v, err = s.job(ctx, id)
	return v, v.FinishedAt != nil, err
}

// pollEnds looks for the ends of all jobs that are waited for, unless another request is about to.
func (s *Service) pollEnds(ctx context.Context) error {
	select {
	case s.awaiting.again <- struct{}{}:
		defer func() { <-s.awaiting.again }()
	default:
		return nil
	}
	ended, err := column[int64](s.db.Read.QueryContext(ctx, "SELECT j.id FROM river_job j WHERE "+s.q.ids("j.id", "$1")+" AND j.finalized_at IS NOT NULL",
		jsonIDs(s.awaiting.ids())))
	if err != nil {
		return fmt.Errorf("looking for the ends of jobs: %w", err)
	}
	s.awaiting.done(ended...)
	return nil
}

// stopBell is rung by nobody: who waits for it is woken when the service stops.
const stopBell = "\x00stop"
