package jwtauth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// lookEvery is how often a file of keys is read again while requests come.
	lookEvery = 5 * time.Second
	// lookSoonest is the least time between two reads that tokens of unknown keys cause.
	lookSoonest = time.Second
)

// file are the keys in a file on this machine. What replaces them there is in force within lookEvery,
// a key that they lack before, as soon as a token comes with it. A file that cannot be used changes nothing.
type file struct {
	path  string
	parse func([]byte) (*keySet, error)
	log   *slog.Logger

	set    atomic.Pointer[keySet]
	looked atomic.Int64 // unix nanoseconds of the last look

	mu     sync.Mutex
	sum    [sha256.Size]byte // of what the set was made of
	failed bool              // the last look brought nothing that can be used
}

// newFile reads the file. One that cannot be used now is an error.
func newFile(path string, log *slog.Logger, parse func([]byte) (*keySet, error)) (*file, error) {
	f := &file{path: path, parse: parse, log: log}
	f.looked.Store(time.Now().UnixNano())
	return f, f.read()
}

// read puts in force what the file holds.
func (f *file) read() error {
	raw, err := readFile(f.path)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	sum := sha256.Sum256(raw)
	if f.set.Load() != nil && sum == f.sum {
		return nil // tokens that the set verified stay verified
	}
	set, err := f.parse(raw)
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	if set.left > 0 {
		f.log.Warn("a set has more keys than are taken, tokens of the others are refused", "file", f.path, "taken", len(set.keys), "left_out", set.left)
	}
	f.sum = sum
	f.set.Store(set.counted("file:" + f.path))
	return nil
}

// due says to one who asks that the file was not looked at for so long.
func (f *file) due(now time.Time, least time.Duration) bool {
	last := f.looked.Load()
	return now.UnixNano()-last >= int64(least) && f.looked.CompareAndSwap(last, now.UnixNano())
}

// look reads the file, and tells of a change for the worse or the better.
func (f *file) look() {
	err := f.read()
	f.mu.Lock()
	changed := f.failed != (err != nil)
	f.failed = err != nil
	f.mu.Unlock()
	switch {
	case !changed:
	case err != nil:
		f.log.Warn("a file of keys cannot be used, the keys read last stay in force", "file", f.path, "error", err)
	default:
		f.log.Info("a file of keys can be used again", "file", f.path)
	}
}

func (f *file) current(now time.Time) *keySet {
	if f.due(now, lookEvery) {
		go f.look()
	}
	return f.set.Load()
}

func (f *file) load(_ context.Context, now time.Time) (*keySet, error) { return f.current(now), nil }

func (f *file) newer(_ context.Context, now time.Time, _ *keySet, _ doubt) (*keySet, error) {
	if f.due(now, lookSoonest) {
		f.look()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed {
		return nil, unavailable(lookSoonest, errUnreadable)
	}
	return f.set.Load(), nil
}

var errUnreadable = errors.New("the file of keys cannot be used")

func (f *file) fetched() time.Time { return time.Time{} }

// readFile is a file of keys.
func readFile(path string) ([]byte, error) {
	// A pipe would wait for a writer when it is opened.
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() { //nolint:gosec // the path is the configuration's
		return nil, fmt.Errorf("the file of keys %s is not a file, correct the path", path)
	}
	f, err := os.Open(path) //nolint:gosec // the same
	if err != nil {
		return nil, fmt.Errorf("the file of keys cannot be read, create it or correct the path: %w", err)
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxJWKS+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return raw, nil
}
