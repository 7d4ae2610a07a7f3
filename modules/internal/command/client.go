package command

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// Client speaks to the admin endpoint over connections that are kept, for a command that asks more than
// once or needs its own deadlines. base is what stands before each path.
func (a *Admin) Client() (client *http.Client, base string, err error) {
	address, err := a.Address()
	if err != nil {
		return nil, "", err
	}
	at, err := caddy.ParseNetworkAddress(address)
	if err != nil || at.PortRangeSize() > 1 {
		return nil, "", Usage(fmt.Errorf("--address: %q is not the address of an admin endpoint, write it as localhost:2019 or unix//run/gatehouse.sock", address))
	}
	base = "http://" + at.JoinHostPort(0)
	if at.IsUnixNetwork() {
		base = "http://127.0.0.1"                 // which the endpoint takes for its own
		at.Host, _, _ = strings.Cut(at.Host, "|") // the rest are permissions
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, at.Network, at.JoinHostPort(0))
	}}
	return &http.Client{Transport: fromOrigin{base, transport}}, base, nil
}

// fromOrigin says where its requests come from, which the admin endpoint may want to know.
type fromOrigin struct {
	origin string
	next   http.RoundTripper
}

func (f fromOrigin) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Origin", f.origin)
	return f.next.RoundTrip(r)
}
