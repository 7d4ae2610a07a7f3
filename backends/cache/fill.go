package cache

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/gatehouse-proxy/gatehouse/backends/internal/httpapi"
	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/unit"
)

const (
	// fillTime bounds a fill from its first caller to its value.
	fillTime = 10 * time.Second
	// maxFills is how many fetches run at once; further fills wait for their turn.
	maxFills = 64
	// failureTime is how long a failed fill is remembered, so that a broken origin is asked once a
	// second by all who wait for the same value.
	failureTime = time.Second
)

type flightKey struct{ key, url string }

// flight is one fill, shared by all who ask for the same key and URL while it lasts. What stands
// below done is written before done is closed.
type flight struct {
	mark Mark
	tags []string
	done chan struct{}

	item   *item
	status string // for Cache-Status
	err    error
}

// fill answers the value of key, fetching it from the URL if there is none that is valid. A caller
// that goes away cancels nothing: others may wait, and the value is wanted anyway.
func (s *Service) fill(w http.ResponseWriter, r *http.Request, owner, key string) error {
	var in struct {
		URL  string        `json:"url"`
		TTL  unit.Duration `json:"ttl"`
		Tags []string      `json:"tags"`
	}
	if err := httpapi.DecodeJSON(w, r, maxJSON, &in); err != nil {
		return err
	}
	ttl := in.TTL.Or(s.cfg.DefaultTTL.Std())
	if err := errors.Join(checkTTL(ttl), checkTags(in.Tags, MaxTags)); err != nil {
		return err
	}
	target, err := s.target(in.URL)
	if err != nil {
		return err
	}
	it, level, err := s.state.lookup(r.Context(), key)
	if err != nil {
		return err
	}
	if it != nil {
		s.answer(w, r, it, hit(it, level))
		return nil
	}
	f, joined := s.join(flightKey{key, target.String()}, ttl, scopedTags(owner, in.Tags))
	select {
	case <-f.done:
	case <-r.Context().Done():
		return r.Context().Err()
	}
	if f.err != nil {
		return f.err
	}
	status := f.status
	if joined {
		status += "; collapsed"
	}
	s.answer(w, r, f.item, status)
	return nil
}

// join is the flight that fills the key from the URL, started if there is none. One that began
// before the key or one of its tags was invalidated is left to those who wait for it already.
func (s *Service) join(k flightKey, ttl time.Duration, tags []string) (f *flight, joined bool) {
	st := s.state
	u := URL{Path: k.key}
	st.flightsMu.Lock()
	defer st.flightsMu.Unlock()
	if f = st.flights[k]; f != nil && st.current(u, f.mark, f.tags) {
		return f, true
	}
	f = &flight{mark: st.mark(u), tags: tags, done: make(chan struct{})}
	st.flights[k] = f
	s.fills.Go(func() { s.fly(f, k, ttl) })
	return f, false
}

func (s *Service) fly(f *flight, k flightKey, ttl time.Duration) {
	ctx, cancel := context.WithTimeout(s.fillsCtx, s.fillTime)
	defer cancel()
	f.item, f.status, f.err = s.obtain(ctx, f, k, ttl)
	close(f.done)
	if f.err != nil {
		time.AfterFunc(failureTime, func() { s.state.land(k, f) })
		return
	}
	s.state.land(k, f)
}

// land takes a flight off the table, if it has not been replaced there.
func (st *State) land(k flightKey, f *flight) {
	st.flightsMu.Lock()
	defer st.flightsMu.Unlock()
	if st.flights[k] == f {
		delete(st.flights, k)
	}
}

// obtain fetches the value and stores it, unless the key or one of the tags was invalidated since
// the mark: then the value goes to those who wait, and nowhere else.
func (s *Service) obtain(ctx context.Context, f *flight, k flightKey, ttl time.Duration) (*item, string, error) {
	// Between the caller's look and this flight another one may have ended.
	it, level, err := s.state.lookup(ctx, k.key)
	if err != nil {
		return nil, "", err
	}
	if it != nil {
		return it, hit(it, level), nil
	}
	m := f.mark
	if s.state.shared() {
		if m, err = s.state.markNow(ctx, URL{Path: k.key}); err != nil {
			return nil, "", err
		}
	}
	value, contentType, err := s.fetch(ctx, k.url)
	if err != nil {
		return nil, "", err
	}
	it = newItem(value, contentType, f.tags, m, ttl)
	saved, _, err := s.state.save(k.key, it, false, func() bool { return s.state.current(URL{Path: k.key}, m, f.tags) })
	if err != nil {
		return nil, "", err
	}
	if !saved {
		return it, "fwd=uri-miss", nil
	}
	return it, "fwd=uri-miss; stored", nil
}

func busy() error {
	e := problem.New(problem.ReducedCapacity, "Too many fills are on their way, try again in a second.")
	e.RetryAfter = time.Second
	return e
}
