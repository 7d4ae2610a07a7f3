package jobs

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

// OnDuplicate is what becomes of an order whose unique key another job holds. In JSON it is a string, as
// ParseOnDuplicate reads it. The zero value is keep.
type OnDuplicate struct {
	// Replace says that a job which waits takes over what the newest order says. One that has started
	// holds its key no longer: the order makes a job of its own.
	Replace bool
	// Debounce, if above 0, is Replace with a pause: the job runs so long after the last of its orders.
	Debounce time.Duration
}

// maxDebounce is the longest pause.
const maxDebounce = 24 * time.Hour

const (
	duplicateKeep     = "keep"
	duplicateReplace  = "replace"
	duplicateDebounce = "debounce"
)

// ParseOnDuplicate reads "keep", "replace", or "debounce DURATION" with a duration above 0 and up to 24h.
func ParseOnDuplicate(s string) (OnDuplicate, error) {
	wrong := func() (OnDuplicate, error) {
		return OnDuplicate{}, fmt.Errorf("on_duplicate must be \"keep\", \"replace\" or \"debounce DURATION\", such as \"debounce 5s\", not %.80q", s)
	}
	word, wait, more := strings.Cut(s, " ")
	switch {
	case word == duplicateKeep && !more:
		return OnDuplicate{}, nil
	case word == duplicateReplace && !more:
		return OnDuplicate{Replace: true}, nil
	case word != duplicateDebounce || !more:
		return wrong()
	}
	d, err := unit.ParseDuration(wait)
	if err != nil || d == 0 {
		return wrong()
	}
	o := OnDuplicate{Replace: true, Debounce: d.Std()}
	return o, o.validate()
}

func (o OnDuplicate) validate() error {
	if o.Debounce < 0 || o.Debounce > maxDebounce {
		return errors.New("on_duplicate: debounce must be above 0 and at most 24h")
	}
	return nil
}

func (o OnDuplicate) String() string {
	switch {
	case o.Debounce > 0:
		return duplicateDebounce + " " + o.Debounce.String()
	case o.Replace:
		return duplicateReplace
	}
	return duplicateKeep
}

// MarshalText writes the form that ParseOnDuplicate reads.
func (o OnDuplicate) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText is ParseOnDuplicate.
func (o *OnDuplicate) UnmarshalText(text []byte) (err error) {
	*o, err = ParseOnDuplicate(string(text))
	return err
}

// duplicates puts what the order does with the holder of its unique key into it. A debounced job runs no
// earlier than its pause after the order.
func (o *order) duplicates(member string, queue OnDuplicate, now time.Time) (err error) {
	o.duplicate = queue
	if member != "" {
		if o.args.UniqueKey == "" {
			return unfit("on_duplicate needs a unique_key.")
		}
		if o.duplicate, err = ParseOnDuplicate(member); err != nil {
			return unfit("%v.", err)
		}
	}
	if o.args.UniqueKey == "" {
		o.duplicate = OnDuplicate{}
	}
	if o.duplicate.Debounce > 0 {
		if at := now.Add(o.duplicate.Debounce); at.After(o.opts.ScheduledAt) {
			o.opts.ScheduledAt = at
		}
	}
	return nil
}

// replaceTx gives the order to the job that holds its unique key, if that waits. If it has started, or
// ended, got.replaced is false, and the key is free for a new job.
func (s *Service) replaceTx(ctx context.Context, tx *sql.Tx, o *order, holder int64) (got inserted, err error) {
	p := insertParams(o.args, o.opts)
	args, err := json.Marshal(p.Args)
	if err != nil {
		return inserted{}, err
	}
	metadata := map[string]any{"retried_at": time.Now().UnixMilli()} // its age begins anew
	if len(p.InsertOpts.Metadata) > 0 {
		if err = json.Unmarshal(p.InsertOpts.Metadata, &metadata); err != nil {
			return inserted{}, err
		}
	}
	note, err := json.Marshal(metadata)
	if err != nil {
		return inserted{}, err
	}
	at, state := o.opts.ScheduledAt, "available"
	if at.IsZero() {
		at = time.Now()
	} else if time.Until(at) >= scheduleAhead {
		state = "scheduled"
	}
	res, err := tx.ExecContext(ctx, `UPDATE river_job SET args = `+s.q.jsonb("$1")+`, metadata = `+s.q.jsonb("$2")+`, scheduled_at = $3,
		state = $4`+s.q.cast("river_job_state")+`, attempt = 0, attempted_at = NULL, max_attempts = $5, priority = $6
		WHERE id = $7 AND state IN ('available', 'pending', 'retryable', 'scheduled')`,
		string(args), string(note), s.q.time(at), state, o.opts.MaxAttempts, max(o.opts.Priority, 1), holder)
	if err != nil {
		return inserted{}, fmt.Errorf("replacing a job: %w", err)
	}
	n, err := res.RowsAffected()
	if err != nil || n == 0 {
		return inserted{}, err
	}
	return inserted{id: holder, state: o.state(), at: o.opts.ScheduledAt, duplicate: true, replaced: true}, nil
}
