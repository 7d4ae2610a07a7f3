package gatehouse

import (
	"reflect"
	"strconv"
	"strings"
	"syscall"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/gatehouse-proxy/gatehouse/internal/egress"
)

// listen tells the guards of outgoing requests where this configuration answers, until a.quiet.
func (a *App) listen() {
	var all []egress.Listener
	for _, address := range adminAddresses(a.ctx) {
		l := listenerOf(address)
		l.Never = true
		all = append(all, l)
	}
	if app, err := a.ctx.AppIfConfigured("http"); err == nil {
		for _, srv := range app.(*caddyhttp.App).Servers {
			for _, text := range srv.Listen {
				if address, err := caddy.ParseNetworkAddress(text); err == nil { // or the app http says what is wrong
					all = append(all, listenerOf(address))
				}
			}
		}
	}
	a.quiet = egress.Listen(all)
}

// listenerOf returns what an address of Caddy's stands for.
func listenerOf(address caddy.NetworkAddress) egress.Listener {
	switch {
	case address.IsUnixNetwork():
		path, _, _ := strings.Cut(address.Host, "|") // its mode follows
		return egress.Listener{Socket: path}
	case address.IsFdNetwork():
		return inherited(address.Host)
	}
	return egress.Listener{Host: address.Host, From: uint16(address.StartPort), To: uint16(address.EndPort)}
}

// inherited returns the address of a socket that the process was started with.
func inherited(fd string) egress.Listener {
	n, err := strconv.Atoi(fd)
	if err != nil {
		return egress.Listener{}
	}
	name, err := syscall.Getsockname(n)
	if err != nil {
		return egress.Listener{}
	}
	switch sa := name.(type) {
	case *syscall.SockaddrInet4:
		return egress.Listener{From: uint16(sa.Port)}
	case *syscall.SockaddrInet6:
		return egress.Listener{From: uint16(sa.Port)}
	case *syscall.SockaddrUnix:
		return egress.Listener{Socket: sa.Name}
	}
	return egress.Listener{}
}

// adminAddresses returns where the admin endpoint and the remote one answer. Caddy hands its admin
// settings to nobody, so they are read out of the context; where they have another shape than today, the
// default address is returned, and a test fails.
func adminAddresses(ctx caddy.Context) []caddy.NetworkAddress {
	var all []caddy.NetworkAddress
	add := func(text, byDefault string) {
		text, err := caddy.NewReplacer().ReplaceOrErr(text, true, true)
		if err != nil {
			return // Caddy refuses it as well
		}
		if text == "" {
			text = byDefault
		}
		if address, err := caddy.ParseNetworkAddress(text); err == nil {
			all = append(all, address)
		}
	}
	admin := member(member(reflect.ValueOf(ctx), "cfg"), "Admin")
	if disabled := member(admin, "Disabled"); !disabled.IsValid() || !disabled.Bool() {
		listen := ""
		if l := member(admin, "Listen"); l.IsValid() {
			listen = l.String()
		}
		add(listen, caddy.DefaultAdminListen)
	}
	if remote := member(member(admin, "Remote"), "Listen"); remote.IsValid() {
		add(remote.String(), caddy.DefaultRemoteAdminListen)
	}
	return all
}

// member returns a member of the struct that v is or points to; the zero Value if there is none.
func member(v reflect.Value, name string) reflect.Value {
	if v.IsValid() && v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if !v.IsValid() || v.Kind() != reflect.Struct {
		return reflect.Value{}
	}
	return v.FieldByName(name)
}
