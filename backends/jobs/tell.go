package jobs

import (
	"log/slog"
	"sync"
	"time"
)

const (
	// tellEvery is the least time between two warnings of one kind about one queue.
	tellEvery = 10 * time.Second
	// maxTold bounds how many are remembered.
	maxTold = 1000
)

// teller passes warnings on that come in floods: the first of each kind and queue at once, then one in ten
// seconds with the number of those that were left out.
type teller struct {
	mu   sync.Mutex
	told map[[2]string]told
}

type told struct {
	at   time.Time
	less int // left out since
}

// warn logs the message about the queue, or counts it.
func (t *teller) warn(log *slog.Logger, message, queue string, args ...any) {
	t.mu.Lock()
	key, now := [2]string{message, queue}, time.Now()
	last := t.told[key]
	if now.Sub(last.at) < tellEvery {
		last.less++
		t.told[key] = last
		t.mu.Unlock()
		return
	}
	if t.told == nil || len(t.told) >= maxTold {
		t.told = map[[2]string]told{}
	}
	t.told[key] = told{at: now}
	t.mu.Unlock()
	args = append([]any{"queue", queue}, args...)
	if last.less > 0 {
		args = append(args, "left_out", last.less)
	}
	log.Warn(message, args...)
}
