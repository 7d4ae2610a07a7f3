package circuitbreaker

import "time"

// parts is how many parts a window slides by.
const parts = 10

// window counts requests, and those among them that are marked, over a sliding time. What is older
// than its length is forgotten a tenth of the length at a time.
type window struct {
	slice       time.Duration
	start       time.Time // of the newest part
	at          int       // the newest part
	all, marked [parts]int
	sumAll      int
	sumMarked   int
}

func newWindow(length time.Duration) window { return window{slice: max(1, length/parts)} }

// advance makes the part that now is in the newest.
func (w *window) advance(now time.Time) {
	passed := now.Sub(w.start)
	if passed < w.slice {
		return
	}
	if passed >= parts*w.slice {
		w.clear()
		w.start = now
		return
	}
	for ; passed >= w.slice; passed -= w.slice {
		w.at = (w.at + 1) % parts
		w.sumAll -= w.all[w.at]
		w.sumMarked -= w.marked[w.at]
		w.all[w.at], w.marked[w.at] = 0, 0
		w.start = w.start.Add(w.slice)
	}
}

func (w *window) add(now time.Time, mark bool) {
	w.advance(now)
	w.all[w.at]++
	w.sumAll++
	if mark {
		w.mark(now)
	}
}

// mark marks one more.
func (w *window) mark(now time.Time) {
	w.advance(now)
	w.marked[w.at]++
	w.sumMarked++
}

// takeBack forgets the newest request without a mark.
func (w *window) takeBack(now time.Time) {
	w.advance(now)
	for i := range parts {
		at := (w.at + parts - i) % parts
		if w.all[at] > w.marked[at] {
			w.all[at]--
			w.sumAll--
			return
		}
	}
}

func (w *window) totals(now time.Time) (all, marked int) {
	w.advance(now)
	return w.sumAll, w.sumMarked
}

func (w *window) clear() {
	w.all, w.marked = [parts]int{}, [parts]int{}
	w.sumAll, w.sumMarked = 0, 0
}
