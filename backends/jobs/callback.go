package jobs

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	neturl "net/url"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const (
	// callbackPoll is how late a callback may be that was due before this instance began, or whose end
	// another instance saw that died.
	callbackPoll = 5 * time.Second
	// callbackBatch is how many callbacks are enqueued in one transaction, callbackRounds how often in a
	// row, so that stopping is not held up.
	callbackBatch, callbackRounds = 100, 1000
	// callbackTimeout is how long the push of a callback may take.
	callbackTimeout = 30 * time.Second
)

// callbackBody is what is pushed to the callback of a job that ended.
type callbackBody struct {
	ID      string          `json:"id"`
	Queue   string          `json:"queue"`
	State   string          `json:"state"`
	Attempt int             `json:"attempt"`
	Result  json.RawMessage `json:"result,omitempty"`
	// Error is the message of the last failed attempt of a job that is dead or cancelled.
	Error string `json:"error,omitempty"`
}

// callbackLoop enqueues the pushes to the callbacks of ended jobs, until ctx ends. Two at once do no harm:
// whoever marks a job as told enqueues its push, in the same transaction.
func (s *Service) callbackLoop(ctx context.Context) {
	poll := time.NewTicker(callbackPoll)
	defer poll.Stop()
	failing := false
	for {
		err := s.callBack(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			s.log.Error("the callbacks of ended jobs could not be enqueued, it is tried again every 5 seconds", "error", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
		case <-s.callbacks.signal:
		}
	}
}

// callBack enqueues what is due.
func (s *Service) callBack(ctx context.Context) error {
	for range callbackRounds {
		due, err := s.callbacksDue(ctx)
		if err != nil || len(due) == 0 {
			return err
		}
		err = s.db.InTx(ctx, func(tx *sql.Tx) error {
			for _, id := range due {
				if err := s.callbackTx(ctx, tx, id); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		s.wake.poke(callbackQueue)
	}
	return nil
}

func (s *Service) callbacksDue(ctx context.Context) (due []int64, err error) {
	due, err = column[int64](s.db.Read.QueryContext(ctx, "SELECT j.id FROM river_job j WHERE "+callbackDue+" ORDER BY j.id LIMIT $1", callbackBatch))
	if err != nil {
		return nil, fmt.Errorf("looking for callbacks: %w", err)
	}
	return due, nil
}

// callbackTx marks the job as told and enqueues the push, unless somebody else has, or the job runs again.
// The push is on a queue that no user pauses and whose attempts span a day.
func (s *Service) callbackTx(ctx context.Context, tx *sql.Tx, id int64) error {
	res, err := tx.ExecContext(ctx, "UPDATE river_job SET metadata = "+s.q.notified()+" WHERE id = $1 AND "+bare(callbackDue), id)
	if err != nil {
		return fmt.Errorf("marking a callback: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return err
	}
	b := callbackBody{ID: itoa(id)}
	var url, result, record string
	err = tx.QueryRowContext(ctx, "SELECT j.queue, "+s.q.userState()+", j.attempt, coalesce(j.args ->> 'callback', ''), coalesce(j.metadata ->> 'output', ''), coalesce("+
		s.q.lastMessage()+", '') FROM river_job j WHERE j.id = $1", id).Scan(&b.Queue, &b.State, &b.Attempt, &url, &result, &record)
	if err != nil {
		return fmt.Errorf("reading a job for its callback: %w", err)
	}
	if b.Result = jsonOf(result); b.State != stateCompleted {
		b.Error = messageOf(record)
	}
	body, err := json.Marshal(b)
	if err != nil {
		return err
	}
	_, err = s.insertTx(ctx, tx, pushArgs{Target: url, Body: body, Key: hostOf(url), Timeout: unit.Duration(callbackTimeout)},
		river.InsertOpts{Queue: callbackQueue, MaxAttempts: internalSettings.Attempts})
	return err
}

// hostOf is the host and port of a URL.
func hostOf(target string) string {
	u, err := neturl.Parse(target)
	if err != nil {
		return ""
	}
	return u.Host
}

// toldOf says that the job ended and has a callback that may not know it yet.
func toldOf(row *rivertype.JobRow) bool {
	return row.FinalizedAt != nil && bytes.Contains(row.Metadata, []byte(`"callback"`))
}
