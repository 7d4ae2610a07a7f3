package jwtauth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	fetchTimeout = 5 * time.Second
	// refreshEvery is how long a set is fresh whose answer does not say; what it says is kept in between.
	refreshEvery = 10 * time.Minute
	refreshLeast = 5 * time.Minute
	refreshMost  = 24 * time.Hour
	// staleMost is how long a set serves on after it should have been fetched again.
	staleMost = 12 * time.Hour
	// cooldown is the least time between two fetches that unknown keys cause.
	cooldown = 30 * time.Second
	// firstRetry and firstRetryMost bound the wait while there is no set at all.
	firstRetry, firstRetryMost = time.Second, 30 * time.Second
	maxRedirects               = 3
)

// checkURL says whether keys may be fetched from there: by https, or by http from this machine itself.
func checkURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("jwks %q is not a URL: write https://… or `jwks file PATH`", s)
	case u.User != nil || u.Fragment != "":
		return errors.New("the jwks URL must not have a user, a password or a fragment")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return fmt.Errorf("jwks %s: keys must come by https, plain http is for this machine alone", s)
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// remote is the source of keys at one URL, shared by all directives and configurations that name
// it. It fetches when a request needs it: the first time the request waits, later it does not.
type remote struct {
	url    string
	client *http.Client
	now    func() time.Time
	log    atomic.Pointer[slog.Logger]
	ctx    context.Context
	cancel context.CancelFunc

	state atomic.Pointer[remoteState] // nil until the first set is there

	mu       sync.Mutex
	flight   chan struct{} // closed when the fetch under way has ended; nil without one
	attempt  time.Time     // when the last fetch began
	retry    time.Time     // without a set, no fetch before
	failures int           // fetches that failed since the last success
	err      error         // why the last one failed
}

// remoteState is the last good set. It never changes.
type remoteState struct {
	set     *keySet
	sum     [sha256.Size]byte // of the answer
	fetched time.Time
	refresh time.Time // fetch again from then on
	end     time.Time // do not use from then on
}

func newRemote(u string) *remote {
	r := &remote{url: u, now: time.Now}
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

// Destruct ends a fetch under way.
func (r *remote) Destruct() error {
	r.cancel()
	return nil
}

func (r *remote) current(now time.Time) *keySet {
	s := r.state.Load()
	set := s.usable(now)
	if set != nil && !now.Before(s.refresh) {
		r.fetch(now)
	}
	return set // without one, load fetches and keeps to the pause after a failure
}

// usable is the set, or nil once its end has come.
func (s *remoteState) usable(now time.Time) *keySet {
	if s == nil || !now.Before(s.end) {
		return nil
	}
	return s.set
}

func (r *remote) load(ctx context.Context, now time.Time) (*keySet, error) {
	if set := r.current(now); set != nil {
		return set, nil
	}
	r.mu.Lock()
	wait, err := r.retry.Sub(now), r.err
	tooEarly := r.flight == nil && wait > 0
	r.mu.Unlock()
	if tooEarly {
		return nil, unavailable(wait, err)
	}
	if err = r.await(ctx, now); err != nil {
		return nil, unavailable(0, err)
	}
	if set := r.state.Load().usable(now); set != nil {
		return set, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return nil, unavailable(r.retry.Sub(now), r.err)
}

func (r *remote) newer(ctx context.Context, now time.Time, old *keySet) *keySet {
	if s := r.state.Load(); s != nil && s.set != old {
		return s.set
	}
	r.mu.Lock()
	cooling := r.flight == nil && now.Sub(r.attempt) < cooldown
	r.mu.Unlock()
	if !cooling {
		_ = r.await(ctx, now) // a client that left gets the old set, and no answer
	}
	if s := r.state.Load(); s != nil {
		return s.set
	}
	return old
}

// await fetches and waits for the end.
func (r *remote) await(ctx context.Context, now time.Time) error {
	select {
	case <-r.fetch(now):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fetch begins a fetch, or joins the one under way. The channel is closed at its end.
func (r *remote) fetch(now time.Time) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.flight != nil {
		return r.flight
	}
	done := make(chan struct{})
	r.flight, r.attempt = done, now
	go func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(r.ctx, fetchTimeout)
		defer cancel()
		s, err := r.get(ctx)
		r.settle(s, err)
	}()
	return done
}

// settle stores what a fetch brought.
func (r *remote) settle(s *remoteState, err error) {
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flight, r.err = nil, err
	last := r.state.Load()
	if err == nil {
		if last != nil && last.sum == s.sum {
			s.set = last.set // unchanged: tokens that it verified stay verified
		}
		r.failures = 0
		r.state.Store(s)
		return
	}
	if r.ctx.Err() != nil { // no configuration needs the keys any more
		return
	}
	if log := r.log.Load(); last.usable(now) != nil {
		log.Warn("fetching keys failed, the last good ones serve on", "url", r.url, "fetched", last.fetched, "error", err)
		again := *last
		again.refresh = now.Add(backoff(r.failures, cooldown, refreshEvery))
		r.state.Store(&again)
	} else {
		log.Error("fetching keys failed, tokens cannot be verified", "url", r.url, "error", err)
		r.retry = now.Add(backoff(r.failures, firstRetry, firstRetryMost))
	}
	r.failures++
}

// backoff doubles from least to most and is spread by a tenth, so that many gateways do not ask at once.
func backoff(failures int, least, most time.Duration) time.Duration {
	d := min(least<<min(failures, 10), most)
	return d - rand.N(d/10+1)
}

func (r *remote) get(ctx context.Context) (*remoteState, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	req.Header.Set("User-Agent", "Gatehouse")
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server answered %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxJWKS+1))
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	set, err := parseJWKS(body, false)
	if err != nil {
		return nil, err
	}
	now := r.now()
	fresh := freshness(resp.Header)
	return &remoteState{set: set, sum: sha256.Sum256(body), fetched: now, refresh: now.Add(fresh - rand.N(fresh/10)), end: now.Add(fresh + staleMost)}, nil
}

// freshness is max-age of Cache-Control, kept between 5 min and 24 h; 10 min where it is not given.
func freshness(h http.Header) time.Duration {
	for directive := range strings.SplitSeq(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		if !strings.EqualFold(name, "max-age") {
			continue
		}
		seconds, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31)
		if err != nil {
			continue
		}
		return min(max(time.Duration(seconds)*time.Second, refreshLeast), refreshMost)
	}
	return refreshEvery
}
