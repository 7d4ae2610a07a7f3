package jobs

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivertype"
)

// A gate decides which waiting jobs start. It stands in place of the engine's own fetch, which knows
// one order for all: here the keys of a queue take turns, and no bound of the queue is exceeded,
// counted over all instances. One fetch of a queue runs at a time, in whichever instance.

const (
	// priorities are those of jobs, 1 the first.
	priorities = 4
	// maxLanes is how many keys one fetch looks at, per priority.
	maxLanes = 512
	// gateRounds bounds the rounds in which one fetch fills up its slots.
	gateRounds = 4
)

// gate is the memory of a Service about its fetches.
type gate struct {
	mu      sync.Mutex
	cursors map[turn]string // the key that was served last
}

type turn struct {
	queue    string
	priority int
}

// cursor is the key that was served last; begun is false if none was.
func (g *gate) cursor(at turn) (key string, begun bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key, begun = g.cursors[at]
	return key, begun
}

// served moves the cursor to a key.
func (g *gate) served(at turn, key string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cursors[at] = key
}

// lane is the waiting jobs of one key.
type lane struct {
	Key  string `json:"k"`
	Room int    `json:"n"` // how many of them may start
}

// executor is the engine's access to the database with our fetch.
type executor struct {
	riverdriver.Executor
	s *Service
}

// JobGetAvailable marks jobs as running and gives them to the engine.
func (e executor) JobGetAvailable(ctx context.Context, p *riverdriver.JobGetAvailableParams) (*riverdriver.JobGetAvailableResult, error) {
	jobs, err := e.s.take(ctx, p.Queue, p.MaxToLock, p.ClientID)
	return &riverdriver.JobGetAvailableResult{Jobs: jobs}, err
}

// take starts up to want waiting jobs of the queue in the name of owner.
func (s *Service) take(ctx context.Context, queue string, want int, owner string) (jobs []*rivertype.JobRow, err error) {
	q := s.settings(queue)
	slots := want
	waiting, err := s.anyWaiting(ctx, queue)
	s.active.leave(queue, waiting)
	want, tried := s.breakers.room(queue, q.Target, &q, want)
	if want <= 0 || err != nil || !waiting {
		return nil, err
	}
	f := fetch{s: s, queue: queue, q: q, owner: owner, want: want}
	if tried {
		f.least = 1
	}
	err = s.db.InTx(ctx, func(tx *sql.Tx) error {
		f.tx = tx
		if err := f.run(ctx); err != nil {
			return err
		}
		if len(f.ids) == 0 {
			return nil
		}
		jobs, err = s.started(ctx, tx, f.ids)
		if err != nil {
			return fmt.Errorf("reading the jobs that start: %w", err)
		}
		order := make(map[int64]int, len(f.ids))
		for i, id := range f.ids {
			order[id] = i
		}
		slices.SortFunc(jobs, func(a, b *rivertype.JobRow) int { return order[a.ID] - order[b.ID] })
		return nil
	})
	if err != nil {
		s.active.end(f.ids...)
		return nil, fmt.Errorf("fetching jobs of the queue %s: %w", queue, err)
	}
	s.active.leave(queue, len(f.ids) < slots)
	if f.next > 0 && f.next < fetchPoll { // later ones are found by polling
		s.wake.pokeAt(time.Now().Add(f.next), queue)
	}
	return jobs, nil
}

// anyWaiting says whether a job of the queue is due. It reads one entry of an index, so that an idle
// queue costs no transaction. The order is the index's: without it PostgreSQL, which plans for any
// queue, reads all rows where most of them wait in another one.
func (s *Service) anyWaiting(ctx context.Context, queue string) (bool, error) {
	var one int
	err := s.db.Read.QueryRowContext(ctx, `SELECT 1 FROM river_job j
		WHERE j.queue = $1 AND j.state = 'available' AND j.scheduled_at <= `+s.q.now+` ORDER BY j.priority, j.scheduled_at, j.id LIMIT 1`, queue).Scan(&one)
	if noRows(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for jobs: %w", err)
	}
	return true, nil
}

// fetch is one fetch under way.
type fetch struct {
	s     *Service
	tx    *sql.Tx
	queue string
	q     Queue
	owner string
	want  int
	least int // attempts that a job has behind it

	now     time.Time // of the database, where a rate is in force
	running map[string]int
	rates   map[string]time.Time // by key: when the next start is due
	ids     []int64
	next    time.Duration // when a rate lets the next one start, 0 if none is in the way

	sequence *sequence // of an ordered queue, nil before the first look
}

func (f *fetch) run(ctx context.Context) error {
	paused, err := f.lock(ctx)
	if err != nil || paused {
		return err
	}
	if err = f.count(ctx); err != nil {
		return err
	}
	if f.q.Rate != (Rate{}) {
		allowed, err := f.allowed(ctx, queueRate, f.q.Rate)
		if err != nil {
			return err
		}
		f.want = min(f.want, allowed)
	}
	if f.want > 0 {
		if err = f.serveAll(ctx); err != nil {
			return err
		}
	}
	if f.q.Rate != (Rate{}) && len(f.ids) > 0 {
		return f.charge(ctx, queueRate, f.q.Rate, len(f.ids))
	}
	return nil
}

// lock makes this the only fetch of the queue. SQLite has one writer anyway.
func (f *fetch) lock(ctx context.Context) (paused bool, err error) {
	query, dest := "SELECT paused_at IS NOT NULL FROM river_queue WHERE name = $1", []any{&paused}
	var micros int64
	if f.s.q.pg {
		query = "SELECT paused_at IS NOT NULL, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint FROM river_queue WHERE name = $1 FOR UPDATE"
		dest = append(dest, &micros)
	}
	err = f.tx.QueryRowContext(ctx, query, f.queue).Scan(dest...)
	if err != nil && !noRows(err) {
		return false, fmt.Errorf("locking the queue: %w", err)
	}
	if f.now = time.Now(); micros != 0 {
		f.now = time.UnixMicro(micros)
	}
	return paused, nil
}

// count finds out what runs: here by what is known, elsewhere by what is stored, where the end of a job
// may be a quarter of a second late.
func (f *fetch) count(ctx context.Context) error {
	f.running = f.s.active.of(f.queue)
	rows, err := f.tx.QueryContext(ctx, "SELECT "+f.s.q.key+", count(*) FROM river_job j WHERE j.queue = $1 AND j.state = 'running' AND "+
		f.s.q.owner+" <> $2 GROUP BY 1", f.queue, f.s.id)
	if err != nil {
		return fmt.Errorf("counting running jobs: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var key string
		var n int
		if err = rows.Scan(&key, &n); err != nil {
			return fmt.Errorf("counting running jobs: %w", err)
		}
		f.running[key] += n
	}
	free := f.q.Concurrency
	for _, n := range f.running {
		free -= n
	}
	f.want = min(f.want, free)
	return rows.Err()
}

// serveAll fills the slots, the first priority first. In each the keys take turns: after the one that
// was served last come those behind it, then those before it.
func (f *fetch) serveAll(ctx context.Context) error {
	all, whole, err := f.waiting(ctx)
	if err != nil {
		return err
	}
	for p := 1; p <= priorities && f.want > 0; p++ {
		at := turn{f.queue, p}
		cursor, begun := f.s.gate.cursor(at)
		keys := all[p]
		if !whole {
			// More keys than one look takes in: those from the cursor on, so that all get their turn.
			if keys, err = f.keysAfter(ctx, p, cursor); err != nil {
				return err
			}
		}
		if i := slices.IndexFunc(keys, func(k string) bool { return k > cursor }); begun && i > 0 {
			keys = slices.Concat(keys[i:], keys[:i])
		}
		before := len(f.ids)
		serve := f.serve
		if f.q.Ordered {
			serve = f.serveOrdered
		}
		if err = serve(ctx, at, keys); err != nil {
			return err
		}
		if !whole && len(f.ids) == before && len(keys) > 0 {
			// None of these may start now: the next look is at those behind them.
			f.s.gate.served(at, keys[len(keys)-1])
		}
	}
	return nil
}

// serve fills the slots from one priority, whose keys stand in the order of their turns.
func (f *fetch) serve(ctx context.Context, at turn, keys []string) error {
	var all []lane
	for _, key := range keys {
		room, err := f.room(ctx, key)
		if err != nil {
			return err
		}
		if room > 0 {
			all = append(all, lane{key, room})
		}
	}
	for range gateRounds {
		if f.want <= 0 || len(all) == 0 {
			return nil
		}
		asked := share(all, f.want)
		got, err := f.claim(ctx, at.priority, asked)
		if err != nil {
			return err
		}
		var rest []lane
		for i, l := range asked {
			n := got[l.Key]
			if f.want -= n; n > 0 {
				f.s.gate.served(at, l.Key)
				if f.q.KeyRate != (Rate{}) && l.Key != "" {
					if err = f.charge(ctx, l.Key, f.q.KeyRate, n); err != nil {
						return err
					}
				}
			}
			if left := all[i].Room - n; n == l.Room && left > 0 {
				rest = append(rest, lane{l.Key, left})
			}
		}
		all = append(rest, all[len(asked):]...)
	}
	return nil
}

// share divides slots among lanes, at least one for each as far as they go.
func share(all []lane, slots int) []lane {
	n := min(len(all), slots)
	shares := make([]lane, n)
	for i := range shares {
		shares[i] = lane{all[i].Key, min(all[i].Room, (slots+n-1-i)/n)}
	}
	return shares
}

// due is the start of a query for the first due job of the queue $1 behind something.
func (f *fetch) due(column string) string {
	return `SELECT ` + column + ` FROM river_job j WHERE j.queue = $1 AND j.state = 'available' AND j.scheduled_at <= ` + f.s.q.now + ` AND `
}

// waiting are the keys with due jobs by priority, in their order. It hops from key to key in the index,
// so its cost does not depend on the number of jobs. whole is false if there are more.
func (f *fetch) waiting(ctx context.Context) (all [priorities + 1][]string, whole bool, err error) {
	key, of := f.s.q.key, strings.ReplaceAll(f.s.q.key, "j.", "n.")
	rows, err := f.tx.QueryContext(ctx, `WITH RECURSIVE lane(p, k) AS (
		SELECT * FROM (`+f.due("j.priority, "+key)+`j.priority > 0 ORDER BY j.priority, `+key+` LIMIT 1) AS head
		UNION ALL
		SELECT n.priority, `+of+` FROM lane JOIN river_job n ON n.id = coalesce(
			(`+f.due("j.id")+`j.priority = lane.p AND `+key+` > lane.k ORDER BY `+key+` LIMIT 1),
			(`+f.due("j.id")+`j.priority > lane.p ORDER BY j.priority, `+key+` LIMIT 1)))
		SELECT p, k FROM lane LIMIT $2`, f.queue, maxLanes)
	if err != nil {
		return all, false, fmt.Errorf("reading the keys that wait: %w", err)
	}
	defer func() { _ = rows.Close() }()
	n := 0
	for ; rows.Next(); n++ {
		var p int
		var k string
		if err = rows.Scan(&p, &k); err != nil {
			return all, false, fmt.Errorf("reading the keys that wait: %w", err)
		}
		if p <= priorities {
			all[p] = append(all[p], k)
		}
	}
	return all, n < maxLanes, rows.Err()
}

// keysAfter are some keys of one priority, from the cursor on and then from the beginning.
func (f *fetch) keysAfter(ctx context.Context, priority int, cursor string) ([]string, error) {
	key := f.s.q.key
	lane := "lane.k"
	if f.s.q.pg {
		lane = `lane.k COLLATE "C"`
	}
	from := func(op, cursor string) (keys []string, err error) {
		keys, err = column[string](f.tx.QueryContext(ctx, `WITH RECURSIVE lane(k) AS (
			SELECT * FROM (`+f.due(key)+`j.priority = $2 AND `+key+` `+op+` $3`+f.s.q.cast("text")+` ORDER BY `+key+` LIMIT 1) AS head
			UNION ALL
			SELECT (`+f.due(key)+`j.priority = $2 AND `+key+` > `+lane+` ORDER BY `+key+` LIMIT 1) FROM lane WHERE lane.k IS NOT NULL)
			SELECT k FROM lane WHERE k IS NOT NULL LIMIT $4`, f.queue, priority, cursor, maxLanes))
		if err != nil {
			return nil, fmt.Errorf("reading the keys that wait: %w", err)
		}
		return keys, nil
	}
	keys, err := from(">", cursor)
	if err != nil || len(keys) == maxLanes {
		return keys, err
	}
	first, err := from(">=", "")
	for _, k := range first {
		if slices.Contains(keys, k) {
			break
		}
		keys = append(keys, k)
	}
	return keys, err
}

// room is how many jobs of the key may start, by the bounds of a key. Jobs without one have none.
func (f *fetch) room(ctx context.Context, key string) (int, error) {
	room := math.MaxInt
	if key == "" {
		return room, nil
	}
	if f.q.KeyConcurrency > 0 {
		room = f.q.KeyConcurrency - f.running[key]
	}
	if room > 0 && f.q.KeyRate != (Rate{}) {
		allowed, err := f.allowed(ctx, key, f.q.KeyRate)
		if err != nil {
			return 0, err
		}
		room = min(room, allowed)
	}
	return room, nil
}

// claim marks the first jobs of the lanes as running, and says how many of each.
func (f *fetch) claim(ctx context.Context, priority int, lanes []lane) (map[string]int, error) {
	got := map[string]int{}
	scan := func(query string, args ...any) error { return f.claimed(ctx, got, query, args...) }
	if f.s.q.pg {
		asked, err := json.Marshal(lanes)
		if err != nil {
			return nil, err
		}
		return got, scan(claimPostgres, f.queue, priority, string(asked), f.owner, f.least)
	}
	for _, l := range lanes {
		if err := scan(claimSQLite, f.queue, priority, l.Key, min(l.Room, f.want), f.owner, f.least); err != nil {
			return got, err
		}
	}
	return got, nil
}

// claimed runs a statement that marks jobs as running and returns their ids and keys.
func (f *fetch) claimed(ctx context.Context, got map[string]int, query string, args ...any) error {
	rows, err := f.tx.QueryContext(ctx, query, args...)
	if err != nil {
		return fmt.Errorf("starting jobs: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id int64
		var key string
		if err = rows.Scan(&id, &key); err != nil {
			return fmt.Errorf("starting jobs: %w", err)
		}
		f.ids = append(f.ids, id)
		if got[key]++; f.owner == f.s.id {
			f.s.active.begin(id, turnOf{f.queue, key})
		}
		if f.running != nil {
			f.running[key]++
		}
	}
	return rows.Err()
}

var claimSQLite = `UPDATE river_job SET state = 'running', attempt = attempt + 1, attempted_at = ` + sqliteDialect.now + `,
		attempted_by = jsonb_array($5)
	WHERE id IN (SELECT j.id FROM river_job j WHERE j.queue = $1 AND j.state = 'available' AND j.priority = $2 AND ` + sqliteDialect.key + ` = $3
		AND j.scheduled_at <= ` + sqliteDialect.now + ` AND j.attempt >= $6 ORDER BY j.scheduled_at, j.id LIMIT $4)
	RETURNING id, ` + bare(sqliteDialect.key)

var claimPostgres = `UPDATE river_job SET state = 'running', attempt = river_job.attempt + 1, attempted_at = now(), attempted_by = ARRAY[$4::text]
	FROM (SELECT j.id FROM json_to_recordset($3::json) AS l(k text, n integer) CROSS JOIN LATERAL (
		SELECT j.id FROM river_job j WHERE j.queue = $1 AND j.state = 'available' AND j.priority = $2 AND ` + postgresDialect.key + ` = l.k
		AND j.scheduled_at <= now() AND j.attempt >= $5 ORDER BY j.scheduled_at, j.id LIMIT l.n FOR UPDATE SKIP LOCKED) AS j) AS due
	WHERE river_job.id = due.id
	RETURNING river_job.id, coalesce(river_job.metadata ->> 'key', '')`

// queueRate stands in the table of rates for the whole queue; no key is empty.
const queueRate = ""

// allowed is how many jobs the rate lets start now.
func (f *fetch) allowed(ctx context.Context, key string, r Rate) (int, error) {
	due, ok := f.rates[key]
	if !ok {
		var micros int64
		err := f.tx.QueryRowContext(ctx, "SELECT due_at FROM jobs_rates WHERE queue = $1 AND job_key = $2", f.queue, key).Scan(&micros)
		if err != nil && !noRows(err) {
			return 0, fmt.Errorf("reading a rate: %w", err)
		}
		due = time.UnixMicro(micros)
		if f.rates == nil {
			f.rates = map[string]time.Time{}
		}
		f.rates[key] = due
	}
	n := r.allowed(due, f.now)
	if n == 0 {
		if wait := r.next(due).Sub(f.now); f.next == 0 || wait < f.next {
			f.next = max(wait, time.Millisecond)
		}
	}
	return n, nil
}

// charge takes n starts from the rate.
func (f *fetch) charge(ctx context.Context, key string, r Rate, n int) error {
	due := r.after(f.rates[key], f.now, n)
	f.rates[key] = due
	if wait := r.next(due).Sub(f.now); wait > 0 && (f.next == 0 || wait < f.next) {
		f.next = wait
	}
	_, err := f.tx.ExecContext(ctx, `INSERT INTO jobs_rates (queue, job_key, due_at) VALUES ($1, $2, $3)
		ON CONFLICT (queue, job_key) DO UPDATE SET due_at = excluded.due_at`, f.queue, key, due.UnixMicro())
	if err != nil {
		return fmt.Errorf("storing a rate: %w", err)
	}
	return nil
}
