package jobs

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // time zones also where the system has none, in whatever binary this is built into

	robfig "github.com/robfig/cron/v3"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const (
	// minEvery and maxEvery bound the D of "@every D".
	minEvery = 100 * time.Millisecond
	maxEvery = 366 * 24 * time.Hour
	// maxCron is the longest expression.
	maxCron = 255
	// maxWalls bounds how many times of the clock are passed over to find the next tick: a clock that is put
	// back, at most by a day, shows at most so many a second time.
	maxWalls = 24*60 + 1
	// maxZones bounds how many changes of the clock are passed to find the next tick: the longest known
	// wait for a date is 5 years, with a few changes in each.
	maxZones = 100
)

// cron says when the ticks of a schedule are.
//
// An expression whose hours are all of the day (0 * * * *, */5 * * * *) follows real time: its ticks are
// the moments at which the clock of the zone shows a time that fits. One with chosen hours
// (30 2 * * *) follows the clock: each time that fits is one tick on each day. Where the clock is put
// forward, the times that it skips are one tick together, at the moment of the change; where it is
// put back, only the first of two equal times is a tick.
type cron struct {
	every  time.Duration // of "@every D"; the ticks are its whole multiples since the Unix epoch
	spec   walls         // is asked about the zone's clock as if that were UTC
	hourly bool          // the hours are all of the day
	zone   *time.Location
	// start and end are the times before and after which there is no tick, zero for none.
	start, end time.Time
}

var cronParser = robfig.NewParser(robfig.Minute | robfig.Hour | robfig.Dom | robfig.Month | robfig.Dow | robfig.Descriptor)

// parseCron reads five fields (minute, hour, day of month, month, day of week), one of @yearly, @monthly,
// @weekly, @daily, @hourly, or "@every D" with D from 100ms to 366d. The day of month also takes L, L-N, LW
// and NW, the day of week DAYL and DAY#N. zone is an IANA time zone; empty is UTC.
func parseCron(expr, zone string) (c cron, err error) {
	if c.zone, err = parseZone(zone); err != nil {
		return cron{}, err
	}
	if d, ok := strings.CutPrefix(expr, "@every "); ok {
		c.every, err = parseEvery(strings.TrimSpace(d))
		return c, err
	}
	const form = "write five fields (minute, hour, day of month, month, day of week) such as \"30 2 * * *\", or \"@hourly\", or \"@every 15m\""
	switch {
	case expr == "":
		return cron{}, errors.New("the cron expression is missing: " + form)
	case len(expr) > maxCron:
		return cron{}, fmt.Errorf("the cron expression is longer than %d bytes: %s", maxCron, form)
	case strings.Contains(expr, "="): // the parser reads TZ=… and CRON_TZ=…
		return cron{}, errors.New("the cron expression must not name a time zone, give timezone beside it")
	}
	plain, dom, dow, err := parseDays(expr)
	if err != nil {
		return cron{}, fmt.Errorf("%q is not a cron expression, %w", expr, err)
	}
	parsed, err := cronParser.Parse(sundays(plain))
	if err != nil {
		return cron{}, fmt.Errorf("%q is not a cron expression, %w: %s", expr, err, form)
	}
	spec, ok := parsed.(*robfig.SpecSchedule)
	if !ok {
		return cron{}, fmt.Errorf("%q is not a cron expression: %s", expr, form)
	}
	const hours = 1<<24 - 1
	spec.Location = time.UTC
	c.spec, c.hourly = calendarOf(spec, dom, dow), spec.Hour&hours == hours
	if c.next(time.Unix(0, 0)).IsZero() {
		return cron{}, fmt.Errorf("the cron expression %q fits no day that there is", expr)
	}
	return c, nil
}

func parseZone(name string) (*time.Location, error) {
	zone, err := time.LoadLocation(name)
	if err != nil || name == "Local" { // the machines may differ in what is local
		return nil, fmt.Errorf("%q is not a time zone: write a name of the IANA database such as Europe/Berlin, or UTC", name)
	}
	return zone, nil
}

func parseEvery(s string) (time.Duration, error) {
	d, err := unit.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("@every: %w", err)
	}
	if d.Std() < minEvery || d.Std() > maxEvery {
		return 0, fmt.Errorf("@every must be from %s to 366d, not %s", minEvery, s)
	}
	return d.Std().Truncate(time.Millisecond), nil
}

// sundays writes the seventh day of the week, which crontab(5) has and the parser has not, as day 0.
func sundays(expr string) string {
	fields := strings.Fields(expr)
	if len(fields) != 5 {
		return expr
	}
	days := strings.Split(fields[4], ",")
	for i, d := range days {
		switch first, ok := strings.CutSuffix(d, "-7"); {
		case d == "7" || d == "7-7":
			days[i] = "0"
		case ok:
			days[i] = first + "-6,0"
		}
	}
	fields[4] = strings.Join(days, ",")
	return strings.Join(fields, " ")
}

// next is the first tick after t, zero if there is none.
func (c cron) next(t time.Time) time.Time {
	if t.Before(c.start) {
		t = c.start.Add(-1)
	}
	at := c.nextOf(t)
	if !c.end.IsZero() && at.After(c.end) {
		return time.Time{}
	}
	return at
}

// nextOf is next without regard to start and end.
func (c cron) nextOf(t time.Time) time.Time {
	switch {
	case c.every > 0:
		ms, d := t.UnixMilli(), c.every.Milliseconds()
		return time.UnixMilli(ms - ms%d + d)
	case c.hourly:
		return c.nextByTime(t)
	}
	// No time up to the one that the clock shows now can be a tick after t.
	wall := wallOf(t, c.zone)
	for range maxWalls {
		if wall = c.spec.Next(wall); wall.IsZero() {
			return time.Time{}
		}
		if at := instantOf(wall, c.zone); at.After(t) {
			return at
		}
	}
	return time.Time{}
}

// nextByTime is next for an expression that follows real time: it looks at each stretch between two
// changes of the clock by itself.
func (c cron) nextByTime(t time.Time) time.Time {
	for range maxZones {
		wall := wallOf(t, c.zone)
		found := c.spec.Next(wall)
		if found.IsZero() {
			return time.Time{}
		}
		at := t.Add(found.Sub(wall))
		_, end := t.In(c.zone).ZoneBounds()
		if end.IsZero() || at.Before(end) {
			return at
		}
		if wall = wallOf(end, c.zone); c.spec.Next(wall.Add(-time.Second)).Equal(wall) {
			return end
		}
		t = end
	}
	return time.Time{}
}

// wallOf is what the clock of the zone shows at t, as a time in UTC.
func wallOf(t time.Time, zone *time.Location) time.Time {
	_, offset := t.In(zone).Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// instantOf is when the clock of the zone first shows wall; if it skips wall, the moment at which it does.
func instantOf(wall time.Time, zone *time.Location) time.Time {
	t := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), 0, zone)
	start, end := t.ZoneBounds()
	switch shown := wallOf(t, zone); {
	case shown.After(wall):
		return start
	case shown.Before(wall):
		return end
	}
	if start.IsZero() {
		return t
	}
	_, before := start.Add(-1).Zone()
	if first := wall.Add(-time.Duration(before) * time.Second); first.Before(start) {
		return first
	}
	return t
}

// due are the ticks from first, which is one, to now: the newest of them, at most n, in their order.
func (c cron) due(first, now time.Time, n int) []time.Time {
	for back := 2 * time.Minute; ; back *= 2 {
		from := now.Add(-back)
		var ticks []time.Time
		whole := !from.After(first)
		if whole {
			from, ticks = first, []time.Time{first}
		}
		for t := c.next(from); !t.IsZero() && !t.After(now); t = c.next(t) {
			if ticks = append(ticks, t); len(ticks) > 2*n {
				ticks = slices.Delete(ticks, 0, len(ticks)-n)
			}
		}
		if whole || len(ticks) >= n {
			return ticks[max(0, len(ticks)-n):]
		}
	}
}
