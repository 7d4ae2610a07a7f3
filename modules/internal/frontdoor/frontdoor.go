// Package frontdoor stands before all routes of a server: what it lets pass, the routes and the app read
// in one way. A route is chosen by the cleaned path and the app gets the raw one, so a path that has two
// readings reaches what another route guards; and an upgraded connection passes no further check. Every
// directive of ours calls Stand when it is provisioned, so a server with one of them has a front door
// without anyone having to think of it; the directive `guard` gives it settings.
package frontdoor

import (
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/accesslog"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/meter"
	"github.com/gatehouse-proxy/gatehouse/modules/internal/refuse"
)

var refused = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "gatehouse_guard_refused_total", Help: "Requests that were refused because they can be read in more than one way.",
}, []string{"reason"})

// errTooLate is for directives that are provisioned when the server's routes are compiled already.
var errTooLate = errors.New("the server has no guard: its directives of Gatehouse stand in named routes and handle_errors alone. Write the directive guard into the site")

// Guard is the handler `guard`: settings of the front door for the requests that its routes match.
type Guard interface {
	caddyhttp.MiddlewareHandler
	// Settings are those of the handler.
	Settings() *Config
	// Placed says that the front door knows the handler, which then has nothing more to do.
	Placed()
}

// Stand puts the front door before all routes of the server whose handler is being provisioned. It does
// nothing where it stands already, and outside of a server.
//
// Caddy compiles a server's routes when the last of their handlers is provisioned. Until then the list may
// be replaced: by one that begins with the front door's own route, and goes on with the server's. The
// handlers that are still to come are provisioned where they were, and called from there.
func Stand(ctx caddy.Context) error {
	srv, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || srv == nil || stands(srv) {
		return nil
	}
	if !provisioning(srv.Routes) {
		return errTooLate
	}
	if err := meter.Register(ctx, refused); err != nil {
		return err
	}
	warnProxies(ctx, srv)
	d := &door{routes: srv.Routes, logs: accesslog.New(ctx)}
	routes := make(caddyhttp.RouteList, 1, 1+len(srv.Routes))
	routes[0] = caddyhttp.Route{MatcherSets: caddyhttp.MatcherSets{{d}}, Handlers: []caddyhttp.MiddlewareHandler{d}}
	if err := routes[0].ProvisionHandlers(ctx, nil); err != nil {
		return err
	}
	for i := range srv.Routes {
		route := srv.Routes[i]
		if len(route.HandlersRaw) > 0 && len(route.Handlers) == 0 {
			for j, raw := range route.HandlersRaw {
				route.Handlers = append(route.Handlers, &later{&srv.Routes[i], j, handlerID(raw)})
			}
			route.HandlersRaw = nil
			if err := route.ProvisionHandlers(ctx, metrics(ctx)); err != nil {
				return err
			}
		}
		routes = append(routes, route)
	}
	srv.Routes = routes
	return nil
}

// metrics are those of the http app that is being provisioned; nil if it has none.
func metrics(ctx caddy.Context) *caddyhttp.Metrics {
	for _, m := range ctx.Modules() {
		if app, ok := m.(*caddyhttp.App); ok {
			return app.Metrics
		}
	}
	return nil
}

// later is a handler of a route that was being provisioned when the front door was put up.
type later struct {
	route *caddyhttp.Route
	index int
	id    caddy.ModuleID
}

// CaddyModule names the handler in metrics and traces. It is registered nowhere.
func (l *later) CaddyModule() caddy.ModuleInfo { return caddy.ModuleInfo{ID: l.id} }

// ServeHTTP calls the handler.
func (l *later) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return l.route.Handlers[l.index].ServeHTTP(w, r, next)
}

func handlerID(raw json.RawMessage) caddy.ModuleID {
	var named struct{ Handler string }
	_ = json.Unmarshal(raw, &named) // Caddy has the error
	return caddy.ModuleID("http.handlers." + named.Handler)
}

func stands(srv *caddyhttp.Server) bool { return doorOf(srv) != nil }

func doorOf(srv *caddyhttp.Server) *door {
	if len(srv.Routes) == 0 || len(srv.Routes[0].Handlers) != 1 {
		return nil
	}
	d, _ := srv.Routes[0].Handlers[0].(*door)
	return d
}

// Routes are the routes of a server without the front door, and with the handlers themselves.
func Routes(srv *caddyhttp.Server) caddyhttp.RouteList {
	if d := doorOf(srv); d != nil {
		return d.routes
	}
	return srv.Routes
}

// provisioning says whether the handlers of some route are still to come.
func provisioning(routes caddyhttp.RouteList) bool {
	for i := range routes {
		if len(routes[i].HandlersRaw) > 0 && len(routes[i].Handlers) == 0 {
			return true
		}
	}
	return false
}

// warnProxies says that the client's address can be forged. Caddy reads X-Forwarded-For from the left
// unless it is told otherwise, and most proxies append to what the client has sent.
func warnProxies(ctx caddy.Context, srv *caddyhttp.Server) {
	trusted := reflect.ValueOf(srv).Elem().FieldByName("trustedProxies") // its JSON is gone by now
	if srv.TrustedProxiesStrict > 0 || !trusted.IsValid() || trusted.IsZero() {
		return
	}
	ctx.Logger().Warn("trusted_proxies without trusted_proxies_strict: a client chooses its address by sending X-Forwarded-For itself, " +
		"and is past limits by address; add trusted_proxies_strict to the global option servers, unless your proxies replace the header")
}

// door is the matcher and the handler of the route before a server's own. It matches the requests that
// need an answer or a mark, and the others go on as if it was not there.
type door struct {
	routes caddyhttp.RouteList // the server's own, as they were
	logs   *accesslog.Logs
	mu     sync.Mutex
	opened atomic.Pointer[rules] // found with the first request: then the routes are provisioned
}

// CaddyModule names the front door in traces. It is registered nowhere.
func (*door) CaddyModule() caddy.ModuleInfo { return caddy.ModuleInfo{ID: "http.handlers.guard"} }

// MatchWithError judges the request, and takes from it what is not for the app.
func (d *door) MatchWithError(r *http.Request) (bool, error) {
	if d.opened.Load() == nil {
		d.open()
	}
	return judge(r, d) != "" || unclear(r) || accesslog.Secret(r), nil
}

// ServeHTTP answers a request with two readings in place, whatever the error routes are: those are chosen by
// the path as well. Signatures and tokens in the query stay out of the logs.
func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if accesslog.Secret(r) {
		return d.logs.Serve(w, r, r.RequestURI, nil, nil, func(w http.ResponseWriter, r *http.Request) error { return d.serve(w, r, next) })
	}
	return d.serve(w, r, next)
}

func (d *door) serve(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if why := judge(r, d); why != "" {
		refuseRequest(w, r, why)
		return nil
	}
	if unclear(r) {
		w.Header()["Connection"] = []string{"close"}
	}
	return next.ServeHTTP(w, r)
}

// unclear says whether a proxy in front of us could see the end of the body elsewhere, so that what follows
// it must not be read as a request. net/http removes a Content-Length that comes with Transfer-Encoding,
// and Transfer-Encoding from HTTP/1.0, before any handler can see them (RFC 9112 section 6.1).
func unclear(r *http.Request) bool {
	return r.ProtoMajor == 1 && (len(r.TransferEncoding) > 0 || r.ProtoMinor == 0 && r.ContentLength > 0)
}

// find returns the settings for a request; nil for the default. The front door is open by then.
func (d *door) find(r *http.Request) *Config {
	return d.opened.Load().find(r)
}

// open looks for settings, once.
func (d *door) open() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.opened.Load() == nil {
		found := findRules(d.routes)
		d.opened.Store(&found)
	}
}

// only is a finder of the same settings for all requests.
type only struct{ config *Config }

func (o only) find(*http.Request) *Config { return o.config }

// Judge judges the request by one handler's settings, for a guard that the front door could not find. It
// says whether the request may go on; otherwise it has been answered.
func Judge(w http.ResponseWriter, r *http.Request, s *Config) bool {
	why := judge(r, only{s})
	if why != "" {
		refuseRequest(w, r, why)
	}
	return why == ""
}

// refuseRequest answers the request and counts it.
func refuseRequest(w http.ResponseWriter, r *http.Request, why reason) {
	refused.WithLabelValues(string(why)).Inc()
	if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Set(zap.String("guard", string(why)))
	}
	if r.ProtoMajor == 1 {
		w.Header()["Connection"] = []string{"close"}
	}
	problem.Write(w, refuse.Identified(r), problem.New(problem.AmbiguousRequest, "%s", sentences[why]))
}
