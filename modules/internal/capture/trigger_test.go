package capture

import (
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/pressure"
)

func TestTrigger(t *testing.T) {
	s := (*Config)(nil).settings("")
	over, under := pressure.Sample{CPU: 0.95}, pressure.Sample{CPU: 0.5}
	slow := pressure.Sample{CPU: 0.5, Scheduling: 150 * time.Millisecond}
	type step struct {
		sample pressure.Sample
		lasts  time.Duration
		want   string // the cause at the end of the step
	}
	for name, steps := range map[string][]step{
		"cpu":              {{over, 30 * time.Second, ""}, {over, interval, "cpu over 90% for 30s"}},
		"scheduler":        {{slow, 30 * time.Second, ""}, {slow, interval, "scheduler over 100ms for 30s"}},
		"a-short-dip":      {{over, 25 * time.Second, ""}, {under, interval, ""}, {over, 7500 * time.Millisecond, ""}, {over, interval, "cpu over 90% for 30s"}},
		"a-long-dip":       {{over, 25 * time.Second, ""}, {under, 3 * time.Second, ""}, {over, 29 * time.Second, ""}},
		"under":            {{under, time.Hour, ""}},
		"it-stays":         {{over, time.Hour, "cpu over 90% for 30s"}, {under, interval, ""}},
		"one-or-the-other": {{over, 20 * time.Second, ""}, {slow, 20 * time.Second, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			var tr trigger
			now := time.Unix(1_000_000, 0)
			for i, st := range steps {
				var got string
				for range st.lasts / interval {
					now = now.Add(interval)
					st.sample.At = now
					got = tr.observe(s, st.sample)
				}
				if got != st.want {
					t.Errorf("step %d: got %q, want %q", i, got, st.want)
				}
			}
		})
	}
}

func TestTriggerCountsEachSampleOnce(t *testing.T) {
	s := (*Config)(nil).settings("")
	var tr trigger
	tr.observe(s, pressure.Sample{})
	sample := pressure.Sample{CPU: 1, At: time.Unix(1, 0)}
	for range 1000 {
		if got := tr.observe(s, sample); got != "" {
			t.Fatalf("one sample alone: got %q", got)
		}
	}
	sample.At = sample.At.Add(time.Hour) // the machine slept
	if got := tr.observe(s, sample); got != "" {
		t.Errorf("after an hour without samples: got %q", got)
	}
}

func TestConfig(t *testing.T) {
	for text, want := range map[string]Percent{"90%": 0.9, "0%": 0, "100%": 1, "12.5%": 0.125} {
		if got, err := ParsePercent(text); err != nil || got != want || got.String() != text {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "%", "90", "0.9", "101%", "-1%", "NaN%", "x%"} {
		if got, err := ParsePercent(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
	for name, c := range map[string]Config{
		"cpu":       {CPU: &CPU{}},
		"scheduler": {Scheduler: &Scheduler{}},
		"length":    {Length: maxDuration},
		"keep":      {Keep: -1},
	} {
		if c.Validate() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := new(Config).Validate(); err != nil {
		t.Error(err)
	}
}

const maxDuration = 1<<63 - 1
