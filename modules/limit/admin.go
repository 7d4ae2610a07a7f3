package limit

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"

	"github.com/caddyserver/caddy/v2"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/modules/limit/policy"
)

func init() { caddy.RegisterModule(adminAPI{}) }

// adminAPI adds the limits to Caddy's admin endpoint, for the configuration that serves:
//
//   - GET /gatehouse/limits: the zones
//   - GET /gatehouse/limits/top?zone=&n=: the hottest keys
//   - GET /gatehouse/limits/key?key=&zone=: where a key stands; key is given once for each placeholder
//     of the zone's key, in their order
//   - DELETE /gatehouse/limits/key?key=&zone=: forgets what a key has used
//   - GET /gatehouse/limits/plans?zone=: what is set at run time
//   - PUT and DELETE /gatehouse/limits/plans?zone=&plan=: rates of a plan, [{"name", "quota", "window", "burst"}]
//   - PUT and DELETE /gatehouse/limits/plans?zone=&key=: the plan of a key, {"plan"}
type adminAPI struct{}

// CaddyModule is the module's registration.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.gatehouse_limits", New: func() caddy.Module { return new(adminAPI) }}
}

// Routes are the API.
func (*adminAPI) Routes() []caddy.AdminRoute {
	mux := http.NewServeMux()
	handle := func(pattern string, do func(*http.Request, []*Engine) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			answer, err := do(r, zonesNamed(r.URL.Query().Get("zone")))
			if err != nil {
				problem.Write(w, r, err)
				return
			}
			if answer == nil {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(answer)
		})
	}
	handle("GET /gatehouse/limits", listZones)
	handle("GET /gatehouse/limits/top", listTop)
	handle("GET /gatehouse/limits/key", showKey)
	handle("DELETE /gatehouse/limits/key", resetKey)
	handle("GET /gatehouse/limits/plans", listPlans)
	handle("PUT /gatehouse/limits/plans", changePlans)
	handle("DELETE /gatehouse/limits/plans", changePlans)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problem.Write(w, r, problem.New(problem.NotFound, "There is no %s %s here.", r.Method, r.URL.Path))
	})
	serve := caddy.AdminHandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		mux.ServeHTTP(w, r)
		return nil
	})
	return []caddy.AdminRoute{{Pattern: "/gatehouse/limits", Handler: serve}, {Pattern: "/gatehouse/limits/", Handler: serve}}
}

// zonesNamed are the zones of the configuration that serves: all, or that of the name.
func zonesNamed(name string) []*Engine {
	all := slices.DeleteFunc(serving(), func(e *Engine) bool { return name != "" && e.Zone != name })
	for _, e := range all {
		e.begin.Do(e.start)
	}
	return all
}

// serving are the zones of the configuration that serves.
func serving() []*Engine {
	active := caddy.ActiveContext()
	if active.Context == nil {
		return nil
	}
	var all []*Engine
	definitions.Range(func(key, value any) bool {
		if key == any(active.GetMetricsRegistry()) {
			all = value.(*registry).zones()
		}
		return true
	})
	return all
}

// Zone is a zone as the API shows it.
type Zone struct {
	Zone      string          `json:"zone"`
	Directive string          `json:"directive"`
	Policies  []policy.Policy `json:"policies"`
	By        string          `json:"by"`
	Plans     []string        `json:"plans,omitempty"`
	Count     string          `json:"count"`
	Mode      string          `json:"mode"`
	Shadow    bool            `json:"shadow,omitempty"`
	Keys      int             `json:"keys"`
	Bytes     int             `json:"bytes"`
}

func listZones(_ *http.Request, zones []*Engine) (any, error) {
	items := []Zone{}
	for _, e := range zones {
		z := Zone{
			Zone: e.Zone, Directive: e.directive, Policies: e.Policies, By: e.By, Count: e.counts(), Mode: string(e.mode()), Shadow: e.Shadow,
			Keys: e.zone.table.Len(), Bytes: e.zone.table.Bytes(),
		}
		plans, err := e.currentPlans(e.now())
		if err != nil {
			return nil, err
		}
		for name := range plans.byName {
			z.Plans = append(z.Plans, name)
		}
		slices.Sort(z.Plans)
		items = append(items, z)
	}
	return map[string]any{"items": items}, nil
}

// ZoneHot is a hot key and its zone.
type ZoneHot struct {
	Zone string `json:"zone"`
	Hot
}

func listTop(r *http.Request, zones []*Engine) (any, error) {
	n := 20
	if s := r.URL.Query().Get("n"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < 1 || n > topKeys {
			return nil, problem.New(problem.InvalidRequest, "n must be a whole number from 1 to %d.", topKeys)
		}
	}
	items := []ZoneHot{}
	for _, e := range zones {
		for _, h := range e.zone.top.list(e.now(), n) {
			items = append(items, ZoneHot{e.Zone, h})
		}
	}
	slices.SortStableFunc(items, func(a, b ZoneHot) int { return cmp.Compare(b.Requests, a.Requests) })
	return map[string]any{"items": items[:min(n, len(items))]}, nil
}

// Standing is where a key stands in one zone.
type Standing struct {
	Zone     string           `json:"zone"`
	Key      string           `json:"key"`
	Plan     string           `json:"plan,omitempty"`
	Mode     string           `json:"mode"`
	InFlight *int             `json:"in_flight,omitempty"`
	Policies []PolicyStanding `json:"policies"`
}

// PolicyStanding is where a key stands in one policy.
type PolicyStanding struct {
	Policy    string `json:"policy"`
	Quota     int    `json:"quota"`
	Window    string `json:"window"`
	Remaining int64  `json:"remaining"`
	// Next is in how many seconds there is one more, 0 if nothing is used.
	Next int64 `json:"next"`
}

// eachKey finds the key of a request in the zones that have keys of so many parts.
func eachKey(r *http.Request, zones []*Engine, do func(*Engine, *subject) error) error {
	key := r.URL.Query()["key"]
	if len(key) == 0 || slices.Contains(key, "") {
		return problem.New(problem.InvalidRequest, "key is missing: give it once for each placeholder of the zone's key.")
	}
	found := false
	for _, e := range zones {
		s, ok := e.subjectOf(key)
		if !ok {
			continue
		}
		found = true
		if err := do(e, &s); err != nil {
			return err
		}
	}
	if !found {
		return problem.New(problem.NotFound, "No such zone counts by a key of %d parts.", len(key))
	}
	return nil
}

func showKey(r *http.Request, zones []*Engine) (any, error) {
	items := []Standing{}
	err := eachKey(r, zones, func(e *Engine, s *subject) error {
		plans, err := e.currentPlans(e.now())
		if err != nil {
			return err
		}
		a := ask{subject: *s, key: s.local(), now: e.now(), plan: plans.base}
		if own := plans.ofKey[a.key]; own != nil {
			a.plan = own
		}
		e.show(r.Context(), &a)
		st := Standing{Zone: e.Zone, Key: s.text(e.parts), Plan: a.plan.name, Mode: string(a.mode), Policies: []PolicyStanding{}}
		if e.InFlight != nil && e.flightBy == nil {
			n := e.zone.flights.count(a.key)
			st.InFlight = &n
		}
		for i, p := range a.plan.policies {
			v := a.verdict.Answers[i]
			st.Policies = append(st.Policies, PolicyStanding{p.Name, p.Quota, policy.Short(p.Window.Std()), v.Remaining, seconds(v.Next)})
		}
		items = append(items, st)
		return nil
	})
	return map[string]any{"items": items}, err
}

func resetKey(r *http.Request, zones []*Engine) (any, error) {
	reset := []string{}
	err := eachKey(r, zones, func(e *Engine, s *subject) error {
		reset = append(reset, e.Zone)
		return e.reset(r.Context(), s)
	})
	return map[string]any{"reset": reset}, err
}

func listPlans(_ *http.Request, zones []*Engine) (any, error) {
	items := []map[string]any{}
	for _, e := range zones {
		set := e.zone.settings.Load()
		items = append(items, map[string]any{"zone": e.Zone, "plans": set.Plans, "keys": set.Keys})
	}
	return map[string]any{"items": items}, nil
}

// maxBody bounds what changePlans reads.
const maxBody = 64 << 10

func changePlans(r *http.Request, zones []*Engine) (any, error) {
	q := r.URL.Query()
	plan, key := q.Get("plan"), q["key"]
	if q.Get("zone") == "" || len(zones) != 1 {
		return nil, problem.New(problem.NotFound, "zone must name one of the zones, GET /gatehouse/limits lists them.")
	}
	if (plan == "") == (len(key) == 0) {
		return nil, problem.New(problem.InvalidRequest, "Give either plan, to set its rates, or key, to set its plan.")
	}
	e := zones[0]
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if err != nil {
		return nil, problem.New(problem.InvalidRequest, "The body cannot be read, or has more than %d bytes.", maxBody).Because(err)
	}
	err = e.zone.change(r.Context(), func(set *settings) error {
		if plan != "" {
			return changeRates(set, e, plan, r.Method, json.NewDecoder(bytes.NewReader(body)))
		}
		return changeKey(set, e, key, r.Method, json.NewDecoder(bytes.NewReader(body)))
	})
	return nil, err
}

func changeRates(set *settings, e *Engine, plan, method string, body *json.Decoder) error {
	if method == http.MethodDelete {
		if _, ok := set.Plans[plan]; !ok {
			return problem.New(problem.NotFound, "The plan %.80q is not set at run time.", plan)
		}
		delete(set.Plans, plan)
		return nil
	}
	if !policy.ValidName(plan) {
		return problem.New(problem.InvalidRequest, "The plan's name must be 1 to 64 letters, digits, - and _.")
	}
	var rates []policy.Policy
	body.DisallowUnknownFields()
	if err := body.Decode(&rates); err != nil {
		return problem.New(problem.InvalidRequest, "The body must be a list of policies, such as [{\"name\": \"minute\", \"quota\": 1000, \"window\": \"1m\"}].").Because(err)
	}
	if set.Plans == nil {
		set.Plans = map[string][]policy.Policy{}
	}
	set.Plans[plan] = rates
	if _, err := e.compilePlans(*set); err != nil {
		return unfit(err)
	}
	return nil
}

func changeKey(set *settings, e *Engine, key []string, method string, body *json.Decoder) error {
	if _, ok := e.subjectOf(key); !ok {
		return problem.New(problem.InvalidRequest, "The zone counts by a key of %d parts, give key as often.", len(e.parts))
	}
	i := slices.IndexFunc(set.Keys, func(k keyPlan) bool { return slices.Equal(k.Key, key) })
	if method == http.MethodDelete {
		if i < 0 {
			return problem.New(problem.NotFound, "The key has no plan of its own.")
		}
		set.Keys = slices.Delete(set.Keys, i, i+1)
		return nil
	}
	var want struct {
		Plan string `json:"plan"`
	}
	if err := body.Decode(&want); err != nil {
		return problem.New(problem.InvalidRequest, "The body must name the plan, such as {\"plan\": \"pro\"}.").Because(err)
	}
	plans, err := e.compilePlans(*set)
	if err != nil {
		return unfit(err)
	}
	if plans.byName[want.Plan] == nil {
		return problem.New(problem.Unprocessable, "There is no plan %.80q.", want.Plan)
	}
	if i >= 0 {
		set.Keys[i].Plan = want.Plan
		return nil
	}
	if len(set.Keys) >= maxKeyPlans {
		return problem.New(problem.Unprocessable, "At most %d keys can have a plan of their own.", maxKeyPlans)
	}
	set.Keys = append(set.Keys, keyPlan{key, want.Plan})
	return nil
}

// unfit is the client's error for rates that do not fit.
func unfit(err error) error {
	return problem.New(problem.Unprocessable, "%s", fmt.Sprint(err)).Because(err)
}

// Interface guards
var _ caddy.AdminRouter = (*adminAPI)(nil)
