// Package policy is the arithmetic of limits: what a rate is, what is kept of a key, and what a
// request of some cost is told. It is pure: it knows no clock, no store and no server, so that the
// store in memory and the one in Redis give the same answers.
package policy

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const (
	// Max bounds the policies that are checked together, so that a decision needs no allocation.
	Max = 8
	// MaxQuota bounds quota, burst and cost.
	MaxQuota = 1_000_000_000

	// maxSliding bounds quota times window in milliseconds for a sliding window, so that its sums
	// are exact in a float64, which is all that a script in Redis has.
	maxSliding = 1 << 50
	// maxRoom bounds the time that a full bucket holds, in nanoseconds: twice that is an int64.
	maxRoom = 1 << 61
	// exact is below what a float64 counts every whole number.
	exact = 1 << 52

	minWindow = time.Millisecond
	// MaxWindow bounds windows.
	MaxWindow = 366 * 24 * time.Hour
)

// Policy is one rate that a key may not exceed. It is a token bucket that fills with Quota tokens per
// Window and holds Burst of them at most, as golang.org/x/time/rate has it; or, if Sliding is set, a
// window that slides with the time, in which at most Quota requests fit.
type Policy struct {
	// Name identifies the policy in RateLimit-Policy, RateLimit and violated-policies. Letters,
	// digits, - and _, at most 64. Default: the directive's name.
	Name string `json:"name,omitempty"`
	// Quota is how many requests are allowed per window, 1 to 1,000,000,000. Required.
	Quota int `json:"quota"`
	// Window is the time span of the quota, whole milliseconds from 1ms to 366d. Required.
	Window unit.Duration `json:"window"`
	// Burst is how many requests may come at once after a time of rest. Default 0: as many as the quota.
	Burst int `json:"burst,omitempty"`
	// Sliding counts the requests of the last window instead: those of the calendar window that has
	// begun, and of the one before the part that is still within. It has no burst beyond its quota.
	Sliding bool `json:"sliding,omitempty"`
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// ValidName says whether s can name a policy or a plan.
func ValidName(s string) bool { return nameForm.MatchString(s) }

// Check says what is wrong with p.
func (p Policy) Check() error {
	if !ValidName(p.Name) {
		return fmt.Errorf("the policy name %.80q must be 1 to 64 letters, digits, - or _", p.Name)
	}
	if err := p.checkRate(); err != nil {
		return fmt.Errorf("policy %s: %w", p.Name, err)
	}
	return nil
}

func (p Policy) checkRate() error {
	window := p.Window.Std()
	switch {
	case p.Quota < 1 || p.Quota > MaxQuota:
		return fmt.Errorf("the quota must be from 1 to %d, not %d", MaxQuota, p.Quota)
	case window < minWindow || window > MaxWindow || window%time.Millisecond != 0:
		return fmt.Errorf("the window must be whole milliseconds, from 1ms to 366d, not %s", Short(window))
	case p.Burst < 0 || p.Burst > MaxQuota:
		return fmt.Errorf("the burst must be from 1 to %d, not %d", MaxQuota, p.Burst)
	case int64(p.Size()) > maxRoom/max(1, int64(window)/int64(p.Quota)):
		return fmt.Errorf("the burst %d would take centuries to come back", p.Size())
	case p.Sliding && p.Burst != 0:
		return fmt.Errorf("a sliding window has no burst: its quota is all that may come at once")
	case p.Sliding && window < time.Second:
		return fmt.Errorf("a sliding window must be at least 1s long, not %s", Short(window))
	case p.Sliding && int64(p.Quota) > maxSliding/window.Milliseconds():
		return fmt.Errorf("%d in %s are too many to count in a sliding window: leave out sliding", p.Quota, Short(window))
	}
	return nil
}

// CheckAll says what is wrong with the policies of one directive.
func CheckAll(policies []Policy) error {
	if len(policies) == 0 {
		return fmt.Errorf("a rate is missing: write it on the line, such as 300/1m, or as a policy in the block")
	}
	if len(policies) > Max {
		return fmt.Errorf("%d policies are too many, at most %d can be checked together", len(policies), Max)
	}
	seen := map[string]bool{}
	for _, p := range policies {
		if err := p.Check(); err != nil {
			return err
		}
		if seen[p.Name] {
			return fmt.Errorf("policy %s is given twice, give each its own name", p.Name)
		}
		seen[p.Name] = true
	}
	return nil
}

// Size is how many requests may come at once after a time of rest.
func (p Policy) Size() int {
	if p.Burst == 0 {
		return p.Quota
	}
	return p.Burst
}

// Share is the part of p that one of n instances may use on its own, at least one request.
func (p Policy) Share(n int) Policy {
	if p.Sliding {
		p.Quota = max(1, p.Quota/n)
		return p
	}
	p.Burst = max(1, p.Size()/n)
	if int64(n) < math.MaxInt64/4/int64(p.Window) {
		p.Window *= unit.Duration(n)
	} else {
		p.Quota = max(1, p.Quota/n)
	}
	return p
}

// Advertised is the policy in whole seconds, as RateLimit-Policy needs it: 10 per 500ms is 20 per second.
func (p Policy) Advertised() (quota, seconds int64) {
	whole, part := p.Window.Std(), time.Second
	for part != 0 {
		whole, part = part, whole%part
	}
	return int64(p.Quota) * int64(time.Second/whole), int64(p.Window.Std() / whole)
}

// Short is d without the zero parts that time.Duration prints: 1m, not 1m0s.
func Short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// ParseRate reads N/DURATION, such as 300/1m, 10/s or 50000/24h; a unit alone means one of it.
func ParseRate(s string) (Policy, error) {
	bad := func() (Policy, error) {
		return Policy{}, fmt.Errorf("%.80q is not a rate: write a number, a slash and a duration, such as 300/1m, 10/s or 50000/24h", s)
	}
	n, window, ok := strings.Cut(s, "/")
	if !ok || len(s) > 64 || !digits(n) {
		return bad()
	}
	quota, err := strconv.Atoi(n)
	if err != nil || window == "" || window[0] == '+' {
		return bad()
	}
	if window[0] >= 'a' && window[0] <= 'z' {
		window = "1" + window
	}
	d, err := unit.ParseDuration(window)
	if err != nil {
		return bad()
	}
	p := Policy{Quota: quota, Window: d}
	if err = p.checkRate(); err != nil {
		return Policy{}, fmt.Errorf("the rate %q: %w", s, err)
	}
	return p, nil
}

// ParseWords reads a policy as a configuration has it: N/DURATION [burst B] [sliding].
func ParseWords(name string, words []string) (Policy, error) {
	p, err := ParseRate(words[0])
	if err != nil {
		return p, err
	}
	p.Name = name
	for i := 1; i < len(words); i++ {
		switch {
		case words[i] == "sliding":
			p.Sliding = true
		case words[i] == "burst" && i+1 < len(words):
			i++
			if p.Burst, err = strconv.Atoi(words[i]); err != nil || p.Burst < 1 {
				return p, fmt.Errorf("the burst %.40q must be a whole number, at least 1", words[i])
			}
		default:
			return p, fmt.Errorf("after the rate %s only burst and a number, or sliding, may stand, such as: %s burst 20", words[0], words[0])
		}
	}
	return p, p.Check()
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
