package identity

import (
	"context"
	"crypto/rand"
	_ "embed" // for the scripts
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gatehouse-proxy/gatehouse/internal/redisconn"
)

var (
	//go:embed revocations_put.lua
	putScript string
	//go:embed revocations_poll.lua
	pollScript string

	putRun, pollRun = redis.NewScript(putScript), redis.NewScript(pollScript)
)

// redisKeys are in one slot of a Cluster.
var redisKeys = func() (keys []string) {
	for _, part := range []string{"", ":order", ":expiry", ":meta"} {
		keys = append(keys, "gatehouse:{identity:revocations}"+part)
	}
	return keys
}()

const (
	// redisPatience bounds a step of the list.
	redisPatience = 400 * time.Millisecond
	// repushEvery and repushAge: a failover may lose what was written last, so what is that young is
	// written once more, when the new master is there for sure.
	repushEvery, repushAge = 30 * time.Second, 2 * time.Minute
)

// redisList is the list of revocations in Redis, by which instances that share no database tell each
// other. Each reads it by the number of the last change, several times a second: unlike with messages
// to subscribers, nothing is missed by who was away.
type redisList struct {
	conn  *redisconn.Conn
	index *index
	// local reads the revocations of the database after a seq that changed at or after a time.
	local func(ctx context.Context, after, since int64) ([]Revocation, error)
	log   *slog.Logger
	now   func() time.Time

	behind atomic.Bool // Redis may lack some of the database
	away   atomic.Bool // said so in the log

	mu     sync.Mutex // guards what follows
	epoch  string
	last   int64
	pushed time.Time
}

func newRedisList(conn *redisconn.Conn, v *revocations) *redisList {
	l := &redisList{conn: conn, index: v.index, log: v.log, now: v.now}
	l.local = func(ctx context.Context, after, since int64) ([]Revocation, error) {
		return v.read(ctx, after, revocationPage, "AND at >= $3", since)
	}
	l.behind.Store(true)
	return l
}

// wireRevocation is a revocation in Redis.
type wireRevocation struct {
	Kind    Kind   `json:"kind"`
	Issuer  string `json:"issuer"`
	Value   string `json:"value"`
	Before  int64  `json:"before"`
	At      int64  `json:"at"`
	Undone  bool   `json:"undone"`
	Expires int64  `json:"expires"`
}

// push writes revocations, and remembers if that fails.
func (l *redisList) push(ctx context.Context, list []Revocation) bool {
	if len(list) == 0 {
		return true
	}
	args := make([]any, 0, 1+2*len(list))
	args = append(args, rand.Text())
	for _, r := range list {
		b, err := json.Marshal(wireRevocation{r.kind, r.Issuer, r.value, r.before, r.at, r.undone, r.expires})
		if err != nil {
			l.log.Error("passing on a revocation", "id", r.ID, "error", err)
			continue
		}
		args = append(args, r.ID, b)
	}
	ctx, cancel := context.WithTimeout(ctx, redisPatience)
	defer cancel()
	if err := putRun.Run(ctx, l.conn.Client(), redisKeys, args...).Err(); err != nil {
		l.behind.Store(true)
		l.conn.ReloadState(ctx)
		return false
	}
	return true
}

// pass writes revocations, and says whether Redis lacks nothing.
func (l *redisList) pass(ctx context.Context, list []Revocation) bool {
	return l.push(ctx, list) && !l.behind.Load()
}

// pushAll writes the revocations of the database that changed at or after since.
func (l *redisList) pushAll(ctx context.Context, since int64) error {
	l.behind.Store(false)
	for after := int64(0); ; {
		list, err := l.local(ctx, after, since)
		if err != nil {
			l.behind.Store(true)
			return err
		}
		if !l.push(ctx, list) {
			return errors.New("writing the revocations to redis")
		}
		if len(list) < revocationPage {
			return nil
		}
		after = list[len(list)-1].seq
	}
}

// poll takes in what others revoked, and writes what Redis lacks.
func (l *redisList) poll(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for more := true; more; {
		var err error
		if more, err = l.page(ctx); err != nil {
			l.conn.ReloadState(ctx)
			return err
		}
	}
	now := l.now()
	if l.behind.Load() {
		l.pushed = now
		return l.pushAll(ctx, 0)
	}
	if now.Sub(l.pushed) >= repushEvery {
		l.pushed = now
		return l.pushAll(ctx, now.Add(-repushAge).UnixMilli())
	}
	return nil
}

// page reads and takes in one page.
func (l *redisList) page(ctx context.Context) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, redisPatience)
	defer cancel()
	words, err := pollRun.Run(ctx, l.conn.Client(), redisKeys, l.epoch, l.last, l.now().UnixMilli(), revocationPage).StringSlice()
	if err != nil {
		return false, fmt.Errorf("reading the revocations from redis: %w", err)
	}
	if len(words) < 4 {
		return false, fmt.Errorf("the revocations in redis are not understood: %d words", len(words))
	}
	for _, word := range words[4:] {
		var w wireRevocation
		if err = json.Unmarshal([]byte(word), &w); err != nil {
			return false, fmt.Errorf("a revocation in redis is not understood: %w", err)
		}
		r := newRevocation(w.Kind, w.Issuer, w.Value, w.Before, w.Expires)
		r.at, r.undone = w.At, w.Undone
		l.index.put(r)
	}
	if l.last, err = strconv.ParseInt(words[1], 10, 64); err != nil {
		return false, fmt.Errorf("the revocations in redis are not understood: %w", err)
	}
	l.epoch = words[0]
	if words[3] == "1" { // another list, or one that lost its end
		l.behind.Store(true)
	}
	return words[2] == "1", nil
}

// run polls until ctx ends.
func (l *redisList) run(ctx context.Context) {
	tick := time.NewTicker(revocationPoll)
	defer tick.Stop()
	for {
		err := l.poll(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !l.away.Swap(true):
			l.log.Warn("revocations are not shared until redis answers, those known stay in force", "error", err)
		case err == nil && l.away.Swap(false):
			l.log.Info("revocations are shared by redis again")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
