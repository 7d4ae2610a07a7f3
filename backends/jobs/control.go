package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/riverqueue/river/riverdriver"
)

// What is notified may be lost: while a connection is made anew, or where there is no LISTEN at all, behind
// a pooler. So each instance looks every two seconds at what it was to be told: which of its queues are
// paused, and which of its jobs shall stop. To hear it twice does no harm.

// controlEvery is the time between two looks.
const controlEvery = 2 * time.Second

// controlTopic is the topic on which River tells fetchers to pause, to resume, and to cancel a job.
const controlTopic = "river_control"

// control is what River tells a fetcher.
type control struct {
	Action string `json:"action"`
	JobID  int64  `json:"job_id,omitempty"`
	Queue  string `json:"queue"`
}

// controlLoop looks until ctx ends, which is when the jobs have been drained.
func (s *Service) controlLoop(ctx context.Context) {
	tick := time.NewTicker(controlEvery)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		turn, cancel := context.WithTimeout(ctx, deadAfter/2)
		err := s.lookAtControls(turn)
		cancel()
		if err != nil && ctx.Err() == nil && !failing {
			s.log.Error("what is paused and cancelled could not be read, it is tried again every 2 seconds", "error", err)
		}
		failing = err != nil
	}
}

func (s *Service) lookAtControls(ctx context.Context) error {
	paused, err := s.paused(ctx)
	if err != nil {
		return err
	}
	var all []control
	for name, q := range s.queues {
		switch {
		case q.Pull:
		case paused[name]:
			all = append(all, control{Action: "pause", Queue: name})
		default:
			all = append(all, control{Action: "resume", Queue: name})
		}
	}
	rows, err := s.db.Read.QueryContext(ctx, "SELECT j.id, j.queue FROM river_job j WHERE j.state = 'running' AND "+s.q.owner+
		" = $1 AND j.metadata ->> 'cancel_attempted_at' IS NOT NULL", s.id)
	if err != nil {
		return fmt.Errorf("reading which jobs shall stop: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		c := control{Action: "cancel"}
		if err = rows.Scan(&c.JobID, &c.Queue); err != nil {
			return fmt.Errorf("reading which jobs shall stop: %w", err)
		}
		all = append(all, c)
	}
	s.wake.tell(all)
	return rows.Err()
}

// notification is c in the engine's terms.
func (c control) notification() (*riverdriver.Notification, error) {
	payload, err := json.Marshal(c)
	return &riverdriver.Notification{Topic: controlTopic, Payload: string(payload)}, err
}

// wakeListener gives River's notifier what this process has to say, where nothing is heard from others.
type wakeListener struct {
	wake   *waker
	schema string

	mu   sync.Mutex
	open bool
}

func (l *wakeListener) set(open bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if open && l.open {
		return errors.New("connection already established")
	}
	l.open = open
	return nil
}

// Connect has nothing to connect to.
func (l *wakeListener) Connect(context.Context) error { return l.set(true) }

// Close ends it.
func (l *wakeListener) Close(context.Context) error { return l.set(false) }

// Listen takes any topic.
func (l *wakeListener) Listen(context.Context, string) error { return nil }

// Unlisten does nothing.
func (l *wakeListener) Unlisten(context.Context, string) error { return nil }

// Ping reaches for nothing.
func (l *wakeListener) Ping(context.Context) error { return nil }

// Schema is the schema of the tables.
func (l *wakeListener) Schema() string { return l.schema }

// SetAfterConnectExec is for River's own tests.
func (l *wakeListener) SetAfterConnectExec(string) {}

// WaitForNotification returns what the waker has next.
func (l *wakeListener) WaitForNotification(ctx context.Context) (*riverdriver.Notification, error) {
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-l.wake.signal:
			if n, err := l.wake.told(); n != nil || err != nil {
				return n, err
			}
			if queue, _ := l.wake.next(); queue != "" {
				return insertedInto(queue)
			}
		}
	}
}
