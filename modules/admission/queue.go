package admission

import "time"

// interval is how long requests must have been waiting without a break for the queue to be a
// standing one: no burst, but more than the app can do.
const interval = 100 * time.Millisecond

// queue holds the waiting requests of a class, a line for each priority.
type queue struct {
	lines [priorities]line
	n     int
}

// list is a list of tickets, oldest first. A ticket is in one at a time.
type list struct {
	first, last *ticket
	n           int
}

func (l *list) push(t *ticket) {
	t.prev, t.next = l.last, nil
	if l.last != nil {
		l.last.next = t
	} else {
		l.first = t
	}
	l.last = t
	l.n++
}

func (l *list) remove(t *ticket) {
	if t.prev != nil {
		t.prev.next = t.next
	} else {
		l.first = t.next
	}
	if t.next != nil {
		t.next.prev = t.prev
	} else {
		l.last = t.prev
	}
	t.prev, t.next = nil, nil
	l.n--
}

// line is those who wait. Short bursts are served in order. In a standing line the newest is served
// first, since its client still waits, and those beyond the target are let go.
type line struct {
	list
	since time.Time // when the line was last empty
}

func (l *line) standing(now time.Time) bool { return l.n > 0 && now.Sub(l.since) > interval }

func (q *queue) push(now time.Time, t *ticket) {
	l := &q.lines[t.priority]
	if l.n == 0 {
		l.since = now
	}
	t.queued, t.since = true, now
	l.push(t)
	q.n++
}

func (q *queue) remove(t *ticket) {
	t.queued = false
	q.lines[t.priority].remove(t)
	q.n--
}

// pop takes the ticket that is next in the line of p, and late, which calls drop for all that have
// waited too long in a standing line. High priority is always served in order and never dropped.
func (q *queue) pop(now time.Time, p priority, target time.Duration, drop func(*ticket)) *ticket {
	l := &q.lines[p]
	if p == high || !l.standing(now) {
		t := l.first
		q.remove(t)
		return t
	}
	t := l.last
	q.remove(t)
	for l.first != nil && now.Sub(l.first.since) > target {
		late := l.first
		q.remove(late)
		drop(late)
	}
	return t
}

// victim is who must leave a full queue for a newcomer of p: one of the lowest priority that waits,
// if that is lower. In a standing line of its own priority the oldest makes room, as it is served last.
// It is nil if it is the newcomer itself that finds no room.
func (q *queue) victim(now time.Time, p priority) *ticket {
	for lowest := low; lowest <= p; lowest++ {
		l := &q.lines[lowest]
		switch {
		case l.n == 0:
		case lowest != high && l.standing(now):
			return l.first
		case lowest < p:
			return l.last
		}
	}
	return nil
}

// ahead says whether anyone waits whom a newcomer of p must not overtake.
func (q *queue) ahead(p priority) bool {
	for ; p <= high; p++ {
		if q.lines[p].n > 0 {
			return true
		}
	}
	return false
}
