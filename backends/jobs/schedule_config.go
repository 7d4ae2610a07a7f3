package jobs

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/internal/egress"
)

// The policies for ticks that were missed.
const (
	missedSkip = "skip"
	missedOnce = "once"
	missedAll  = "all"
)

var missedPolicies = []string{missedSkip, missedOnce, missedAll}

// Schedule enqueues a job at each of its ticks: exactly one, whatever number of instances share the database.
type Schedule struct {
	// Cron says when, by the clock of Timezone: five fields (minute, hour, day of month, month, day of
	// week), @yearly, @monthly, @weekly, @daily or @hourly, or "@every DURATION" from 100ms to 366d, counted
	// from the Unix epoch. The day of month also takes L (the last), L-3 (the third before it), 15W (the
	// weekday nearest to the 15th) and LW (the last weekday); the day of week FRI#2 (the second Friday) and
	// FRIL (the last one). Chosen hours are kept when the clock is changed: a time that is skipped is made
	// up for at the moment of the change, one that comes twice counts once. With all hours (0 * * * *) real
	// time counts. Required.
	Cron string `json:"cron"`
	// Timezone is the name of an IANA time zone, such as Europe/Berlin. Default: UTC.
	Timezone string `json:"timezone,omitempty"`
	// Queue is the queue of the jobs. Default: default.
	Queue string `json:"queue,omitempty"`
	// Payload is the payload of each job, any JSON up to the queue's max_payload. Default: null.
	Payload json.RawMessage `json:"payload,omitempty"`
	// Target is the URL that the jobs are pushed to. Its host must be allowed. Default: the queue's.
	Target string `json:"target,omitempty"`
	// Missed says what becomes of ticks that could not be kept, as no instance ran: a tick is missed when
	// it is 10 s late or the next one is due. "skip" leaves them out, "once" makes up for them by one job,
	// "all" by a job each, the newest 100. Default: once.
	Missed string `json:"missed,omitempty"`

	ScheduleOptions
}

// withDefaults is sc with every unset field filled in.
func (sc Schedule) withDefaults() Schedule {
	sc.Timezone = cmp.Or(sc.Timezone, time.UTC.String())
	sc.Queue = cmp.Or(sc.Queue, defaultQueue)
	sc.Missed = cmp.Or(sc.Missed, missedOnce)
	sc.Overlap = cmp.Or(sc.Overlap, overlapAllow)
	if len(sc.Payload) == 0 {
		sc.Payload = json.RawMessage("null")
	}
	return sc
}

// CheckTime says what is wrong with what is the schedule's alone: all but Queue, Payload and Target.
func (sc Schedule) CheckTime() error {
	sc = sc.withDefaults()
	if _, err := sc.ticks(); err != nil {
		return err
	}
	if err := sc.ScheduleOptions.check(); err != nil {
		return err
	}
	if !slices.Contains(missedPolicies, sc.Missed) {
		return fmt.Errorf("missed must be skip, once or all, not %.80q", sc.Missed)
	}
	return nil
}

// check says what is wrong with a schedule that has its defaults. queues are those that there are, and
// targets the hosts that a job may name.
func (sc Schedule) check(queues map[string]Queue, targets egress.Places) error {
	if err := sc.CheckTime(); err != nil {
		return err
	}
	queue, ok := queues[sc.Queue]
	switch {
	case !ok || isInternal(sc.Queue):
		return fmt.Errorf("there is no queue %.80q: name one of the configured queues", sc.Queue)
	case len(sc.Payload) > queue.maxPayload():
		return fmt.Errorf("payload must not be larger than %d bytes", queue.maxPayload())
	case !json.Valid(sc.Payload) || !utf8.Valid(sc.Payload):
		return errors.New("payload must be JSON")
	case queue.Pull && sc.Target != "":
		return fmt.Errorf("the queue %s is leased by workers, so there is no target: remove it", sc.Queue)
	case !queue.Pull && sc.Target == "" && queue.Target == "":
		return fmt.Errorf("the queue %s has no target of its own, so the schedule must name one in target", sc.Queue)
	case sc.Target == "":
		return nil
	}
	u, err := parseTarget(sc.Target)
	if err != nil {
		return fmt.Errorf("target %w", err)
	}
	if err = checkPlace(targets, u); err != nil {
		return fmt.Errorf("target: %w", err)
	}
	return nil
}

// validateSchedules says what is wrong with the configured schedules. The queues and Allow are valid.
func (c Config) validateSchedules() error {
	queues, targets := c.queues(), placesOf(c)
	for _, name := range slices.Sorted(maps.Keys(c.Schedules)) {
		if !validSchedule(name) {
			return fmt.Errorf("%q is not a name of a schedule: use up to %d lower-case letters and digits, parted by single hyphens or underscores",
				name, maxName)
		}
		if err := c.Schedules[name].withDefaults().check(queues, targets); err != nil {
			return fmt.Errorf("schedule %s: %w", name, err)
		}
	}
	return nil
}

func validSchedule(name string) bool { return len(name) <= maxName && queueName.MatchString(name) }
