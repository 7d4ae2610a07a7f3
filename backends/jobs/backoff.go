package jobs

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

// maxBackoff caps every wait between two attempts.
const maxBackoff = time.Hour

var defaultBackoff = Backoff{Base: 2 * time.Second}

// Backoff is the wait after a failed attempt. In JSON it is a string, as ParseBackoff reads it.
type Backoff struct {
	// Fixed says that every wait is Base. Otherwise the bound of the wait doubles with each
	// attempt, starting at Base and ending at 1h, and the wait is a random part of the bound (full
	// jitter), so that jobs that failed together do not come back together.
	Fixed bool
	Base  time.Duration
	// Schedule is the waits after the first, second, … attempt, parted by spaces; the last one also
	// follows all later attempts. With it the other members are zero.
	Schedule string
}

// ParseBackoff reads "exponential DURATION", "fixed DURATION", with a duration above 0 and up to 1h, or
// "schedule DURATION...", with up to 100 durations above 0 and up to 24h.
func ParseBackoff(s string) (Backoff, error) {
	kind, base, _ := strings.Cut(s, " ")
	if kind == "schedule" {
		b := Backoff{Schedule: strings.Join(strings.Fields(base), " ")}
		if b.Schedule == "" {
			return Backoff{}, errors.New("backoff schedule needs its waits, such as \"schedule 5s 1m 10m\"")
		}
		return b, b.validate()
	}
	if kind != "exponential" && kind != "fixed" {
		return Backoff{}, fmt.Errorf("backoff must be \"exponential DURATION\", \"fixed DURATION\" or \"schedule DURATION...\", such as \"exponential 2s\", not %q", s)
	}
	d, err := unit.ParseDuration(base)
	if err != nil {
		return Backoff{}, fmt.Errorf("backoff: %w", err)
	}
	b := Backoff{Fixed: kind == "fixed", Base: d.Std()}
	return b, b.validate()
}

// The bounds of an explicit schedule.
const (
	maxSteps = 100
	maxStep  = 24 * time.Hour
)

// steps are the waits of an explicit schedule.
func (b Backoff) steps() ([]time.Duration, error) {
	words := strings.Fields(b.Schedule)
	if len(words) > maxSteps {
		return nil, fmt.Errorf("backoff schedule has %d waits, at most %d", len(words), maxSteps)
	}
	all := make([]time.Duration, len(words))
	for i, w := range words {
		d, err := unit.ParseDuration(w)
		if err != nil {
			return nil, fmt.Errorf("backoff: %w", err)
		}
		if d <= 0 || d.Std() > maxStep {
			return nil, fmt.Errorf("each wait of a backoff schedule must be above 0 and at most %s, not %s", maxStep, w)
		}
		all[i] = d.Std()
	}
	return all, nil
}

func (b Backoff) validate() error {
	if b.Schedule != "" {
		_, err := b.steps()
		return err
	}
	if b.Base <= 0 || b.Base > maxBackoff {
		return fmt.Errorf("backoff must be above 0 and at most %s, not %s", maxBackoff, b.Base)
	}
	return nil
}

func (b Backoff) String() string {
	if b.Schedule != "" {
		return "schedule " + b.Schedule
	}
	if b.Fixed {
		return "fixed " + b.Base.String()
	}
	return "exponential " + b.Base.String()
}

// MarshalText writes the form that ParseBackoff reads.
func (b Backoff) MarshalText() ([]byte, error) {
	if b == (Backoff{}) {
		return nil, errors.New("an unset backoff has no text")
	}
	return []byte(b.String()), nil
}

// UnmarshalText is ParseBackoff.
func (b *Backoff) UnmarshalText(text []byte) (err error) {
	*b, err = ParseBackoff(string(text))
	return err
}

// bound is the longest wait after the given attempt, the first being 1.
func (b Backoff) bound(attempt int) time.Duration {
	if all, err := b.steps(); err == nil && len(all) > 0 {
		return all[min(max(attempt, 1), len(all))-1]
	}
	if b.Fixed {
		return b.Base
	}
	d := b.Base
	for range attempt - 1 {
		if d >= maxBackoff/2 {
			return maxBackoff
		}
		d *= 2
	}
	return d
}

// wait is a wait after the given attempt.
func (b Backoff) wait(attempt int) time.Duration {
	d := b.bound(attempt)
	if b.Fixed || b.Schedule != "" {
		return d
	}
	return rand.N(d + 1)
}
