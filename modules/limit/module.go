// Package limit is the directives `limit` and `quota`: how many requests a client may make, before
// authentication by its address and after it by its identity. Both are one engine. What a request is
// told is decided in the package policy; this one identifies the client, keeps the states in process
// (or asks the package shared, which keeps them in Redis), and answers.
package limit

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"

	"github.com/gatehouse-proxy/gatehouse/internal/unit"
	"github.com/gatehouse-proxy/gatehouse/modules/gatehouse"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/event"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/frontdoor"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/meter"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/once"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/refuse"
	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
	"github.com/gatehouse-proxy/gatehouse/modules/limit/shared"
)

const (
	// defaultMemory is the cap on the table of a zone: about two million keys with one policy.
	defaultMemory = 64 << 20
	// clientIP is the address that Caddy has found: the peer, or what a trusted proxy says of it.
	clientIP = "http.vars.client_ip"
	// wouldRefuse names the policies by which a limit in shadow mode would have refused the request.
	wouldRefuse = "http.limit.would_refuse"
)

// Engine is what `limit` and `quota` have in common. A request is allowed if every policy has room
// for it, and only then are they charged. All responses carry RateLimit-Policy and RateLimit
// (draft-ietf-httpapi-ratelimit-headers); a refused request is answered 429 with Retry-After.
type Engine struct {
	// Zone names the counters: handlers of the same zone share them, and they go on across a reload,
	// also with other rates. Letters, digits and ._#- , at most 64. In one configuration a zone must be
	// defined alike everywhere. Default: the Caddyfile numbers its directives, "limit#1", "limit#2",
	// "quota#1", so that one which is put before others shifts the counters of those; "" without a
	// Caddyfile.
	Zone string `json:"zone,omitempty"`
	// Policies are the rates to keep, at most 8; at least one, unless InFlight is set.
	Policies []policy.Policy `json:"policies,omitempty"`
	// By is the template of the key that is counted, with at most 8 placeholders. {http.vars.client_ip}
	// stands for the client's network: IPv6 addresses are grouped by IPv6Prefix. A request that has a
	// header field, query parameter or cookie of the key more than once is answered 400. If any placeholder is empty,
	// as the identity of an anonymous client is, the request is counted by the client's network, apart
	// from all other keys. Default: {http.vars.client_ip} for limit, {http.auth.user.id} for quota.
	By string `json:"by,omitempty"`
	// IPv6Prefix is how many bits of an IPv6 address make the network of a client: 64, 56 or 48, as
	// providers give out whole networks. Default 0: 64.
	IPv6Prefix int `json:"ipv6_prefix,omitempty"`
	// PlanBy is a template whose value names the plan of a request. One that is not among the plans has
	// the rates of Policies.
	PlanBy string `json:"plan_by,omitempty"`
	// Plans are other rates for policies of the same names. The admin API changes and adds plans, and
	// says which keys have which plan, at run time.
	Plans map[string][]policy.Policy `json:"plans,omitempty"`
	// Cost is how many units a request takes: a number, or a placeholder whose value is one (otherwise
	// it is 1). At most 1,000,000,000. Default 1.
	Cost string `json:"cost,omitempty"`
	// CostFrom is a response header with the cost that a request turned out to have. The difference is
	// charged after the fact, and may run into debt, of one full bucket at most.
	CostFrom string `json:"cost_from,omitempty"`
	// Refund are the outcomes for which a request gets back what it was charged: classes such as 5xx,
	// statuses, cache_hit (by Cache-Status) and replay (by Idempotency-Replayed).
	Refund []string `json:"refund,omitempty"`
	// InFlight bounds the requests that are under way at once.
	InFlight *InFlight `json:"in_flight,omitempty"`
	// SkipRaw are matchers of requests that are not counted.
	SkipRaw caddyhttp.RawMatcherSets `json:"skip,omitempty" caddy:"namespace=http.matchers"`
	// Shadow counts and refuses nobody. {http.limit.would_refuse} names the policies that would have
	// refused a request. Clients are told nothing.
	Shadow bool `json:"shadow,omitempty"`
	// Warn is the share of a policy, from 0 to 1, at which the event limit_warning is emitted, once for
	// each key and window. Default 0: never.
	Warn float64 `json:"warn,omitempty"`
	// Jitter is by up to which share of it Retry-After is made longer at random, from 0 to 1, so that
	// clients refused together do not return together. Default 0.
	Jitter float64 `json:"jitter,omitempty"`
	// Headers says which response fields are set.
	Headers Headers `json:"headers,omitzero"`
	// Memory is the cap on the table of the zone. Where it is reached, keys that have used little give
	// way. Default 0: 64 MiB, about two million keys.
	Memory unit.Size `json:"memory,omitempty"`
	// Count says where requests are counted: "local", in this process; "exact", in Redis with one round
	// trip for each request; "leased", in Redis, from which an instance takes units in batches. Default
	// "": local for limit, and for quota leased if the app gatehouse has a Redis.
	Count string `json:"count,omitempty"`
	// OnStoreError says what happens to requests while Redis does not answer: "open" lets them pass,
	// "closed" answers 503, "local" counts them in process, by the rates divided by the number of
	// instances. Default "": local.
	OnStoreError string `json:"on_store_error,omitempty"`

	Skip caddyhttp.MatcherSets `json:"-"`

	directive string
	zone      *zone
	held      bool // this handler has a reference on zones
	returned  bool // this handler has given the store back
	registry  *registry
	keeper    keeper // of what is set at run time; nil for nothing
	sequence  int64  // the order in which engines were provisioned
	begin     sync.Once
	log       *zap.Logger
	listedBy  any // the key of definitions on which this handler has a reference
	parts     []part
	planBy    []part
	flightBy  []part // nil for the key of the rates
	costBy    *part
	onces     []once.Part // what a request must not have twice
	groups    grouping
	cost      int64
	refund    outcomes
	settles   bool // there is something to do when the response is known
	own       *policy.Policy
	plans     atomic.Pointer[compiled]
	meters    meters
	store     *store // nil for counting in process
	now       func() int64
	emit      func(name string, data map[string]any)
	refuse    *refuse.Refuser
}

// InFlight bounds the requests of a key that are under way at once, in this instance.
type InFlight struct {
	// Most is how many may be. Required, at least 1.
	Most int `json:"most"`
	// By is the template of the key, as in Engine. Default: that of Engine.
	By string `json:"by,omitempty"`
	// Queue is how many more may wait for a place, and Wait how long. Default 0: none; 1 s.
	Queue int           `json:"queue,omitempty"`
	Wait  unit.Duration `json:"wait,omitempty"`
}

// Headers says which response fields are set.
type Headers struct {
	// Off leaves out RateLimit-Policy and RateLimit.
	Off bool `json:"off,omitempty"`
	// Legacy adds X-RateLimit-Limit, -Remaining and -Reset, for the policy that is nearest to its end:
	// "delta" has Reset in seconds from now, "unix" since the Unix epoch. Default "": none.
	Legacy string `json:"legacy,omitempty"`
	// Mode adds Gatehouse-Limit-Mode: how the request was counted, "local", "exact" or "leased", and
	// "open", "closed" or "local-share" while Redis does not answer.
	Mode bool `json:"mode,omitempty"`
}

// Limit counts requests per client, before anything costs. By default the client is its IP address.
type Limit struct{ Engine }

// Quota counts requests per identity, after authentication. By default that is {http.auth.user.id}.
type Quota struct{ Engine }

// Provision compiles the key and the header fields and takes hold of the counters.
func (l *Limit) Provision(ctx caddy.Context) error {
	return l.provision(ctx, "limit", "{"+clientIP+"}")
}

// Provision compiles the key and the header fields and takes hold of the counters.
func (q *Quota) Provision(ctx caddy.Context) error {
	return q.provision(ctx, "quota", "{http.auth.user.id}")
}

func (e *Engine) provision(ctx caddy.Context, directive, by string) error {
	if err := frontdoor.Stand(ctx); err != nil {
		return err
	}
	e.refuse, e.directive, e.now, e.log = refuse.New(ctx.Logger()), directive, clock, ctx.Logger()
	e.sequence = provisioned.Add(1)
	if e.By == "" {
		e.By = by
	}
	for i := range e.Policies {
		if e.Policies[i].Name == "" {
			e.Policies[i].Name = directive
		}
	}
	if err := e.check(); err != nil {
		return err
	}
	if err := e.compile(); err != nil {
		return err
	}
	matchers, err := ctx.LoadModule(e, "SkipRaw")
	if err != nil {
		return fmt.Errorf("loading the matchers of skip: %w", err)
	}
	if err = e.Skip.FromInterface(matchers); err != nil {
		return err
	}
	e.emit = func(name string, data map[string]any) { event.Emit(ctx, name, data) }
	if err = meter.Register(ctx, collectors()...); err != nil {
		return err
	}
	if err = e.hold(ctx); err != nil {
		return err
	}
	e.meters = newMeters(e)
	_, err = e.fittingPlans()
	return err
}

// provisioned counts engines.
var provisioned atomic.Int64

// start puts what handlers of a zone share into this configuration's order, with its first request:
// by then it serves.
func (e *Engine) start() {
	if e.InFlight != nil {
		e.zone.flights.most.Store(int64(e.InFlight.Most))
	}
	e.zone.keep(e.keeper, e.sequence)
}

// compile makes ready whatever does not depend on a request.
func (e *Engine) compile() (err error) {
	if e.parts, err = compile("by", e.By); err != nil {
		return err
	}
	if e.PlanBy != "" {
		if e.planBy, err = compile("plan_by", e.PlanBy); err != nil {
			return err
		}
	}
	e.groups = cmp.Or(grouping(e.IPv6Prefix), defaultGrouping)
	e.onces = slices.Concat(once.In(e.By), once.In(e.PlanBy), once.In(e.Cost))
	if e.InFlight != nil {
		e.onces = append(e.onces, once.In(e.InFlight.By)...)
		e.own = &policy.Policy{Name: "in_flight", Quota: e.InFlight.Most}
		if e.InFlight.By != "" {
			if e.flightBy, err = compile("in_flight", e.InFlight.By); err != nil {
				return err
			}
		}
	}
	if e.refund, err = parseOutcomes(e.Refund); err != nil {
		return err
	}
	e.CostFrom = http.CanonicalHeaderKey(e.CostFrom)
	e.settles = len(e.Refund) > 0 || e.CostFrom != ""
	e.cost = 1
	if strings.Contains(e.Cost, "{") {
		parts, err := compile("cost", e.Cost)
		if err != nil {
			return err
		}
		e.costBy = &parts[0]
	} else if e.Cost != "" {
		e.cost = parseCost(e.Cost, 0)
	}
	return nil
}

// zones are the zones in use, by name and by all that says what their words mean.
var zones = caddy.NewUsagePool()

// Destruct does nothing: requests in flight may still be counted, and then the zone is garbage.
func (*zone) Destruct() error { return nil }

// inUse are the zones in use.
func inUse() []*zone {
	var all []*zone
	zones.Range(func(_, value any) bool {
		all = append(all, value.(*zone))
		return true
	})
	return all
}

// definitions are those of each configuration that is in use, by its metrics registry.
var definitions = caddy.NewUsagePool()

// Destruct does nothing.
func (*registry) Destruct() error { return nil }

// hold takes hold of the zone, and of the place where this configuration's zones are listed.
func (e *Engine) hold(ctx caddy.Context) error {
	listed, _, err := definitions.LoadOrNew(ctx.GetMetricsRegistry(), func() (caddy.Destructor, error) { return new(registry), nil })
	if err != nil {
		return err
	}
	e.listedBy = ctx.GetMetricsRegistry()
	e.registry = listed.(*registry)
	if err = e.registry.add(e); err != nil {
		return err
	}
	id := e.zoneID()
	pooled, there, err := zones.LoadOrNew(id, func() (caddy.Destructor, error) { return newZone(id, e.Policies), nil })
	if err != nil {
		return err
	}
	e.zone, e.held = pooled.(*zone), true
	if !there {
		for _, other := range inUse() {
			if other != e.zone && other.id.name == id.name {
				e.zone.inherit(other, e.now(), e.memory())
			}
		}
	}
	return e.holdStore(ctx)
}

// leases are those in use, by their zone and the way to Redis.
var leases = caddy.NewUsagePool()

type leasesID struct {
	link *shared.Link
	zone string
}

type pooledLeases struct{ *shared.Leases }

// Destruct gives the tokens back in the background.
func (p pooledLeases) Destruct() error {
	go p.Close()
	return nil
}

// holdStore takes hold of what other instances are counted together with by.
func (e *Engine) holdStore(ctx caddy.Context) error {
	app, err := e.app(ctx)
	if err != nil || app == nil {
		return err
	}
	conn, ok := app.Redis()
	if ok {
		e.keeper = redisKeeper{conn, e.Zone}
	} else {
		e.keeper = fileKeeper(filepath.Join(app.Dir(), "limits", url.PathEscape(e.Zone)+".json"))
	}
	count := e.Count
	if count == "" && ok && e.directive == "quota" {
		count = countLeased
	}
	switch {
	case count == "" || count == countLocal || len(e.Policies) == 0:
		return nil
	case !ok:
		return fmt.Errorf("count %s needs a Redis: name it in the global options, gatehouse { redis redis://127.0.0.1:6379/0 }", count)
	}
	e.store = &store{link: shared.Acquire(conn, slog.New(zapslog.NewHandler(ctx.Logger().Core()))), zone: e.zone.id.storeZone()}
	app.Report(e.directive+" "+e.Zone, func() (string, bool) {
		m := e.mode()
		return "counts " + string(m), string(m) == count
	})
	if count == countExact {
		return nil
	}
	pooled, _, err := leases.LoadOrNew(leasesID{e.store.link, e.store.zone}, func() (caddy.Destructor, error) {
		return pooledLeases{shared.NewLeases(e.store.link, e.store.zone)}, nil
	})
	if err != nil {
		return err
	}
	e.store.leases = pooled.(pooledLeases).Leases
	return nil
}

// app is the app of the configuration where the engine needs it; nil if there is none and none is needed.
func (e *Engine) app(ctx caddy.Context) (*gatehouse.App, error) {
	app, err := ctx.AppIfConfigured("gatehouse")
	switch {
	case err == nil:
		return app.(*gatehouse.App), nil
	case !errors.Is(err, caddy.ErrNotConfigured):
		return nil, err
	case e.Count == countExact || e.Count == countLeased:
		return gatehouse.Of(ctx)
	}
	return nil, nil //nolint:nilnil // most limits need no app
}

// Cleanup gives back what Provision took hold of. The handler stays usable for requests in flight.
func (e *Engine) Cleanup() error {
	var errs []error
	if e.registry != nil {
		e.registry.remove(e)
		_, err := definitions.Delete(e.listedBy)
		errs, e.registry = append(errs, err), nil
	}
	if s := e.store; s != nil && !e.returned {
		e.returned = true
		if s.leases != nil {
			_, err := leases.Delete(leasesID{s.link, s.zone})
			errs = append(errs, err)
		}
		s.link.Release()
	}
	if e.held {
		_, err := zones.Delete(e.zone.id)
		errs, e.held = append(errs, err), false
	}
	return errors.Join(errs...)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Limit)(nil)
	_ caddy.CleanerUpper          = (*Limit)(nil)
	_ caddyhttp.MiddlewareHandler = (*Limit)(nil)
	_ caddy.Provisioner           = (*Quota)(nil)
	_ caddy.CleanerUpper          = (*Quota)(nil)
	_ caddyhttp.MiddlewareHandler = (*Quota)(nil)
)
