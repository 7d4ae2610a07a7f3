// Package traffic tells which routes were busy while a recording was on. Handlers say of each
// request that it began and that it ended; while nothing is recorded, that costs one atomic load.
package traffic

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

const (
	// maxRoutes bounds the rows of a recording. When they are full, the lighter half of them becomes
	// part of the row Other: a flood of made-up paths takes no room from the routes that cost time.
	maxRoutes = 500
	// maxOpen bounds the requests in flight that a recording knows; those beyond it are not counted.
	maxOpen = 100_000
	// tracked is the request variable that holds the recording that the request is counted in.
	tracked = "gatehouse.traffic"
)

// Other is the name of the row for all routes that have none of their own.
const Other = "other"

// Route is one row of a recording.
type Route struct {
	// Name is "METHOD host /first/two", or Other. It is printable and short, whatever the client sent.
	Name string
	// Requests is how many were seen, Unfinished how many of them were in flight when the recording ended.
	Requests, Unfinished int
	// Total is the time that the requests took; of unfinished ones, the part in the recording.
	Total time.Duration
}

// Recording counts what Track sees. Only requests that begin during the recording are in it.
type Recording struct {
	mu     sync.Mutex
	ended  bool
	routes map[string]*Route
	other  Route
	open   map[*call]struct{}
}

type call struct {
	route string
	began time.Time
}

// current is the recording that is on, if any.
var current atomic.Pointer[Recording]

// Track says that a request begins, and the function that it returns says that it ended. It returns
// nil while nothing is recorded, and for a request that another handler has tracked already.
func Track(r *http.Request) (done func()) {
	rec := current.Load()
	if rec == nil {
		return nil
	}
	return rec.track(r)
}

// Start begins a recording. There is one at a time: it returns nil while another one is on.
func Start() *Recording {
	rec := &Recording{routes: map[string]*Route{}, other: Route{Name: Other}, open: map[*call]struct{}{}}
	if !current.CompareAndSwap(nil, rec) {
		return nil
	}
	return rec
}

// Stop ends the recording and returns its rows, the one with the most time first. A nil Recording has none.
func (rec *Recording) Stop() []Route {
	if rec == nil {
		return nil
	}
	current.CompareAndSwap(rec, nil)
	now := time.Now()
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.ended = true
	for c := range rec.open {
		route := rec.add(c.route, now.Sub(c.began))
		route.Unfinished++
	}
	rec.open = nil
	all := rec.sorted()
	if rec.other.Requests > 0 {
		all = append(all, &rec.other)
	}
	rows := make([]Route, len(all))
	for i, route := range all {
		rows[i] = *route
	}
	slices.SortStableFunc(rows, byTime)
	return rows
}

func (rec *Recording) track(r *http.Request) func() {
	if caddyhttp.GetVar(r.Context(), tracked) == rec {
		return nil
	}
	c := &call{routeOf(r), time.Now()}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.ended || len(rec.open) >= maxOpen {
		return nil
	}
	caddyhttp.SetVar(r.Context(), tracked, rec)
	rec.open[c] = struct{}{}
	return func() { rec.done(c) }
}

func (rec *Recording) done(c *call) {
	took := time.Since(c.began)
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if _, ok := rec.open[c]; !ok { // said twice, or after the end
		return
	}
	delete(rec.open, c)
	rec.add(c.route, took)
}

// add counts one request of the named route. The caller holds rec.mu.
func (rec *Recording) add(name string, took time.Duration) *Route {
	route, ok := rec.routes[name]
	if !ok {
		if len(rec.routes) >= maxRoutes {
			rec.fold()
		}
		route = &Route{Name: name}
		rec.routes[name] = route
	}
	route.Requests++
	route.Total += took
	return route
}

// fold moves the lighter half of the rows to the row Other.
func (rec *Recording) fold() {
	for _, route := range rec.sorted()[maxRoutes/2:] {
		rec.other.Requests += route.Requests
		rec.other.Unfinished += route.Unfinished
		rec.other.Total += route.Total
		delete(rec.routes, route.Name)
	}
}

func (rec *Recording) sorted() []*Route {
	all := make([]*Route, 0, len(rec.routes)+1)
	for _, route := range rec.routes {
		all = append(all, route)
	}
	slices.SortFunc(all, func(a, b *Route) int { return byTime(*a, *b) })
	return all
}

func byTime(a, b Route) int {
	return cmp.Or(cmp.Compare(b.Total, a.Total), cmp.Compare(b.Requests, a.Requests), strings.Compare(a.Name, b.Name))
}
