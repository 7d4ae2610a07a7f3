package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// In an ordered queue the jobs of a key run one after the other: the next one does not start until the
// one before is completed, dead or cancelled, also while that waits for a retry. The first is the one that
// was begun; among those that were not, the one that is due the longest. Jobs without a key have no order.

// begun says of the row j that it was started once and waits for its next time. The index jobs_again has the
// same words; they read no JSON, as every new job is asked.
const begun = `j.attempted_at IS NOT NULL AND j.state IN ('available', 'retryable', 'scheduled')`

// first is the first job of a key.
type first struct {
	id       int64
	priority int
	due      bool
}

// sequence is what an ordered queue knows of its keys in one fetch.
type sequence struct {
	running map[string]bool
	begun   map[string]first
}

// order reads which keys have a job that runs, here or elsewhere, or has begun. The end of a job counts
// when it is stored, unlike for the bounds.
func (f *fetch) order(ctx context.Context) (*sequence, error) {
	q := sequence{running: map[string]bool{}, begun: map[string]first{}}
	running, err := column[string](f.tx.QueryContext(ctx, "SELECT DISTINCT "+f.s.q.key+" FROM river_job j WHERE j.queue = $1 AND j.state = 'running'", f.queue))
	if err != nil {
		return nil, fmt.Errorf("reading the keys that run: %w", err)
	}
	for _, key := range running {
		q.running[key] = true
	}
	rows, err := f.tx.QueryContext(ctx, "SELECT "+f.s.q.key+", j.id, j.priority, j.state = 'available' AND j.scheduled_at <= "+f.s.q.now+
		" FROM river_job j WHERE j.queue = $1 AND "+begun+" ORDER BY j.id", f.queue)
	if err != nil {
		return nil, fmt.Errorf("reading the jobs that have begun: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var key string
		var head first
		if err = rows.Scan(&key, &head.id, &head.priority, &head.due); err != nil {
			return nil, fmt.Errorf("reading the jobs that have begun: %w", err)
		}
		if _, ok := q.begun[key]; !ok {
			q.begun[key] = head
		}
	}
	return &q, rows.Err()
}

// serveOrdered is serve for an ordered queue: one job of each key, and only the first.
func (f *fetch) serveOrdered(ctx context.Context, at turn, keys []string) error {
	if f.sequence == nil {
		var err error
		if f.sequence, err = f.order(ctx); err != nil {
			return err
		}
	}
	var heads []first
	for _, key := range keys {
		if key == "" {
			if err := f.serve(ctx, at, []string{""}); err != nil {
				return err
			}
			continue
		}
		if len(heads) >= f.want {
			break
		}
		head, ok, err := f.head(ctx, key, at.priority)
		if err != nil {
			return err
		}
		if ok {
			heads = append(heads, head)
			f.sequence.running[key] = true
		}
	}
	if len(heads) == 0 {
		return nil
	}
	got, err := f.claimThese(ctx, heads)
	for key, n := range got {
		f.want -= n
		f.s.gate.served(at, key)
		if err == nil && f.q.KeyRate != (Rate{}) {
			err = f.charge(ctx, key, f.q.KeyRate, n)
		}
	}
	return err
}

// head is the first job of the key, if it has the priority and may start now.
func (f *fetch) head(ctx context.Context, key string, priority int) (head first, ok bool, err error) {
	if f.sequence.running[key] {
		return first{}, false, nil
	}
	if room, err := f.room(ctx, key); err != nil || room <= 0 {
		return first{}, false, err
	}
	if head, ok = f.sequence.begun[key]; ok {
		return head, head.due && head.priority == priority, nil
	}
	var each []string
	for p := 1; p <= priorities; p++ { // one entry of the index for each
		each = append(each, "SELECT * FROM ("+f.due("j.id, j.priority, j.scheduled_at")+"j.priority = "+itoa(int64(p))+" AND "+f.s.q.key+
			" = $2 ORDER BY j.scheduled_at, j.id LIMIT 1) AS p"+itoa(int64(p)))
	}
	err = f.tx.QueryRowContext(ctx, "SELECT id, priority FROM ("+strings.Join(each, " UNION ALL ")+") AS heads ORDER BY scheduled_at, id LIMIT 1", f.queue, key).
		Scan(&head.id, &head.priority)
	if noRows(err) {
		return first{}, false, nil
	}
	if err != nil {
		return first{}, false, fmt.Errorf("reading the first job of a key: %w", err)
	}
	return head, head.priority == priority, nil
}

// claimThese marks the jobs as running, and says how many of each key.
func (f *fetch) claimThese(ctx context.Context, heads []first) (map[string]int, error) {
	ids := make([]int64, len(heads))
	for i, head := range heads {
		ids[i] = head.id
	}
	text, err := json.Marshal(ids)
	if err != nil {
		return nil, err
	}
	got := map[string]int{}
	return got, f.claimed(ctx, got, `UPDATE river_job SET state = 'running', attempt = attempt + 1, attempted_at = `+f.s.q.now+`,
		attempted_by = `+f.s.q.pick("jsonb_array($2)", "ARRAY[$2::text]")+`
		WHERE state = 'available' AND `+f.s.q.ids("id", "$1")+` RETURNING id, `+f.s.q.pick(bare(f.s.q.key), "coalesce(metadata ->> 'key', '')"),
		string(text), f.owner)
}
