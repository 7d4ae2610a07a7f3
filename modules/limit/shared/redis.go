package shared

import (
	"context"
	"crypto/rand"
	_ "embed" // for the scripts
	"errors"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gatehouse-proxy/gatehouse/internal/redisconn"
	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

//go:embed beat.lua
var beatScript string

const (
	// beatEvery is how often an instance writes itself.
	beatEvery = time.Second
	// lives is how long it counts after that, in ms.
	lives = 3000
)

var (
	takeHash   = redis.NewScript(takeScript).Hash()
	beats      = redis.NewScript(beatScript)
	probeRates = []policy.Rate{policy.Policy{Quota: 1, Window: 1_000_000_000}.Compile()}
)

// redisRunner is the runner on a real Redis.
type redisRunner struct {
	conn   *redisconn.Conn
	client redis.UniversalClient
	name   string
}

func newRedisRunner(conn *redisconn.Conn) *redisRunner {
	return &redisRunner{conn: conn, client: conn.Client(), name: rand.Text()}
}

func (r *redisRunner) run(ctx context.Context, calls []*call) {
	missing := r.exec(ctx, calls)
	if len(missing) == 0 {
		return
	}
	// A server that has started, or been promoted, does not know the script yet.
	for _, c := range missing {
		c.args[0], c.args[argHash] = "eval", takeScript
	}
	r.exec(ctx, missing)
	for _, c := range missing {
		c.args[0], c.args[argHash] = "evalsha", takeHash
	}
}

// exec runs the calls and returns those whose script the server does not know.
func (r *redisRunner) exec(ctx context.Context, calls []*call) (missing []*call) {
	pipe := r.client.Pipeline()
	cmds := make([]*redis.Cmd, len(calls))
	for i, c := range calls {
		cmds[i] = redis.NewCmd(ctx, c.args...)
		_ = pipe.Process(ctx, cmds[i]) // only queues it
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for i, c := range calls {
		var reply any
		reply, c.err = cmds[i].Result()
		c.text, _ = reply.(string)
		if c.err != nil && strings.HasPrefix(c.err.Error(), "NOSCRIPT") && c.args[0] == "evalsha" {
			missing = append(missing, c)
		}
	}
	return missing
}

func (r *redisRunner) warm(ctx context.Context) error {
	cluster, ok := r.client.(*redis.ClusterClient)
	if !ok {
		return r.client.Ping(ctx).Err()
	}
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return c.Ping(ctx).Err() })
	if err != nil {
		r.conn.ReloadState(ctx)
	}
	return err
}

func (r *redisRunner) beat(ctx context.Context) (int, error) {
	return beats.Run(ctx, r.client, []string{prefix + "instances"}, r.name, lives).Int()
}

func (r *redisRunner) leave(ctx context.Context) {
	_ = r.client.ZRem(ctx, prefix+"instances", r.name).Err() // it is forgotten soon in any case
}

// isOutage says whether an error means that Redis cannot decide about any key: it does not answer,
// is loading, has no memory, is no master. What is wrong with one key's value is not one.
func isOutage(err error) bool {
	if _, ok := errors.AsType[redis.Error](err); ok {
		return !strings.HasPrefix(err.Error(), "WRONGTYPE")
	}
	return true
}

var _ runner = (*redisRunner)(nil)
