package jwtauth

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/gatehouse-proxy/gatehouse/internal/loopback"
)

const (
	fetchTimeout = 5 * time.Second
	// refreshEvery is how long a set is fresh whose answer does not say; what it says is kept in between.
	refreshEvery = 10 * time.Minute
	refreshLeast = 5 * time.Minute
	refreshMost  = 24 * time.Hour
	// defaultStale is how long a set serves on after it should have been fetched again.
	defaultStale = 12 * time.Hour
	// cooldown is the wait after a fetch that failed, and the least time between two fetches that signatures
	// of other keys cause.
	cooldown = 30 * time.Second
	// refetches is how many fetches unknown keys may cause at once; each comes back after refetchEvery. So
	// a client with made-up kids does not keep the keys of a rotation away for longer than that.
	refetches, refetchEvery = 5, 10 * time.Second
	// defaultKeyAge is how old a set may be, whatever its server says, so that a key ends that was taken away.
	defaultKeyAge = time.Hour
	// firstRetry and firstRetryMost bound the wait while there is no set at all.
	firstRetry, firstRetryMost = time.Second, 30 * time.Second
	maxRedirects               = 3
)

// checkURL says whether keys may be fetched from there: by https, or by http from this machine itself
// or where that is allowed. what is the option, for the errors.
func checkURL(what, s string, insecure bool) error {
	u, err := url.Parse(s)
	switch {
	case err == nil && (u.User != nil || u.Fragment != ""):
		return fmt.Errorf("the URL of %s must not have a user, a password or a fragment", what)
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("%s %q is not a URL: write https://…, or take the keys from `jwks file PATH`", what, place{url: s})
	case u.Scheme == "http" && !insecure && !loopback.Host(u.Hostname()):
		return fmt.Errorf("%s %s: keys must come by https, plain http is for this machine alone; `insecure` allows it all the same", what, s)
	}
	return nil
}

// remote are the keys at one URL, shared by all directives and configurations that name it. It
// fetches when a request needs it: the first time the request waits, later it does not.
type remote struct {
	place
	client *http.Client
	now    func() time.Time
	log    atomic.Pointer[slog.Logger]
	ctx    context.Context
	cancel context.CancelFunc
	dir    atomic.Pointer[string] // where the last good set is kept; nil for nowhere
	saved  func() *remoteState    // reads what an earlier process has kept, once

	state atomic.Pointer[remoteState] // nil until the first set is there

	unknown, doubted *rate.Limiter // of fetches that tokens cause

	mu       sync.Mutex
	flight   chan struct{} // closed when the fetch under way has ended; nil without one
	retry    time.Time     // without a set, no fetch before
	failures int           // fetches that failed since the last success
	err      error         // why the last one failed
}

// place is where keys are fetched from. It tells remotes apart.
type place struct {
	url      string // of the JWK set, or that of the issuer
	discover bool   // url is that of an issuer, whose metadata say where the set is
	insecure bool   // plain http is allowed to any machine
}

// String names the place where people see it. What follows a ? in a URL may be a secret.
func (p place) String() string {
	s, _, _ := strings.Cut(p.url, "?")
	return s
}

// remoteState is the last good set. It never changes.
type remoteState struct {
	set     *keySet
	sum     [sha256.Size]byte // of the answer
	fetched time.Time
	refresh time.Time // fetch again from then on
	fresh   time.Time // should have been fetched again by then
	failed  bool      // the last fetch failed, and refresh is when to try again
}

func newRemote(p place) *remote {
	r := &remote{place: p, now: time.Now,
		unknown: rate.NewLimiter(rate.Every(refetchEvery), refetches), doubted: rate.NewLimiter(rate.Every(cooldown), 1)}
	r.saved = sync.OnceValue(r.restore)
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.log.Store(slog.New(slog.DiscardHandler))
	r.client = &http.Client{CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects || req.URL.Host != via[0].URL.Host || req.URL.Scheme != via[0].URL.Scheme {
			return errors.New("the server redirects to another host or too often")
		}
		return nil
	}}
	return r
}

// view is a remote as one directive sees it, with its own bounds of what is too old.
type view struct {
	*remote
	stale  time.Duration // after fresh, while fetches fail
	keyAge time.Duration // after fetched, 0 for the default
}

func (v view) current(now time.Time) *keySet {
	s := v.state.Load()
	set := s.usable(now, v.stale)
	if set == nil {
		return nil // load fetches and keeps to the pause after a failure
	}
	if v.late(s, now) {
		return nil // load waits for the fetch, and takes the old ones if it fails
	}
	if !now.Before(s.refresh) || !s.failed && now.Sub(s.fetched) >= v.maxAge()*9/10 {
		v.fetch()
	}
	return set
}

func (v view) maxAge() time.Duration { return cmp.Or(v.keyAge, defaultKeyAge) }

// late says that the set is as old as it may be, and that no fetch has failed since.
func (v view) late(s *remoteState, now time.Time) bool {
	return !s.failed && now.Sub(s.fetched) >= v.maxAge()
}

// usable is the set, or nil once its end has come.
func (s *remoteState) usable(now time.Time, stale time.Duration) *keySet {
	if s == nil || !now.Before(s.fresh.Add(stale)) {
		return nil
	}
	return s.set
}

func (v view) load(ctx context.Context, now time.Time) (*keySet, error) {
	if v.state.Load() == nil {
		if s := v.saved(); s != nil && now.Before(s.refresh) { // as if the process had not ended in between
			v.state.CompareAndSwap(nil, s)
		}
	}
	if set := v.current(now); set != nil {
		return set, nil
	}
	if s := v.state.Load(); s.usable(now, v.stale) != nil { // too old, unless its server fails
		if err := v.await(ctx); err != nil {
			return nil, unavailable(0, err)
		}
		return cmp.Or(v.state.Load().usable(now, v.stale), s.set), nil
	}
	v.mu.Lock()
	wait, err := v.retry.Sub(now), v.err
	tooEarly := v.flight == nil && wait > 0
	v.mu.Unlock()
	if tooEarly {
		return nil, unavailable(wait, err)
	}
	if err = v.await(ctx); err != nil {
		return nil, unavailable(0, err)
	}
	if set := v.state.Load().usable(now, v.stale); set != nil {
		return set, nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return nil, unavailable(v.retry.Sub(v.now()), v.err)
}

func (v view) newer(ctx context.Context, now time.Time, old *keySet, why doubt) (*keySet, error) {
	if s := v.state.Load(); s != nil && s.set != old {
		return s.set, nil
	}
	budget := v.unknown
	if why == otherSignature {
		budget = v.doubted
	}
	v.mu.Lock()
	flying := v.flight != nil
	v.mu.Unlock()
	if !flying && !budget.AllowN(now, 1) {
		missing := (1 - budget.TokensAt(now)) / float64(budget.Limit())
		return old, unavailable(time.Duration(missing*float64(time.Second)), errTooOften)
	}
	if err := v.await(ctx); err != nil {
		return old, unavailable(0, err)
	}
	if err := v.failure(); err != nil {
		return old, unavailable(refetchEvery, err)
	}
	return cmp.Or(v.state.Load().usable(now, v.stale), old), nil
}

var errTooOften = errors.New("tokens of unknown keys have caused too many fetches")

func (v view) fetched() time.Time {
	if s := v.state.Load(); s != nil {
		return s.fetched
	}
	return time.Time{}
}

// failure is why the last fetch failed, nil if it did not.
func (r *remote) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// await fetches and waits for the end.
func (r *remote) await(ctx context.Context) error {
	select {
	case <-r.fetch():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fetch begins a fetch, or joins the one under way. The channel is closed at its end.
func (r *remote) fetch() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.flight != nil {
		return r.flight
	}
	done := make(chan struct{})
	r.flight = done
	go func() {
		defer close(done)
		s, body, err := r.get(r.ctx)
		r.settle(s, err)
		if err == nil {
			r.keep(s, body)
		}
	}()
	return done
}

// refreshed fetches, for somebody who asks for it, and says what came of it.
func (r *remote) refreshed(ctx context.Context) Refreshed {
	out := Refreshed{Source: r.String()}
	if err := cmp.Or(r.await(ctx), r.failure()); err != nil {
		out.Error = err.Error()
	}
	if s := r.state.Load(); s != nil {
		out.Keys = len(s.set.keys)
	}
	return out
}

var errDropped = errors.New("no configuration needs the keys any more")

// settle stores what a fetch brought.
func (r *remote) settle(s *remoteState, err error) {
	now := r.now()
	if err != nil && r.ctx.Err() != nil {
		err = errDropped // for requests of the old configuration, whose clients are still there
	}
	var saved *remoteState
	if err != nil && r.state.Load() == nil {
		saved = r.saved()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flight, r.err = nil, err
	last := r.state.Load()
	if err == nil {
		switch {
		case last != nil && last.sum == s.sum:
			s.set = last.set // unchanged: tokens that it verified stay verified
		case s.set.left > 0:
			r.log.Load().Warn("a set has more keys than are taken, tokens of the others are refused", "url", r.String(), "taken", len(s.set.keys), "left_out", s.set.left)
		}
		r.failures = 0
		r.state.Store(s)
		fetches.WithLabelValues(r.String(), "ok").Inc()
		return
	}
	if err == errDropped { //nolint:errorlint // as it was set above
		return
	}
	fetches.WithLabelValues(r.String(), "failed").Inc()
	if last == nil {
		last = saved
	}
	log := r.log.Load()
	if last != nil {
		log.Warn("fetching keys failed, the last good ones serve on until they are too old", "url", r.String(), "fetched", last.fetched, "error", err)
		again := *last
		again.failed, again.refresh = true, now.Add(backoff(r.failures, cooldown, refreshEvery))
		r.state.Store(&again)
	} else {
		log.Error("fetching keys failed, tokens cannot be verified", "url", r.String(), "error", err)
	}
	r.retry = now.Add(backoff(r.failures, firstRetry, firstRetryMost))
	r.failures++
}

// backoff doubles from least to most and is spread by a tenth, so that many gateways do not ask at once.
func backoff(failures int, least, most time.Duration) time.Duration {
	d := min(least<<min(failures, 10), most)
	return d - rand.N(d/10+1)
}
