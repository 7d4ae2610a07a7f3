package jobs

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

// What runs when a configuration goes may go on for its queue's time, and when the process ends for the
// process's. What is cut off then goes back to its queue, with a mark: its target may have done the work.

// drainSlack is how much later than that the engine itself ends what runs.
const drainSlack = 5 * time.Second

// errCut is the cause with which what runs is called off.
var errCut = errors.New("the time to drain is over")

// cuts are the ends of the queues' time to drain, and the jobs that were cut off by them.
type cuts struct {
	mu     sync.Mutex
	ends   map[string]*cutEnd
	marked map[int64]bool
}

type cutEnd struct {
	ctx context.Context
	end context.CancelFunc
}

func (c *cuts) of(queue string) *cutEnd {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.ends[queue]
	if e == nil {
		e = new(cutEnd)
		e.ctx, e.end = context.WithCancel(context.Background())
		if c.ends == nil {
			c.ends = map[string]*cutEnd{}
		}
		c.ends[queue] = e
	}
	return e
}

// join is ctx until the queue's time to drain is over. leave must be called.
func (c *cuts) join(ctx context.Context, queue string) (joined context.Context, leave func()) {
	joined, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.of(queue).ctx, func() { cancel(errCut) })
	return joined, func() {
		stop()
		cancel(nil)
	}
}

// mark notes that the job was cut off. Its row will say so.
func (c *cuts) mark(id int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.marked == nil {
		c.marked = map[int64]bool{}
	}
	c.marked[id] = true
}

// take reports whether the job was cut off, and forgets it.
func (c *cuts) take(id int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.marked[id]
	delete(c.marked, id)
	return was
}

// drainOf is how long what runs in the queue may go on when the configuration goes.
func (s *Service) drainOf(queue string) time.Duration {
	return cmp.Or(s.settings(queue).Drain.Std(), s.drain)
}

// DrainTime is how long Run may take to return after its context ended.
func (s *Service) DrainTime() time.Duration {
	longest := s.drain
	for _, q := range s.queues {
		longest = max(longest, q.Drain.Std())
	}
	return longest + drainSlack
}

// cutLoop ends what runs after ctx has ended: each queue in its time, and all when the process's is over. It
// returns when stopped is closed.
func (s *Service) cutLoop(ctx context.Context, stopped <-chan struct{}) {
	select {
	case <-ctx.Done():
	case <-stopped:
		return
	}
	for _, queue := range s.workedQueues() {
		defer time.AfterFunc(s.drainOf(queue), s.cuts.of(queue).end).Stop()
	}
	// Queues that are in no configuration any more have jobs of other instances alone.
	select {
	case <-s.exit:
		late := time.NewTimer(s.drain)
		defer late.Stop()
		select {
		case <-late.C:
			for _, queue := range s.workedQueues() {
				s.cuts.of(queue).end()
			}
		case <-stopped:
			return
		}
		<-stopped
	case <-stopped:
	}
}

// calledOff is the answer to the engine for a job whose context was cancelled.
func (s *Service) calledOff(ctx context.Context, row *rivertype.JobRow) error {
	cause := context.Cause(ctx)
	if !errors.Is(cause, rivertype.ErrJobCancelledRemotely) {
		s.cuts.mark(row.ID)
	}
	if errors.Is(cause, errCut) {
		return river.JobSnooze(0)
	}
	return ctx.Err() // a stop gives the job back, a cancel ends it; neither is the job's fault
}

// redelivered is the mark in the metadata of a job that may have run before without its end being known.
const redelivered = "redelivered"

// isRedelivered reports whether the job may have run before without its end being known.
func isRedelivered(row *rivertype.JobRow) bool {
	if !bytes.Contains(row.Metadata, []byte(redelivered)) {
		return false
	}
	var m struct {
		Redelivered bool `json:"redelivered"`
	}
	return json.Unmarshal(row.Metadata, &m) == nil && m.Redelivered
}

// marked is the metadata that the engine stores with the end of a run that was cut off. The run was not
// postponed by its target, so it is not counted as that.
func marked(updates []byte) []byte {
	m := map[string]any{}
	if len(updates) > 0 && json.Unmarshal(updates, &m) != nil {
		return updates
	}
	delete(m, "snoozes")
	m[redelivered] = true
	b, err := json.Marshal(m)
	if err != nil {
		return updates
	}
	return b
}
