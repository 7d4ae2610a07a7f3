// Package journey is the order in which a request passes our directives. It is one slice, because
// Caddy can order a directive only relative to one of its own, and keeps several that are put
// before the same one in the order of their registration. Every module imports it, so a build with
// one module alone has its place as well.
package journey

import "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

// Stop is one directive and the standard directive that it stands before.
type Stop struct{ Directive, Before string }

// Stops is the journey, first to last.
var Stops = []Stop{
	{"guard", "map"},                 // settings of the front door, which stands before every route
	{"limit", "basic_auth"},          // per client, before anything costs: no key is looked up and no body read for a flood
	{"webhook_verify", "basic_auth"}, // a sender proves itself by signature, so it stands where users do by token
	{"jwt_auth", "basic_auth"},       // from here on the request has an identity
	{"quota", "request_header"},      // per identity, so after every kind of authentication
	{"admission", "request_header"},  // a caller over its share takes no place in the queue, and claims are known
	{"api_version", "encode"},        // settles the path that caches and routes see
	{"http_cache", "encode"},         // after authentication and limits: a hit is neither free nor anonymous; holds encoded variants, so it judges by itself what stands behind it
	{"circuit_breaker", "encode"},    // what it refuses http_cache may answer; all that answers stands behind it
	{"problem", "respond"},           // renders the errors of all stops above, on the error route, where nothing else answers
	{"split", "reverse_proxy"},       // answers from one of two apps, so after every route of its own
	{"backend", "reverse_proxy"},     // answers from a bundled backend
}

func init() {
	for _, s := range Stops {
		httpcaddyfile.RegisterDirectiveOrder(s.Directive, httpcaddyfile.Before, s.Before)
	}
}
