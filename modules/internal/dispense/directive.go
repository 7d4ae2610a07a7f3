package dispense

import (
	"encoding/json"
	"errors"
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// Zone is the zone of a directive that names none: which one of its kind it is in the whole
// Caddyfile, such as "limit#2".
func Zone(h httpcaddyfile.Helper, directive string) string {
	key := "gatehouse.zones." + directive
	n, _ := h.State[key].(int)
	h.State[key] = n + 1
	return directive + "#" + strconv.Itoa(n+1)
}

// The errors of ReverseProxy, for which each option has a sentence of its own.
var (
	ErrHandleResponse = errors.New("handle_response is not possible here") // its routes can be read only by reverse_proxy's own directive
	ErrNoUpstream     = errors.New("an upstream is missing")
)

// ReverseProxy reads the rest of the line, and a block if there is one, as those of reverse_proxy,
// and gives its JSON.
func ReverseProxy(d *caddyfile.Dispenser) (json.RawMessage, error) {
	segment := d.NextSegment()
	for _, token := range segment {
		if token.Text == "handle_response" {
			return nil, ErrHandleResponse
		}
	}
	proxy := new(reverseproxy.Handler)
	if err := proxy.UnmarshalCaddyfile(caddyfile.NewDispenser(segment)); err != nil {
		return nil, err
	}
	if len(proxy.Upstreams) == 0 && proxy.DynamicUpstreamsRaw == nil {
		return nil, ErrNoUpstream
	}
	return caddyconfig.JSONModuleObject(proxy, "handler", "reverse_proxy", nil), nil
}
