package httpcache

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
	"net/http"
	"net/url"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"

	"github.com/gatehouse-proxy/gatehouse/modules/internal/frontdoor"
)

// http_cache stands before the routes, so that one of it serves all of them and keeps what encode has made.
// What stands behind it may still refuse a request, or answer it without the app. Such a request must not
// be answered from memory, nor must its answer be kept for others: for each request the rest of the journey
// is judged as Caddy would walk it, where there is anything in it that refuses.

// refusing are the handlers that may answer a request in the place of the app. What admits by identity or
// counts is among them.
var refusing = []caddy.ModuleID{
	"http.handlers.static_response", "http.handlers.error", "http.handlers.authentication", "http.handlers.jwt_auth",
	"http.handlers.webhook_verify", "http.handlers.limit", "http.handlers.quota",
}

// answering are the handlers that end the journey by asking an app or a disk.
var answering = []caddy.ModuleID{
	"http.handlers.reverse_proxy", "http.handlers.file_server", "http.handlers.split", "http.handlers.backend",
}

// changing are the handlers after which a matcher may see another request than now.
var changing = []caddy.ModuleID{"http.handlers.vars", "http.handlers.map"}

// step is one handler of the rest of the journey, as far as it matters here.
type step struct {
	refuses, answers, changes bool
	rewrite                   *rewrite.Rewrite
	routes                    []stop
}

// stop is one route of the rest of the journey.
type stop struct {
	route *caddyhttp.Route
	steps []step
}

// journey is where a handler stands in the routes of a server.
type journey struct {
	// scope keeps what is stored here apart from what is stored elsewhere: it stands for the listeners, the
	// way through the routes and their matchers.
	scope string
	// rests are what comes after the handler, one for each way that leads to it. Nil if nothing refuses.
	rests [][]stop
	found bool
}

// locate finds the handler on the server.
func locate(h caddyhttp.MiddlewareHandler, srv *caddyhttp.Server) *journey {
	j := new(journey)
	sum := sha256.New()
	_, _ = fmt.Fprintf(sum, "%q\n", srv.Listen)
	f := finder{handler: h, named: srv.NamedRoutes, sum: sum, j: j}
	f.search(frontdoor.Routes(srv), nil, 0)
	j.scope = string(sum.Sum(nil)[:16])
	if !slices.ContainsFunc(j.rests, refusesAny) {
		j.rests = nil
	}
	return j
}

// deepest bounds the nesting of routes: named routes may invoke each other.
const deepest = 32

type finder struct {
	handler caddyhttp.MiddlewareHandler
	named   map[string]*caddyhttp.Route
	sum     hash.Hash
	j       *journey
}

// search looks for the handler in a list of routes, after which comes after.
func (f *finder) search(routes caddyhttp.RouteList, after []stop, depth int) bool {
	found := false
	for i := range routes {
		route := &routes[i]
		rest := after
		if !route.Terminal {
			rest = append(f.compile(routes[i+1:], depth), after...)
		}
		for k, h := range route.Handlers {
			behind := append([]stop{{route: new(caddyhttp.Route), steps: f.steps(route.Handlers[k+1:], depth)}}, rest...)
			here := h == f.handler
			switch {
			case here:
				f.j.found = true
				f.j.rests = append(f.j.rests, behind)
			case depth < deepest:
				here = f.search(f.inner(h), behind, depth+1)
			}
			if here {
				found = true
				matchers, err := json.Marshal(route.MatcherSets)
				if err != nil {
					matchers = []byte(rand.Text()) // what cannot be compared is like nothing else
				}
				_, _ = fmt.Fprintf(f.sum, "%d %d %d %s\n", depth, i, k, matchers)
			}
		}
	}
	return found
}

// inner are the routes within a handler.
func (f *finder) inner(h caddyhttp.MiddlewareHandler) caddyhttp.RouteList {
	switch h := h.(type) {
	case *caddyhttp.Subroute:
		return h.Routes
	case *caddyhttp.Invoke:
		if route := f.named[h.Name]; route != nil {
			return caddyhttp.RouteList{*route}
		}
	}
	return nil
}

func (f *finder) compile(routes caddyhttp.RouteList, depth int) []stop {
	stops := make([]stop, 0, len(routes))
	for i := range routes {
		stops = append(stops, stop{route: &routes[i], steps: f.steps(routes[i].Handlers, depth)})
	}
	return stops
}

func (f *finder) steps(handlers []caddyhttp.MiddlewareHandler, depth int) []step {
	var steps []step
	for _, h := range handlers {
		var id caddy.ModuleID
		if m, ok := h.(caddy.Module); ok {
			id = m.CaddyModule().ID
		}
		s := step{refuses: slices.Contains(refusing, id), answers: slices.Contains(answering, id), changes: slices.Contains(changing, id)}
		switch h := h.(type) {
		case *reverseproxy.Handler:
			if h.Rewrite != nil && len(h.HandleResponse) > 0 {
				s = step{refuses: true} // forward_auth
			}
		case *headers.Handler:
			s.changes = h.Request != nil
		case *rewrite.Rewrite:
			s.rewrite = h
		default:
			if inner := f.inner(h); inner != nil && depth < deepest {
				s.routes = f.compile(inner, depth+1)
			}
		}
		steps = append(steps, s)
	}
	return steps
}

func refusesAny(stops []stop) bool {
	return slices.ContainsFunc(stops, func(s stop) bool {
		return slices.ContainsFunc(s.steps, func(st step) bool { return st.refuses || refusesAny(st.routes) })
	})
}

// reachesApp says whether nothing in the rest of the journey answers the request before an app does.
func (j *journey) reachesApp(r *http.Request) bool {
	for _, rest := range j.rests {
		w := walk{r: r}
		w.groups, _ = r.Context().Value(caddy.CtxKey("route_group")).(map[string]struct{})
		if w.pass(rest) == refused {
			return false
		}
	}
	return true
}

type verdict int

const (
	undecided verdict = iota
	reached
	refused
)

// walk is the way of one request through the rest of the journey.
type walk struct {
	r      *http.Request
	groups map[string]struct{} // of which a route was taken before
	taken  []string            // of which one is taken here
	unsure bool                // matchers may see another request by then
	own    bool                // r is a copy
}

func (w *walk) pass(stops []stop) verdict {
	for i := range stops {
		s := &stops[i]
		if _, before := w.groups[s.route.Group]; s.route.Group != "" && (before || slices.Contains(w.taken, s.route.Group)) {
			continue
		}
		if w.unsure && refusesAny(stops[i:i+1]) {
			return refused // perhaps
		}
		matches, err := s.route.MatcherSets.AnyMatchWithError(w.r)
		if err != nil {
			return refused
		}
		if !matches {
			continue
		}
		if s.route.Group != "" {
			w.taken = append(w.taken, s.route.Group)
		}
		for k := range s.steps {
			if v := w.take(&s.steps[k]); v != undecided {
				return v
			}
		}
		if s.route.Terminal {
			return reached
		}
	}
	return undecided
}

func (w *walk) take(s *step) verdict {
	switch {
	case s.refuses:
		return refused
	case s.answers:
		return reached
	case s.rewrite != nil:
		w.rewrite(s.rewrite)
	case s.routes != nil:
		return w.pass(s.routes)
	}
	w.unsure = w.unsure || s.changes
	return undecided
}

// rewrite changes a copy of the request's URL, as the matchers behind will see it.
func (w *walk) rewrite(by *rewrite.Rewrite) {
	repl, ok := w.r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		w.unsure = true
		return
	}
	if !w.own {
		r := *w.r
		r.URL = new(url.URL)
		*r.URL = *w.r.URL
		w.r, w.own = &r, true
	}
	by.Rewrite(w.r, repl)
}
