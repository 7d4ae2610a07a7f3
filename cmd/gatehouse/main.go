// Command gatehouse is Caddy with its standard modules and those of Gatehouse.
package main

import (
	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/gatehouse-proxy/gatehouse/modules/standard"
)

func main() {
	caddy.CustomBinaryName = "gatehouse"
	caddy.CustomLongDescription = "Gatehouse puts identity, limits, versions, flags, webhooks, uploads, jobs, caches and locks\nin front of any app, by configuration. It is Caddy with these modules built in."
	caddycmd.Main()
}
