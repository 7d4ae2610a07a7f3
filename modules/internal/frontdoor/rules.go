package frontdoor

import (
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// rule is a handler `guard` with the matchers of the routes around it, outermost first.
type rule struct {
	matchers []caddyhttp.MatcherSets
	settings *Config
}

// rules are those of a server, the innermost first, so that the first one that fits holds.
type rules []rule

// findRules looks for guards in the routes and in the subroutes that directives such as handle make.
// Those elsewhere, as in named routes, are not found; they judge where they stand, and loosen nothing.
func findRules(routes caddyhttp.RouteList) rules {
	var found rules
	var walk func(caddyhttp.RouteList, []caddyhttp.MatcherSets)
	walk = func(routes caddyhttp.RouteList, around []caddyhttp.MatcherSets) {
		for i := range routes {
			matchers := append(slices.Clip(around), routes[i].MatcherSets)
			for _, h := range routes[i].Handlers {
				switch h := h.(type) {
				case *caddyhttp.Subroute:
					walk(h.Routes, matchers)
				case Guard:
					h.Placed()
					found = append(found, rule{matchers, h.Settings()})
				}
			}
		}
	}
	walk(routes, nil)
	slices.SortStableFunc(found, func(a, b rule) int { return len(b.matchers) - len(a.matchers) })
	return found
}

// find returns the settings for a request; nil for the default.
func (rs rules) find(r *http.Request) *Config {
	for i := range rs {
		if rs[i].fits(r) {
			return rs[i].settings
		}
	}
	return nil
}

// fits says whether all routes around the guard match. What cannot be decided does not fit.
func (ru *rule) fits(r *http.Request) bool {
	for _, sets := range ru.matchers {
		matches, err := sets.AnyMatchWithError(r)
		if err != nil || !matches {
			return false
		}
	}
	return true
}
