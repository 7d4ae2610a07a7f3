// Package unit reads the quantities that people write in configurations: durations such as 5s or
// 30d, sizes such as 10MiB, and shares such as 90%.
package unit

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// Duration is a time span. In JSON it is a string such as "5s", "1h30m" or "30d" (d is 24 h).
type Duration time.Duration

var days = regexp.MustCompile(`(\d+(?:\.\d+)?)d`)

// ParseDuration reads Go's duration grammar plus d for days of 24 hours. Negative spans are errors.
func ParseDuration(s string) (Duration, error) {
	hours := days.ReplaceAllStringFunc(s, func(d string) string {
		n, _ := strconv.ParseFloat(d[:len(d)-1], 64)
		return strconv.FormatFloat(n*24, 'f', -1, 64) + "h"
	})
	d, err := time.ParseDuration(hours)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q is not a duration: write a number and a unit, such as 500ms, 5s, 2m, 24h or 30d", s)
	case d < 0:
		return 0, fmt.Errorf("the duration %q must not be negative", s)
	}
	return Duration(d), nil
}

// Std is d as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

func (d Duration) String() string { return time.Duration(d).String() }

// Or is d, or def where d is not set.
func (d Duration) Or(def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return time.Duration(d)
}

// MarshalJSON writes d as a string.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// UnmarshalJSON reads a string; numbers are refused, as their unit is anyone's guess.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) != nil {
		return fmt.Errorf("%s is not a duration: write a string with a unit, such as \"5s\"", b)
	}
	v, err := ParseDuration(s)
	*d = v
	return err
}

// Size is a number of bytes. In JSON it is a number, or a string such as "10MiB" or "5MB".
type Size int64

// ParseSize reads a number of bytes with an optional unit (kB, MB, GB of 1000; KiB, MiB, GiB of 1024).
func ParseSize(s string) (Size, error) {
	n, err := humanize.ParseBytes(s)
	if err != nil || n > 1<<62 {
		return 0, fmt.Errorf("%q is not a size: write a number and a unit, such as 512KiB, 10MiB or 1GiB", s)
	}
	return Size(n), nil
}

func (s Size) String() string { return humanize.IBytes(uint64(max(0, s))) }

// UnmarshalJSON reads a number of bytes or a string with a unit.
func (s *Size) UnmarshalJSON(b []byte) error {
	var text string
	if json.Unmarshal(b, &text) != nil {
		text = string(b)
	}
	v, err := ParseSize(text)
	*s = v
	return err
}

// ParsePercent reads a share, 0% to 100%, as a number from 0 to 1.
func ParsePercent(s string) (share float64, ok bool) {
	number, signed := strings.CutSuffix(s, "%")
	percent, err := strconv.ParseFloat(number, 64)
	return percent / 100, signed && err == nil && percent >= 0 && percent <= 100
}
