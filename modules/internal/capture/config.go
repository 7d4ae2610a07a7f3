package capture

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

// Config says when a profile is captured and what is kept. The zero value is on, with the defaults.
type Config struct {
	// Off turns the captures off. The other members have no effect then. Default: false.
	Off bool `json:"off,omitempty"`
	// CPU begins a capture when the process uses that share of the processors it may use.
	// Default: "90%" for "30s".
	CPU *CPU `json:"cpu,omitempty"`
	// Scheduler begins a capture when goroutines that could run wait so long for their turn, as the
	// 99th percentile. Default: "100ms" for "30s".
	Scheduler *Scheduler `json:"scheduler,omitempty"`
	// Length is how long a CPU profile is taken. Default: "30s".
	Length unit.Duration `json:"length,omitempty"`
	// Keep is how many captures stay on disk; the oldest are removed. Default: 5.
	Keep int `json:"keep,omitempty"`
	// Cooldown is the time from the end of a capture in which no other begins. Default: "10m".
	Cooldown unit.Duration `json:"cooldown,omitempty"`
}

// CPU is a threshold for the processor use.
type CPU struct {
	// Over is the share, such as "90%".
	Over Percent `json:"over"`
	// For is how long it must last. Default: "30s".
	For unit.Duration `json:"for,omitempty"`
}

// Scheduler is a threshold for the wait of goroutines.
type Scheduler struct {
	// Over is the wait, such as "100ms".
	Over unit.Duration `json:"over"`
	// For is how long it must last. Default: "30s".
	For unit.Duration `json:"for,omitempty"`
}

const (
	defaultCPU       = 0.9
	defaultScheduler = 100 * time.Millisecond
	defaultFor       = 30 * time.Second
	defaultLength    = 30 * time.Second
	defaultKeep      = 5
	defaultCooldown  = 10 * time.Minute
	maxLength        = 10 * time.Minute
)

// Validate says what is wrong with the configuration.
func (c *Config) Validate() error {
	switch {
	case c.CPU != nil && (c.CPU.Over <= 0 || c.CPU.Over > 1):
		return errors.New("profile: cpu must be more than 0% and at most 100%")
	case c.Scheduler != nil && c.Scheduler.Over <= 0:
		return errors.New("profile: scheduler must be more than 0")
	case c.Length < 0 || c.Length.Std() > maxLength:
		return fmt.Errorf("profile: length must be between 0 and %s", maxLength)
	case c.Keep < 0:
		return errors.New("profile: keep must be at least 1")
	}
	return nil
}

// settings are a Config with its defaults, and where the captures go.
type settings struct {
	dir           string
	cpu           float64
	cpuFor        time.Duration
	scheduling    time.Duration
	schedulingFor time.Duration
	length        time.Duration
	keep          int
	cooldown      time.Duration
}

func (c *Config) settings(dir string) settings {
	if c == nil {
		c = new(Config)
	}
	s := settings{
		dir: dir, cpu: defaultCPU, cpuFor: defaultFor, scheduling: defaultScheduler, schedulingFor: defaultFor,
		length: c.Length.Or(defaultLength), keep: cmp.Or(c.Keep, defaultKeep), cooldown: c.Cooldown.Or(defaultCooldown),
	}
	if c.CPU != nil {
		s.cpu, s.cpuFor = float64(c.CPU.Over), c.CPU.For.Or(defaultFor)
	}
	if c.Scheduler != nil {
		s.scheduling, s.schedulingFor = c.Scheduler.Over.Std(), c.Scheduler.For.Or(defaultFor)
	}
	return s
}

// Percent is a share of one. In JSON it is a string such as "90%".
type Percent float64

// ParsePercent reads a number and a percent sign.
func ParsePercent(s string) (Percent, error) {
	share, ok := unit.ParsePercent(s)
	if !ok {
		return 0, fmt.Errorf("%q is not a share: write a number from 0 to 100 and a percent sign, such as 90%%", s)
	}
	return Percent(share), nil
}

func (p Percent) String() string { return strconv.FormatFloat(float64(p)*100, 'f', -1, 64) + "%" }

// MarshalJSON writes p as a string.
func (p Percent) MarshalJSON() ([]byte, error) { return json.Marshal(p.String()) }

// UnmarshalJSON reads a string; bare numbers are refused, as 0.9 and 90 are easily mixed up.
func (p *Percent) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) != nil {
		return fmt.Errorf("%s is not a share: write a string such as \"90%%\"", b)
	}
	v, err := ParsePercent(s)
	*p = v
	return err
}
