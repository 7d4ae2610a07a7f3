package jobs

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/riverqueue/river"
)

// The other backends' jobs have queues that no user reaches, one for each kind, so that one which hangs holds
// up its own kind alone. Within a kind the key of a job, such as the endpoint of a webhook, keeps one that
// hangs from taking all the places.

const (
	// internalQueue begins the names of these queues. By itself it is the one that all kinds shared, whose
	// jobs are still worked.
	internalQueue = "internal"
	// callbackQueue has the pushes that tell of a job's end.
	callbackQueue = internalQueue + "-callbacks"
	// callbackPlaces is how many of them run at once, callbackPlacesEach to one host.
	callbackPlaces, callbackPlacesEach = 30, 5
)

// isInternal reports whether the queue is one of the other backends'.
func isInternal(queue string) bool {
	return queue == internalQueue || strings.HasPrefix(queue, internalQueue+"-")
}

// notInternal is the condition on the row j that it is a user's.
const notInternal = "j.queue <> '" + internalQueue + "' AND j.queue NOT LIKE '" + internalQueue + "-%'"

// queueOfKind is the queue of an in-process kind.
func queueOfKind(kind string) string {
	words := strings.FieldsFunc(strings.ToLower(kind), func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })
	name := internalQueue + "-" + strings.Join(words, "-")
	return strings.TrimRight(name[:min(len(name), maxName)], "-")
}

// inner are the settings of the internal queues that this instance works. The caller may be anybody.
func (s *Service) innerQueue(name string) (q Queue, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	q, ok = s.inner[name]
	return q, ok
}

// worked are the names of all queues that this instance works, or could.
func (s *Service) workedQueues() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.AppendSeq(slices.Collect(maps.Keys(s.queues)), maps.Keys(s.inner))
}

// Handle sets the worker of an in-process kind; it replaces an earlier one. An error of the worker
// with a method RetryAfter() time.Duration postpones the job for that long without using an
// attempt; one whose method Permanent() bool is true makes it dead at once; any other is retried.
// Each kind has a queue of its own, with ten jobs at once.
func (s *Service) Handle(kind string, work func(ctx context.Context, payload []byte) error) {
	s.HandleKeyed(kind, internalSettings.Concurrency, 0, work)
}

// HandleKeyed is Handle with all jobs of the kind running at once, and each of one key, 0 for no bound.
func (s *Service) HandleKeyed(kind string, all, each int, work func(ctx context.Context, payload []byte) error) {
	q := internalSettings
	q.Concurrency, q.KeyConcurrency = all, each
	name := queueOfKind(kind)
	s.mu.Lock()
	s.kinds[kind] = work
	s.inner[name] = q
	s.mu.Unlock()
	err := s.river.Queues().Add(name, river.QueueConfig{MaxWorkers: q.Concurrency})
	if _, again := errors.AsType[*river.QueueAlreadyAddedError](err); err != nil && !again {
		s.log.Error("jobs of another backend are not worked", "kind", kind, "error", err)
	}
}

// EnqueueTx puts a job of an in-process kind into tx; it runs after the commit. Call Poke then.
func (s *Service) EnqueueTx(ctx context.Context, tx *sql.Tx, kind string, payload []byte) (id string, err error) {
	return s.EnqueueKeyedTx(ctx, tx, kind, "", payload)
}

// EnqueueKeyedTx is EnqueueTx for a job with a key: keys take turns.
func (s *Service) EnqueueKeyedTx(ctx context.Context, tx *sql.Tx, kind, key string, payload []byte) (id string, err error) {
	opts := river.InsertOpts{Queue: queueOfKind(kind), MaxAttempts: internalSettings.Attempts}
	if key != "" {
		if opts.Metadata, err = json.Marshal(map[string]string{"key": key}); err != nil {
			return "", err
		}
	}
	n, err := s.insertTx(ctx, tx, callArgs{Name: kind, Key: key, Payload: payload}, opts)
	if err != nil {
		return "", err
	}
	return strconv.FormatInt(n, 10), nil
}
