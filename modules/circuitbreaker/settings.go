package circuitbreaker

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

// parseRatio reads a share such as 50%.
func parseRatio(s string) (float64, error) {
	share, ok := unit.ParsePercent(s)
	if !ok || share == 0 {
		return 0, fmt.Errorf("%.40q is no share, write one such as 50%%, above 0%% and up to 100%%", s)
	}
	return share, nil
}

// Settings are the numbers of a circuit. All that share a zone must have the same. Changed numbers
// count from the first request of a new configuration on, and leave the circuit in its state.
type Settings struct {
	// Ratio is the share of failures, above 0 and up to 1, from which on the circuit opens. Default: 0.5.
	Ratio float64 `json:"ratio,omitempty"`
	// MinRequests is the number of requests in the window below which the circuit does not open.
	// Default: 20.
	MinRequests int `json:"min_requests,omitempty"`
	// Window is the time over which requests and failures are counted. Default: 10s.
	Window unit.Duration `json:"window,omitempty"`
	// Open is how long the circuit stays open for the first time, less up to a tenth at random. It
	// doubles each time that the circuit opens again without having worked for longer than the window
	// and the last open time. Default: 5s.
	Open unit.Duration `json:"open,omitempty"`
	// MaxOpen is the longest open time. Default: 1m, or Open if that is longer.
	MaxOpen unit.Duration `json:"max_open,omitempty"`
	// Probes is how many requests pass at once when the open time is over, and how many must succeed.
	// Default: 3.
	Probes int `json:"probes,omitempty"`
	// SlowStart is the time after their success in which the share of requests that pass grows from a
	// tenth to all. Default: 10s.
	SlowStart unit.Duration `json:"slow_start,omitempty"`
	// NoSlowStart lets all requests pass as soon as the probes have succeeded.
	NoSlowStart bool `json:"no_slow_start,omitempty"`
}

// rules are the settings with their defaults.
func (s *Settings) rules() (Rules, error) {
	r := Rules{
		Ratio: s.Ratio, Min: s.MinRequests, Probes: s.Probes,
		Window: s.Window.Or(10 * time.Second), Open: s.Open.Or(5 * time.Second), SlowStart: s.SlowStart.Or(10 * time.Second),
	}
	if r.Ratio == 0 {
		r.Ratio = 0.5
	}
	if r.Min == 0 {
		r.Min = 20
	}
	if r.Probes == 0 {
		r.Probes = 3
	}
	r.MaxOpen = s.MaxOpen.Or(max(time.Minute, r.Open))
	if s.NoSlowStart {
		r.SlowStart = 0
	}
	switch {
	case !(r.Ratio > 0 && r.Ratio <= 1):
		return r, fmt.Errorf("the ratio must be above 0 and up to 1, not %v", r.Ratio)
	case r.Min < 1:
		return r, fmt.Errorf("min_requests must be at least 1, not %d", r.Min)
	case r.Window < 100*time.Millisecond || r.Window > time.Hour:
		return r, fmt.Errorf("the window must be 100ms to 1h, not %s", r.Window)
	case r.Open < 10*time.Millisecond || r.Open > time.Hour:
		return r, fmt.Errorf("the open time must be 10ms to 1h, not %s", r.Open)
	case r.MaxOpen < r.Open || r.MaxOpen > 24*time.Hour:
		return r, fmt.Errorf("the longest open time must be at least the first, %s, and at most 24h, not %s", r.Open, r.MaxOpen)
	case r.Probes < 1 || r.Probes > 1000:
		return r, fmt.Errorf("probes must be 1 to 1000, not %d", r.Probes)
	case r.SlowStart < 0 || r.SlowStart > time.Hour:
		return r, fmt.Errorf("slow_start must be at most 1h, not %s", r.SlowStart)
	case s.NoSlowStart && s.SlowStart != 0:
		return r, errors.New("slow_start and no_slow_start exclude each other")
	}
	return r, nil
}

// validZone says whether a name can be a zone: it stands in metrics, events and logs.
func validZone(name string) bool {
	return name != "" && len(name) <= 64 && !slices.ContainsFunc([]byte(name), func(c byte) bool {
		return c != '-' && c != '_' && c != '.' && c != '#' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z')
	})
}
