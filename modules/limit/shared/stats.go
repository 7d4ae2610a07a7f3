package shared

import "sync/atomic"

type counters struct {
	calls, trips, late, refused, failed, opened, hiccups, probesFailed, beatsFailed atomic.Uint64
}

// Stats are the counts of a link since the process began to use it.
type Stats struct {
	// Calls were asked for, Trips were made to Redis for them, each with many.
	Calls, Trips uint64
	// Late calls had no answer within the deadline; Refused ones were told so at once, because Redis was away.
	Late, Refused uint64
	// Failed calls had an error for an answer.
	Failed uint64
	// Opened is how often a call failed so that no other was made until a probe succeeded; Hiccups are
	// those of them where the first one did.
	Opened, Hiccups uint64
	// ProbesFailed and BeatsFailed are the background calls that failed.
	ProbesFailed, BeatsFailed uint64
}

// Stats are the counts until now.
func (l *Link) Stats() Stats {
	s := &l.stats
	return Stats{
		Calls: s.calls.Load(), Trips: s.trips.Load(), Late: s.late.Load(), Refused: s.refused.Load(), Failed: s.failed.Load(),
		Opened: s.opened.Load(), Hiccups: s.hiccups.Load(), ProbesFailed: s.probesFailed.Load(), BeatsFailed: s.beatsFailed.Load(),
	}
}
