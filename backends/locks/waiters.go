package locks

import (
	"slices"
	"sync"
)

const (
	// maxWaiters is how many requests may wait for locks at once in this process, and for one lock.
	maxWaiters, maxWaitersOfOne = 4096, 256
)

// waiters are the requests of this process that wait for locks: one line for each name. Only the first
// of a line asks the store, so that many who wait cost no more than one does.
type waiters struct {
	mu    sync.Mutex
	total int
	lines map[string][]*waiter
}

// waiter is one request in a line.
type waiter struct {
	wake chan struct{} // has something in it when the waiter may have become the first, or the lock free
}

func newWaiters() *waiters { return &waiters{lines: map[string][]*waiter{}} }

// join puts a new waiter at the end of the line. It returns nil if too many wait already.
func (w *waiters) join(name string) *waiter {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.total >= maxWaiters || len(w.lines[name]) >= maxWaitersOfOne {
		return nil
	}
	me := &waiter{wake: make(chan struct{}, 1)}
	w.total++
	w.lines[name] = append(w.lines[name], me)
	return me
}

// leave takes a waiter out of its line.
func (w *waiters) leave(name string, me *waiter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	line := w.lines[name]
	i := slices.Index(line, me)
	if i < 0 {
		return
	}
	w.total--
	if line = slices.Delete(line, i, i+1); len(line) == 0 {
		delete(w.lines, name)
		return
	}
	w.lines[name] = line
	if i == 0 {
		line[0].poke()
	}
}

// first says whether a waiter is the first of its line.
func (w *waiters) first(name string, me *waiter) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lines[name][0] == me
}

// freed tells the first of a line that the lock is free.
func (w *waiters) freed(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if line := w.lines[name]; len(line) > 0 {
		line[0].poke()
	}
}

func (w *waiter) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}
