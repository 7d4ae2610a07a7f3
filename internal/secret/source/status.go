package source

import (
	"slices"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

const (
	stateActive   = "active"
	stateComing   = "coming"
	stateRetiring = "retiring"
)

// safeAfter is how long a replaced version must have been out of use to be called safe to retire:
// tokens live that long unless the configuration says otherwise.
const safeAfter = 24 * time.Hour

// Status is how a set stands. It holds no value.
type Status struct {
	Name string `json:"name"`
	// Source is file, dir, env, vault, aws or database.
	Source string `json:"source"`
	// At is where the configuration names it; empty for a key that the gateway has made.
	At string `json:"at,omitempty"`
	// ReadAt is the time of the last good read, and AgeSeconds how long ago that is; absent before the first.
	ReadAt     *time.Time `json:"read_at,omitempty"`
	AgeSeconds float64    `json:"age_seconds,omitempty"`
	// Error is why the last read failed, or why a version that was read cannot be used. What was good
	// before is in force, until its end.
	Error string `json:"error,omitempty"`
	// WatchedSince is since when this process has known the set: it knows of no use before.
	WatchedSince *time.Time `json:"watched_since,omitempty"`
	// Versions are the active ones, newest first, and then those to come.
	Versions []VersionStatus `json:"versions"`
}

// VersionStatus is how a version stands.
type VersionStatus struct {
	Label string `json:"label"`
	// State is active, coming, or retiring for an active one whose end is set.
	State string `json:"state"`
	// Newest says that it signs.
	Newest     bool       `json:"newest,omitempty"`
	ActiveFrom *time.Time `json:"active_from,omitempty"`
	RetireAt   *time.Time `json:"retire_at,omitempty"`
	// LastUsed is when this process last verified or signed with it; absent for never.
	LastUsed *time.Time `json:"last_used,omitempty"`
	// ReplacedAt is when this process saw another become the newest.
	ReplacedAt *time.Time `json:"replaced_at,omitempty"`
	// SafeToRetire says that the version is not the newest and was not used for 24 h, in which this
	// process has known it. Other instances have uses of their own.
	SafeToRetire bool `json:"safe_to_retire"`
}

// Status is how the set stands now.
func (h *Handle) Status() Status {
	k, now := h.live.keeper, time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	s := Status{Name: k.name, Source: k.kind, At: k.at, ReadAt: timeOf(k.readAt), WatchedSince: timeOf(k.since), Versions: []VersionStatus{}}
	if !k.readAt.IsZero() {
		s.AgeSeconds = max(0, now.Sub(k.readAt).Seconds())
		if k.fixed {
			s.AgeSeconds = 0 // it is what it was
		}
	}
	if k.err != nil {
		s.Error = k.err.Error()
	} else if err := k.set.Fault(); err != nil {
		s.Error = err.Error()
	}
	snap := k.set.Current()
	for i, v := range snap.Versions {
		s.Versions = append(s.Versions, k.version(v, stateActive, i == 0, now))
	}
	for _, v := range snap.Coming {
		s.Versions = append(s.Versions, k.version(v, stateComing, false, now))
	}
	return s
}

func (k *keeper) version(v secret.Version, state string, newest bool, now time.Time) VersionStatus {
	s := VersionStatus{Label: v.Label, State: state, Newest: newest, ActiveFrom: timeOf(v.ActiveFrom), RetireAt: timeOf(v.RetireAt), LastUsed: timeOf(v.LastUsed())}
	if state == stateActive && !v.RetireAt.IsZero() {
		s.State = stateRetiring
	}
	if i := slices.IndexFunc(k.seen, func(s sighting) bool { return s.value.Equal(v.Value) }); i >= 0 {
		s.ReplacedAt = timeOf(k.seen[i].replaced)
		unused := k.seen[i].first
		if v.LastUsed().After(unused) {
			unused = v.LastUsed()
		}
		s.SafeToRetire = state == stateActive && !newest && now.Sub(unused) >= safeAfter
	}
	return s
}

func timeOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}
