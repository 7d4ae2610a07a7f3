package jobs

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	robfig "github.com/robfig/cron/v3"
)

// maxYears is how far the next day is looked for: the longest wait is that for a fifth Friday in February,
// which is 28 years, or 40 around the year 2100.
const maxYears = 41

// walls says which times a clock shows at the ticks of a schedule.
type walls interface {
	// Next is the first of them after wall, zero if there is none. Both are in UTC.
	Next(wall time.Time) time.Time
}

// calendar is a cron expression with days that depend on the month: its last one, the weekday nearest to a
// date, the second Friday. times has the other fields, and any day.
type calendar struct {
	times    *robfig.SpecSchedule
	dom, dow days
}

// days is one of the two fields that choose days.
type days struct {
	any   bool   // it begins with * or ?
	set   uint64 // bit n stands for the n-th of the month, or for the weekday n
	rules []dayRule
	alone bool // it has nothing but rules, and the parser was given a star in its stead
}

// dayRule says whether a day is one that the rule chooses.
type dayRule func(day time.Time) bool

// Next implements walls.
func (c *calendar) Next(wall time.Time) time.Time {
	limit := wall.Year() + maxYears
	for {
		next := c.times.Next(wall)
		if next.IsZero() || next.Year() > limit {
			return time.Time{}
		}
		if c.fits(next) {
			return next
		}
		wall = time.Date(next.Year(), next.Month(), next.Day(), 23, 59, 59, 0, time.UTC)
	}
}

// fits follows crontab(5): with a star in one of the two fields the other one decides, otherwise either
// may choose the day.
func (c *calendar) fits(day time.Time) bool {
	dom, dow := c.dom.choose(day, day.Day()), c.dow.choose(day, int(day.Weekday()))
	if c.dom.any || c.dow.any {
		return dom && dow
	}
	return dom || dow
}

func (d *days) choose(day time.Time, n int) bool {
	if d.any || d.set&(1<<n) != 0 {
		return true
	}
	for _, rule := range d.rules {
		if rule(day) {
			return true
		}
	}
	return false
}

// parseDays takes the items that only this file knows out of the two fields of days, where there are any.
// What is left of expr is for the parser.
func parseDays(expr string) (left string, dom, dow *days, err error) {
	fields := strings.Fields(expr)
	if len(fields) != 5 {
		return expr, nil, nil, nil
	}
	dom, err = takeRules(&fields[2], domRule)
	if err != nil {
		return "", nil, nil, err
	}
	dow, err = takeRules(&fields[4], dowRule)
	return strings.Join(fields, " "), dom, dow, err
}

// takeRules takes the items of a field that parse knows out of it. It returns nil if there are none.
func takeRules(field *string, parse func(item string) (dayRule, error)) (*days, error) {
	var d days
	var plain []string
	for item := range strings.SplitSeq(*field, ",") {
		rule, err := parse(strings.ToUpper(item))
		if err != nil {
			return nil, fmt.Errorf("%q: %w", item, err)
		}
		if rule == nil {
			plain = append(plain, item)
		} else {
			d.rules = append(d.rules, rule)
		}
	}
	if len(d.rules) == 0 {
		return nil, nil //nolint:nilnil // there are none, which is no error
	}
	if *field = strings.Join(plain, ","); len(plain) == 0 {
		*field, d.alone = "*", true
	}
	return &d, nil
}

// calendarOf is the calendar of a parsed expression with the rules of its days, nil for a field without.
func calendarOf(spec *robfig.SpecSchedule, dom, dow *days) walls {
	if dom == nil && dow == nil {
		return spec
	}
	c := &calendar{times: spec, dom: daysOf(spec.Dom, dom), dow: daysOf(spec.Dow, dow)}
	const star = 1 << 63
	spec.Dom, spec.Dow = star|(1<<32-1), star|(1<<7-1)
	return c
}

// daysOf is a field with the parser's bits.
func daysOf(bits uint64, d *days) days {
	const star = 1 << 63
	switch {
	case d == nil:
		return days{any: bits&star != 0, set: bits}
	case d.alone:
		return *d
	}
	return days{any: bits&star != 0, set: bits, rules: d.rules}
}

// domRule reads L, L-N, LW, L-NW and NW; nil is for anything else.
func domRule(item string) (dayRule, error) {
	text, weekday := strings.CutSuffix(item, "W")
	if back, ok := strings.CutPrefix(text, "L"); ok {
		n := 0
		if back != "" {
			var err error
			if n, err = number(strings.TrimPrefix(back, "-"), 1, 30); err != nil || back[0] != '-' {
				return nil, errors.New("the last day of the month is L, and the third before it L-3, up to L-30")
			}
		}
		return func(day time.Time) bool {
			return day.Day() == chosenDay(day, lastDay(day)-n, weekday)
		}, nil
	}
	if !weekday {
		return nil, nil //nolint:nilnil // the parser's
	}
	n, err := number(text, 1, 31)
	if err != nil {
		return nil, errors.New("the weekday nearest to the 15th is 15W, from 1W to 31W, and the last one of the month LW")
	}
	return func(day time.Time) bool { return day.Day() == chosenDay(day, n, true) }, nil
}

// dowRule reads DAYL and DAY#N; nil is for anything else.
func dowRule(item string) (dayRule, error) {
	if name, ok := strings.CutSuffix(item, "L"); ok {
		weekday, err := weekdayOf(name)
		if err != nil {
			return nil, errors.New("the last Friday of the month is FRIL or 5L")
		}
		return func(day time.Time) bool { return day.Weekday() == weekday && day.Day() > lastDay(day)-7 }, nil
	}
	name, count, ok := strings.Cut(item, "#")
	if !ok {
		return nil, nil //nolint:nilnil // the parser's
	}
	weekday, err := weekdayOf(name)
	n, wrong := number(count, 1, 5)
	if err != nil || wrong != nil {
		return nil, errors.New("the second Friday of the month is FRI#2 or 5#2, from #1 to #5")
	}
	return func(day time.Time) bool { return day.Weekday() == weekday && (day.Day()+6)/7 == n }, nil
}

var weekdays = []string{"SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"}

func weekdayOf(name string) (time.Weekday, error) {
	for i, w := range weekdays {
		if name == w {
			return time.Weekday(i), nil
		}
	}
	n, err := number(name, 0, 7)
	return time.Weekday(n % 7), err
}

func number(s string, least, most int) (int, error) {
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil || int(n) < least || int(n) > most {
		return 0, fmt.Errorf("%q is not a number from %d to %d", s, least, most)
	}
	return int(n), nil
}

func lastDay(day time.Time) int {
	return time.Date(day.Year(), day.Month()+1, 0, 0, 0, 0, 0, time.UTC).Day()
}

// chosenDay is the n-th of the month of day, or the weekday nearest to it in that month. 0 is none: the
// month has no such date.
func chosenDay(day time.Time, n int, weekday bool) int {
	last := lastDay(day)
	if n < 1 || n > last {
		return 0
	}
	if !weekday {
		return n
	}
	switch time.Date(day.Year(), day.Month(), n, 0, 0, 0, 0, time.UTC).Weekday() {
	case time.Saturday:
		if n == 1 {
			return 3
		}
		return n - 1
	case time.Sunday:
		if n == last {
			return n - 2
		}
		return n + 1
	default:
		return n
	}
}
