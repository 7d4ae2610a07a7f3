package jobs

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func mustCron(t testing.TB, expr, zone string) cron {
	t.Helper()
	c, err := parseCron(expr, zone)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ticksOf are the ticks between two times of the zone, as its clock shows them, with the offset.
func ticksOf(t testing.TB, c cron, from, to string) (all []string) {
	t.Helper()
	const layout = "2006-01-02 15:04"
	at, err := time.ParseInLocation(layout, from, c.zone)
	if err != nil {
		t.Fatal(err)
	}
	end, err := time.ParseInLocation(layout, to, c.zone)
	if err != nil {
		t.Fatal(err)
	}
	for at = c.next(at.Add(-time.Second)); !at.IsZero() && at.Before(end); at = c.next(at) {
		if all = append(all, at.In(c.zone).Format("01-02 15:04 -0700")); len(all) > 1000 {
			t.Fatalf("too many ticks: %v", all[:10])
		}
	}
	return all
}

func TestCronWhereTheClockChanges(t *testing.T) {
	for name, tc := range map[string]struct {
		expr, zone, from, to string
		want                 []string
	}{
		"berlin-spring-daily": { // 02:00 → 03:00 on 29 March
			"30 2 * * *", "Europe/Berlin", "2026-03-28 00:00", "2026-03-31 00:00",
			[]string{"03-28 02:30 +0100", "03-29 03:00 +0200", "03-30 02:30 +0200"},
		},
		"berlin-autumn-daily": { // 03:00 → 02:00 on 25 October
			"30 2 * * *", "Europe/Berlin", "2026-10-24 00:00", "2026-10-27 00:00",
			[]string{"10-24 02:30 +0200", "10-25 02:30 +0200", "10-26 02:30 +0100"},
		},
		"new-york-spring-daily": { // 02:00 → 03:00 on 8 March
			"30 2 * * *", "America/New_York", "2026-03-07 00:00", "2026-03-10 00:00",
			[]string{"03-07 02:30 -0500", "03-08 03:00 -0400", "03-09 02:30 -0400"},
		},
		"new-york-autumn-daily": { // 02:00 → 01:00 on 1 November
			"30 1 * * *", "America/New_York", "2026-10-31 00:00", "2026-11-03 00:00",
			[]string{"10-31 01:30 -0400", "11-01 01:30 -0400", "11-02 01:30 -0500"},
		},
		"skipped-times-are-one-with-what-is-at-the-change": {
			"*/20 2-3 * * *", "Europe/Berlin", "2026-03-29 00:00", "2026-03-30 00:00",
			[]string{"03-29 03:00 +0200", "03-29 03:20 +0200", "03-29 03:40 +0200"},
		},
		"skipped-times-are-one": {
			"15,45 2 * * *", "Europe/Berlin", "2026-03-29 00:00", "2026-03-30 00:00",
			[]string{"03-29 03:00 +0200"},
		},
		"chosen-hours-come-once-in-autumn": {
			"*/30 1-3 * * *", "Europe/Berlin", "2026-10-25 00:00", "2026-10-26 00:00",
			[]string{"10-25 01:00 +0200", "10-25 01:30 +0200", "10-25 02:00 +0200", "10-25 02:30 +0200", "10-25 03:00 +0100", "10-25 03:30 +0100"},
		},
		"every-hour-in-spring": {
			"0 * * * *", "Europe/Berlin", "2026-03-29 00:00", "2026-03-29 05:00",
			[]string{"03-29 00:00 +0100", "03-29 01:00 +0100", "03-29 03:00 +0200", "03-29 04:00 +0200"},
		},
		"every-hour-in-autumn": {
			"0 * * * *", "Europe/Berlin", "2026-10-25 01:00", "2026-10-25 04:00",
			[]string{"10-25 01:00 +0200", "10-25 02:00 +0200", "10-25 02:00 +0100", "10-25 03:00 +0100"},
		},
		"every-half-hour-in-autumn": {
			"*/30 * * * *", "America/New_York", "2026-11-01 00:30", "2026-11-01 02:30",
			[]string{"11-01 00:30 -0400", "11-01 01:00 -0400", "11-01 01:30 -0400", "11-01 01:00 -0500", "11-01 01:30 -0500", "11-01 02:00 -0500"},
		},
		"midnight-that-is-skipped": { // São Paulo, 00:00 → 01:00 on 4 November 2018
			"0 0 * * *", "America/Sao_Paulo", "2018-11-03 00:00", "2018-11-06 00:00",
			[]string{"11-03 00:00 -0300", "11-04 01:00 -0200", "11-05 00:00 -0200"},
		},
		"hours-of-a-day-without-midnight": {
			"30 * 4 11 *", "America/Sao_Paulo", "2018-11-03 00:00", "2018-11-04 03:30",
			[]string{"11-04 01:30 -0200", "11-04 02:30 -0200"},
		},
		"half-an-hour-forward": { // Lord Howe, 02:00 → 02:30 on 4 October
			"15 2 * * *", "Australia/Lord_Howe", "2026-10-03 00:00", "2026-10-06 00:00",
			[]string{"10-03 02:15 +1030", "10-04 02:30 +1100", "10-05 02:15 +1100"},
		},
		"a-day-that-is-skipped": { // Samoa had no 30 December 2011
			"30 2 * * *", "Pacific/Apia", "2011-12-29 00:00", "2012-01-01 00:00",
			[]string{"12-29 02:30 -1000", "12-31 00:00 +1400", "12-31 02:30 +1400"},
		},
		"a-day-that-comes-twice": { // Kwajalein, 30 September 1969 is shown twice
			"30 2 * * *", "Pacific/Kwajalein", "1969-09-29 00:00", "1969-10-02 00:00",
			[]string{"09-29 02:30 +1100", "09-30 02:30 +1100", "10-01 02:30 -1200"},
		},
		"weekdays": {
			"0 9 * * 1-5", "Europe/Berlin", "2026-03-27 00:00", "2026-03-31 00:00",
			[]string{"03-27 09:00 +0100", "03-30 09:00 +0200"},
		},
		"sunday-is-also-seven": {
			"0 9 * * 6-7", "", "2026-03-27 00:00", "2026-04-04 00:00",
			[]string{"03-28 09:00 +0000", "03-29 09:00 +0000"},
		},
		"day-of-month-or-of-week": {
			"0 0 13 * FRI", "UTC", "2026-03-01 00:00", "2026-03-21 00:00",
			[]string{"03-06 00:00 +0000", "03-13 00:00 +0000", "03-20 00:00 +0000"},
		},
		"leap-day": {
			"0 12 29 2 *", "UTC", "2025-01-01 00:00", "2033-01-01 00:00",
			[]string{"02-29 12:00 +0000", "02-29 12:00 +0000"},
		},
		"descriptor": {
			"@daily", "Asia/Kolkata", "2026-01-01 00:00", "2026-01-03 00:00",
			[]string{"01-01 00:00 +0530", "01-02 00:00 +0530"},
		},
		"every": {
			"@every 8h", "Europe/Berlin", "2026-01-01 00:00", "2026-01-02 00:00",
			[]string{"01-01 01:00 +0100", "01-01 09:00 +0100", "01-01 17:00 +0100"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, ticksOf(t, mustCron(t, tc.expr, tc.zone), tc.from, tc.to)); diff != "" {
				t.Errorf("ticks (-want +got):\n%s", diff)
			}
		})
	}
}

// TestCronDailyIsOncePerDay walks twelve years: whatever the time of day, each calendar day has exactly one tick.
func TestCronDailyIsOncePerDay(t *testing.T) {
	for _, zone := range []string{"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"} {
		for _, expr := range []string{"0 0 * * *", "30 1 * * *", "0 2 * * *", "30 2 * * *", "59 2 * * *", "0 3 * * *", "59 23 * * *"} {
			c := mustCron(t, expr, zone)
			day := time.Date(2020, 1, 1, 12, 0, 0, 0, c.zone)
			at := c.next(time.Date(2020, 1, 1, 0, 0, 0, 0, c.zone).Add(-time.Second))
			for range 12 * 366 {
				if got, want := at.In(c.zone).Format(time.DateOnly), day.Format(time.DateOnly); got != want {
					t.Fatalf("%s in %s: got a tick on %s, want one on %s", expr, zone, got, want)
				}
				at, day = c.next(at), day.AddDate(0, 0, 1)
			}
		}
	}
}

// TestCronOfAnySecond: the next tick is later than the time that was asked for, and the same for all
// times between two ticks.
func TestCronOfAnySecond(t *testing.T) {
	for _, expr := range []string{"30 2 * * *", "*/7 * * * *", "*/10 1-3 * * *", "0 0 * * *", "@every 90s"} {
		for _, zone := range []string{"Europe/Berlin", "America/New_York", "America/Sao_Paulo"} {
			c := mustCron(t, expr, zone)
			for _, begin := range []string{"2026-03-28T20:00:00Z", "2026-10-24T20:00:00Z", "2026-03-08T03:00:00Z", "2026-11-01T02:00:00Z", "2018-11-03T22:00:00Z"} {
				at, err := time.Parse(time.RFC3339, begin)
				if err != nil {
					t.Fatal(err)
				}
				next := c.next(at)
				for range 10 * 60 * 6 {
					got := c.next(at)
					if !got.After(at) || got.Before(next) || got.After(next) && at.Before(next) {
						t.Fatalf("%s in %s: after %s comes %s, before that it was %s", expr, zone, at, got, next)
					}
					next, at = got, at.Add(10*time.Second)
				}
			}
		}
	}
}

func TestCronErrors(t *testing.T) {
	for expr, want := range map[string]string{
		"":                          "is missing",
		"* * * *":                   "five fields",
		"* * * * * *":               "five fields",
		"60 * * * *":                "above maximum",
		"* * * * 8":                 "above maximum",
		"a b c d e":                 "five fields",
		", , , , ,":                 "fits no day",
		"0 0 30 2 *":                "fits no day",
		"TZ=Europe/Berlin":          "must not name a time zone",
		"CRON_TZ=UTC 0 0 * * *":     "must not name a time zone",
		"@every":                    "five fields",
		"@every soon":               "not a duration",
		"@every 50ms":               "from 100ms to 366d",
		"@every 4000d":              "from 100ms to 366d",
		"@every -5s":                "must not be negative",
		"@reboot":                   "five fields",
		strings.Repeat("1,", 200):   "longer than 255",
		"@every 99999999999999999h": "not a duration",
		"0 9 32W * *":               "from 1W to 31W",
		"0 9 W * *":                 "from 1W to 31W",
		"0 9 L3 * *":                "L-3",
		"0 9 L-31 * *":              "L-30",
		"0 9 * * L":                 "FRIL or 5L",
		"0 9 * * 8L":                "FRIL or 5L",
		"0 9 * * FRI#6":             "FRI#2 or 5#2",
		"0 9 * * #2":                "FRI#2 or 5#2",
		"0 9 * L *":                 "five fields",
		"0 9 31W 2 *":               "fits no day",
	} {
		if _, err := parseCron(expr, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want an error with %q", expr, err, want)
		}
	}
	for _, zone := range []string{"Local", "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "Europe", "berlin"} {
		if _, err := parseCron("@daily", zone); err == nil || !strings.Contains(err.Error(), "is not a time zone") {
			t.Errorf("zone %q: got %v, want an error", zone, err)
		}
	}
}

func TestCronDue(t *testing.T) {
	day := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		expr       string
		first, now time.Time
		n, want    int
		newest     time.Time
	}{
		"on-time":          {"0 * * * *", day, day.Add(time.Second), 100, 1, day},
		"some":             {"0 * * * *", day, day.Add(5*time.Hour + time.Minute), 100, 6, day.Add(5 * time.Hour)},
		"more-than-wanted": {"* * * * *", day, day.AddDate(0, 0, 2).Add(time.Second), 100, 100, day.AddDate(0, 0, 2)},
		"years":            {"@every 100ms", day.AddDate(-20, 0, 0), day, 100, 100, day},
		"one-of-years":     {"*/5 * * * *", day.AddDate(-30, 0, 0), day, 1, 1, day},
		"seldom":           {"@yearly", day.AddDate(-1, -4, 0), day, 100, 2, day.AddDate(0, -4, 0)},
		"stored-is-right":  {"@yearly", day, day.Add(time.Second), 100, 1, day}, // as another instance reckoned it
	} {
		t.Run(name, func(t *testing.T) {
			got := mustCron(t, tc.expr, "").due(tc.first, tc.now, tc.n)
			if len(got) != tc.want || !got[len(got)-1].Equal(tc.newest) {
				t.Fatalf("got %d ticks up to %s, want %d up to %s", len(got), got[len(got)-1], tc.want, tc.newest)
			}
			for i := 1; i < len(got); i++ {
				if !got[i].After(got[i-1]) {
					t.Fatalf("tick %s comes after %s", got[i], got[i-1])
				}
			}
		})
	}
}

func TestMadeUpFor(t *testing.T) {
	noon := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	c := mustCron(t, "*/5 * * * *", "")
	short := mustCron(t, "@every 1s", "")
	for name, tc := range map[string]struct {
		c               cron
		first           time.Time
		after           time.Duration // of noon
		skip, once, all int
		late            bool
		newest          time.Duration
	}{
		"on-time":                     {c: c, first: noon, after: 9 * time.Second, skip: 1, once: 1, all: 1},
		"late":                        {c: c, first: noon, after: 10 * time.Second, skip: 0, once: 1, all: 1, late: true},
		"one-missed-one-on-time":      {c: c, first: noon, after: 5*time.Minute + 3*time.Second, skip: 1, once: 1, all: 2, late: true, newest: 5 * time.Minute},
		"many-missed":                 {c: c, first: noon, after: time.Hour + time.Minute, skip: 0, once: 1, all: 13, late: true, newest: time.Hour},
		"all-is-bounded":              {c: c, first: noon.AddDate(-1, 0, 0), after: time.Minute, skip: 0, once: 1, all: 100, late: true},
		"a-period-shorter-than-10s":   {c: short, first: noon, after: 3500 * time.Millisecond, skip: 1, once: 1, all: 4, late: true, newest: 3 * time.Second},
		"a-short-one-that-is-on-time": {c: short, first: noon, after: 900 * time.Millisecond, skip: 1, once: 1, all: 1},
	} {
		t.Run(name, func(t *testing.T) {
			for policy, want := range map[string]int{missedSkip: tc.skip, missedOnce: tc.once, missedAll: tc.all} {
				got, late := tc.c.made(policy, tc.first, noon.Add(tc.after))
				if len(got) != want || late != tc.late {
					t.Errorf("%s: got %d ticks, late %v, want %d, %v", policy, len(got), late, want, tc.late)
				} else if want > 0 && !got[want-1].Equal(noon.Add(tc.newest)) {
					t.Errorf("%s: the newest is %s, want noon and %s", policy, got[want-1], tc.newest)
				}
			}
		})
	}
}

func FuzzParseCron(f *testing.F) {
	for _, s := range []string{"30 2 * * *", "@every 5s", "*/5 1-3 1,2 jan-mar mon", "TZ=", "0 0 30 2 *", "? ? ? ? ?", "@hourly", "* * * * 5-7",
		"0 9 L * *", "0 9 LW * FRI#2", "* * 31W 2 5#5", "0 0 L-3W,1,15W * 7L", "0 0 * * #", "0 0 W * L"} {
		f.Add(s, "Europe/Berlin")
	}
	f.Fuzz(func(t *testing.T, expr, zone string) {
		c, err := parseCron(expr, zone)
		if err != nil {
			return
		}
		at := time.Date(2026, 3, 28, 23, 0, 0, 0, time.UTC)
		for range 50 {
			next := c.next(at)
			if next.IsZero() {
				return
			}
			if !next.After(at) {
				t.Fatalf("%q in %q: after %s comes %s", expr, zone, at, next)
			}
			at = next
		}
	})
}

func BenchmarkCronNext(b *testing.B) {
	c := mustCron(b, "30 2 * * *", "Europe/Berlin")
	at := time.Date(2026, 3, 28, 23, 0, 0, 0, time.UTC)
	for b.Loop() {
		_ = c.next(at)
	}
}
