package gatehouse

import (
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/gatehouse-proxy/gatehouse/internal/problem"
	"github.com/gatehouse-proxy/gatehouse/internal/service"
)

func init() {
	caddy.RegisterModule(healthAPI{})
	caddy.RegisterModule(backendsAPI{})
}

// healthAPI adds the probes to Caddy's admin endpoint: GET /livez (the process answers), /startupz (a
// configuration is at work) and /readyz[?verbose] (requests should be sent here). It keeps no state:
// it asks the configuration that is active, so a reload that is refused changes no answer.
type healthAPI struct{}

// CaddyModule is the module's registration.
func (healthAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.gatehouse_health", New: func() caddy.Module { return new(healthAPI) }}
}

// Routes are the probes.
func (*healthAPI) Routes() []caddy.AdminRoute {
	route := func(path string, answer http.HandlerFunc) caddy.AdminRoute {
		return caddy.AdminRoute{Pattern: http.MethodGet + " " + path, Handler: caddy.AdminHandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			answer(w, r)
			return nil
		})}
	}
	return []caddy.AdminRoute{
		route("/livez", func(w http.ResponseWriter, _ *http.Request) { writeLine(w, string(service.OK)) }),
		route("/startupz", func(w http.ResponseWriter, r *http.Request) {
			if caddy.ActiveContext().Context == nil {
				unready(notStarted).ServeHTTP(w, r)
				return
			}
			writeLine(w, string(service.OK))
		}),
		route("/readyz", func(w http.ResponseWriter, r *http.Request) {
			readiness(caddy.ActiveContext(), caddy.Exiting(), r).ServeHTTP(w, r)
		}),
	}
}

const (
	notStarted = "The gateway has not started: no configuration is at work yet."
	stopping   = "The gateway is stopping."
)

// readiness is the health of the active configuration. One that does not use the app has nothing that
// could fail here.
func readiness(active caddy.Context, exiting bool, r *http.Request) service.Health {
	switch {
	case exiting:
		return unready(stopping)
	case active.Context == nil:
		return unready(notStarted)
	}
	app, err := active.AppIfConfigured("gatehouse")
	if err != nil {
		return service.Health{Status: service.OK, Checks: []service.Part{}}
	}
	return app.(*App).health(r.Context())
}

// backendsAPI puts the HTTP API of each hosted backend on Caddy's admin endpoint, for the commands of
// the gateway: /gatehouse/backends/NAME/PATH is PATH of the backend NAME. Whoever may use the admin
// endpoint may do everything anyway, so no subject is asked for.
type backendsAPI struct{}

// CaddyModule is the module's registration.
func (backendsAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.gatehouse_backends", New: func() caddy.Module { return new(backendsAPI) }}
}

const backendsPath = "/gatehouse/backends/"

// Routes are the backends.
func (*backendsAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: backendsPath, Handler: caddy.AdminHandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, backendsPath), "/")
		h, err := hostedBackend(name)
		if err != nil {
			problem.Write(w, r, err)
			return nil
		}
		http.StripPrefix(backendsPath+name, h).ServeHTTP(w, r.WithContext(service.AsAdmin(r.Context())))
		return nil
	})}}
}

// hostedBackend is the handler of a backend of the active configuration.
func hostedBackend(name string) (http.Handler, error) {
	if host := Serving(); host != nil {
		if h, err := host.Handler(name); err == nil {
			return h, nil
		}
	}
	return nil, problem.New(problem.NotFound, "The running configuration has no backend %.40q: name it in the global options, such as gatehouse { backend jobs }, or mount it with the directive backend.", name)
}

// Interface guards
var (
	_ caddy.AdminRouter = (*healthAPI)(nil)
	_ caddy.AdminRouter = (*backendsAPI)(nil)
)
