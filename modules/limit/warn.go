package limit

import (
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

// maxWarned bounds the keys that are remembered as warned. Beyond it keys get no warning.
const maxWarned = 1 << 16

// warner says once per window when a key has used a share of a policy.
type warner struct {
	mu     sync.Mutex
	until  map[warned]int64
	tidied int64
}

type warned struct {
	key    uint64
	policy int
}

// near is the policy of which the key has used at least the share, -1 if there is none or it was
// said in this window.
func (w *warner) near(now int64, key uint64, policies []policy.Policy, v *policy.Verdict, share float64) int {
	for i, p := range policies {
		size := float64(p.Size())
		if size-float64(v.Answers[i].Remaining) >= share*size && w.first(now, warned{key, i}, p.Window.Std()) {
			return i
		}
	}
	return -1
}

func (w *warner) first(now int64, k warned, window time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if until, ok := w.until[k]; ok && now < until {
		return false
	}
	if now-w.tidied > int64(time.Minute) {
		w.tidied = now
		for other, until := range w.until {
			if now >= until {
				delete(w.until, other)
			}
		}
	}
	if w.until == nil {
		w.until = map[warned]int64{}
	}
	if len(w.until) >= maxWarned {
		return false
	}
	w.until[k] = now + int64(window)
	return true
}
