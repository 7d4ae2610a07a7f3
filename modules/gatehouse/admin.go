package gatehouse

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
)

func init() { caddy.RegisterModule(healthAPI{}) }

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
		route("/livez", func(w http.ResponseWriter, _ *http.Request) { writeLine(w, stateOK) }),
		route("/startupz", func(w http.ResponseWriter, r *http.Request) {
			if caddy.ActiveContext().Context == nil {
				unready(notStarted).write(w, r)
				return
			}
			writeLine(w, stateOK)
		}),
		route("/readyz", func(w http.ResponseWriter, r *http.Request) {
			readiness(caddy.ActiveContext(), caddy.Exiting(), r).write(w, r)
		}),
	}
}

const (
	notStarted = "The gateway has not started: no configuration is at work yet."
	stopping   = "The gateway is stopping."
)

// readiness is the health of the active configuration. One that does not use the app has nothing that
// could fail here.
func readiness(active caddy.Context, exiting bool, r *http.Request) health {
	switch {
	case exiting:
		return unready(stopping)
	case active.Context == nil:
		return unready(notStarted)
	}
	app, err := active.AppIfConfigured("gatehouse")
	if err != nil {
		return health{Status: stateOK, Checks: []part{}}
	}
	return app.(*App).health(r.Context())
}

// Interface guards
var _ caddy.AdminRouter = (*healthAPI)(nil)
