// Package tally bounds what is expensive to count, such as the rows of one owner, by counting once a second.
package tally

import (
	"sync"
	"time"
)

const (
	// Fresh is how long a count is believed. What this instance itself takes in is added at once, so a bound
	// is passed only by what others take in meanwhile.
	Fresh = time.Second
	// remembered bounds how many numbers are remembered.
	remembered = 10_000
)

// Tallies remember how much there is of each of many things.
type Tallies[K comparable] struct {
	counting sync.Mutex // one count at a time
	mu       sync.Mutex
	known    map[K]tally
}

type tally struct {
	n  int
	at time.Time
}

// New returns Tallies that know nothing.
func New[K comparable]() *Tallies[K] { return &Tallies[K]{known: map[K]tally{}} }

// Take reports whether n more of k would be more than most. If not, they count from now on. count counts
// how much of k there is, where that is not known.
func (t *Tallies[K]) Take(k K, n, most int, count func() (int, error)) (over bool, err error) {
	if over, known := t.take(k, n, most); known {
		return over, nil
	}
	t.counting.Lock()
	defer t.counting.Unlock()
	if over, known := t.take(k, n, most); known { // somebody else has counted
		return over, nil
	}
	now, err := count()
	if err != nil {
		return false, err
	}
	t.Set(k, now)
	over, _ = t.take(k, n, most)
	return over, nil
}

// take adds n if the sum is not above most. known says that the number is fresh enough to tell.
func (t *Tallies[K]) take(k K, n, most int) (over, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.known[k]
	if !ok || time.Since(c.at) > Fresh {
		return false, false
	}
	if c.n+n > most {
		return true, true
	}
	c.n += n
	t.known[k] = c
	return false, true
}

// Add adds n to what is known of k, such as what was taken and not needed, as a negative number.
func (t *Tallies[K]) Add(k K, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c, ok := t.known[k]; ok {
		c.n += n
		t.known[k] = c
	}
}

// Set says that there are n of k now.
func (t *Tallies[K]) Set(k K, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.known) >= remembered {
		for old, c := range t.known {
			if len(t.known) < remembered/2 && time.Since(c.at) < Fresh {
				break
			}
			delete(t.known, old)
		}
	}
	t.known[k] = tally{n, time.Now()}
}
