package jobs

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCronDaysOfTheMonth(t *testing.T) {
	for name, tc := range map[string]struct {
		expr, zone, from, to string
		want                 []string
	}{
		"last-day": {
			"0 9 L * *", "Europe/Berlin", "2028-01-01 00:00", "2028-05-01 00:00",
			[]string{"01-31 09:00 +0100", "02-29 09:00 +0100", "03-31 09:00 +0200", "04-30 09:00 +0200"},
		},
		"third-before-the-last": {
			"0 9 L-3 2,3 *", "", "2026-01-01 00:00", "2027-01-01 00:00",
			[]string{"02-25 09:00 +0000", "03-28 09:00 +0000"},
		},
		"no-such-day-in-a-short-month": {
			"0 9 L-30 * *", "", "2026-01-01 00:00", "2026-06-01 00:00",
			[]string{"01-01 09:00 +0000", "03-01 09:00 +0000", "05-01 09:00 +0000"},
		},
		"weekday-nearest-to-the-15th": { // 15 August 2026 is a Saturday, 15 November a Sunday
			"0 9 15W 7,8,11 *", "", "2026-01-01 00:00", "2027-01-01 00:00",
			[]string{"07-15 09:00 +0000", "08-14 09:00 +0000", "11-16 09:00 +0000"},
		},
		"stays-in-the-month": { // 1 August 2026 is a Saturday, 31 May a Sunday
			"0 9 1W,31W 5,8 *", "", "2026-05-02 00:00", "2026-08-30 00:00",
			[]string{"05-29 09:00 +0000", "08-03 09:00 +0000"},
		},
		"weekday-of-a-date-that-is-not-there": {
			"0 9 31W 3-5 *", "", "2027-01-01 00:00", "2028-01-01 00:00",
			[]string{"03-31 09:00 +0000", "05-31 09:00 +0000"},
		},
		"last-weekday": { // 31 January 2026 is a Saturday, 28 February too
			"0 9 LW 1-3 *", "", "2026-01-01 00:00", "2027-01-01 00:00",
			[]string{"01-30 09:00 +0000", "02-27 09:00 +0000", "03-31 09:00 +0000"},
		},
		"weekday-before-the-last-days": { // 29 March 2026 is a Sunday
			"0 9 L-2W 3 *", "", "2026-01-01 00:00", "2027-01-01 00:00",
			[]string{"03-30 09:00 +0000"},
		},
		"second-friday": {
			"0 9 * * FRI#2", "", "2026-01-01 00:00", "2026-04-01 00:00",
			[]string{"01-09 09:00 +0000", "02-13 09:00 +0000", "03-13 09:00 +0000"},
		},
		"a-fifth-one-is-not-in-all-months": {
			"0 9 * * 5#5", "", "2026-01-01 00:00", "2026-09-01 00:00",
			[]string{"01-30 09:00 +0000", "05-29 09:00 +0000", "07-31 09:00 +0000"},
		},
		"last-friday-and-sunday": {
			"0 9 * * fril,7L", "", "2026-02-01 00:00", "2026-04-01 00:00",
			[]string{"02-22 09:00 +0000", "02-27 09:00 +0000", "03-27 09:00 +0000", "03-29 09:00 +0000"},
		},
		"beside-plain-days": {
			"0 9 1,L * *", "", "2026-02-01 00:00", "2026-03-31 00:00",
			[]string{"02-01 09:00 +0000", "02-28 09:00 +0000", "03-01 09:00 +0000"},
		},
		"either-field-chooses": {
			"0 9 L * MON#1", "", "2026-02-01 00:00", "2026-04-01 00:00",
			[]string{"02-02 09:00 +0000", "02-28 09:00 +0000", "03-02 09:00 +0000", "03-31 09:00 +0000"},
		},
		"seldom": { // five Fridays in February
			"0 9 * 2 5#5", "", "2026-01-01 00:00", "2081-01-01 00:00",
			[]string{"02-29 09:00 +0000", "02-29 09:00 +0000"},
		},
		"skipped-hour": { // 29 March 2026 is the last Sunday
			"30 2 * * SUNL", "Europe/Berlin", "2026-02-01 00:00", "2026-05-01 00:00",
			[]string{"02-22 02:30 +0100", "03-29 03:00 +0200", "04-26 02:30 +0200"},
		},
		"repeated-hour": { // 25 October 2026 is the last Sunday
			"30 2 * * 7L", "Europe/Berlin", "2026-10-01 00:00", "2026-11-01 00:00",
			[]string{"10-25 02:30 +0200"},
		},
		"every-hour-of-a-repeated-one": {
			"0 * * * SUNL", "Europe/Berlin", "2026-10-25 01:00", "2026-10-25 04:00",
			[]string{"10-25 01:00 +0200", "10-25 02:00 +0200", "10-25 02:00 +0100", "10-25 03:00 +0100"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, ticksOf(t, mustCron(t, tc.expr, tc.zone), tc.from, tc.to)); diff != "" {
				t.Errorf("ticks (-want +got):\n%s", diff)
			}
		})
	}
}

// TestCronDaysThatNeverCome: an expression that is not a day of any month is refused in no time.
func TestCronDaysThatNeverCome(t *testing.T) {
	for _, expr := range []string{"* * 31W 2,4,6,9,11 *", "* * L-30 2 *"} {
		if _, err := parseCron(expr, ""); err == nil {
			t.Errorf("%s: got no error", expr)
		}
	}
	begin := time.Now()
	_, _ = parseCron("* * 31W 2,4,6,9,11 *", "")
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
}
