package limit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/redisconn"
	"github.com/gatehouse-proxy/gatehouse/internal/wholefile"
	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

// compiled are plans with what they were compiled from.
type compiled struct {
	from  *settings
	plans *plans
}

// currentPlans are the plans in force.
func (e *Engine) currentPlans(now int64) (*plans, error) {
	e.zone.refresh(now, e.log)
	from := e.zone.settings.Load()
	if c := e.plans.Load(); c != nil && c.from == from {
		return c.plans, nil
	}
	return e.fittingPlans()
}

// fittingPlans puts the plans that fit this configuration in force: one that was set at run time for a
// policy which is gone is left out.
func (e *Engine) fittingPlans() (*plans, error) {
	from := e.zone.settings.Load()
	set := settings{Plans: maps.Clone(from.Plans), Keys: from.Keys}
	for name, changed := range from.Plans {
		if _, err := withPlan(e.Policies, changed); err != nil {
			delete(set.Plans, name)
			e.log.Warn("a plan that was set at run time does not fit the configuration, it is left out", zap.String("zone", e.Zone), zap.String("plan", name), zap.Error(err))
		}
	}
	p, err := e.compilePlans(set)
	if err != nil {
		return nil, err
	}
	e.plans.Store(&compiled{from, p})
	return p, nil
}

// settings are what is set at run time.
type settings struct {
	// Plans are rates for policies, by the plan's name. They go before those of the configuration.
	Plans map[string][]policy.Policy `json:"plans,omitempty"`
	// Keys are the keys that have a plan whatever plan_by says.
	Keys []keyPlan `json:"keys,omitempty"`
}

// keyPlan says that a key has a plan.
type keyPlan struct {
	Key  []string `json:"key"`
	Plan string   `json:"plan"`
}

// maxKeyPlans bounds the keys with a plan of their own.
const maxKeyPlans = 100_000

// keeper keeps the settings of a zone beyond this process.
type keeper interface {
	// load is what is kept, empty if nothing is.
	load(ctx context.Context) (settings, error)
	// change changes what is kept, as one step, and returns the outcome.
	change(ctx context.Context, do func(*settings) error) (settings, error)
	// shared says that others change it as well.
	shared() bool
}

// keep takes over what is kept, from now on, on behalf of the newest configuration that serves.
func (z *zone) keep(k keeper, sequence int64) {
	for by := z.keptBy.Load(); sequence > by; by = z.keptBy.Load() {
		if !z.keptBy.CompareAndSwap(by, sequence) {
			continue
		}
		if k == nil {
			z.keeper.Store(nil)
			return
		}
		z.keeper.Store(&k)
		z.refreshed.Store(0)
		return
	}
}

// refresh looks in the background whether the settings have changed: once where only this process
// changes them, every 2 s where others do as well.
func (z *zone) refresh(now int64, log *zap.Logger) {
	k := z.keeper.Load()
	due := z.refreshed.Load()
	if k == nil || now < due {
		return
	}
	next := int64(math.MaxInt64)
	if (*k).shared() {
		next = now + int64(2*time.Second)
	}
	if !z.refreshed.CompareAndSwap(due, next) {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		z.changing.Lock()
		defer z.changing.Unlock()
		set, err := (*k).load(ctx)
		if err == nil {
			z.adopt(set)
			return
		}
		z.refreshed.Store(now + int64(2*time.Second))
		unread.Do(func() {
			log.Error("what was set at run time cannot be read, what is in force stays", zap.String("zone", z.id.name), zap.Error(err))
		})
	}()
}

// unread keeps a store that is away from filling the log.
var unread = rate.Sometimes{First: 1, Interval: time.Minute}

// adopt puts settings in force, if they differ from those that are.
func (z *zone) adopt(set settings) {
	a, errA := json.Marshal(z.settings.Load())
	b, errB := json.Marshal(set)
	if errA != nil || errB != nil || string(a) != string(b) {
		z.settings.Store(&set)
	}
}

// change changes the settings for good.
func (z *zone) change(ctx context.Context, do func(*settings) error) error {
	z.changing.Lock()
	defer z.changing.Unlock()
	k := z.keeper.Load()
	if k == nil {
		set, err := z.settings.Load().clone()
		if err == nil {
			err = do(&set)
		}
		if err == nil {
			z.adopt(set)
		}
		return err
	}
	set, err := (*k).change(ctx, do)
	if err == nil {
		z.adopt(set)
		return nil
	}
	if _, ok := errors.AsType[*problem.Error](err); ok {
		return err
	}
	return problem.New(problem.Unavailable, "The change could not be kept, so it is not in force.").Because(err)
}

func (s *settings) clone() (settings, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return settings{}, fmt.Errorf("encoding the plans: %w", err)
	}
	return parseSettings(b)
}

func parseSettings(b []byte) (settings, error) {
	var set settings
	if len(b) == 0 {
		return set, nil
	}
	if err := json.Unmarshal(b, &set); err != nil {
		return set, fmt.Errorf("reading the plans: %w", err)
	}
	return set, nil
}

// fileKeeper is the path of a file in the data directory.
type fileKeeper string

func (fileKeeper) shared() bool { return false }

func (f fileKeeper) load(context.Context) (settings, error) {
	b, err := os.ReadFile(string(f)) //nolint:gosec // the data directory and the name of a zone are the configuration's
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return settings{}, fmt.Errorf("reading the plans: %w", err)
	}
	return parseSettings(b)
}

func (f fileKeeper) change(ctx context.Context, do func(*settings) error) (settings, error) {
	set, err := f.load(ctx)
	if err == nil {
		err = do(&set)
	}
	if err != nil {
		return set, err
	}
	b, err := json.Marshal(set)
	if err != nil {
		return set, fmt.Errorf("encoding the plans: %w", err)
	}
	if err = wholefile.Write(string(f), b, os.Rename); err != nil {
		return set, fmt.Errorf("keeping the plans: %w", err)
	}
	return set, nil
}

// redisKeeper keeps the settings of a zone in Redis, for all instances.
type redisKeeper struct {
	conn *redisconn.Conn
	zone string
}

func (redisKeeper) shared() bool { return true }

func (r redisKeeper) key() string { return "gatehouse:limit-plans:" + r.zone }

func (r redisKeeper) load(ctx context.Context) (settings, error) {
	b, err := r.conn.Client().Get(ctx, r.key()).Bytes()
	if err != nil && !errors.Is(err, redis.Nil) {
		return settings{}, fmt.Errorf("reading the plans: %w", err)
	}
	return parseSettings(b)
}

func (r redisKeeper) change(ctx context.Context, do func(*settings) error) (set settings, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for range 10 {
		err = r.conn.Client().Watch(ctx, func(tx *redis.Tx) error {
			b, err := tx.Get(ctx, r.key()).Bytes()
			if err != nil && !errors.Is(err, redis.Nil) {
				return err
			}
			if set, err = parseSettings(b); err != nil {
				return err
			}
			if err = do(&set); err != nil {
				return err
			}
			if b, err = json.Marshal(set); err != nil {
				return err
			}
			_, err = tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
				p.Set(ctx, r.key(), b, 0)
				return nil
			})
			return err
		}, r.key())
		if !errors.Is(err, redis.TxFailedErr) {
			return set, err
		}
	}
	return set, err
}
