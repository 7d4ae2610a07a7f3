package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatehouse-proxy/gatehouse/internal/secret"
)

const (
	// fetchTime bounds one read of a source.
	fetchTime = 5 * time.Second
	// refreshEvery is how often a source is read on demand.
	refreshEvery = time.Second
)

// keeper keeps one set up to date.
type keeper struct {
	name, kind, at string
	set            *secret.Set
	fetch          secret.Fetcher             // a secret.Store if it can be written to
	refusal        string                     // why it cannot, and what to do instead
	places         func() map[string][]string // what to watch, nil for nothing
	poll, overlap  time.Duration
	lead           time.Duration // from a rotation to the beginning of the new version
	fixed, remote  bool
	made           string // the file that the start makes if it is not there, empty for none
	log            atomic.Pointer[slog.Logger]

	rotating sync.Mutex // one rotation at a time, with the read after it
	reading  sync.Mutex // one read at a time

	mu         sync.Mutex // guards what follows
	kept       []secret.Version
	seen       []sighting
	readAt     time.Time // of the last good read
	since      time.Time // of the first one
	err        error     // of the last read, nil if it was good
	said       map[string]bool
	refreshing *refresh
	refreshed  time.Time
}

// sighting is since when the process has known a value.
type sighting struct {
	value    secret.Value
	first    time.Time
	newest   bool
	replaced time.Time // when it ceased to be the newest, zero if it is or never was
}

type refresh struct {
	done chan struct{}
	err  error
}

// first says whether a text is said for the first time in the life of the set.
func (k *keeper) first(text string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.said[text] {
		return false
	}
	if k.said == nil {
		k.said = map[string]bool{}
	}
	k.said[text] = true
	return true
}

// warn logs a text once.
func (k *keeper) warn(text string) {
	if k.first(text) {
		k.log.Load().Warn("a secret is less safe than it could be: "+text, "secret", k.name)
	}
}

// read reads the source. If that fails, what was read last stays.
func (k *keeper) read(ctx context.Context) error {
	k.reading.Lock()
	defer k.reading.Unlock()
	fetch, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	versions, err := k.fetch.Fetch(fetch)
	if err != nil && ctx.Err() != nil { // nobody wants it any more
		return err
	}
	now := time.Now()
	if err == nil {
		err = usable(versions, now)
	}
	if err != nil {
		k.failed(err)
		return err
	}
	k.took(versions, now)
	return nil
}

// usable refuses versions of which none is in force: nothing could be signed.
func usable(versions []secret.Version, now time.Time) error {
	if len(versions) == 0 {
		return errors.New("the source holds no version, write the secret into it")
	}
	snap := secret.NewSet("", versions...).Current()
	switch {
	case len(snap.Versions) > 0:
		return nil
	case len(snap.Coming) > 0:
		return fmt.Errorf("no version is active before %s, add one that is", snap.Coming[0].ActiveFrom.UTC().Format(time.RFC3339))
	}
	return fmt.Errorf("all versions were to retire before %s, add one that is active", now.UTC().Format(time.RFC3339))
}

func (k *keeper) failed(err error) {
	k.mu.Lock()
	first := k.err == nil && !k.readAt.IsZero()
	k.err = err
	age := time.Since(k.readAt)
	k.mu.Unlock()
	if first {
		k.log.Load().Warn("a secret cannot be read, what was read last stays in force", "secret", k.name, "source", k.kind, "age", age.Round(time.Second).String(), "error", err)
	}
}

// took puts what was read in force.
func (k *keeper) took(versions []secret.Version, now time.Time) {
	k.mu.Lock()
	recovered := k.err != nil && !k.readAt.IsZero()
	if k.since.IsZero() {
		k.since = now
	}
	k.readAt, k.err = now, nil
	before := k.set.Current()
	was, had := before.Newest()
	k.kept = slices.DeleteFunc(k.kept, func(v secret.Version) bool { return !now.Before(v.RetireAt) || holds(versions, v.Value) })
	if had && k.overlap > 0 && !holds(versions, was.Value) {
		k.kept = append([]secret.Version{k.remember(was, versions, now)}, k.kept...)
	}
	k.set.Replace(append(slices.Clone(versions), k.kept...))
	after := k.set.Current()
	k.sight(after, now)
	k.mu.Unlock()
	log := k.log.Load()
	if recovered {
		log.Info("a secret can be read again", "secret", k.name, "source", k.kind)
	}
	if had && before != after {
		log.Info("a secret has changed", "secret", k.name, "source", k.kind, "active", labels(after.Versions), "coming", labels(after.Coming))
	}
}

// remember is a replaced version as it goes on verifying.
func (k *keeper) remember(was secret.Version, versions []secret.Version, now time.Time) secret.Version {
	end := now.Add(k.overlap)
	if was.RetireAt.IsZero() || end.Before(was.RetireAt) {
		was.RetireAt = end
	}
	was.ActiveFrom = time.Time{}
	if others := slices.Concat(versions, k.kept); labelled(others, was.Label) {
		base := was.Label + " before " + now.UTC().Format(time.RFC3339)
		was.Label = base
		for n := 2; labelled(others, was.Label); n++ {
			was.Label = base + "-" + strconv.Itoa(n)
		}
	}
	return was
}

// sight notes which values are known, and which one was replaced.
func (k *keeper) sight(snap *secret.Snapshot, now time.Time) {
	all := slices.Concat(snap.Versions, snap.Coming)
	newest, _ := snap.Newest()
	k.seen = slices.DeleteFunc(k.seen, func(s sighting) bool { return !holds(all, s.value) })
	for _, v := range all {
		i := slices.IndexFunc(k.seen, func(s sighting) bool { return s.value.Equal(v.Value) })
		if i < 0 {
			i = len(k.seen)
			k.seen = append(k.seen, sighting{value: v.Value, first: now})
		}
		s := &k.seen[i]
		switch is := v.Value.Equal(newest.Value); {
		case is:
			s.replaced = time.Time{}
			s.newest = true
		case s.newest:
			s.newest, s.replaced = false, now
		}
	}
}

func holds(versions []secret.Version, value secret.Value) bool {
	return slices.ContainsFunc(versions, func(v secret.Version) bool { return v.Value.Equal(value) })
}

func labelled(versions []secret.Version, label string) bool {
	return slices.ContainsFunc(versions, func(v secret.Version) bool { return v.Label == label })
}

func labels(versions []secret.Version) []string {
	all := []string{}
	for _, v := range versions {
		all = append(all, v.Label)
	}
	return all
}

// reread reads the source on demand: once a second at most, and once for all who ask at a time. A
// read that takes longer than ctx goes on for those who come later.
func (k *keeper) reread(ctx context.Context) error {
	k.mu.Lock()
	r := k.refreshing
	if r == nil {
		if k.fixed || time.Since(k.refreshed) < refreshEvery {
			defer k.mu.Unlock()
			return k.err
		}
		r = &refresh{done: make(chan struct{})}
		k.refreshing = r
		go k.rereadFor(context.WithoutCancel(ctx), r)
	}
	k.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (k *keeper) rereadFor(ctx context.Context, r *refresh) {
	r.err = k.read(ctx)
	k.mu.Lock()
	k.refreshing, k.refreshed = nil, time.Now()
	k.mu.Unlock()
	close(r.done)
}

// located adds the set's name and place in the configuration to an error.
func (k *keeper) located(err error) error {
	if k.at != "" {
		return fmt.Errorf("secret %s: %w, at %s", k.name, err, k.at)
	}
	return fmt.Errorf("secret %s: %w", k.name, err)
}
