package circuitbreaker

import (
	"sync"
	"time"
)

// budgetWindow is the time over which repeats are compared with requests.
const budgetWindow = 10 * time.Second

// Budget bounds the repeats to a share of the requests, so that an app in trouble does not get several
// times the load. One repeat a second is always allowed.
type Budget struct {
	mu     sync.Mutex
	share  float64
	recent window // requests; the marks are the repeats
	last   time.Time
}

// NewBudget allows a share, 0..1, of the requests to be repeated.
func NewBudget(share float64) *Budget {
	return &Budget{share: share, recent: newWindow(budgetWindow)}
}

// SetShare changes the share.
func (b *Budget) SetShare(share float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.share = share
}

// Request counts a request; its repeats are not counted again.
func (b *Budget) Request(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.recent.add(now, false)
}

// Take says whether a request may be repeated, and counts that.
func (b *Budget) Take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	requests, repeats := b.recent.totals(now)
	if float64(repeats+1) > b.share*float64(requests) && now.Sub(b.last) < time.Second {
		return false
	}
	b.recent.mark(now)
	b.last = now
	return true
}
