package capture

import (
	"fmt"
	"time"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/pressure"
)

// forgive is how many times its length a dip below a threshold takes back from the time above it: a
// sample that happens to be low does not begin the wait anew, and a load that is high only half of
// the time is no overload.
const forgive = 10

// longest is the most time that one sample speaks for, as after the machine slept.
const longest = 4 * interval

// trigger decides when the load has been over a threshold for long enough.
type trigger struct {
	at              time.Time // of the newest sample seen
	cpu, scheduling time.Duration
}

// observe takes a sample into account and returns the cause to begin a capture, or "".
func (t *trigger) observe(s settings, sample pressure.Sample) (cause string) {
	passed := sample.At.Sub(t.at)
	first := t.at.IsZero()
	if sample.At.IsZero() || passed <= 0 {
		return ""
	}
	t.at = sample.At
	if first {
		return ""
	}
	passed = min(passed, longest)
	t.cpu = held(t.cpu, passed, sample.CPU >= s.cpu, s.cpuFor)
	t.scheduling = held(t.scheduling, passed, sample.Scheduling >= s.scheduling, s.schedulingFor)
	switch {
	case t.cpu >= s.cpuFor:
		return fmt.Sprintf("cpu over %s for %s", Percent(s.cpu), s.cpuFor)
	case t.scheduling >= s.schedulingFor:
		return fmt.Sprintf("scheduler over %s for %s", s.scheduling, s.schedulingFor)
	}
	return ""
}

// reset forgets what was, for the time after a capture.
func (t *trigger) reset() { *t = trigger{} }

func held(so, passed time.Duration, over bool, most time.Duration) time.Duration {
	if over {
		return min(most, so+passed)
	}
	return max(0, so-forgive*passed)
}
