package jwtauth

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
)

func init() { caddy.RegisterModule(adminAPI{}) }

// adminAPI adds jwt_auth to Caddy's admin endpoint, for the configuration that serves:
//
//   - POST /gatehouse/jwt/explain {"token"}: what each jwt_auth says about the token
//   - POST /gatehouse/jwt/keys/refresh: fetches the keys that come from elsewhere, and says what came of it
//   - GET /gatehouse/jwt/keys: the keys in force, and what they verified in the last 24 hours
type adminAPI struct{}

// CaddyModule is the module's registration.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.gatehouse_jwt", New: func() caddy.Module { return new(adminAPI) }}
}

// Routes are the API.
func (*adminAPI) Routes() []caddy.AdminRoute {
	mux := http.NewServeMux()
	handle := func(pattern string, do func(http.ResponseWriter, *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			answer, err := do(w, r)
			if err != nil {
				problem.Write(w, r, err)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(answer)
		})
	}
	handle("POST /gatehouse/jwt/explain", explainToken)
	handle("GET /gatehouse/jwt/keys", listKeys)
	handle("POST /gatehouse/jwt/keys/refresh", refreshKeys)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problem.Write(w, r, problem.New(problem.NotFound, "There is no %s %s here.", r.Method, r.URL.Path))
	})
	serve := caddy.AdminHandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		mux.ServeHTTP(w, r)
		return nil
	})
	return []caddy.AdminRoute{{Pattern: "/gatehouse/jwt/", Handler: serve}}
}

func (l *listing) add(v *verifier) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, v)
}

func (l *listing) remove(v *verifier) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = slices.DeleteFunc(l.all, func(other *verifier) bool { return other == v })
}

// serving are the verifiers of the configuration that serves, without those that decide alike.
func serving() []*verifier {
	active := caddy.ActiveContext()
	if active.Context == nil {
		return nil
	}
	return listed(active.GetMetricsRegistry())
}

func listed(configuration any) (all []*verifier) {
	listings.Range(func(key, value any) bool {
		if key == configuration {
			l := value.(*listing)
			l.mu.Lock()
			defer l.mu.Unlock()
			all = distinct(l.all)
		}
		return true
	})
	return all
}

func explainToken(w http.ResponseWriter, r *http.Request) (any, error) {
	var in struct {
		Token *string `json:"token"`
	}
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 2<<20))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil || in.Token == nil {
		return nil, problem.New(problem.InvalidRequest, `Send the token as JSON: {"token": "…"}.`) // err could quote it
	}
	items := []Explanation{}
	for i, v := range serving() {
		x := v.explain(r.Context(), *in.Token, time.Now())
		x.Directive = "jwt_auth " + strconv.Itoa(i+1) + ": " + x.Directive
		items = append(items, x)
	}
	return Explained{items}, nil
}

// Explained is the answer of POST /gatehouse/jwt/explain.
type Explained struct {
	Items []Explanation `json:"items"`
}

// Refreshed is a source of keys that was asked anew.
type Refreshed struct {
	Source string `json:"source"`
	// Keys is how many are in force.
	Keys int `json:"keys"`
	// Error is why the keys could not be fetched, absent if they were.
	Error string `json:"error,omitempty"`
}

// KeysRefreshed is the answer of POST /gatehouse/jwt/keys/refresh.
type KeysRefreshed struct {
	Items []Refreshed `json:"items"`
}

// refreshKeys asks all sources at once.
func refreshKeys(_ http.ResponseWriter, r *http.Request) (any, error) {
	remotes := remotesInUse()
	items := make([]Refreshed, len(remotes))
	var all sync.WaitGroup
	for i, source := range remotes {
		all.Go(func() { items[i] = source.refreshed(r.Context()) })
	}
	all.Wait()
	slices.SortFunc(items, func(a, b Refreshed) int { return strings.Compare(a.Source, b.Source) })
	return KeysRefreshed{items}, nil
}

// KeyUse is a key of a source, with its use in this process.
type KeyUse struct {
	Issuer string `json:"issuer,omitempty"`
	Source string `json:"source"`
	// Kid is the key's kid, or the label of its secret's version.
	Kid string `json:"kid,omitempty"`
	Alg string `json:"alg"`
	// InForce says whether the key verifies tokens now.
	InForce bool `json:"in_force"`
	// Tokens were verified in the last 24 hours, Requests were made with them.
	Tokens   uint64     `json:"tokens_24h"`
	Requests uint64     `json:"requests_24h"`
	LastUsed *time.Time `json:"last_used,omitempty"`
	// Age is how many seconds ago the keys were fetched.
	Age *int64 `json:"key_set_age,omitempty"`
}

// KeyUses is the answer of GET /gatehouse/jwt/keys.
type KeyUses struct {
	Items []KeyUse `json:"items"`
}

func listKeys(http.ResponseWriter, *http.Request) (any, error) {
	return KeyUses{keyUses(serving(), time.Now())}, nil
}

// keyUses lists each source once.
func keyUses(all []*verifier, now time.Time) []KeyUse {
	items, seen := []KeyUse{}, map[string]bool{}
	for _, v := range all {
		for _, p := range v.providers {
			if id := fmt.Sprintf("%q %q", p.issuer, p.name); !seen[id] {
				seen[id] = true
				items = append(items, p.keyUses(now)...)
			}
		}
	}
	return items
}

func (p *provider) keyUses(now time.Time) (items []KeyUse) {
	set := p.source.current(now)
	if set == nil {
		set = new(keySet)
	}
	issuer, _ := p.wants(set)
	var age *int64
	if at := p.source.fetched(); !at.IsZero() {
		seconds := int64(now.Sub(at).Seconds())
		age = &seconds
	}
	show := func(u *uses, inForce bool) {
		k := KeyUse{Issuer: issuer, Source: p.name, Kid: u.key, Alg: u.alg, InForce: inForce, Age: age}
		k.Tokens, k.Requests = u.tokens.sum(now.Unix()/3600), u.requests.sum(now.Unix()/3600)
		if last := u.last.Load(); last != 0 {
			at := time.Unix(last, 0).UTC()
			k.LastUsed = &at
		}
		items = append(items, k)
	}
	var shown []*uses
	for i := range set.keys {
		if u := set.keys[i].uses; u != nil && !slices.Contains(shown, u) {
			shown = append(shown, u)
			show(u, true)
		}
	}
	for _, u := range allUses.used(p.name, now) {
		if !slices.Contains(shown, u) {
			show(u, false)
		}
	}
	return items
}
