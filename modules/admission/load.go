package admission

import (
	"time"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/pressure"
)

const (
	loadUp   = 0.25 // more is shed with each sample over the threshold: all of one priority in a second
	loadDown = 0.1  // less with each sample well under it
	loadMost = 1.9  // low priority is shed up to 1; beyond that all of it, and the rest of normal
)

// load turns the pressure on this process into a share of requests to shed. Busy processors are no
// harm by themselves, so they shed low priority only. A process whose goroutines wait for their turn
// is late with everything: it sheds low, then normal priority, up to nine in ten. Neither sheds high.
type load struct {
	cpu       float64       // the threshold, 0..1; 0 is off
	scheduler time.Duration // the threshold; 0 is off

	at    time.Time
	ratio float64             // 0..1 of low, 1..2 of low and of normal
	debt  [priorities]float64 // spreads what is shed evenly
}

// update takes a sample, once.
func (l *load) update(s pressure.Sample) {
	if s.At.Equal(l.at) {
		return
	}
	passed := max(1, float64(s.At.Sub(l.at)/pressure.Interval)) // samples, seen or not
	l.at = s.At
	busy, late := l.cpu > 0 && s.CPU >= l.cpu, l.scheduler > 0 && s.Scheduling >= l.scheduler
	calm := (l.cpu == 0 || s.CPU < l.cpu-0.1) && (l.scheduler == 0 || s.Scheduling < l.scheduler/2)
	switch {
	case late:
		l.ratio = min(loadMost, l.ratio+loadUp)
	case busy && l.ratio < 1:
		l.ratio = min(1, l.ratio+loadUp)
	case busy && s.Scheduling < l.scheduler/2:
		l.ratio = max(1, l.ratio-loadDown)
	case calm:
		l.ratio = max(0, l.ratio-loadDown*passed)
	}
}

// sheds says whether the next request of p must go.
func (l *load) sheds(p priority) bool {
	if l.ratio == 0 || p == high {
		return false
	}
	share := l.ratio
	if p == normal {
		share = max(0, l.ratio-1)
	}
	l.debt[p] += min(1, share)
	if l.debt[p] < 1 {
		return false
	}
	l.debt[p]--
	return true
}
