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
}

// ParseBackoff reads "exponential DURATION" or "fixed DURATION", with a duration above 0 and up to 1h.
func ParseBackoff(s string) (Backoff, error) {
	kind, base, _ := strings.Cut(s, " ")
	if kind != "exponential" && kind != "fixed" {
		return Backoff{}, fmt.Errorf("backoff must be \"exponential DURATION\" or \"fixed DURATION\", such as \"exponential 2s\", not %q", s)
	}
	d, err := unit.ParseDuration(base)
	if err != nil {
		return Backoff{}, fmt.Errorf("backoff: %w", err)
	}
	b := Backoff{Fixed: kind == "fixed", Base: d.Std()}
	return b, b.validate()
}

func (b Backoff) validate() error {
	if b.Base <= 0 || b.Base > maxBackoff {
		return fmt.Errorf("backoff must be above 0 and at most %s, not %s", maxBackoff, b.Base)
	}
	return nil
}

func (b Backoff) String() string {
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
	if b.Fixed {
		return d
	}
	return rand.N(d + 1)
}
