//go:build race

package jobs

// raceEnabled says that the race detector is on, under which times say nothing.
const raceEnabled = true
