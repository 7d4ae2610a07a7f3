package jobs

import (
	"context"

	"github.com/riverqueue/river/rivertype"
)

// maxEvents is how many events may wait for their subscribers; what comes then is dropped.
const maxEvents = 1024

// event is something that subscribers of the process learn.
type event struct {
	name string
	data map[string]any
}

// emit hands an event to the subscribers, who see it later. It never blocks.
func (s *Service) emit(name string, data map[string]any) {
	select {
	case s.events <- event{name, data}:
	default:
		s.tell.warn(s.log, "events were dropped, as their subscribers are too slow", "", "event", name)
	}
}

// eventLoop has the subscribers see the events, until ctx ends and none is left.
func (s *Service) eventLoop(ctx context.Context) {
	see := func(e event) {
		if s.subscriber != nil {
			s.subscriber(e.name, e.data)
		}
	}
	for {
		select {
		case e := <-s.events:
			see(e)
			continue
		case <-ctx.Done():
		}
		for {
			select {
			case e := <-s.events:
				see(e)
			default:
				return
			}
		}
	}
}

// died tells that a job failed for good: in the log, in the numbers, and as the event job_died.
func (s *Service) died(row *rivertype.JobRow) {
	s.deaths.add(row.Queue)
	message := ""
	if n := len(row.Errors); n > 0 {
		message = messageOf(row.Errors[n-1].Error)
	}
	id := itoa(row.ID)
	s.tell.warn(s.log, "a job died", row.Queue, "job", id, "attempt", row.Attempt, "error", message)
	s.emit("job_died", map[string]any{"id": id, "queue": row.Queue, "attempt": row.Attempt, "error": message})
}

// bury tells, before it is done, that dead jobs are deleted which are more or older than the queue keeps.
func (s *Service) bury(queue string, ids []int64) {
	first, last := itoa(ids[0]), itoa(ids[len(ids)-1])
	s.tell.warn(s.log, "dead jobs are deleted, as the queue keeps no more", queue, "jobs", len(ids), "first", first, "last", last)
	s.emit("dead_jobs_deleted", map[string]any{"queue": queue, "jobs": len(ids), "first": first, "last": last})
}

// markCut notes which of the jobs in the engine's batch were cut off, and adds the mark to them.
func (s *Service) markCut(ids []int64, merge []bool, updates [][]byte) {
	for i, id := range ids {
		if s.cuts.take(id) {
			merge[i], updates[i] = true, marked(updates[i])
		}
	}
}

// diedOf tells of those of the rows that a batch has ended for good.
func (s *Service) diedOf(rows []*rivertype.JobRow, ids []int64, states []rivertype.JobState) {
	dead := map[int64]bool{}
	for i, id := range ids {
		if states[i] == rivertype.JobStateDiscarded {
			dead[id] = true
		}
	}
	if len(dead) == 0 {
		return
	}
	for _, row := range rows {
		if dead[row.ID] && row.State == rivertype.JobStateDiscarded {
			s.died(row)
		}
	}
}
