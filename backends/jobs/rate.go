package jobs

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

// Rate is how many jobs may start in a time. Starts are paced evenly: 100/1m is one each 600 ms, so
// that no minute, wherever it begins, sees more than 100 and those that may start together. In JSON
// it is a string, as ParseRate reads it. The zero value is no bound.
type Rate struct {
	N   int
	Per time.Duration
	// Burst is how many may start together after a pause. 0 stands for 1.
	Burst int
}

const (
	maxRate    = 1_000_000_000
	maxRatePer = 24 * time.Hour
)

// ParseRate reads "N/DURATION" or "N/DURATION burst N", such as "100/1m burst 10". A duration without
// a number is one of that unit: "5/s".
func ParseRate(s string) (Rate, error) {
	bad := fmt.Errorf("%q is not a rate: write a number and a duration, such as 100/1m or 100/1m burst 10", s)
	rate, burst, bursts := strings.Cut(s, " burst ")
	n, per, ok := strings.Cut(rate, "/")
	if !ok {
		return Rate{}, bad
	}
	var r Rate
	var err error
	if r.N, err = strconv.Atoi(n); err != nil {
		return Rate{}, bad
	}
	if per != "" && (per[0] < '0' || per[0] > '9') {
		per = "1" + per
	}
	d, err := unit.ParseDuration(per)
	if err != nil {
		return Rate{}, bad
	}
	r.Per = d.Std()
	if bursts {
		if r.Burst, err = strconv.Atoi(burst); err != nil || r.Burst < 1 {
			return Rate{}, bad
		}
	}
	if r == (Rate{}) {
		return Rate{}, bad
	}
	return r, r.validate()
}

func (r Rate) validate() error {
	switch {
	case r == (Rate{}):
		return nil
	case r.N < 1 || r.N > maxRate:
		return fmt.Errorf("the number must be from 1 to %d, not %d", maxRate, r.N)
	case r.Per < time.Millisecond || r.Per > maxRatePer:
		return fmt.Errorf("the duration must be from 1ms to 24h, not %s", r.Per)
	case r.Burst < 0 || r.Burst > r.N:
		return fmt.Errorf("burst must be from 1 to the number %d, not %d", r.N, r.Burst)
	case r.gap() < time.Microsecond:
		return errors.New("at most 1000000 jobs a second are paced")
	}
	return nil
}

// gap is the time between two starts.
func (r Rate) gap() time.Duration { return r.Per / time.Duration(max(r.N, 1)) }

func (r Rate) String() string {
	s := strconv.Itoa(r.N) + "/" + r.Per.String()
	if r.Burst > 1 {
		s += " burst " + strconv.Itoa(r.Burst)
	}
	return s
}

// MarshalText writes the form that ParseRate reads.
func (r Rate) MarshalText() ([]byte, error) {
	if r == (Rate{}) {
		return nil, errors.New("an unset rate has no text")
	}
	return []byte(r.String()), nil
}

// UnmarshalText is ParseRate.
func (r *Rate) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRate(string(text))
	return err
}

// A rate is kept as one time, when the next start is due. A start that comes late moves the next one
// by the full gap from when it was due, but half a gap at most is made up for, so that the pace is
// kept although nobody is punctual.

// base is due, or as much of the past as counts.
func (r Rate) base(due, now time.Time) time.Time {
	if late := now.Add(-r.gap() / 2); due.Before(late) {
		return late
	}
	return due
}

// allowed is how many jobs may start now, where the next one is due at due.
func (r Rate) allowed(due, now time.Time) int {
	ahead := r.base(due, now).Sub(now)
	room := time.Duration(max(r.Burst, 1)-1)*r.gap() - ahead
	if room < 0 {
		return 0
	}
	return int(room/r.gap()) + 1
}

// after is when the next start is due after n starts now.
func (r Rate) after(due, now time.Time, n int) time.Time {
	return r.base(due, now).Add(time.Duration(n) * r.gap())
}

// next is when allowed is above 0 again.
func (r Rate) next(due time.Time) time.Time {
	return due.Add(-time.Duration(max(r.Burst, 1)-1) * r.gap())
}
