package limit

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const (
	// maxPolicies bounds the policies of one directive, so that a decision needs no allocation.
	maxPolicies = 8
	// maxQuota bounds quota and burst. Below it a float64 counts tokens exactly enough (see slack).
	maxQuota = 1_000_000_000

	minWindow = time.Millisecond
	maxWindow = 366 * 24 * time.Hour
)

// Policy is one rate that a key may not exceed: a token bucket with the arithmetic of
// golang.org/x/time/rate. It fills with Quota tokens per Window and holds Burst of them at most.
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
}

var policyName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// check says what is wrong with p.
func (p Policy) check() error {
	if !policyName.MatchString(p.Name) {
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
	case p.Quota < 1 || p.Quota > maxQuota:
		return fmt.Errorf("the quota must be from 1 to %d, not %d", maxQuota, p.Quota)
	case window < minWindow || window > maxWindow || window%time.Millisecond != 0:
		return fmt.Errorf("the window must be whole milliseconds, from 1ms to 366d, not %s", short(window))
	case p.Burst < 0 || p.Burst > maxQuota:
		return fmt.Errorf("the burst must be from 1 to %d, not %d", maxQuota, p.Burst)
	}
	return nil
}

// checkAll says what is wrong with the policies of one directive.
func checkAll(policies []Policy) error {
	if len(policies) == 0 {
		return fmt.Errorf("a rate is missing: write it on the line, such as 300/1m, or as a policy in the block")
	}
	if len(policies) > maxPolicies {
		return fmt.Errorf("%d policies are too many, at most %d can be checked together", len(policies), maxPolicies)
	}
	seen := map[string]bool{}
	for _, p := range policies {
		if err := p.check(); err != nil {
			return err
		}
		if seen[p.Name] {
			return fmt.Errorf("policy %s is given twice, give each its own name", p.Name)
		}
		seen[p.Name] = true
	}
	return nil
}

func (p Policy) burst() int {
	if p.Burst == 0 {
		return p.Quota
	}
	return p.Burst
}

// perSecond is the rate at which the bucket fills.
func (p Policy) perSecond() rate.Limit {
	return rate.Limit(float64(p.Quota) / p.Window.Std().Seconds())
}

// advertised is the policy in whole seconds, as RateLimit-Policy needs it: 10 per 500ms is 20 per second.
func (p Policy) advertised() (quota, seconds int64) {
	whole, part := p.Window.Std(), time.Second
	for part != 0 {
		whole, part = part, whole%part
	}
	return int64(p.Quota) * int64(time.Second/whole), int64(p.Window.Std() / whole)
}

// short is d without the zero parts that time.Duration prints: 1m, not 1m0s.
func short(d time.Duration) string {
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

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
