package jobs

import (
	"sync"
	"time"
)

// endingMost is how long the engine may take to store the end of a job. Later it has given up.
const endingMost = time.Minute

// active is what this instance runs. The engine stores the ends of jobs in batches, up to a quarter of
// a second late, so its rows alone would keep slots taken that are free.
type active struct {
	mu    sync.Mutex
	short map[string]bool // queues whose last fetch left jobs waiting, for want of room
	jobs  map[int64]turnOf
	all   map[turnOf]int
	// ending are jobs that have been worked on and whose end is not stored yet, by when that began.
	ending map[int64]time.Time
}

// turnOf is the queue and the tenant's key of a job.
type turnOf struct{ queue, key string }

func newActive() *active {
	return &active{short: map[string]bool{}, jobs: map[int64]turnOf{}, all: map[turnOf]int{}, ending: map[int64]time.Time{}}
}

// begin counts a job that was fetched.
func (a *active) begin(id int64, t turnOf) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.jobs[id]; !ok {
		a.jobs[id] = t
		a.all[t]++
	}
}

// end counts it no more. It may be called again.
func (a *active) end(ids ...int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.drop(ids...)
}

// drop is end for who holds a.mu.
func (a *active) drop(ids ...int64) {
	for _, id := range ids {
		t, ok := a.jobs[id]
		if !ok {
			continue
		}
		delete(a.jobs, id)
		if a.all[t]--; a.all[t] == 0 {
			delete(a.all, t)
		}
	}
}

// worked notes that a job of the queue has been worked on, and says whether the queue's last fetch left jobs
// waiting. The end is still to be stored.
func (a *active) worked(id int64, queue string) (waiting bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ending[id] = time.Now()
	a.drop(id)
	return a.short[queue]
}

// stored notes that the ends of jobs are in their rows.
func (a *active) stored(ids ...int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range ids {
		delete(a.ending, id)
	}
}

// holds says whether this instance runs the job, or is about to store its end.
func (a *active) holds(id int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.jobs[id]; ok {
		return true
	}
	since, ok := a.ending[id]
	if ok && time.Since(since) > endingMost {
		delete(a.ending, id)
		return false
	}
	return ok
}

// of is how many jobs of the queue run, by key.
func (a *active) of(queue string) map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	running := map[string]int{}
	for t, n := range a.all {
		if t.queue == queue {
			running[t.key] = n
		}
	}
	return running
}

// leave notes whether the last fetch of the queue left jobs waiting.
func (a *active) leave(queue string, waiting bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.short[queue] = waiting
}

// freed is called when a job has been worked on. The engine looks for the next one by itself only if
// the last fetch filled all its slots, which the bounds of keys and targets may have kept it from.
func (s *Service) freed(id int64, queue string) {
	if s.active.worked(id, queue) {
		s.wake.poke(queue)
	}
}
