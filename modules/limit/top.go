package limit

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	// topKeys is how many keys are watched at once for `limits top`.
	topKeys = 256
	// sampled is one of how many requests is looked at.
	sampled = 32
	// halfLife is after what time a request weighs half.
	halfLife = time.Minute
)

// top finds the hottest keys of a zone by the space-saving algorithm on a sample of the requests:
// a key that makes up more than one in 256 is surely among them. Requests of the past fade.
type top struct {
	mu    sync.Mutex
	keys  map[uint64]*hot
	faded int64 // when the counts were halved, in nanoseconds
}

type hot struct {
	text          string
	seen, refused float64
}

// Hot is a key with its share of the load.
type Hot struct {
	Key string `json:"key"`
	// Requests is how many it has made of late, as a sample tells: those of the last minute weigh most.
	Requests int64 `json:"requests"`
	// RefusedShare is how many of them were refused, from 0 to 1.
	RefusedShare float64 `json:"refused_share"`
}

// note looks at one in 32 requests. text is called for a key that is new.
func (t *top) note(now int64, key uint64, refused bool, text func() string) {
	if rand.Uint32()%sampled != 0 || !t.mu.TryLock() {
		return
	}
	defer t.mu.Unlock()
	t.fade(now)
	h := t.keys[key]
	if h == nil {
		h = t.add(key, text())
	}
	h.seen++
	if refused {
		h.refused++
	}
}

func (t *top) add(key uint64, text string) *hot {
	if t.keys == nil {
		t.keys = map[uint64]*hot{}
	}
	h := &hot{text: text}
	if len(t.keys) >= topKeys {
		var least uint64
		for k, other := range t.keys {
			if o := t.keys[least]; o == nil || other.seen < o.seen {
				least = k
			}
		}
		h.seen = t.keys[least].seen // the newcomer may have been there as often, unseen
		delete(t.keys, least)
	}
	t.keys[key] = h
	return h
}

func (t *top) fade(now int64) {
	if now-t.faded < int64(halfLife) {
		return
	}
	t.faded = now
	for k, h := range t.keys {
		h.seen /= 2
		h.refused /= 2
		if h.seen < 0.25 {
			delete(t.keys, k)
		}
	}
}

// list is the hottest keys, at most n.
func (t *top) list(now int64, n int) []Hot {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fade(now)
	var all []Hot
	for _, h := range t.keys {
		all = append(all, Hot{Key: h.text, Requests: int64(h.seen * sampled), RefusedShare: min(1, h.refused/max(h.seen, 1e-9))})
	}
	slices.SortFunc(all, func(a, b Hot) int {
		if a.Requests != b.Requests {
			return int(b.Requests - a.Requests)
		}
		if a.Key < b.Key {
			return -1
		}
		return 1
	})
	return all[:min(n, len(all))]
}
