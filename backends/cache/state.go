package cache

import (
	"context"
	"database/sql"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/sqldb"
)

// commitTime bounds one commit; the writers that wait for it do so with it.
const commitTime = 15 * time.Second

// State is what all services of one process on one data directory share: during a reload two of them
// live at once, and they must agree on what is valid. On PostgreSQL there are other processes as well,
// see shared.go.
type State struct {
	db     *sqldb.DB
	mem    *memory
	tags   tagTable
	fences fences
	making atomic.Int64 // bytes of objects being made, see Reserve
	disk   atomic.Int64 // the bound of the disk level
	// ownerBytes is the bound of one owner in it.
	ownerBytes atomic.Int64

	openMu sync.Mutex
	open   []*Service // oldest first; the bounds of the newest are in force

	loading  sync.Mutex
	loaded   bool
	followed uint64 // the newest generation that was read from the database

	flightsMu sync.Mutex
	flights   map[flightKey]*flight

	pendingMu sync.Mutex
	pending   []*change
	turn      chan struct{} // held by the one that commits; guards what follows
	bytes     int64         // the sum of cache_entries.size
	assigned  uint64        // the newest tag generation that was given out
}

// load reads what the memory must know of the disk level, once.
func (st *State) load(ctx context.Context) error {
	st.loading.Lock()
	defer st.loading.Unlock()
	if st.loaded {
		return nil
	}
	st.fences.seed = maphash.MakeSeed()
	rows, err := st.db.Read.QueryContext(ctx, "SELECT tag, generation FROM cache_tags")
	if err != nil {
		return fmt.Errorf("reading the tags: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var tag string
		var generation uint64
		if err = rows.Scan(&tag, &generation); err != nil {
			return fmt.Errorf("reading the tags: %w", err)
		}
		st.assigned = max(st.assigned, generation)
		if tag == "" {
			st.tags.floor = generation
			continue
		}
		st.tags.last[tag] = generation
	}
	if err = rows.Err(); err != nil {
		return fmt.Errorf("reading the tags: %w", err)
	}
	st.tags.generation.Store(st.assigned)
	st.tags.version.Store(1)
	st.followed = st.assigned
	if err = st.db.Read.QueryRowContext(ctx, "SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM cache_entries").Scan(&st.bytes); err != nil {
		return fmt.Errorf("measuring the entries: %w", err)
	}
	st.loaded = true
	return nil
}

func (st *State) mark(u URL) Mark { return Mark{st.fences.at(u), st.tags.generation.Load()} }

// current says whether nothing was invalidated since the mark.
func (st *State) current(u URL, m Mark, tags []string) bool {
	return st.fences.at(u) == m.fence && st.tags.fresh(tags, m.born)
}

// change is one writing request. apply runs in a transaction that may hold other changes, too;
// after runs once that is committed. Both run alone, in the order of the changes.
type change struct {
	apply func(ctx context.Context, tx *sql.Tx) error
	after func()
	done  chan error
}

// write commits a change. Changes that arrive while another commit is on its way share the next
// one, so a disk that syncs slowly slows each writer and not their sum.
func (st *State) write(apply func(ctx context.Context, tx *sql.Tx) error, after func()) error {
	c := &change{apply, after, make(chan error, 1)}
	st.pendingMu.Lock()
	st.pending = append(st.pending, c)
	st.pendingMu.Unlock()
	select {
	case err := <-c.done:
		return err
	case st.turn <- struct{}{}:
	}
	defer func() { <-st.turn }()
	st.pendingMu.Lock()
	batch := st.pending
	st.pending = nil
	st.pendingMu.Unlock()
	st.commit(batch)
	return <-c.done // its own change was in this batch or in one before
}

func (st *State) commit(batch []*change) {
	if len(batch) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), commitTime)
	defer cancel()
	before := st.bytes
	err := st.db.InTx(ctx, func(tx *sql.Tx) error {
		if err := st.db.LockInTx(ctx, tx, "cache"); err != nil { // one commit after the other, over all instances
			return err
		}
		for _, c := range batch {
			if err := c.apply(ctx, tx); err != nil {
				return err
			}
		}
		return st.trim(ctx, tx)
	})
	if err != nil {
		st.bytes = before
	}
	for _, c := range batch {
		if err == nil && c.after != nil {
			c.after()
		}
		c.done <- err
	}
}

// enter puts the bounds of a new service in force.
func (s *State) enter(one *Service) {
	s.openMu.Lock()
	defer s.openMu.Unlock()
	s.open = append(s.open, one)
	s.bound()
}

// leave takes a service out. If its configuration was refused after all, the bounds are again those
// of the service that it was to replace.
func (s *State) leave(one *Service) {
	s.openMu.Lock()
	defer s.openMu.Unlock()
	s.open = slices.DeleteFunc(s.open, func(other *Service) bool { return other == one })
	if len(s.open) > 0 {
		s.bound()
	}
}

func (s *State) bound() {
	newest := s.open[len(s.open)-1].cfg
	s.mem.SetMaximum(uint64(newest.Memory))
	s.disk.Store(int64(newest.Disk))
	s.ownerBytes.Store(int64(newest.OwnerBytes))
}
